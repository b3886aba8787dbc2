"""Retention of the audit trail: what runs left that changed nothing goes after DWH_AUDIT_DAYS.

What undo, lineage, watermarks and verdicts need stays: every run that changed a row, with its loads; the last run of
each flow, its last success, and the last result of each verification and check.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

# Runs that one call removes at most: a round of the watchdog stays short.
MOST_RUNS = 5000
# Tables with rows that only say what their run did.
_EVIDENCE = ("difference", "check_result", "verification", "batch", "load")
# Tables that name runs without a foreign key: an undo restores older rows of theirs.
_STATE = (
    "watermark", "key_range", "freshness", "file", "file_part", "file_read", "definition", "feed_field", "precedence",
    "followed",
)  # fmt: skip


@dataclass(frozen=True)
class Pruned:
    """What was removed: runs that changed nothing, and mails that were sent."""

    runs: int = 0
    mails: int = 0


def prune_audit(connection: psycopg.Connection, keep_days: int, *, most_runs: int = MOST_RUNS) -> Pruned:
    """Remove runs older than `keep_days` that changed nothing, with all they recorded, and mails of closed problems."""
    with connection.transaction():
        connection.execute(
            sql.SQL("create temp table pruned_run on commit drop as {}").format(
                _idle_runs(_referring_columns(connection))
            ),
            {"days": keep_days, "most": most_runs},
        )
        for table in _EVIDENCE:
            connection.execute(
                sql.SQL(
                    "delete from {} using pg_temp.pruned_run as gone where gone.run_id = {}.run_id"
                ).format(sql.Identifier("audit", table), sql.Identifier(table))
            )
        mails = connection.execute(
            """
            delete from audit.outbox
            where resolved_at is not null and sent_at < clock_timestamp() - make_interval(days => %s)
            """,
            [keep_days],
        ).rowcount
        runs = connection.execute(
            "delete from audit.run using pg_temp.pruned_run as gone where gone.run_id = run.run_id"
        ).rowcount
        return Pruned(runs, mails)


def _idle_runs(referring: Sequence[tuple[str, str, str]]) -> sql.Composable:
    """Query of the oldest runs that changed nothing and that nothing else refers to."""
    return sql.SQL(
        """
        select run.run_id
        from audit.run as run
        where run.ended_at < clock_timestamp() - make_interval(days => %(days)s)
            and run.flow <> 'undo' and run.status <> 'undone'
            and not exists (
                select from audit.load
                where load.run_id = run.run_id and load.rows_inserted + load.rows_updated + load.rows_expired
                    + load.rows_deleted + load.rows_quarantined > 0
            )
            and not exists (
                select from audit.verification as verified
                where verified.run_id = run.run_id and not exists (
                    select from audit.verification as later
                    where later.layer = verified.layer and later.source = verified.source
                        and later.table_name = verified.table_name
                        and later.verification_id > verified.verification_id
                )
            )
            and not exists (
                select from audit.check_result as checked
                where checked.run_id = run.run_id and not exists (
                    select from audit.check_result as later
                    where later.source = checked.source and later.dataset = checked.dataset
                        and later.check_name = checked.check_name
                        and coalesce(later.column_name, '') = coalesce(checked.column_name, '')
                        and later.check_result_id > checked.check_result_id
                )
            )
            and exists (
                select from audit.run as later where later.flow = run.flow and later.run_id > run.run_id
            )
            and (
                run.status <> 'succeeded' or exists (
                    select from audit.run as later
                    where later.flow = run.flow and later.run_id > run.run_id and later.status = 'succeeded'
                )
            )
            {unreferred}
        order by run.run_id
        limit %(most)s
        """
    ).format(
        unreferred=sql.SQL(" ").join(
            sql.SQL(
                "and not exists (select from {table} as referring where referring.{column} = run.run_id)"
            ).format(table=sql.Identifier(schema, table), column=sql.Identifier(column))
            for schema, table, column in referring
        )
    )


def _referring_columns(connection: psycopg.Connection) -> list[tuple[str, str, str]]:
    """Columns of rows that name a run and stay."""
    state = [("audit", table, "run_id") for table in _STATE]
    return (
        state
        + connection.execute(
            """
        select namespace.nspname::text, relation.relname::text, attribute.attname::text
        from pg_constraint as fk
        inner join pg_class as relation on fk.conrelid = relation.oid
        inner join pg_namespace as namespace on relation.relnamespace = namespace.oid
        inner join pg_attribute as attribute
            on attribute.attrelid = fk.conrelid and attribute.attnum = fk.conkey[1]
        where fk.contype = 'f' and fk.confrelid = 'audit.run'::regclass
            and not (namespace.nspname = 'audit' and relation.relname = any(%s))
        order by 1, 2, 3
        """,
            [list(_EVIDENCE)],
        ).fetchall()
    )
