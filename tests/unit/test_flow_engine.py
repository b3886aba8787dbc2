"""Flows and tasks without Prefect: the same retries, the same validation."""

from collections.abc import Callable

import psycopg
import pytest
from pydantic import ValidationError

from flows import engine
from warehouse.errors import ConnectionFailed, QualityGateStopped, RunLost, SettingsError


@pytest.fixture(autouse=True)
def without_prefect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_without_prefect", True)
    monkeypatch.setattr(engine.time, "sleep", lambda _: None)
    monkeypatch.setattr(engine, "DELAYS", (1.0, 2.0, 4.0))


def failing(times: int, error: Exception) -> tuple[Callable[[], str], list[int]]:
    calls: list[int] = []

    @engine.task
    def step() -> str:
        calls.append(len(calls))
        if len(calls) <= times:
            raise error
        return "done"

    return step, calls


@pytest.mark.parametrize(
    "error",
    [
        psycopg.errors.DeadlockDetected("deadlock"),
        psycopg.errors.SerializationFailure("serialization"),
        psycopg.errors.AdminShutdown("shut down"),
        psycopg.OperationalError("server closed the connection unexpectedly"),
        ConnectionFailed("no answer"),
    ],
)
def test_transient_error_is_tried_again(error: Exception) -> None:
    step, calls = failing(3, error)
    assert step() == "done"
    assert len(calls) == 4


def test_transient_error_that_stays_is_raised_in_the_end() -> None:
    step, calls = failing(9, psycopg.errors.DeadlockDetected("deadlock"))
    with pytest.raises(psycopg.errors.DeadlockDetected):
        step()
    assert len(calls) == 4


@pytest.mark.parametrize(
    "error",
    [
        QualityGateStopped("stopped"),
        SettingsError("wrong"),
        RunLost("lost"),
        psycopg.errors.DiskFull("full"),
        psycopg.errors.UndefinedTable("no table"),
        psycopg.errors.LockNotAvailable("locked"),
        ValueError("a bug"),
    ],
)
def test_other_errors_fail_at_once(error: Exception) -> None:
    step, calls = failing(1, error)
    with pytest.raises(type(error)):
        step()
    assert len(calls) == 1


def test_flow_without_prefect_validates_its_parameters() -> None:
    @engine.flow("try-out")
    def try_out(whole: bool = False) -> bool:
        return whole

    assert try_out() is False
    assert try_out(whole=True) is True
    with pytest.raises(ValidationError):
        try_out(whole="perhaps")  # type: ignore[arg-type]


def test_pauses_double_and_are_spread_by_chance() -> None:
    pauses = [[engine.pause_before(attempt) for _ in range(50)] for attempt in range(5)]
    assert all(len(set(drawn)) > 1 for drawn in pauses)
    for drawn, usual in zip(pauses, (1, 2, 4, 4, 4), strict=True):
        assert usual * 0.5 <= min(drawn) and max(drawn) <= usual * 1.5


@pytest.mark.parametrize(
    ("api_url", "ui_url"),
    [
        (None, None),
        ("http://127.0.0.1:4200/api", "http://127.0.0.1:4200"),
        ("https://prefect.example/team/api/", "https://prefect.example/team"),
        (
            "https://api.prefect.cloud/api/accounts/a1/workspaces/w2",
            "https://app.prefect.cloud/account/a1/workspace/w2",
        ),
    ],
)
def test_mails_of_the_watchdog_link_to_the_ui_of_its_server(api_url: str | None, ui_url: str | None) -> None:
    from flows.notify import ui_of

    assert ui_of(api_url) == ui_url
