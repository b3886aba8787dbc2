"""What flows are killed in: a server, a shop and a lake with news, and warehouses that have not seen them."""

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg import sql

from generators import weblogs
from generators.shop import create_schema
from stack.postgres import EmbeddedPostgres
from tests.conftest import MAJOR, SETTINGS
from tests.faults import flow_process
from tests.faults.capturing.harness import SmallRanges
from tests.faults.flow_process import FlowProcess, Prepare
from tests.faults.killing import feeds
from tests.faults.killing.flows import (
    EMPTY,
    EVENTFUL,
    EXPORT,
    EXPORT_TO,
    FEEDS,
    FLOWS,
    ORDERS,
    SHOP,
    TEMPLATE,
    WEBLOGS,
    Content,
    Killed,
)
from tests.faults.killing.points import Recorder
from tests.pipeline import Pipeline, Row
from tests.shop_day import change_everything, open_shop
from tests.weblog_lake import CONTENT as WEBLOG_CONTENT
from tests.weblog_lake import lines, make_lake
from warehouse.migrations.revisions import upgrade

LOADS = (SHOP, WEBLOGS)
SHOP_DATABASE = "shop"
# Enough for several batches, few enough to be loaded in no time.
LINES, BATCH_BYTES = 400, 30_000
# So few that the large tables have several key ranges, which grow and shrink with what happens.
RANGE_ROWS = 4
PATIENCE_SECONDS = 180.0


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
        from deltalake import DeltaTable

        from flows import engine, run_locked
        from warehouse.archive import batch_files, maintain
        from warehouse.weblogs import loader

        soon = tuple(0.1 * 2**n for n in range(len(engine.DELAYS))) if self.retries else ()
        engine.DELAYS = run_locked.DELAYS = soon  # type: ignore[assignment]
        assert loader.load.__kwdefaults__ is not None
        loader.load.__kwdefaults__["batch_bytes"] = BATCH_BYTES
        SmallRanges(RANGE_ROWS)(says)
        # Captured batches are archived as files, what else is published as rows.
        batch_files.SMALL_ROWS = 0  # type: ignore[misc]
        # All tables are compacted, and nothing is kept for readers.
        maintain.MOST_SMALL_FILES = 1  # type: ignore[misc]
        maintain.KEEP = maintain.ORPHAN_AGE = timedelta(0)  # type: ignore[misc]
        vacuum = DeltaTable.vacuum

        def vacuum_all(*arguments: Any, **options: Any) -> list[str]:
            return vacuum(*arguments, **{**options, "enforce_retention_duration": False})

        DeltaTable.vacuum = vacuum_all  # type: ignore[method-assign]
        finish = [prepare(says) for prepare in self.happens]
        return next((one for one in finish if one is not None), None)


@dataclass(frozen=True)
class Place:
    """A warehouse to die in."""

    database: str
    warehouse_url: str
    lake: Path
    environment: Mapping[str, str]
    # When the last thing happened of which the warehouse has not heard.
    changed_until: datetime

    def start(self, flow: str, *happens: Prepare, retries: bool = True) -> FlowProcess:
        """Start a flow here."""
        # Others than those that are killed are started, too.
        declared = FLOWS.get(flow, Killed(()))
        asked = {name: self.rows(query)[0][0] for name, query in declared.asks.items()}
        environment = {**self.environment}
        if flow == EXPORT_TO:
            environment["DWH_EXPORT_URL"] = self.warehouse_url
        return flow_process.start(
            declared.program or flow,
            environment,
            Conditions(happens, retries),
            **declared.parameters,
            **asked,
        )

    def content(self, flow: str) -> Content:
        """The whole content that a flow is about, without what no two runs share.

        Raises:
            AssertionError: counts, aggregates or archive are not what the tables are.
        """
        return {name: value for read in FLOWS[flow].reads for name, value in read(self).items()}

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
        self._places, self._is_eventful = 0, False
        self._changed_until = datetime.max.replace(tzinfo=UTC)
        self._undisturbed: dict[str, Undisturbed] = {}

    def __enter__(self) -> Self:
        """Start the server; make shop, lake and warehouse; let all flows see them once, then let things happen."""
        self.postgres.start()
        for name, create in ((SHOP_DATABASE, create_schema), (TEMPLATE, upgrade)):
            self.postgres.create_database(name)
            create(self.postgres.url(name))
        self._copy(TEMPLATE, EMPTY)
        self._lake = make_lake(self.folder, self.postgres.url(TEMPLATE))
        landing = self._lake.landing
        with closing(Pipeline(self.postgres.url(SHOP_DATABASE), self.postgres.url(TEMPLATE))) as shop:
            open_shop(shop)
            weblogs.generate(landing, lines=LINES // 4, days=1, until=date(2026, 11, 20))
            (landing / "growing.log").write_bytes(lines(1, 50)[:-20])
            for flow in LOADS:
                self._run(TEMPLATE, flow)
            change_everything(shop)
            weblogs.generate(landing, lines=LINES, days=3, until=date(2026, 11, 23), seed=2)
            (landing / "growing.log").write_bytes(lines(1, 60))
            (landing / "copy.log").write_bytes(lines(1, 60))
            ((self._changed_until,),) = shop.shop.execute("select clock_timestamp()").fetchall()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the server, and leave nothing."""
        self.postgres.stop()
        shutil.rmtree(self.folder)

    def place(self, flow: str) -> Place:
        """A new copy of warehouse and lake, with something to do for the flow."""
        self._places += 1
        name, declared = f"place_{self._places}", FLOWS.get(flow, Killed(()))
        if declared.template != TEMPLATE and not self._is_eventful:
            self._live_through_feeds()
        self._copy(declared.template, name, declared.gives_back or declared.template)
        place = self._place(name)
        with psycopg.connect(place.warehouse_url) as connection:
            for statement in declared.damage:
                connection.execute(statement.encode())
        return place

    def _copy(self, template: str, name: str, lake: str | None = None) -> None:
        # Copied as files, between two checkpoints: a copy by WAL lets sequences run back when its server is killed
        # before the next checkpoint (the copied page says that its next values are logged, which they were elsewhere).
        create = "create database {} template {} strategy file_copy"
        with psycopg.connect(self.postgres.url(), autocommit=True) as connection:
            connection.execute(sql.SQL(create).format(sql.Identifier(name), sql.Identifier(template)))
        if lake:
            shutil.copytree(self._place(lake).lake, self._place(name, is_new=True).lake, symlinks=True)

    def _live_through_feeds(self) -> None:
        """Make the warehouse that has loaded feeds and was exported; then let files land that it has not seen."""
        self._copy(TEMPLATE, EVENTFUL, TEMPLATE)
        landing = self._lake.landing.parent
        feeds.land_first(landing)
        for flow in (*FEEDS, EXPORT, EXPORT_TO):
            self._run(EVENTFUL, flow)
        feeds.land_second(landing)
        self._run(EVENTFUL, ORDERS)
        feeds.land_news(landing)
        self._is_eventful = True

    def _run(self, template: str, flow: str) -> None:
        process = self._place(template).start(flow)
        if process.end() != 0:
            raise RuntimeError(f"{flow} fails before anything has happened: {process.said}")

    def remove(self, place: Place) -> None:
        """Drop it."""
        with psycopg.connect(self.postgres.url(), autocommit=True) as connection:
            drop = sql.SQL("drop database {} with (force)").format(sql.Identifier(place.database))
            connection.execute(drop)
        shutil.rmtree(place.lake.parent)

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
        if template := FLOWS[flow].gives_back:
            given = self._place(template).content(flow)
            # More lines have landed in files of web logs since.
            names = (given.keys() | after.keys()) - WEBLOG_CONTENT.keys()
            if differing := sorted(name for name in names if given.get(name) != after.get(name)):
                raise RuntimeError(f"{flow} does not give back {differing}")
        return Undisturbed(before, after, steps, seconds)

    def _place(self, name: str, *, is_new: bool = False) -> Place:
        url, lake = self.postgres.url(name), self.folder / "lakes" / name / "lake"
        if not lake.exists() and not is_new:
            lake.mkdir(parents=True)
            # Files land for all of them; each has an archive of its own.
            (lake / "landing").symlink_to(self._lake.landing.parent)
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
        return Place(name, url, lake, environment, self._changed_until)
