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
from tests.conftest import MAJOR, SETTINGS
from tests.faults import flow_process
from tests.faults.flow_process import FlowProcess, Prepare
from tests.faults.killing.points import Recorder
from tests.pipeline import Pipeline, Row
from tests.shop_day import change_everything, open_shop, told
from tests.weblog_lake import CONTENT as WEBLOG_CONTENT
from tests.weblog_lake import WeblogLake, lines, make_lake
from warehouse.migrations import upgrade

SHOP, WEBLOGS = FLOWS = ("ingest-shop", "ingest-weblogs")
SHOP_DATABASE, TEMPLATE = "shop", "warehouse"
# Enough for several batches, few enough to be loaded in no time.
LINES, BATCH_BYTES = 400, 30_000
PATIENCE_SECONDS = 60.0

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
    """Called in a flow's process: small batches, retries that follow soon or not at all, and whatever else happens."""

    happens: tuple[Prepare, ...]
    retries: bool

    def __call__(self, says: Connection) -> Callable[[], None] | None:
        from flows import engine, run_locked
        from warehouse.weblogs import loader

        soon = tuple(0.1 * 2**n for n in range(len(engine.DELAYS))) if self.retries else ()
        engine.DELAYS = run_locked.DELAYS = soon  # type: ignore[assignment]
        assert loader.load.__kwdefaults__ is not None
        loader.load.__kwdefaults__["batch_bytes"] = BATCH_BYTES
        finish = [prepare(says) for prepare in self.happens]
        return next((one for one in finish if one is not None), None)


@dataclass(frozen=True)
class Place:
    """A warehouse to die in."""

    database: str
    warehouse_url: str
    environment: Mapping[str, str]
    readers: Mapping[str, Callable[[str], Content]]

    def start(self, flow: str, *happens: Prepare, retries: bool = True) -> FlowProcess:
        """Start a flow here."""
        return flow_process.start(flow, self.environment, Conditions(happens, retries))

    def content(self, flow: str) -> Content:
        """The whole content that a flow is about, without what no two runs share."""
        return self.readers[flow](self.warehouse_url)

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
            for flow in FLOWS:
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

    def place(self) -> Place:
        """A new copy of the warehouse."""
        self._places += 1
        name = f"place_{self._places}"
        # Copied as files, between two checkpoints: a copy by WAL lets sequences run back when its server is killed
        # before the next checkpoint (the copied page says that its next values are logged, which they were elsewhere).
        create = "create database {} template {} strategy file_copy"
        with psycopg.connect(self.postgres.url(), autocommit=True) as connection:
            connection.execute(sql.SQL(create).format(sql.Identifier(name), sql.Identifier(TEMPLATE)))
        return self._place(name)

    def remove(self, place: Place) -> None:
        """Drop it."""
        with psycopg.connect(self.postgres.url(), autocommit=True) as connection:
            drop = sql.SQL("drop database {} with (force)").format(sql.Identifier(place.database))
            connection.execute(drop)

    def undisturbed(self, flow: str) -> Undisturbed:
        """Run the flow in peace, watched as it will be when it is killed."""
        place = self.place()
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
        return Undisturbed(before, after, steps, seconds)

    def _place(self, name: str) -> Place:
        url = self.postgres.url(name)
        environment = {
            "DWH_HOME": str(self._lake.settings.home),
            "DWH_LAKE": self._lake.settings.lake,
            "DWH_SHOP_URL": self.postgres.url(SHOP_DATABASE),
            "DWH_WAREHOUSE_URL": url,
            # Some tables are scanned; of others all key ranges are verified, so that each run finds the same.
            "DWH_SCAN_ROWS": "8",
            "DWH_VERIFY_WITHIN": "0s",
            "DWH_ARCHIVE": "false",
        }
        return Place(name, url, environment, {SHOP: self._shop_content, WEBLOGS: self._weblog_content})

    def _shop_content(self, url: str) -> Content:
        with psycopg.connect(url) as connection:
            return {table: _hash(rows) for table, rows in told(connection, self._changed_until).items()}

    def _weblog_content(self, url: str) -> Content:
        settings = self._lake.settings.model_copy(update={"warehouse_url": SecretStr(url)})
        WeblogLake(self._lake.landing, settings).assert_consistent()
        with psycopg.connect(url) as connection:
            return {table: _hash(rows) for table, rows in _weblog_tables(connection).items()}


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
