"""Secrets under a real Prefect server: nothing of them in its database, its logs, parameters or artifacts."""

import os
import sqlite3
import time
from pathlib import Path

import pytest

from tests.integration.test_secrets import CANARY, SHOP, WAREHOUSE, drop, tables, text_of, with_password
from tests.pipeline import Pipeline
from warehouse.errors import AccessRefused


def test_planted_secrets_are_nowhere_in_prefect(
    place: Pipeline, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    from flows.ingest_source import ingest_source

    names = [f"canary_{os.getpid()}_{what}" for what in ("flow_shop", "flow_warehouse")]
    urls = [
        with_password(url, name, password)
        for url, name, password in zip(
            (place.shop_url, place.warehouse_url), names, (SHOP, WAREHOUSE), strict=True
        )
    ]
    request.addfinalizer(lambda: drop(names, place.shop_url, place.warehouse_url))
    monkeypatch.setenv("DWH_SHOP_URL", urls[0])
    monkeypatch.setenv("DWH_WAREHOUSE_URL", urls[1])
    ingest_source("shop")
    monkeypatch.setenv("DWH_SHOP_URL", urls[0].replace(names[0], "nobody"))
    with pytest.raises(AccessRefused):
        ingest_source("shop")

    assert [status for _, status, _ in place.run_states()] == ["succeeded", "failed"]
    home = Path(os.environ["PREFECT_HOME"])
    reported = "Cannot connect to postgresql://nobody@"
    until = time.monotonic() + 120
    # Logs reach the server a moment later.
    while reported not in logged(home):
        assert time.monotonic() < until, "the failure never reached Prefect's log"
        time.sleep(0.2)
    with sqlite3.connect(home / "prefect.db") as database:
        assert [line for line in database.iterdump() if CANARY in line] == []
    assert [file for file in kept(home) if CANARY.encode() in file.read_bytes()] == []
    assert [table for table in tables(place.warehouse) if CANARY in text_of(place.warehouse, table)] == []


def logged(home: Path) -> str:
    """All lines of the log that Prefect's database has."""
    with sqlite3.connect(home / "prefect.db") as database:
        return "\n".join(message for (message,) in database.execute("select message from log"))


def kept(home: Path) -> list[Path]:
    """Prefect's database with its journal, logs, and whatever else it keeps."""
    return [path for path in home.rglob("*") if path.is_file()]
