"""Read the state of the warehouse: runs, freshness, quarantine, verifications, and the audit rows of one run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg.rows import dict_row

from warehouse.runs.audit import CRASHED, DEAD
from warehouse.runs.definitions import StaleTarget, list_stale_targets
from warehouse.runs.live_process import read_processes

Rows = list[dict[str, Any]]
# Maximum number of differences to show for a run; audit.difference has all.
MOST_DIFFERENCES = 100
# Queries of the sections of `Status` that are read as they are.
_SECTIONS: Final = {
    "tables": """
        select source, table_name, complete_at, verified_since, changed_at, run_id, row_count_estimate, size_bytes
        from mart.table_freshness order by source, table_name
        """,
    "quarantine": """
        select source, entity, rule, waiting_count, oldest_at, newest_at
        from mart.quarantine_by_rule order by source, entity, waiting_count desc, rule
        """,
    "verifications": """
        select source, table_name, verdict, rows_source, rows_mirror, chunks_differing, verified_at, run_id
        from mart.capture_verification order by source, table_name
        """,
    "reconciled": """
        select layer, source, table_name, verdict, rows_expected, rows_found, rows_differing, rows_repaired,
            rows_pending, verified_at, run_id
        from mart.reconciliation order by array_position(array['mirror', 'star', 'weblog', 'mart'], layer), source,
            table_name
        """,
    "unread_files": """
        select feed, path, status, reason, hint, first_seen_at, run_id from mart.unread_file
        order by status = 'ignored', feed, path
        """,
    "archive": """
        select *
        from (
            select max(archived_run_id) as archived_run_id, max(archived_at) as archived_at
            from audit.archive_table
            where archived_run_id < (
                select coalesce(min(run_id), 9223372036854775807) from audit.archive_pending
                where published_at is not null
            )
        ) as archived
        cross join (
            select count(distinct run_id) as pending_runs, coalesce(sum(row_count), 0)::bigint as pending_rows,
                min(published_at) as pending_since
            from audit.archive_pending where published_at is not null
        ) as pending
        where archived_run_id is not null or pending_runs > 0
        """,
}
# Queries of the sections of `RunDetails` that are read as they are, by the run's id.
_SECTIONS_OF_RUN: Final = {
    "loads": """
        select source, table_name, window_low, window_high, rows_read, rows_inserted, rows_updated,
            rows_expired, rows_deleted, rows_unchanged, rows_quarantined, rows_cursor_missed,
            rows_found_by_checksum, source_rows_read, source_blocks_read, seconds, loaded_at
        from audit.load where run_id = %s order by load_id
        """,
    "checks": """
        select source, dataset, check_name, check_type, column_name, level, outcome, measured, threshold,
            rows_checked, message
        from audit.check_result where run_id = %s order by check_result_id
        """,
    "verifications": """
        select layer, source, table_name, verdict, rows_source, rows_mirror, rows_differing, rows_pending,
            rows_repaired, chunks, chunks_differing, seconds
        from audit.verification where run_id = %s order by verification_id
        """,
    # Do not select the rows' values: they may be personal data, and all users of Prefect's UI see this result.
    "differences": f"""
        select layer, source, table_name, row_key::text, problem, is_repaired
        from audit.difference where run_id = %s order by difference_id limit {MOST_DIFFERENCES}
        """,
    "unread_files": "select path, status, reason, hint from mart.unread_file where run_id = %s order by path",
    "verified": """
        -- Do not join by the watermark's run: live capture may have moved it since.
        select
            freshness.table_name, freshness.verified_since,
            exists (
                select from audit.key_range as other
                where other.source = watermark.source and other.table_name = watermark.table_name
                    and other.run_id < verification.run_id
            ) as is_part
        from audit.verification as verification
        inner join audit.watermark as watermark using (source, table_name)
        inner join mart.table_freshness as freshness
            on freshness.source = watermark.source and freshness.table_name = 'raw.' || watermark.mirror
        where verification.run_id = %s and verification.layer = 'mirror'
            and exists (
                select from audit.key_range
                where source = watermark.source and table_name = watermark.table_name
            )
        order by freshness.table_name
        """,
}


@dataclass(frozen=True)
class Status:
    """The state of the warehouse, as `dwh status` shows it."""

    runs: Rows
    tables: Rows
    quarantine: Rows
    verifications: Rows
    # The last verdict of reconcile on each table, in every layer.
    reconciled: Rows
    # Targets whose definition has changed since they were conformed, with the reasons.
    stale: Sequence[StaleTarget]
    # Files in landing folders that are not read, or not completely.
    unread_files: Rows
    # The last archived run, and the numbers of pending runs and rows; empty if nothing is archived.
    archive: Rows = field(default_factory=list)
    # The last live process of each source.
    live: Rows = field(default_factory=list)


@dataclass(frozen=True)
class RunDetails:
    """Everything that the audit trail has about one run."""

    run: dict[str, Any]
    loads: Rows
    checks: Rows
    verifications: Rows
    # The first differences, and the number of all.
    differences: Rows
    difference_count: int
    # Files that the run found and did not read.
    unread_files: Rows
    # For each verified table with key ranges: the time since which all rows are verified, and whether this run verified
    # only a part of them.
    verified: Rows = field(default_factory=list)

    @property
    def has_star(self) -> bool:
        """Whether the run has verified other layers than mirrors."""
        return any(verification["layer"] != "mirror" for verification in self.verifications)


def read_status(connection: psycopg.Connection, declared: Mapping[str, Path], runs: int = 10) -> Status:
    """Read the last runs, newest first, and the present state of tables, quarantine and verifications.

    Dead runs are shown as crashed. `declared` has the folder of each declared source, by name.
    """
    # Query dead runs first: if a run ends between the two queries, the second one has its final status.
    dead = {row["run_id"] for row in _rows(connection, f"select run_id from mart.job_run where {DEAD}")}
    last = _rows(
        connection,
        """
        select run_id, flow, status, started_at, duration_seconds, rows_read, rows_inserted, rows_updated,
            rows_expired, rows_deleted, rows_quarantined, rows_cursor_missed, launched_by, message, hint
        from mart.job_run order by run_id desc limit %s
        """,
        runs,
    )
    return Status(
        runs=[
            run | {"status": "crashed", "message": CRASHED}
            if run["run_id"] in dead and run["status"] == "running"
            else run
            for run in last
        ],
        stale=list_stale_targets(connection, declared),
        live=[
            {
                "source": one.source,
                "host": one.host,
                "pid": one.pid,
                "state": "ended" if one.stopped_at else one.state if one.is_alive else "not connected",
                "reason": one.reason if one.stopped_at is None else None,
                "since": one.stopped_at or one.since,
                "run_id": one.run_id,
                "held_by_run_id": one.held_by_run_id,
            }
            for one in read_processes(connection)
        ],
        **{section: _rows(connection, query) for section, query in _SECTIONS.items()},
    )


def read_run_details(connection: psycopg.Connection, run_id: int) -> RunDetails:
    """Read everything that the audit trail has about one run, also if it failed or was stopped."""
    run = _rows(
        connection,
        """
        select run_id, flow, status, started_at, ended_at, launched_by, code_version, parameters, error, hint
        from audit.run where run_id = %s
        """,
        run_id,
    )
    return RunDetails(
        run=run[0],
        difference_count=_rows(connection, "select count(*) from audit.difference where run_id = %s", run_id)[
            0
        ]["count"],
        **{section: _rows(connection, query, run_id) for section, query in _SECTIONS_OF_RUN.items()},
    )


def read_history(connection: psycopg.Connection, flow: str, runs: int = 20) -> Rows:
    """Read the last runs of a flow, oldest first: status, duration, and rows read and changed."""
    return _rows(
        connection,
        """
        select * from (
            select run_id, status, started_at, duration_seconds, rows_read,
                rows_inserted + rows_updated + rows_expired + rows_deleted as rows_changed
            from mart.job_run where flow = %s order by run_id desc limit %s
        ) as last order by run_id
        """,
        flow,
        runs,
    )


def _rows(connection: psycopg.Connection, query: str, *parameters: object) -> Rows:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query.encode(), parameters or None).fetchall()
