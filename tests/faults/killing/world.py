"""What flows are killed in: a server, a shop and a lake with news, and warehouses that have not seen them."""

import hashlib
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Self

import psycopg
from psycopg import sql
from pydantic import SecretStr

from generators import weblogs
from generators.shop import create_schema
from stack.postgres import EmbeddedPostgres
from tests.archive import archived_mirror, mirror, state
from tests.conftest import MAJOR, SETTINGS
from tests.faults import flow_process
from tests.faults.capturing.harness import SmallRanges
from tests.faults.flow_process import FlowProcess, Prepare
from tests.faults.killing.points import Recorder
from tests.pipeline import Pipeline, Row, content
from tests.shop_day import change_everything, open_shop, told
from tests.weblog_lake import CONTENT as WEBLOG_CONTENT
from tests.weblog_lake import WeblogLake, lines, make_lake
from warehouse.archive.flush import flush
from warehouse.archive.place import Archive
from warehouse.migrations.revisions import upgrade
from warehouse.model.star import DIMENSIONS
from warehouse.sources.registry import read_source

SHOP, WEBLOGS, LIVE, REBUILD = FLOWS = ("ingest-shop", "ingest-weblogs", "live-shop", "rebuild")
LOADS = (SHOP, WEBLOGS)
SHOP_DATABASE, TEMPLATE = "shop", "warehouse"
# Enough for several batches, few enough to be loaded in no time.
LINES, BATCH_BYTES = 400, 30_000
# So few that the large tables have several key ranges, which grow and shrink with what happens.
RANGE_ROWS = 4
PATIENCE_SECONDS = 180.0
# What there is to rebuild.
DAMAGE = (
    "drop table raw.shop_customer, dwh.dim_product cascade",
    "truncate raw.shop_order_item, dwh.fact_order_item",
    "update dwh.dim_customer set name = 'wrong' where customer_key > 0",
)

# Hash of a table's rows, by table.
Content = Mapping[str, str]


@dataclass(frozen=True)
class Undisturbed:
    """What a flow makes of the warehouse when nothing happens to it."""

    before: Content
    after: Content
    # How often it comes by each step.
    steps: Mapping[str, int]
    seconds: float


@dataclass(frozen=True)
class Conditions:
    """Called in a flow's process: small batches and key ranges, retries that follow soon or not at all, and whatever
    else happens."""

    happens: tuple[Prepare, ...]
    retries: bool

    def __call__(self, says: Connection) -> Callable[[], None] | None:
        from flows import engine, run_locked
        from warehouse.archive import batch_files
        from warehouse.weblogs import loader

        soon = tuple(0.1 * 2**n for n in range(len(engine.DELAYS))) if self.retries else ()
        engine.DELAYS = run_locked.DELAYS = soon  # type: ignore[assignment]
        assert loader.load.__kwdefaults__ is not None
        loader.load.__kwdefaults__["batch_bytes"] = BATCH_BYTES
        SmallRanges(RANGE_ROWS)(says)
        # Captured batches are archived as files, what else is published as rows.
        batch_files.SMALL_ROWS = 0  # type: ignore[misc]
        finish = [prepare(says) for prepare in self.happens]
        return next((one for one in finish if one is not None), None)


@dataclass(frozen=True)
class Place:
    """A warehouse to die in."""

    database: str
    warehouse_url: str
    lake: Path
    environment: Mapping[str, str]
    readers: Mapping[str, Callable[["Place"], Content]]

    def start(self, flow: str, *happens: Prepare, retries: bool = True) -> FlowProcess:
        """Start a flow here."""
        return flow_process.start(flow, self.environment, Conditions(happens, retries))

    def content(self, flow: str) -> Content:
        """The whole content that a flow is about, without what no two runs share."""
        return self.readers[flow](self)

    def rows(self, query: str) -> list[Row]:
        """Rows of a query on the warehouse."""
        with psycopg.connect(self.warehouse_url) as connection:
            return connection.execute(query.encode()).fetchall()

    def wait_for_silence(self) -> None:
        """A backend whose client was killed goes on with its statement before it notices."""
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        query = (
            "select from pg_stat_activity where application_name like 'dwh %' "
            f"and datname in ('{self.database}', '{SHOP_DATABASE}')"
        )
        while self.rows(query):
            if time.monotonic() > give_up_at:
                raise TimeoutError("sessions of a killed run are still there")
            time.sleep(0.01)


class World:
    """A server with templates, and places made of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.postgres = EmbeddedPostgres(folder / "postgres", MAJOR, SETTINGS)
        self._places = 0
        self._undisturbed: dict[str, Undisturbed] = {}

    def __enter__(self) -> Self:
        """Start the server; make shop, lake and warehouse; let all flows see them once, then let things happen."""
        self.postgres.start()
        for name, create in ((SHOP_DATABASE, create_schema), (TEMPLATE, upgrade)):
            self.postgres.create_database(name)
            create(self.postgres.url(name))
        self._lake = make_lake(self.folder, self.postgres.url(TEMPLATE))
        landing = self._lake.landing
        with closing(Pipeline(self.postgres.url(SHOP_DATABASE), self.postgres.url(TEMPLATE))) as shop:
            open_shop(shop)
            weblogs.generate(landing, lines=LINES // 4, days=1, until=date(2026, 11, 20))
            (landing / "growing.log").write_bytes(lines(1, 50)[:-20])
            for flow in LOADS:
                process = self._place(TEMPLATE).start(flow)
                if process.end() != 0:
                    raise RuntimeError(f"{flow} fails before anything has happened: {process.said}")
            change_everything(shop)
            weblogs.generate(landing, lines=LINES, days=3, until=date(2026, 11, 23), seed=2)
            (landing / "growing.log").write_bytes(lines(1, 60))
            (landing / "copy.log").write_bytes(lines(1, 60))
            (self._changed_until,) = shop.shop.execute("select clock_timestamp()").fetchone() or ()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the server, and leave nothing."""
        self.postgres.stop()
        shutil.rmtree(self.folder)

    def place(self, flow: str) -> Place:
        """A new copy of warehouse and archive, with something to do for the flow."""
        self._places += 1
        name = f"place_{self._places}"
        # Copied as files, between two checkpoints: a copy by WAL lets sequences run back when its server is killed
        # before the next checkpoint (the copied page says that its next values are logged, which they were elsewhere).
        create = "create database {} template {} strategy file_copy"
        with psycopg.connect(self.postgres.url(), autocommit=True) as connection:
            connection.execute(sql.SQL(create).format(sql.Identifier(name), sql.Identifier(TEMPLATE)))
        place = self._place(name)
        shutil.copytree(self._place(TEMPLATE).lake / "archive", place.lake / "archive")
        if flow == REBUILD:
            with psycopg.connect(place.warehouse_url) as connection:
                for statement in DAMAGE:
                    connection.execute(statement.encode())
        return place

    def remove(self, place: Place) -> None:
        """Drop it."""
        with psycopg.connect(self.postgres.url(), autocommit=True) as connection:
            drop = sql.SQL("drop database {} with (force)").format(sql.Identifier(place.database))
            connection.execute(drop)
        shutil.rmtree(place.lake)

    def undisturbed(self, flow: str) -> Undisturbed:
        """What the flow does in peace, watched as it will be when it is killed: it is run once."""
        if flow not in self._undisturbed:
            self._undisturbed[flow] = self._run_undisturbed(flow)
        return self._undisturbed[flow]

    def _run_undisturbed(self, flow: str) -> Undisturbed:
        place = self.place(flow)
        before = place.content(flow)
        started = time.monotonic()
        process = place.start(flow, Recorder())
        code = process.end()
        seconds = time.monotonic() - started
        if code != 0:
            raise RuntimeError(f"{flow} fails without being disturbed: {process.said}")
        steps = dict(process.said)["steps"]
        after = place.content(flow)
        self.remove(place)
        if before == after:
            raise RuntimeError(f"{flow} has nothing to do: killing it would show nothing")
        if flow == REBUILD and after != self._place(TEMPLATE).content(flow):
            raise RuntimeError("a rebuild does not give back what was damaged")
        return Undisturbed(before, after, steps, seconds)

    def _place(self, name: str) -> Place:
        url, lake = self.postgres.url(name), self.folder / "lakes" / name
        if not lake.exists():
            lake.mkdir(parents=True)
            # Files land for all of them; each has an archive of its own.
            (lake / "landing").symlink_to(Path(self._lake.settings.lake) / "landing")
        environment = {
            "DWH_HOME": str(self._lake.settings.home),
            "DWH_LAKE": str(lake),
            "DWH_SHOP_URL": self.postgres.url(SHOP_DATABASE),
            "DWH_WAREHOUSE_URL": url,
            # Some tables are scanned; of others all key ranges are verified, so that each run finds the same.
            "DWH_SCAN_ROWS": "8",
            "DWH_VERIFY_WITHIN": "0s",
            "DWH_ARCHIVE_DELAY": "0s",
            "DWH_LIVE_INTERVAL": "0.05",
        }
        readers = {
            SHOP: self._shop_content,
            WEBLOGS: self._weblog_content,
            LIVE: self._shop_content,
            REBUILD: _all_content,
        }
        return Place(name, url, lake, environment, readers)

    def _shop_content(self, place: Place) -> Content:
        with psycopg.connect(place.warehouse_url) as connection:
            found = {table: _hash(rows) for table, rows in told(connection, self._changed_until).items()}
        return found | _archive_content(place)

    def _weblog_content(self, place: Place) -> Content:
        settings = self._lake.settings.model_copy(update={"warehouse_url": SecretStr(place.warehouse_url)})
        WeblogLake(self._lake.landing, settings).assert_consistent()
        with psycopg.connect(place.warehouse_url) as connection:
            return {table: _hash(rows) for table, rows in _weblog_tables(connection).items()}


def _all_content(place: Place) -> Content:
    with psycopg.connect(place.warehouse_url) as connection:
        return content(connection)


def _archive_content(place: Place) -> Content:
    """What the archive says that mirrors and dimensions are, once all is added that is published.

    Raises:
        AssertionError: it is not what they are.
    """
    archive = Archive(place.lake / "archive")
    flush(place.warehouse_url, archive)
    found = {}
    with psycopg.connect(place.warehouse_url) as connection:
        for table in read_source("shop").tables:
            path = f"shop/{table.name}"
            if archive.open(path) is not None:
                rows = archived_mirror(archive, connection, path, table.key)
                assert rows == mirror(connection, table.mirror), path
                found[f"archive of {path}"] = _hash(sorted(rows, key=repr))
        for one in DIMENSIONS:
            keys = connection.execute(f"select {one.key} from dwh.{one.table}".encode()).fetchall()
            assert set(state(archive, f"dwh/{one.table}", one.key)) == set(keys), one.table
    return found


def _weblog_tables(connection: psycopg.Connection) -> dict[str, list[Row]]:
    """Lines, quarantine and checkpoints, by the paths of their files: a server that was killed skips some numbers."""
    paths = dict(connection.execute("select file_id, path from audit.file").fetchall())
    tables = {}
    for table, query in WEBLOG_CONTENT.items():
        if table == "keys":
            # Surrogate keys; what they stand for is told by the lines.
            continue
        cursor = connection.execute(query.encode())
        names = [column.name for column in cursor.description or ()]
        found = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        tables[table] = [
            tuple((row | {"file_id": paths[row["file_id"]], "row_key": None}).values())
            for row in found
            # The others in quarantine are of the shop.
            if row["file_id"] is not None
        ]
    return tables


def _hash(rows: list[Row]) -> str:
    return hashlib.sha256("\n".join(sorted(map(repr, rows))).encode()).hexdigest()
