"""A real PostgreSQL for every test: one embedded cluster per test run, and a database per test."""

import fcntl
import gc
import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING

import certifi
import psycopg
import pytest
from hypothesis import HealthCheck, settings
from psycopg import sql

from stack.files import exclusive
from stack.local import down
from stack.postgres import EmbeddedPostgres
from tests.clock import await_whole_day
from tests.schedule import Schedule, sort_by_length

if TYPE_CHECKING:
    from tests.marts import MartWorld

# How long an example takes says nothing on a busy machine.
settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")

MAJOR = int(os.environ.get("DWH_TEST_PG_MAJOR", "18"))
ROOT = Path(__file__).parents[1]
# In memory where there is room: files of a database are copied thirty times as fast as on a disk.
MEMORY = Path("/dev/shm")
MEMORY_BYTES = 6 << 30


def _clusters() -> Path:
    """Where clusters are kept while tests run: in memory under a name that follows from this folder, or in it."""
    with suppress(OSError):
        if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= MEMORY_BYTES <= _free_memory():
            checkout = hashlib.sha256(bytes(ROOT)).hexdigest()[:12]
            return MEMORY / f"dwh-tests-{os.getuid()}-{checkout}"
    return ROOT / ".pytest_cache" / "clusters"


def _free_memory() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))


CLUSTERS = _clusters()
# Variables by which a user's settings would reach a test: ours, Prefect's, and those of libpq.
USERS = ("DWH_", "PREFECT_", "PG")
# The disk may lie: a test's data need not survive a power cut, but every commit survives kill -9.
SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    # Smaller than usual: a table that is dropped is looked for in all of them, and tests drop many thousands.
    "shared_buffers": "16MB",
    "max_prepared_transactions": "20",
    "max_wal_size": "256MB",
    "track_commit_timestamp": "on",
    # A client counts through 4096 hashes for each connection otherwise, and tests connect ten thousands of times.
    "scram_iterations": "1",
}
RUN_FOLDER = "DWH_TEST_RUN_FOLDER"

_alive = pytest.StashKey[IO[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Name the run's folder for all xdist workers; clear away what a killed run has left."""
    # No test may see the settings of its user: one would write to their databases, files and Prefect server.
    for name in [name for name in os.environ if name.startswith(USERS) and not name.startswith("DWH_TEST_")]:
        del os.environ[name]
    # Most tests do not look at the archive; those that do ask for it.
    os.environ["DWH_ARCHIVE"] = "false"
    # Until all test modules are imported: a fifth of that time is spent on garbage that they do not make.
    gc.disable()
    if hasattr(config, "workerinput"):
        return
    # Tests start processes in folders of their own, where this checkout is not found by itself.
    os.environ["PYTHONPATH"] = str(ROOT)
    CLUSTERS.mkdir(parents=True, exist_ok=True)
    with exclusive(CLUSTERS.with_suffix(".lock")):
        for left in CLUSTERS.iterdir():
            _remove_unless_alive(left)
        folder = Path(tempfile.mkdtemp(dir=CLUSTERS))
        # Held until this process ends: tells the next run that this one is alive.
        config.stash[_alive] = (folder / "alive").open("w")
        fcntl.flock(config.stash[_alive], fcntl.LOCK_EX)
    os.environ[RUN_FOLDER] = str(folder)
    # ~/.prefect, ~/.pgpass and whatever else programs keep there.
    os.environ["HOME"] = str(folder / "home")
    (folder / "home").mkdir()
    # Each HTTP client of Prefect reads all certificates that it trusts: one takes 0.4 ms, the usual 150 take 20.
    first, end, _ = certifi.contents().partition("-----END CERTIFICATE-----")
    (folder / "certificate.pem").write_text(f"{first}{end}\n")
    os.environ["SSL_CERT_FILE"] = str(folder / "certificate.pem")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the run's servers, after the last worker has ended."""
    if _alive in config.stash:
        config.stash[_alive].close()
        _remove_unless_alive(Path(os.environ.pop(RUN_FOLDER)))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let the workers begin with the longest files."""
    if hasattr(config, "workerinput"):
        sort_by_length(items)


def pytest_collection_finish() -> None:
    """Leave what all test modules have brought out of each later collection of garbage."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Schedule | None:
    """Files that share what takes long to make go to one worker."""
    return Schedule(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_report_header() -> str:
    """Which PostgreSQL the tests run on."""
    return f"embedded PostgreSQL {MAJOR}"


def _remove_unless_alive(folder: Path) -> None:
    try:
        with (folder / "alive").open("w") as alive:
            fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
            down(folder)
            shutil.rmtree(folder)
    except (FileNotFoundError, BlockingIOError):
        return


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder is the test's own: .env and every path that is not absolute are its own, too."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def whole_day() -> None:
    """A test that reads the clock twice reads the same day: none begins shortly before midnight (UTC)."""
    await_whole_day()


@pytest.fixture(scope="session")
def postgres() -> EmbeddedPostgres:
    """The cluster of this test run; never stop it in a test (see `own_postgres`)."""
    # It would visit thousands of databases that live for a second. Nobody kills or copies this cluster: what is
    # committed need not be written at once, nor logged where a file is new. Clusters of a test's own are as a user's.
    unguarded = {"synchronous_commit": "off", "wal_level": "minimal", "max_wal_senders": "0"}
    settings = SETTINGS | unguarded | {"autovacuum": "off"}
    cluster = EmbeddedPostgres(Path(os.environ[RUN_FOLDER]) / "postgres", MAJOR, settings)
    cluster.start()
    with (
        exclusive(cluster.folder / "password.lock"),
        psycopg.connect(cluster.url(), autocommit=True) as connection,
    ):
        # As it was set, before the server had its settings.
        set_again = sql.SQL("alter role current_user password {}").format(connection.info.password)
        if connection.execute(
            "select from pg_authid where rolname = current_user and rolpassword not like 'SCRAM-SHA-256$1:%'"
        ).rowcount:
            connection.execute(set_again)
    return cluster


@pytest.fixture
def own_postgres() -> Iterator[EmbeddedPostgres]:
    """A running cluster of this test alone: to be killed, restarted, filled up."""
    folder = Path(os.environ[RUN_FOLDER]) / f"own postgres {uuid.uuid4().hex[:8]}"
    cluster = EmbeddedPostgres(folder, MAJOR, SETTINGS)
    cluster.start()
    yield cluster
    cluster.stop()
    shutil.rmtree(cluster.folder)


@pytest.fixture(scope="session")
def administration(postgres: EmbeddedPostgres) -> Iterator[psycopg.Connection]:
    """A connection that makes and drops databases: one for all tests of this process."""
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        yield connection


@contextmanager
def _databases(
    postgres: EmbeddedPostgres, administration: psycopg.Connection
) -> Iterator[Callable[[str], str]]:
    """Makes databases for the length of the block: the name of a template in, the URL of its copy out."""
    names = []

    def create(template: str) -> str:
        names.append(f"test_{uuid.uuid4().hex[:12]}")
        # Files are copied in a third of the time that it takes to log their blocks.
        copy = sql.SQL("create database {} template {} strategy file_copy")
        administration.execute(copy.format(sql.Identifier(names[-1]), sql.Identifier(template)))
        return postgres.url(names[-1])

    yield create
    for name in names:
        administration.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture
def database(
    postgres: EmbeddedPostgres, administration: psycopg.Connection
) -> Iterator[Callable[[str], str]]:
    """Makes databases for one test: the name of a template in, the URL of its copy out."""
    with _databases(postgres, administration) as create:
        yield create


@pytest.fixture(scope="module")
def module_database(
    postgres: EmbeddedPostgres, administration: psycopg.Connection
) -> Iterator[Callable[[str], str]]:
    """Makes databases for all tests of one module."""
    with _databases(postgres, administration) as create:
        yield create


@pytest.fixture
def empty_database_url(database: Callable[[str], str]) -> Callable[[], str]:
    """Makes empty databases for one test; each call gives the URL of another one."""
    return lambda: database("template1")


@pytest.fixture(scope="session")
def warehouse_template(postgres: EmbeddedPostgres) -> str:
    """Name of a database with the warehouse's schema, migrated once per test run."""
    from warehouse.migrations.revisions import upgrade

    return _template(postgres, "template_warehouse", upgrade)


@pytest.fixture(scope="session")
def shop_template(postgres: EmbeddedPostgres) -> str:
    """Name of a database with the shop's schema and no rows."""
    from generators.shop import create_schema

    return _template(postgres, "template_shop", create_schema)


@pytest.fixture
def warehouse_url(database: Callable[[str], str], warehouse_template: str) -> str:
    """URL of a migrated, empty warehouse of this test alone."""
    return database(warehouse_template)


@pytest.fixture
def shop_url(database: Callable[[str], str], shop_template: str) -> str:
    """URL of a shop without rows, of this test alone."""
    return database(shop_template)


@pytest.fixture(scope="session")
def template(postgres: EmbeddedPostgres) -> Callable[[str, Callable[[str], object], str], str]:
    """Makes a database to be copied, once per test run: its name, what fills it by its URL, and whose copy it is."""
    return partial(_template, postgres)


@pytest.fixture(scope="session")
def sale_templates(
    postgres: EmbeddedPostgres, warehouse_template: str, shop_template: str
) -> tuple[str, str]:
    """Names of databases: a shop with one sale, and the warehouse that it was loaded into, marts included."""
    from tests.pipeline import load_sale, open_for_a_sale

    shop = _template(postgres, "template_sale_shop", open_for_a_sale, shop_template)
    return shop, _template(
        postgres,
        "template_sale_warehouse",
        lambda url: load_sale(postgres.url(shop), url),
        warehouse_template,
    )


@pytest.fixture(scope="session")
def mart_templates(
    postgres: EmbeddedPostgres, warehouse_template: str, shop_template: str
) -> tuple[str, str]:
    """Names of databases with generated sales and web logs: the shop, and the warehouse that they were loaded into."""
    from tests.marts import fill_shop, fill_warehouse

    shop = _template(postgres, "template_mart_shop", fill_shop, shop_template)
    lake = postgres.folder / "mart lake"
    return shop, _template(
        postgres,
        "template_mart_warehouse",
        lambda url: fill_warehouse(postgres.url(shop), url, lake),
        warehouse_template,
    )


@pytest.fixture(scope="module")
def mart_world(
    postgres: EmbeddedPostgres, module_database: Callable[[str], str], mart_templates: tuple[str, str]
) -> "Iterator[MartWorld]":
    """Sales and web logs of one test module, loaded, with what pandas needs to compute the same."""
    from tests.marts import MartWorld

    shop_url, warehouse_url = map(module_database, mart_templates)
    # A module that adds logs adds them to its own.
    folder = postgres.folder / f"mart lake {uuid.uuid4().hex[:12]}"
    shutil.copytree(postgres.folder / "mart lake", folder)
    world = MartWorld(shop_url, warehouse_url, folder)
    yield world
    world.close()
    shutil.rmtree(folder)


def _template(
    postgres: EmbeddedPostgres, name: str, fill: Callable[[str], object], source: str = "template1"
) -> str:
    """Make a template database unless another worker has; it bears its name only once it is filled."""
    with (
        exclusive(postgres.folder / f"{name}.lock"),
        psycopg.connect(postgres.url(), autocommit=True) as connection,
    ):
        if connection.execute("select from pg_database where datname = %s", (name,)).rowcount:
            return name
        draft = f"{name}_{uuid.uuid4().hex[:8]}"
        connection.execute(
            sql.SQL("create database {} template {}").format(sql.Identifier(draft), sql.Identifier(source))
        )
        fill(postgres.url(draft))
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (draft,)
        )
        rename = sql.SQL("alter database {} rename to {}")
        connection.execute(rename.format(sql.Identifier(draft), sql.Identifier(name)))
    return name
