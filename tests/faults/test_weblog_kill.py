"""A load of web logs whose connection is ended fails, and what it had committed stays. Kills: see test_kill.py."""

import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path

import psycopg
import pytest

from generators import weblogs as generator
from tests.weblog_lake import WeblogLake, lines, make_lake

BATCH_BYTES = 1_500_000


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    generator.generate(folder, lines=12_000, days=3, until=date(2026, 11, 20))
    (folder / "growing.log").write_bytes(lines(1, 50)[:-20])
    return folder


@pytest.fixture
def make(
    tmp_path: Path, logs: Path, database: Callable[[str], str], warehouse_template: str
) -> Callable[[str], WeblogLake]:
    def lake(name: str) -> WeblogLake:
        made = make_lake(tmp_path / name, database(warehouse_template))
        shutil.copytree(logs, made.landing, dirs_exist_ok=True)
        return made

    return lake


def test_server_that_dies_under_a_load_costs_only_its_open_batch(make: Callable[[str], WeblogLake]) -> None:
    lake = make("lake")
    seen: list[int] = []

    def cut(progress: object) -> None:
        seen.append(1)
        if len(seen) == 3:
            with psycopg.connect(lake.settings.warehouse, autocommit=True) as connection:
                connection.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity "
                    "where datname = current_database() and application_name like '%: web logs'"
                )

    with pytest.raises(psycopg.OperationalError):
        lake.load(batch_bytes=BATCH_BYTES, progress=cut)
    lake.load(batch_bytes=BATCH_BYTES)
    undisturbed = make("undisturbed")
    undisturbed.load(batch_bytes=BATCH_BYTES)
    assert lake.content() == undisturbed.content()
    assert lake.rows("select status from audit.run order by run_id") == [("failed",), ("succeeded",)]
