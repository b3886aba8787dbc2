"""Flow ingest-source under a real Prefect server: what it leaves, what it tries again, what it never does."""

import json
import logging
import os
import re
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import unquote
from uuid import UUID
from xml.etree import ElementTree

import psycopg
import pytest

from tests.flows.conftest import Tracked
from tests.pipeline import LOCK_AWAITED, Pipeline, copy_of_shop
from warehouse.db.connections import connect
from warehouse.db.locks import is_held, session_lock, transaction_lock
from warehouse.errors import DeleteThresholdExceeded, LockHeld, QualityGateStopped, SchemaOutdated
from warehouse.history.change_log import STAR_LOCK
from warehouse.model.contracts import Contract
from warehouse.runs import live_process

Ask = Callable[..., Tracked]
SOURCE_TABLE = "shop://public/customer"
# Lines that Prefect logs of each run, its steps, and what it creates.
BY_PREFECT = ("Beginning ", "Finished in state", "Created task run", "Created subflow run")
STEPS = {"stage-source": 1, "publish-batch": 1, "verify-source": 1}


@dataclass(frozen=True)
class TwoRuns:
    """A first run, and a second one without a change: their outcomes and ids in Prefect, and what the first logged."""

    place: Pipeline
    outcomes: tuple[Any, Any]
    first: UUID
    second: UUID
    logged: list[str]


@pytest.fixture(scope="module")
def two_runs(module_place: Callable[[], AbstractContextManager[Pipeline]]) -> TwoRuns:
    logged: list[str] = []
    # Handlers of the root are taken away by the first flow of a process, as Prefect sets up its own.
    handler, logger = logging.Handler(), logging.getLogger("dwh")
    handler.emit = lambda record: logged.append(record.getMessage())  # type: ignore[method-assign]
    level = logger.level
    with module_place() as place:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            first = ingest()
        finally:
            logger.setLevel(level)
            logger.removeHandler(handler)
        second = ingest()
    ids = place.rows("select prefect_run_id from audit.run order by run_id")
    return TwoRuns(place, (first, second), *(run_id for (run_id,) in ids), logged)


def test_run_is_named_recorded_and_shown(two_runs: TwoRuns, tracked: Ask) -> None:
    (run_id, flow, status, prefect_run_id, parameters), _ = two_runs.place.warehouse.execute(
        "select run_id, flow, status, prefect_run_id, parameters from audit.run order by run_id"
    ).fetchall()
    assert (run_id, flow, status) == (two_runs.outcomes[0].run_id, "ingest-shop", "succeeded")
    assert parameters == {
        "source": "shop",
        "full_refresh": False,
        "confirm_deletes": False,
        "reconform": False,
        "accept_source": False,
    }
    seen = tracked(prefect_run_id, STEPS)
    assert re.fullmatch(r"ingest-shop \d{4}-\d\d-\d\dT\d\d:\d\d", seen.name)
    assert (seen.state, seen.tasks) == ("Completed", STEPS)
    assert seen.artifacts.keys() == {
        "ingest-shop",
        "ingest-shop-loads",
        "ingest-shop-checks",
        "ingest-shop-verification",
        "ingest-shop-history",
        "ingest-shop-chart",
    }
    assert "| 1 | succeeded |" in seen.artifacts["ingest-shop-history"]
    kind, _, drawn = seen.artifacts["ingest-shop-chart"].partition(",")
    assert kind == "data:image/svg+xml"
    assert "succeeded" in "".join(ElementTree.fromstring(unquote(drawn)).itertext())


def test_artifacts_say_what_the_audit_trail_says(two_runs: TwoRuns, tracked: Ask) -> None:
    place, seen = two_runs.place, tracked(two_runs.first)
    loads = place.rows("select table_name, rows_inserted from audit.load where run_id = 1 order by load_id")
    assert [(load["table_name"], load["rows_inserted"]) for load in table(seen, "loads")] == loads
    assert ("dwh.fact_order_item", 1) in loads
    checks = place.rows(
        "select check_name, outcome from audit.check_result where run_id = 1 order by check_result_id"
    )
    assert [(check["check_name"], check["outcome"]) for check in table(seen, "checks")] == checks
    assert {verification["verdict"] for verification in table(seen, "verification")} == {"equal"}
    page = seen.artifacts["ingest-shop"]
    assert page.startswith("# ingest-shop: succeeded")
    assert "| dwh.fact_order_item | 1 | 1 | 0 | 0 | 0 | 0 |" in page
    assert "Verified: 11 tables, 9 rows, equal in source and mirror." in page


def test_every_load_is_one_log_line(two_runs: TwoRuns) -> None:
    loads = [str(load) for load in two_runs.outcomes[0].loads]
    assert [line for line in two_runs.logged if " → " in line] == loads


def test_run_without_a_change_changes_nothing_and_is_one_line_without_artifacts(
    two_runs: TwoRuns, tracked: Ask
) -> None:
    _, second = two_runs.outcomes
    assert sum(load.rows_inserted + load.rows_updated + load.rows_deleted for load in second.loads) == 0
    assert len(second.verifications) == 11
    assert tracked(two_runs.first).artifacts.keys() >= {"ingest-shop", "ingest-shop-loads"}
    quiet = tracked(two_runs.second)
    assert (quiet.state, quiet.artifacts, quiet.tables) == ("Completed", {}, {})
    ours = [
        [line for line in lines_of(run_id) if not line.startswith(BY_PREFECT)]
        for run_id in (two_runs.first, two_runs.second)
    ]
    assert any("reading source shop" in line for line in ours[0]) and len(ours[0]) > 5
    assert ours[1] == ["Run 2: no change."]


def test_tables_that_a_run_changed_are_assets_made_of_others(place: Pipeline, tracked: Ask) -> None:
    ingest()
    place.shop.execute("update customer set name = 'Ana María', updated_at = now()")
    ingest()
    first, second = (
        run_id for (run_id,) in place.rows("select prefect_run_id from audit.run order by run_id")
    )
    news = {"raw.shop_customer": set(), "dwh.dim_customer": {"raw.shop_customer"}}
    assert eventually(lambda: tracked(second).tables, news) == news
    origins = {f"raw.shop_{name}" for name in ("order_item", "sales_order", "customer", "product")} | {
        f"dwh.dim_{name}"
        for name in ("customer", "product", "company", "payment_method", "distribution_center")
    }
    assert eventually(lambda: tracked(first).tables.get("dwh.fact_order_item"), origins) == origins
    # Each stands at the time of its load, after what it was made of, and not with all others at the end of the run.
    ((began, ended),) = place.warehouse.execute(
        "select started_at, ended_at from audit.run where run_id = 1"
    ).fetchall()
    seen = tracked(first)
    for table_name, (begin, end) in seen.loaded.items():
        assert began <= begin <= end <= ended
        assert all(seen.loaded[origin][1] <= end for origin in seen.tables[table_name])
    begins, ends = zip(*seen.loaded.values(), strict=True)
    assert min(ends) <= seen.loaded["dwh.fact_order_item"][0] and len(set(begins)) > 8
    made = f"postgres://127.0.0.1/{place.warehouse.info.dbname}"
    for table, origin in (
        ("dwh/dim_customer", f"{made}/raw/shop_customer"),
        ("raw/shop_customer", SOURCE_TABLE),
    ):
        assert eventually(lambda key=f"{made}/{table}": materialized(key), {origin}) == {origin}


def test_delete_threshold_fails_the_run_at_once_and_says_why(place: Pipeline, tracked: Ask) -> None:
    ingest()
    place.shop.execute("delete from order_item")

    with pytest.raises(DeleteThresholdExceeded):
        ingest()

    prefect_run_id, status, error = place.rows(
        "select prefect_run_id, status, error from audit.run order by run_id desc limit 1"
    )[0]
    assert (status, "Too many rows were deleted" in str(error)) == ("stopped", True)
    seen = tracked(prefect_run_id, ["stage-source"])
    assert (seen.state, seen.tasks) == ("Delete threshold exceeded", {"stage-source": 1})
    assert seen.artifacts["ingest-shop"].startswith("# ingest-shop: stopped")
    assert "--confirm-deletes" in seen.artifacts["ingest-shop"]
    assert ingest(confirm_deletes=True).verifications[-1].rows_mirror == 0


def test_quality_gate_fails_the_run_under_its_own_name(
    place: Pipeline, tracked: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.ingest_source import ingest_source

    copy_of_shop("mall", tmp_path)
    lines = tmp_path / "mall" / "conform" / "order_item.sql"
    lines.write_text(f"select line.* from ({lines.read_text()}) as line, generate_series(1, 2)")
    monkeypatch.setenv("DWH_SOURCES", str(tmp_path))
    monkeypatch.setenv("DWH_MALL_URL", place.shop_url)
    with pytest.raises(QualityGateStopped):
        ingest_source("mall")
    assert [(flow, status) for flow, status, _ in place.run_states()] == [("ingest-mall", "stopped")]
    assert tracked(place.rows("select prefect_run_id from audit.run")[0][0]).state == "Quality gate stopped"


def test_connection_lost_while_publishing_is_tried_again(place: Pipeline, tracked: Ask) -> None:
    with publishing_blocked(place) as run:
        terminate(place, "dwh ingest-shop publish")
    outcome = run()

    assert place.run_states() == [("ingest-shop", "succeeded", None)]
    assert place.rows("select count(*) from audit.load where table_name = 'dwh.fact_order_item'") == [(1,)]
    assert place.facts() == [("1", "1")]
    seen = tracked(place.rows("select prefect_run_id from audit.run")[0][0], STEPS)
    assert seen.tasks == {**STEPS, "publish-batch": 2}
    assert outcome.loads


def test_run_that_lost_its_lock_publishes_nothing_and_begins_again(place: Pipeline, tracked: Ask) -> None:
    ingest()
    # No contract judges customers: nothing but the lock's own check can notice that it is gone.
    place.insert("customer", id=2, document_number="2", username="bob", email="bob@example.com")
    with publishing_blocked(place) as run:
        terminate(place, "dwh ingest-shop")
    outcome = run()

    (_, lost, last) = place.run_states()
    assert lost[:2] == ("ingest-shop", "failed")
    assert "lost the connection that held its locks" in str(lost[2])
    assert last == ("ingest-shop", "succeeded", None)
    assert place.rows("select distinct run_id from audit.load order by run_id") == [(1,), (outcome.run_id,)]
    assert place.rows("select run_id from dwh.dim_customer where customer_id = '2'") == [(outcome.run_id,)]
    ((prefect_run_id,),) = place.rows("select distinct prefect_run_id from audit.run where run_id > 1")
    assert tracked(prefect_run_id).state == "Completed"


def test_source_that_is_being_loaded_is_left_alone(place: Pipeline, tracked: Ask) -> None:
    with (
        session_lock(place.warehouse, "source shop"),
        pytest.raises(LockHeld, match="'source shop' is being loaded by"),
    ):
        ingest()

    ((flow, status, error),) = place.run_states()
    assert (flow, status) == ("ingest-shop", "skipped")
    assert "test warehouse" in str(error)
    assert tracked(place.rows("select prefect_run_id from audit.run")[0][0]).tasks == {}


def test_beside_live_a_run_does_not_hold_the_lock_to_compile_contracts(
    place: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    from warehouse.load import contract

    contract._compiled.clear()
    compile_contract, was_held = contract._compile, []

    def compiled(one: Contract) -> object:
        was_held.append(is_held(place.warehouse, "source shop"))
        return compile_contract(one)

    monkeypatch.setattr(contract, "_compile", compiled)
    with session_lock(place.warehouse, "live shop"):
        live_process.begin(place.warehouse, "shop")
        ingest()
    assert was_held == [False] * len(place.source.entities)
    # Without live none is compiled before it is needed, under the lock.
    contract._compiled.clear()
    place.shop.execute("update customer set name = 'Ana María', updated_at = now()")
    ingest()
    assert set(was_held[len(place.source.entities) :]) == {True}


def test_parameters_of_a_wrong_type_start_nothing(place: Pipeline) -> None:
    from prefect.exceptions import ParameterTypeError

    with pytest.raises(ParameterTypeError):
        ingest(full_refresh="perhaps")
    assert place.run_states() == []


def test_warehouse_without_tables_is_refused_with_advice(
    place: Pipeline, empty_database_url: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DWH_WAREHOUSE_URL", empty_database_url())
    with pytest.raises(SchemaOutdated) as refused:
        ingest()
    assert refused.value.hint == "Run `dwh migrate`."


def ingest(**parameters: Any) -> Any:
    # Imported late: Prefect reads its server's address when it is imported.
    from flows.ingest_source import ingest_source

    return ingest_source("shop", **parameters)


def eventually(ask: Callable[[], object], wanted: object) -> object:
    """What `ask` answers once it is what is wanted, or after two minutes."""
    give_up_at = time.monotonic() + 120
    while (answer := ask()) != wanted and time.monotonic() < give_up_at:
        time.sleep(0.2)
    return answer


def materialized(key: str) -> set[str]:
    """Keys of what an asset was last made of, as far as Prefect's server has the event."""
    wanted = {"event": {"name": ["prefect.asset.materialization.succeeded"]}, "resource": {"id": [key]}}
    request = urllib.request.Request(
        f"{os.environ['PREFECT_API_URL']}/events/filter",
        json.dumps({"filter": wanted}).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        events = json.load(urllib.request.urlopen(request))["events"]
    except HTTPError as error:
        # SQLite is busy: it is asked again.
        assert error.code == 503
        return set()
    return {
        related["prefect.resource.id"]
        for event in events[:1]
        for related in event["related"]
        if related["prefect.resource.role"] == "asset"
    }


def table(seen: Tracked, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(seen.artifacts[f"ingest-shop-{name}"])
    return rows


@contextmanager
def publishing_blocked(place: Pipeline) -> Iterator[Callable[[], Any]]:
    """Start the flow and hold it where it is about to publish; what is given waits for its outcome."""
    done: list[Any] = []

    def run() -> None:
        try:
            done.append(ingest())
        except BaseException as error:
            done.append(error)

    def outcome() -> Any:
        thread.join(120)
        if isinstance(done[0], BaseException):
            raise done[0]
        return done[0]

    thread = threading.Thread(target=run)
    with connect(place.warehouse_url) as blocker:
        transaction_lock(blocker, STAR_LOCK)
        thread.start()
        wait_until(place.warehouse, LOCK_AWAITED)
        yield outcome


def terminate(place: Pipeline, application_name: str) -> None:
    """End the sessions of that name in this test's warehouse, and wait until they are gone."""
    place.warehouse.execute(
        """
        select pg_terminate_backend(pid, 10000) from pg_stat_activity
        where datname = current_database() and application_name = %s
        """,
        [application_name],
    )


def wait_until(connection: psycopg.Connection, query: str) -> None:
    give_up_at = time.monotonic() + 120
    while not connection.execute(query.encode()).rowcount:
        assert time.monotonic() < give_up_at, f"never: {query}"
        time.sleep(0.02)


def lines_of(flow_run_id: object) -> list[str]:
    """The log of a flow run, once no more lines come."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId

    mine = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[UUID(str(flow_run_id))]))
    before: list[str] | None = None
    with get_client(sync_client=True) as client:
        while True:
            lines = [one.message for one in client.read_logs(log_filter=mine)]
            if lines == before and any(line.startswith("Finished in state") for line in lines):
                return lines
            before = lines
            time.sleep(1)
