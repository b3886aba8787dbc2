"""Retention of the audit trail: delete runs that changed nothing after DWH_AUDIT_DAYS.

Runs that undo, lineage, watermarks and verdicts need are kept: every run that changed a row, with its loads; the last
run and the last success of each flow; and the last result of each verification and check.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

# Delete at most this many runs per call, so that a round of the watchdog stays short.
MOST_RUNS = 5000
# Tables whose rows only describe their run, and are deleted with it.
_EVIDENCE = ("difference", "check_result", "verification", "batch", "load")
# Tables with a run_id but no foreign key, since an undo may restore rows of older runs.
_STATE = (
    "watermark", "key_range", "freshness", "file", "file_part", "file_read", "definition", "feed_field", "precedence",
    "followed",
)  # fmt: skip


# Runs with the last verification of a table, the last result of a check, or the last run or success of a flow.
_LAST_WORDS = """
    select run_id from audit.verification where verification_id in (
        select max(verification_id) from audit.verification where verdict <> 'not_compared'
        group by layer, source, table_name
    )
    union
    select run_id from audit.check_result where check_result_id in (
        select max(check_result_id) from audit.check_result
        group by source, dataset, check_name, coalesce(column_name, '')
    )
    union
    select max(run_id) from audit.run group by flow
    union
    select max(run_id) from audit.run where status = 'succeeded' group by flow
    """
# The oldest runs that changed nothing and to which nothing refers.
_IDLE_RUNS = """
    create temp table pruned_run on commit drop as
    select run.run_id
    from audit.run as run
    where run.ended_at < clock_timestamp() - make_interval(days => %(days)s)
        and run.flow <> 'undo' and run.status <> 'undone'
        and not exists (select from pg_temp.needed_run as needed where needed.run_id = run.run_id)
        and not exists (
            select from audit.load
            where load.run_id = run.run_id and load.rows_inserted + load.rows_updated + load.rows_expired
                + load.rows_deleted + load.rows_quarantined > 0
        )
    order by run.run_id
    limit %(most)s
    """


@dataclass(frozen=True)
class Pruned:
    """Numbers of deleted runs and mails."""

    runs: int = 0
    mails: int = 0


def prune_audit(connection: psycopg.Connection, keep_days: int, *, most_runs: int = MOST_RUNS) -> Pruned:
    """Delete runs older than `keep_days` that changed nothing, with their audit rows, and mails of closed problems."""
    with connection.transaction():
        connection.execute("create temp table needed_run (run_id bigint primary key) on commit drop")
        connection.execute(_needed_runs(_referring_columns(connection)))
        connection.execute("analyze pg_temp.needed_run")
        connection.execute(_IDLE_RUNS, {"days": keep_days, "most": most_runs})
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


def _needed_runs(referring: Sequence[tuple[str, str, str]]) -> sql.Composed:
    """Return the statement that fills pg_temp.needed_run with runs that something refers to, and those of _LAST_WORDS.

    It is computed once for all runs: a subquery per run would scan the same tables a million times.
    """
    referred = [
        sql.SQL("select {column} from {table} where {column} is not null").format(
            table=sql.Identifier(schema, table), column=sql.Identifier(column)
        )
        for schema, table, column in referring
    ]
    return sql.SQL("insert into pg_temp.needed_run (run_id) {} union {}").format(
        sql.SQL(_LAST_WORDS), sql.SQL(" union ").join(referred)
    )


def _referring_columns(connection: psycopg.Connection) -> list[tuple[str, str, str]]:
    """Return the columns that refer to runs, in tables whose rows are kept."""
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
