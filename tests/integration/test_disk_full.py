"""A disk that is full in the middle of a load: said, nothing lost, and all is loaded once there is room again."""

import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from threading import Event, Thread

import psycopg
import pytest
from psycopg import sql

from stack.postgres import EmbeddedPostgres
from tests import command
from tests.pipeline import Pipeline, content
from tests.weblog_lake import WeblogLake, make_lake
from tests.weblog_lake import lines as weblog_lines
from warehouse.live import loop
from warehouse.runs.alerts.rules import Rules
from warehouse.settings import Settings

MEGABYTES = 64
SAID = "Error: The disk of the database server is full: could not extend file"
ADVICE = (
    "What to do: Free some space (docs/runbook.md, 'The disk is full') and run again: its open transaction was "
    "rolled back."
)
ENDED = "select status from audit.run order by run_id"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a disk of its own")


class Disk:
    """A small disk that a warehouse lives on alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self) -> None:
        """Leave room for a few pages."""
        with self._filler.open("wb", buffering=0) as filler:
            filler.write(bytes(max(shutil.disk_usage(self.folder).free - (128 << 10), 0)))

    def make_room(self) -> None:
        self._filler.unlink()


@pytest.fixture
def disk(postgres: EmbeddedPostgres) -> Iterator[Disk]:
    # Where the server's account may go by itself: it looks at tablespaces without the rights that it was given.
    folder = Path(tempfile.mkdtemp(prefix="small disk "))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        folder.rmdir()
        pytest.skip("this machine does not let root mount a file system")
    try:
        folder.chmod(0o755)
        (folder / "tablespace").mkdir(mode=0o700)
        owner = postgres.data.stat()
        os.chown(folder / "tablespace", owner.st_uid, owner.st_gid)
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


@pytest.fixture
def cramped_url(postgres: EmbeddedPostgres, disk: Disk, warehouse_template: str) -> Iterator[str]:
    """URL of a migrated, empty warehouse on the small disk."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    place, database = sql.Identifier(f"{name}_disk"), sql.Identifier(name)
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        where = sql.Literal(str(disk.folder / "tablespace"))
        connection.execute(sql.SQL("create tablespace {} location {}").format(place, where))
        copy = sql.SQL("create database {} template {} tablespace {} strategy file_copy")
        connection.execute(copy.format(database, sql.Identifier(warehouse_template), place))
        yield postgres.url(name)
        connection.execute(sql.SQL("drop database {} with (force)").format(database))
        connection.execute(sql.SQL("drop tablespace {}").format(place))


def dwh(home: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """A command as a person gives it."""
    environment = {n: v for n, v in os.environ.items() if not n.startswith(("PREFECT_", "DWH_"))}
    return command.run(
        *arguments, environment=environment | settings | {"DWH_HOME": str(home), "COLUMNS": "500"}
    )


def assert_said(failed: subprocess.CompletedProcess[str]) -> None:
    assert failed.returncode == 1
    assert SAID in failed.stderr
    assert ADVICE in failed.stderr.splitlines()
    assert "Traceback" not in failed.stderr + failed.stdout


def assert_told(failed: subprocess.CompletedProcess[str], statuses: list[tuple[str]]) -> None:
    """The trail says that the run has failed; where not even that had room, the run said so and counts as crashed."""
    told = "crashed" if "could not be recorded in the warehouse" in failed.stderr else "failed"
    assert statuses == [("succeeded",), (told,), ("succeeded",)]


def test_shop_is_loaded_whole_once_there_is_room(
    tmp_path: Path,
    disk: Disk,
    shop_url: str,
    cramped_url: str,
    database: Callable[[str], str],
    warehouse_template: str,
) -> None:
    with (
        closing(Pipeline(shop_url, cramped_url)) as shop,
        closing(Pipeline(shop_url, database(warehouse_template))) as undisturbed,
    ):
        shop.open_shop()
        shop.order(1, "2024-03-10")
        shop.capture()
        shop.do(
            "insert into sales_order select (jsonb_populate_record(o, jsonb_build_object('id', g))).* "
            "from sales_order as o, generate_series(2, 1500) as g",
            "insert into order_item select (jsonb_populate_record(i, jsonb_build_object('sales_order_id', g))).* "
            "from order_item as i, generate_series(2, 1500) as g",
        )
        before = content(shop.warehouse)
        disk.fill()
        settings = {"DWH_SHOP_URL": shop_url, "DWH_WAREHOUSE_URL": cramped_url}
        failed = dwh(tmp_path, "run", "shop", **settings)
        assert_said(failed)
        assert content(shop.warehouse) == before
        disk.make_room()
        assert dwh(tmp_path, "run", "shop", **settings).returncode == 0
        assert shop.rows("select count(*), count(distinct order_id) from dwh.fact_order_item") == [
            (1500, 1500)
        ]
        assert_told(failed, shop.rows(ENDED))
        undisturbed.capture()
        facts = [one.facts("quantity", "fact.status", "net_amount") for one in (shop, undisturbed)]
        assert facts[0] == facts[1]


def test_live_says_it_waits_and_goes_on_once_there_is_room(
    disk: Disk, shop_url: str, cramped_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "PAUSES", (0.2,))
    lines: list[str] = []
    with closing(Pipeline(shop_url, cramped_url)) as shop:
        shop.open_shop()
        shop.order(1, "2024-03-10")
        shop.capture()
        stop = Event()
        environment = loop.Environment(
            Settings(warehouse_url=cramped_url, live_interval=0.05, archive=False),
            Rules(),
            lambda line, _: lines.append(line),
        )
        live = Thread(target=loop.SourceLoop(shop.source, shop_url, environment, stop).run, daemon=True)
        live.start()
        shop.wait_for("select from audit.live where asked_at is not null")
        disk.fill()
        for table, key in (("sales_order", "id"), ("order_item", "sales_order_id")):
            shop.do(
                f"insert into {table} select (jsonb_populate_record(one, jsonb_build_object('{key}', number, "
                f"'updated_at', now()))).* from {table} as one, generate_series(2, 1500) as number"
            )
        give_up_at = time.monotonic() + 120
        while not any("disk of the database server is full" in line for line in lines):
            assert time.monotonic() < give_up_at, lines
            time.sleep(0.05)
        disk.make_room()
        shop.wait_for("select from dwh.fact_order_item having count(*) = 1500")
        stop.set()
        live.join(120)
        assert shop.capture().changes() == {}


def test_web_logs_are_loaded_whole_once_there_is_room(tmp_path: Path, disk: Disk, cramped_url: str) -> None:
    lake: WeblogLake = make_lake(tmp_path, cramped_url)
    lake.put("first.log", weblog_lines(1, 10))
    lake.load()
    before = lake.content()
    lake.put("second.log", weblog_lines(11, 10_000))
    disk.fill()
    settings = {"DWH_WAREHOUSE_URL": cramped_url, "DWH_LAKE": str(tmp_path / "lake")}
    failed = dwh(tmp_path / "home", "run", "weblogs", **settings)
    assert_said(failed)
    assert {name: rows for name, rows in lake.content().items() if name != "file"} == {
        name: rows for name, rows in before.items() if name != "file"
    }
    assert lake.rows("select path, line_count from audit.file where line_count > 0") == [("first.log", 10)]
    disk.make_room()
    assert dwh(tmp_path / "home", "run", "weblogs", **settings).returncode == 0
    assert sorted(lake.sizes()) == list(range(1, 10_001))
    lake.assert_consistent()
    assert_told(failed, lake.rows(ENDED))
