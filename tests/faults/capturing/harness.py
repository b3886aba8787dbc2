"""Writers, the engine and a naive cursor on one shop at the same time; at the end, who has lost what."""

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from psycopg import sql

from stack.postgres import EmbeddedPostgres
from tests.faults import flow_process
from tests.faults.capturing.comparison import Difference, compare
from tests.faults.capturing.moments import find_overlooked
from tests.faults.capturing.naive import NaiveMirror
from tests.faults.capturing.writers import COUNT, PROMOTIONS, Writers
from tests.pipeline import Pipeline, Row
from tests.star_questions import offenders
from warehouse.db.connections import connect
from warehouse.sources.registry import read_source

Progress = Callable[[str], None]
FLOW = "ingest-shop"


@dataclass(frozen=True)
class SmallRanges:
    """Called in a flow's process: key ranges of so few rows that small tables have many."""

    rows: int

    def __call__(self, _: Connection) -> None:
        from warehouse.extract.limits import ReadLimits

        made = ReadLimits.of
        ReadLimits.of = lambda settings: replace(made(settings), range_rows=self.rows)  # type: ignore[method-assign, assignment]


@dataclass
class Result:
    """What a run of the harness has shown."""

    commits: int
    by_kind: dict[str, int]
    writer_seconds: float
    runs: list[dict[str, Any]]
    failures: list[str]
    engine: Difference
    naive: Difference
    # By question of an auditor, whom it concerns.
    star: dict[str, list[Row]]
    # Where every table is large, the fewest key ranges of one that has rows; and rows that differed after a run
    # although their range had been verified since they were committed.
    ranges: int | None = None
    overlooked: Sequence[str] = ()

    @property
    def complaints(self) -> list[str]:
        """Why it does not prove what it should; none: the engine lost nothing, and there was something to lose."""
        found = [f"a run failed: {failure}" for failure in self.failures]
        for what in ("lost", "stale", "duplicated", "kept"):
            rows = sum(getattr(self.engine, what).values())
            if rows:
                found.append(f"the engine has {rows:,} rows {what}: {dict(getattr(self.engine, what))}")
        found += [
            f"the star has {len(rows):,} {question}, as {rows[:3]}" for question, rows in self.star.items()
        ]
        found += [
            f"run {run['run_id']}: {run['different']} verifications differ"
            for run in self.runs
            if run["different"]
        ]
        if self.overlooked:
            found.append(f"verification overlooked {len(self.overlooked):,} rows, as {self.overlooked[:3]}")
        if self.ranges is not None:
            if self.ranges < 8:
                found.append(f"a table has {self.ranges} key ranges: too few to be verified in turn")
            if not sum(run["rows_found"] for run in self.runs):
                found.append("the rotation found nothing: the harness proves nothing")
        if not self.naive.total:
            found.append("the naive cursor lost nothing either: the harness proves nothing")
        missing = {
            "long",
            "prepared",
            "truncate",
            "savepoint",
            "delete",
            "insert again",
        } - self.by_kind.keys()
        found += [f"no write of kind '{kind}' was committed" for kind in sorted(missing)]
        return found

    def figures(self) -> dict[str, Any]:
        """The result for a JSON file."""
        seconds = sorted(run["seconds"] for run in self.runs)
        read, changed = (sum(run[name] for run in self.runs) for name in ("rows_read", "rows_changed"))
        return {
            "commits": self.commits,
            "writers": COUNT,
            "commits_per_second": round(self.commits / self.writer_seconds),
            "commits_by_kind": dict(sorted(self.by_kind.items())),
            "runs": len(self.runs),
            "run_seconds": {
                "median": seconds[len(seconds) // 2],
                "longest": seconds[-1],
                "sum": round(sum(seconds), 1),
            },
            "rows_read": read,
            "rows_changed": changed,
            "rows_read_per_change": round(read / max(changed, 1), 2),
            "rows_read_per_run": {
                "median": sorted(run["rows_read"] for run in self.runs)[len(self.runs) // 2],
                "most": max(run["rows_read"] for run in self.runs),
            },
            "found_by_verification": sum(run["rows_found"] for run in self.runs),
            "key_ranges": self.ranges,
            "overlooked_by_verification": len(self.overlooked),
            "cursor_missed": sum(run["rows_cursor_missed"] for run in self.runs),
            "verifications": {
                "equal": sum(run["equal"] for run in self.runs),
                "different": sum(run["different"] for run in self.runs),
                "seconds": round(sum(run["proof_seconds"] for run in self.runs), 1),
            },
            "rows_compared": self.engine.rows,
            "engine": _told(self.engine),
            "star": {question: len(rows) for question, rows in self.star.items()},
            "naive": _told(self.naive),
            "complaints": self.complaints,
        }


def run(
    postgres: EmbeddedPostgres,
    databases: tuple[str, str, str],
    folder: Path,
    commits: int,
    runs: int,
    *,
    progress: Progress = lambda _: None,
    prepare: flow_process.Prepare | None = None,
    range_rows: int | None = None,
) -> Result:
    """Run writers until they have committed `commits` times, and the engine at least `runs` times meanwhile.

    `databases` are names of a shop without rows, another one for the naive mirror, and a migrated warehouse;
    `prepare` is called in the engine's process before each run. With `range_rows` no table is small: each run verifies
    one key range of so many rows, after it no row may differ that was committed before its range was verified, and at
    the end two rotations pass.
    """
    shop_url, naive_url, warehouse_url = map(postgres.url, databases)
    environment = {
        "DWH_HOME": str(folder),
        "DWH_SHOP_URL": shop_url,
        "DWH_WAREHOUSE_URL": warehouse_url,
    }
    if range_rows is not None:
        # What a range has lost since it was verified last is no share of a table.
        environment |= {"DWH_SCAN_ROWS": "0", "DWH_MAX_DELETE_SHARE": "1"}
        prepare = SmallRanges(range_rows)
    source = read_source("shop")
    naive = NaiveMirror(shop_url, naive_url, source.tables)
    Writers(naive_url, 0).prepare(fill=False)
    writers = Writers(shop_url, commits, runs)
    writers.prepare()
    failures: list[str] = []
    overlooked: list[str] = []

    def capture() -> None:
        process = flow_process.start(FLOW, environment, prepare)
        if process.end(1200) != 0:
            failures.extend(str(said) for said in process.said)
        failures.extend(_torn(warehouse_url))
        if range_rows is not None:
            overlooked.extend(find_overlooked(shop_url, warehouse_url, source.tables))
        naive.capture()

    capture()
    writers.start()
    try:
        while writers.are_writing:
            started = time.monotonic()
            writers.run_begins()
            capture()
            seconds = time.monotonic() - started
            progress(
                f"{writers.commits:,} of {commits:,} commits, {writers.commits / writers.elapsed:,.0f} a second; "
                f"last run and naive read {seconds:.1f} s"
            )
    finally:
        writers.stop()
        writers.finish()
    # The last transactions may have committed behind the snapshot of the last run.
    capture()
    if range_rows is not None:
        environment["DWH_VERIFY_WITHIN"] = "0s"
        capture()
        capture()
    progress("comparing source and copies whole")
    return Result(
        writers.commits,
        dict(writers.by_kind),
        writers.elapsed,
        _runs(warehouse_url),
        failures,
        compare(
            shop_url,
            warehouse_url,
            source.tables,
            lambda t: sql.Identifier("raw", t.mirror),
            sql.SQL("not _is_deleted"),
        ),
        compare(shop_url, naive_url, source.tables, naive.relation, sql.SQL("true")),
        _offended(shop_url, warehouse_url),
        None if range_rows is None else _ranges(warehouse_url),
        overlooked,
    )


def _torn(warehouse_url: str) -> list[str]:
    """What the last run saw that was never so: promotions are emptied and filled again in one transaction."""
    with connect(warehouse_url) as warehouse:
        row = warehouse.execute("select count(*) from raw.shop_promotion where not _is_deleted").fetchone()
    return [] if row == (PROMOTIONS,) else [f"it saw {row} of {PROMOTIONS} promotions"]


def _ranges(warehouse_url: str) -> int:
    """The fewest key ranges of a table that the writers fill."""
    with connect(warehouse_url) as warehouse:
        row = warehouse.execute(
            """
            select min(count) from (
                select count(*) from audit.key_range
                where table_name in ('customer', 'sales_order', 'order_item') group by table_name
            ) as counted
            """
        ).fetchone()
    return row[0] if row and row[0] else 0


def _runs(warehouse_url: str) -> list[dict[str, Any]]:
    """What the audit trail says of each run, the first load left out."""
    with closing(Pipeline(warehouse_url, warehouse_url)) as pipeline:
        names = ("run_id", "seconds", "rows_read", "rows_changed", "rows_cursor_missed")
        names += ("rows_found", "equal", "different", "proof_seconds")
        found = pipeline.rows(
            """
            select run.run_id, extract(epoch from run.ended_at - run.started_at)::float,
                sum(load.rows_read)::bigint,
                sum(load.rows_inserted + load.rows_updated + load.rows_deleted)::bigint,
                sum(load.rows_cursor_missed)::bigint, sum(load.rows_found_by_checksum)::bigint,
                (select count(*) from audit.verification where run_id = run.run_id and verdict = 'equal'),
                (select count(*) from audit.verification where run_id = run.run_id and verdict <> 'equal'),
                (select coalesce(sum(seconds), 0)::float from audit.verification where run_id = run.run_id)
            from audit.run as run inner join audit.load as load using (run_id)
            where load.table_name like 'raw.%%' and run.run_id > (select min(run_id) from audit.run)
            group by run.run_id order by run.run_id
            """,
        )
    return [dict(zip(names, row, strict=True)) for row in found]


def _offended(shop_url: str, warehouse_url: str) -> dict[str, list[Row]]:
    with closing(Pipeline(shop_url, warehouse_url)) as pipeline:
        return offenders(pipeline)


def _told(difference: Difference) -> dict[str, Any]:
    kinds = ("lost", "stale", "kept", "duplicated")
    return {kind: dict(sorted(getattr(difference, kind).items())) for kind in kinds} | {
        "total": difference.total
    }
