"""Load facts: merge the rows of model/facts/<fact>.sql by natural key, and delete facts without a source row."""

from collections.abc import Sequence

import psycopg
from psycopg import sql

from warehouse.db import staying_session
from warehouse.db.identifiers import assigned, differ, each, listed, same_key, text_array
from warehouse.extract.catalog import columns_of
from warehouse.load import scd1, scd2
from warehouse.load.batch import Batch
from warehouse.load.changed_keys import keys_where
from warehouse.load.conversion import isolate_rows
from warehouse.load.counts import Counts
from warehouse.load.fit import UNFIT
from warehouse.load.lookups import describe_inferred
from warehouse.model.calendar_sql import add_days, days_of_batch
from warehouse.model.fact_sql import INCOMPLETE_LINE, fact_query, member_source
from warehouse.model.star import DIMENSIONS, Dimension, Fact
from warehouse.model.tables import fact_table

_PREPARED = "select {columns}, {run_id} from pg_temp.prepared as prepared"
INCOMPLETE_LINES = sql.Identifier("pg_temp", "incomplete_lines")
_EXISTS = "exists (select from pg_temp.existing_keys as existing where {is_existing})"


def merge(batch: Batch, fact: Fact, *, every_key: bool = False) -> Counts:
    """Merge conformed rows and deleted keys into a fact; missing dimension members are inferred first.

    Rows that are new in the mirror are inserted without looking up the fact; with `every_key`, all keys are looked up.
    """
    if fact.dates:
        batch.connection.execute(add_days(days_of_batch(fact), batch.run_id))
    _prepare(batch, fact)
    columns = prepared_columns(batch)
    key = (*fact.natural_key, "source_system")
    names = {
        "columns": listed(columns),
        "key": listed(key),
        "assigned": assigned([name for name in columns if name not in key], "excluded"),
        "differ": differ(columns, "fact", "excluded"),
        "is_existing": same_key(fact.natural_key, "existing", "prepared"),
        "is_deleted": same_key(fact.natural_key, "fact", "deleted"),
    }
    if batch.is_full_load:
        return Counts(inserted=_insert(batch, names, "true"))
    last_change = _last_change(batch)
    inserted, updated = _upsert(batch, names, "true") if every_key else _merge(batch, names)
    deleted = batch.execute(
        "delete from {target} as fact using {deleted_keys} as deleted "
        "where {is_deleted} and fact.source_system = {source}",
        **names,
    ).rowcount
    rekeyed = _count_rekeyed(batch, last_change) if updated else 0
    return Counts(inserted=inserted, updated=updated, deleted=deleted, rekeyed=rekeyed)


def isolate_unfit(batch: Batch, fact: Fact) -> int:
    """Move conformed rows to the unconvertible ones if the fact's columns cannot hold the values calculated from them.

    Returns the number of rows moved. Rules about conformed columns do not cover what the fact's SQL calculates.
    """
    types = columns_of(batch.connection, "dwh", fact.table)
    description = batch.execute("select * from ({query}) as made limit 0", query=fact_query(fact)).description
    columns = [column.name for column in description or ()]

    values = [
        (name, sql.SQL("{}::{}::text").format(sql.Identifier(name), sql.SQL(types[name]))) for name in columns
    ]
    made = sql.SQL("({}) as made").format(fact_query(fact))
    return isolate_rows(batch, made, values) + _isolate_empty(batch, fact, columns)


def _isolate_empty(batch: Batch, fact: Fact, columns: Sequence[str]) -> int:
    """Move conformed rows whose fact row has nulls in required columns to the unconvertible ones; returns the count."""
    required = [
        column.name for column in fact_table(fact).columns if column.required and column.name in columns
    ]
    if not required:
        return 0
    names = {
        "query": fact_query(fact),
        "row_key": text_array(fact.natural_key, "conformed"),
        "same": same_key(fact.natural_key, "made", "conformed"),
        "rules": sql.SQL(", ").join(
            sql.SQL("case when made.{} is null then {} end").format(
                sql.Identifier(name), sql.Literal(f"{UNFIT}: {name}")
            )
            for name in required
        ),
        "is_empty": each("made.{} is null", required, " or "),
    }
    moved = batch.execute(
        """
        insert into {unconvertible}
        select row_key, rules, array_to_string(rules, '; ') || ' (it is empty)', row_data
        from (
            select {row_key} as row_key, array_remove(array[{rules}], null) as rules, to_jsonb(conformed) as row_data
            from ({query}) as made inner join {conformed} as conformed on {same}
            where {is_empty}
        ) as empty
        """,
        **names,
    ).rowcount
    batch.execute(
        "delete from {conformed} as conformed where {row_key} in (select row_key from {unconvertible})",
        **names,
    )
    return moved


def infer_missing(batch: Batch, fact: Fact, lines: sql.Identifier | None = None) -> dict[Dimension, int]:
    """Insert inferred members for keys that the batch, or its `lines`, refers to and no dimension holds.

    Returns the number of members by dimension.
    """
    lines = lines or batch.conformed
    sources = {one.dimension: member_source(one, "fact") for one in fact.refers_to}
    return {
        dimension: scd2.infer_missing(batch, dimension, lines, fact.event_time, sources[dimension.entity])
        if dimension.has_history
        else scd1.infer_missing(batch, dimension, lines, sources[dimension.entity])
        for dimension in DIMENSIONS
        if dimension.entity in (*fact.references, *fact.derived)
        # If the column is unmapped, no row of this source refers to the dimension.
        and f"{dimension.entity}_id" not in batch.entity.unmapped_columns
    }


def prepared_columns(batch: Batch) -> list[str]:
    """Columns that the fact's business SQL delivers."""

    def read() -> list[str]:
        description = batch.connection.execute("select * from pg_temp.prepared limit 0").description
        return [column.name for column in description or () if column.name != INCOMPLETE_LINE]

    return staying_session.remembered(batch.connection, ("prepared", batch.target.table), read)


def _prepare(batch: Batch, fact: Fact) -> None:
    """Join the batch to its dimensions; infer missing members, and join the lines that refer to them once more."""
    # The first file of a feed refers to many missing members: infer them first, or most lines are joined twice.
    if batch.is_full_load and batch.entity.lookups and any(infer_missing(batch, fact).values()):
        describe_inferred(batch)
    batch.create_temporary("prepared", "{query}", query=fact_query(fact, with_incomplete=True))
    # Incomplete lines are joined by ctid: TID scans find a few of three million lines without reading all.
    incomplete = batch.create_temporary(
        "incomplete",
        "select prepared.ctid as prepared_place, {line} as line_place from pg_temp.prepared as prepared "
        "where {line} is not null",
        line=sql.Identifier("prepared", INCOMPLETE_LINE),
    )
    if not incomplete:
        return
    batch.execute("analyze pg_temp.incomplete")
    batch.create_temporary(
        "incomplete_lines",
        "select line.* from pg_temp.incomplete inner join {conformed} as line on incomplete.line_place = line.ctid",
    )
    if any(infer_missing(batch, fact, INCOMPLETE_LINES).values()):
        describe_inferred(batch)
        batch.execute(
            "delete from pg_temp.prepared as prepared using pg_temp.incomplete "
            "where prepared.ctid = incomplete.prepared_place"
        )
        batch.execute(
            "insert into pg_temp.prepared {query}",
            query=fact_query(fact, INCOMPLETE_LINES, with_incomplete=True),
        )


def _merge(batch: Batch, names: dict[str, sql.Composable]) -> tuple[int, int]:
    """Merge, looking up only keys that the fact may hold (as costly as an insert); returns rows inserted, updated."""
    batch.create_temporary("existing_keys", "{keys}", keys=keys_where(batch, "not _is_new"))
    batch.analyze(sql.Identifier("pg_temp", "existing_keys"))
    try:
        with batch.connection.transaction():
            inserted = _insert(batch, names, f"not {_EXISTS}")
    except psycopg.errors.UniqueViolation:
        # After its mirror was created again, rows count as new that the fact already has: look up all keys.
        return _upsert(batch, names, "true")
    more, updated = _upsert(batch, names, _EXISTS)
    return inserted + more, updated


def _insert(batch: Batch, names: dict[str, sql.Composable], condition: str) -> int:
    return batch.execute(
        f"insert into {{target}} ({{columns}}, run_id) {_PREPARED} where {condition}", **names
    ).rowcount


def _upsert(batch: Batch, names: dict[str, sql.Composable], condition: str) -> tuple[int, int]:
    row = batch.execute(
        f"""
        with merged as (
            insert into {{target}} as fact ({{columns}}, run_id)
            {_PREPARED} where {condition}
            on conflict ({{key}}) do update set {{assigned}}, run_id = excluded.run_id
            where {{differ}}
            -- only a row that was locked or updated before has an xmax
            returning fact.xmax = 0 as is_new
        )

        select count(*) filter (where is_new), count(*) filter (where not is_new) from merged
        """,
        **names,
    ).fetchone()
    assert row is not None
    return row[0], row[1]


def _last_change(batch: Batch) -> int:
    row = batch.connection.execute("select coalesce(max(change_id), 0) from audit.change").fetchone()
    return int(row[0]) if row else 0


def _count_rekeyed(batch: Batch, last_change: int) -> int:
    """Count the facts whose dimension keys the batch has changed, from the change log after `last_change`.

    Earlier changes do not count: one run may load a fact several times, as in a reconform or a backfill by days.
    """
    # The index on run_id is coarse: for a batch of `dwh live` it would read most of its run's changes.
    column, changed_by = ("run_id", batch.run_id) if batch.batch_id is None else ("batch_id", batch.batch_id)
    row = batch.connection.execute(
        sql.SQL(
            """
            select count(*) from audit.change inner join audit.row_schema using (row_schema_id)
            where {} = %s and change_id > %s and table_name = %s and operation = 'update' and exists (
                select from unnest(columns, before, after) as cell (name, old, new)
                where name = any(%s) and old is distinct from new
            )
            """
        ).format(sql.Identifier(column)),
        [changed_by, last_change, f"dwh.{batch.target.table}", [dimension.key for dimension in DIMENSIONS]],
    ).fetchone()
    return row[0] if row else 0
