"""The contenders, which load the shop into a star, each in its database: dwh, plain SQL (floor), sling plus dbt."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile

import psycopg
from psycopg import conninfo

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TOOLS = ROOT / "bench" / ".venv" / "bin"
# Tables that all contenders capture, besides the small ones.
CAPTURED = ("company", "customer", "category", "brand", "product", "inventory", "sales_order", "order_item")
SMALL = ("promotion", "payment_method", "distribution_center")
KEYS = {
    "inventory": ("product_id", "distribution_center_id"),
    "order_item": ("sales_order_id", "line_number"),
}


@dataclass
class Timing:
    """Seconds of one load: of the whole process, and of its parts by name."""

    whole: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    # Rows read by the source's counters ÷ rows that changed, were verified, or belong to tables that are read in full.
    source_rows_read_ratio: float | None = None

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a part; the total is the sum of the parts."""
        started = time.monotonic()
        yield
        self.parts[name] = time.monotonic() - started
        self.whole += self.parts[name]


@dataclass(frozen=True)
class Databases:
    """URLs of the shop and of one contender's warehouse, on one server; psql is that server's own."""

    shop: str
    warehouse: str
    psql: Path
    folder: Path


Load = Callable[[Databases], Timing]


def ours(databases: Databases) -> Timing:
    """Run `dwh run shop`; the engine's seconds are those of the run in the audit trail, without verification.

    It verifies as much as a run that comes fifteen minutes after the last one.
    """
    timing = Timing()
    environment = os.environ | {
        "DWH_HOME": str(databases.folder / "home"),
        "DWH_SHOP_URL": databases.shop,
        "DWH_WAREHOUSE_URL": databases.warehouse,
    }
    with psycopg.connect(databases.warehouse) as connection:
        connection.execute((HERE / "fifteen_minutes.sql").read_bytes())
    rows_read = _source_rows_read(databases)
    with timing.part("process"):
        output = _run([str(Path(sys.executable).with_name("dwh")), "run", "shop", "--json"], environment)
    rows_read = _source_rows_read(databases) - rows_read
    run_id = json.loads(output)["run_id"]
    with psycopg.connect(databases.warehouse) as connection:
        row = connection.execute(
            """
            select
                extract(epoch from ended_at - started_at)::float,
                (select sum(seconds) from audit.verification where verification.run_id = run.run_id),
                (select sum(rows_source) from audit.verification where verification.run_id = run.run_id)::bigint
                + (
                    select sum(rows_read) from audit.load
                    where load.run_id = run.run_id and starts_with(table_name, 'raw.')
                )::bigint
            from audit.run as run where run_id = %s
            """,
            [run_id],
        ).fetchone()
    assert row is not None
    run_seconds, verification_seconds, rows = row
    timing.parts = {
        "engine": run_seconds - verification_seconds,
        "verification": verification_seconds,
        "start": timing.whole - run_seconds,
    }
    timing.source_rows_read_ratio = rows_read / rows
    return timing


def _source_rows_read(databases: Databases) -> int:
    """Return the rows of all captured tables that the source has counted as read, after its sessions have ended."""
    with psycopg.connect(databases.shop, autocommit=True) as connection:
        while connection.execute(
            "select from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() "
            "and backend_type = 'client backend'"
        ).rowcount:
            time.sleep(0.05)
        row = connection.execute(
            """
            select
                (select sum(seq_tup_read) from pg_stat_user_tables where relname = any(%(tables)s))
                + (select sum(idx_tup_read) from pg_stat_user_indexes where relname = any(%(tables)s))
            """,
            {"tables": [*CAPTURED, *SMALL]},
        ).fetchone()
    assert row is not None
    return int(row[0])


def floor(databases: Databases) -> Timing:
    """Load by psql's COPY and hand-written SQL: no checks, no history of runs, no deletes, no verification."""
    with psycopg.connect(databases.warehouse) as connection:
        (is_first,) = connection.execute("select to_regclass('raw.company') is null").fetchone() or (True,)
        if is_first:
            connection.execute((HERE / "floor" / "tables.sql").read_bytes())
    timing = Timing()
    with timing.part("engine"):
        for table in CAPTURED:
            since = "" if is_first else f" where updated_at > '{_newest(databases, table)}'"
            where = f"{'raw' if is_first else 'batch'}.{table}"
            _psql(databases, "" if is_first else f"truncate {where}")
            _pipe(databases, f"select * from {table}{since}", where)
        _psql_file(databases, HERE / "floor" / ("first.sql" if is_first else "incremental.sql"))
    return timing


def sling_and_dbt(databases: Databases) -> Timing:
    """Load the mirror by sling, and the star by dbt snapshots and an incremental model."""
    replication = databases.folder / "replication.json"
    streams = {
        f"public.{table}": {"primary_key": list(KEYS.get(table, ("id",)))} for table in CAPTURED + SMALL
    }
    defaults = {"mode": "incremental", "object": "raw.{stream_table}", "update_key": "updated_at"}
    replication.write_text(
        json.dumps({"source": "SHOP", "target": "STAR", "defaults": defaults, "streams": streams})
    )
    to = conninfo.conninfo_to_dict(databases.warehouse)
    environment = os.environ | {
        "SHOP": databases.shop + "?sslmode=disable",
        "STAR": databases.warehouse + "?sslmode=disable",
        "SLING_HOME_DIR": str(databases.folder / "sling"),
        "SLING_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
        **{f"PG{name.upper()}": str(to[name]) for name in ("host", "port", "user", "password")},
        "PGDATABASE": str(to["dbname"]),
    }
    timing = Timing()
    with timing.part("sling"):
        _run([str(TOOLS / "sling"), "run", "-r", str(replication)], environment)
    dbt = [str(TOOLS / "dbt"), "--quiet", "build", "--project-dir", str(HERE / "dbt")]
    folders = ["--profiles-dir", str(HERE / "dbt"), "--target-path", str(databases.folder / "target")]
    with timing.part("dbt"):
        _run([*dbt, *folders, "--log-path", str(databases.folder / "logs")], environment)
    return timing


CONTENDERS: dict[str, Load] = {"ours": ours, "floor": floor, "sling + dbt": sling_and_dbt}


def _newest(databases: Databases, table: str) -> str:
    with psycopg.connect(databases.warehouse) as connection:
        row = connection.execute(f"select max(updated_at)::text from raw.{table}".encode()).fetchone()
    assert row is not None
    return str(row[0])


def _pipe(databases: Databases, query: str, into: str) -> None:
    binary = "(format binary)"
    out = [str(databases.psql), databases.shop, "-Xqc", f"copy ({query}) to stdout {binary}"]
    with subprocess.Popen(out, stdout=subprocess.PIPE) as reader:
        command = [str(databases.psql), databases.warehouse, "-Xqc", f"copy {into} from stdin {binary}"]
        subprocess.run(command, stdin=reader.stdout, check=True)
    if reader.returncode:
        raise SystemExit(f"The floor could not read: {query}")


def _psql(databases: Databases, statement: str) -> None:
    if statement:
        subprocess.run([str(databases.psql), databases.warehouse, "-Xqc", statement], check=True)


def _psql_file(databases: Databases, path: Path) -> None:
    command = [str(databases.psql), databases.warehouse, "-Xq", "-v", "ON_ERROR_STOP=1", "-f", path.name]
    subprocess.run(command, cwd=path.parent, check=True, stdout=subprocess.DEVNULL)


def _run(command: list[str], environment: dict[str, str]) -> str:
    """Return the standard output of a command that has to succeed; its standard error is shown if it fails."""
    with TemporaryFile("w+") as errors:
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True, check=False
        )
        if done.returncode:
            errors.seek(0)
            raise SystemExit(f"{Path(command[0]).name} failed:\n{errors.read()[-3000:]}{done.stdout[-3000:]}")
    return done.stdout
