"""Load facts: merge the business SQL of model/facts/<fact>.sql by natural key, and remove lines that vanished."""

import psycopg
from psycopg import sql

from warehouse.db.connections import analyze_briefly
from warehouse.db.identifiers import listed, qualified, same_key
from warehouse.load import scd1, scd2
from warehouse.load.conform import batch_table
from warehouse.model.calendar_sql import add_days, days_of_batch
from warehouse.model.fact_sql import fact_query
from warehouse.model.star import DIMENSIONS, Fact

ALL = sql.SQL("true")


def merge_fact(
    connection: psycopg.Connection,
    run_id: int,
    source: str,
    fact: Fact,
    *,
    all_new: bool,
    known: sql.Composable | None = None,
) -> dict[str, int]:
    """Merge the batch and pg_temp.removed into a fact; rows inserted, updated (of them rekeyed) and deleted.

    Members that the batch names and no dimension holds are inferred, so that no reference is lost. `known` selects the
    natural keys that the fact may hold; without it that may be any.
    """
    connection.execute(add_days(days_of_batch(fact), run_id))
    _prepare(connection, fact)
    if _any_member_missing(connection, fact) and _infer_missing(connection, run_id, source, fact):
        _prepare(connection, fact)
    described = connection.execute("select * from pg_temp.prepared limit 0").description
    columns = [column.name for column in described or ()]
    key = (*fact.natural_key, "source_system")
    names = {
        "fact": sql.Identifier("dwh", fact.table),
        "columns": listed(columns),
        "key": listed(key),
        "assigned": _each("{0} = excluded.{0}", [name for name in columns if name not in key]),
        "before": qualified("fact", columns),
        "after": qualified("excluded", columns),
        "gone": same_key(fact.natural_key, "fact", "removed"),
        "is_known": same_key(fact.natural_key, "known", "prepared"),
        "run_id": sql.Literal(run_id),
        "source": sql.Literal(source),
    }
    if all_new:
        return {"inserted": _insert(connection, names, ALL), "updated": 0, "deleted": 0}
    inserted, updated = _merge(connection, names, known)
    deleted = connection.execute(
        sql.SQL(
            "delete from {fact} as fact using pg_temp.removed as removed "
            "where {gone} and fact.source_system = {source}"
        ).format(**names)
    )
    return {
        "inserted": inserted,
        "updated": updated,
        "rekeyed": _rekeyed(connection, run_id, fact) if updated else 0,
        "deleted": deleted.rowcount,
    }


def _prepare(connection: psycopg.Connection, fact: Fact) -> None:
    # A table that is made by its query may be computed in parallel, one that is inserted into may not.
    connection.execute(
        sql.SQL(
            "drop table if exists pg_temp.prepared; create temp table prepared on commit drop as {}"
        ).format(fact_query(fact))
    )


def _any_member_missing(connection: psycopg.Connection, fact: Fact) -> bool:
    """Whether fewer prepared rows have found a member than the batch names: two counts, instead of a join for each."""
    references = [dimension for dimension in DIMENSIONS if dimension.entity in fact.references]
    row = connection.execute(
        sql.SQL(
            "select (select array[{named}] from {batch}) <> (select array[{found}] from pg_temp.prepared)"
        ).format(
            named=_each("count({})", [name for dimension in references for name in dimension.natural_key]),
            found=_each("count(nullif({}, 0))", [dimension.key for dimension in references]),
            batch=batch_table(fact.entity),
        )
    ).fetchone()
    return bool(row and row[0])


def _infer_missing(connection: psycopg.Connection, run_id: int, source: str, fact: Fact) -> int:
    inferred = 0
    for dimension in DIMENSIONS:
        if dimension.entity not in fact.references:
            continue
        if dimension.has_history:
            inferred += scd2.infer_missing(
                connection, run_id, source, dimension, batch_table(fact.entity), fact.event_time
            )
        else:
            inferred += scd1.infer_missing(connection, run_id, dimension, fact.entity)
    return inferred


def _merge(
    connection: psycopg.Connection, names: dict[str, sql.Composable], known: sql.Composable | None
) -> tuple[int, int]:
    """Rows inserted and updated. Only those that may be known are looked up: that costs as much as to insert them."""
    if known is None:
        return _upsert(connection, names, ALL)
    connection.execute(
        sql.SQL("drop table if exists pg_temp.known; create temp table known on commit drop as {}").format(
            known
        )
    )
    analyze_briefly(connection, sql.Identifier("pg_temp", "known"))
    try:
        with connection.transaction():
            inserted = _insert(
                connection,
                names,
                sql.SQL("not exists (select from pg_temp.known as known where {is_known})"),
            )
    except psycopg.errors.UniqueViolation:
        # A mirror that was captured anew, for example.
        return _upsert(connection, names, ALL)
    more, updated = _upsert(
        connection, names, sql.SQL("exists (select from pg_temp.known as known where {is_known})")
    )
    return inserted + more, updated


def _insert(connection: psycopg.Connection, names: dict[str, sql.Composable], which: sql.SQL) -> int:
    inserted = connection.execute(
        sql.SQL(
            "insert into {fact} ({columns}, run_id) "
            "select {columns}, {run_id} from pg_temp.prepared as prepared where {which}"
        ).format(**names, which=which.format(**names))
    )
    return inserted.rowcount


def _upsert(
    connection: psycopg.Connection, names: dict[str, sql.Composable], which: sql.SQL
) -> tuple[int, int]:
    row = connection.execute(
        sql.SQL(
            """
            with merged as (
                insert into {fact} as fact ({columns}, run_id)
                select {columns}, {run_id} from pg_temp.prepared as prepared
                where {which}
                on conflict ({key}) do update set {assigned}, run_id = excluded.run_id
                where row({before}) is distinct from row({after})
                -- only a row that another one has locked or updated bears an xmax
                returning fact.xmax = 0 as is_new
            )

            select count(*) filter (where is_new), count(*) filter (where not is_new) from merged
            """
        ).format(**names, which=which.format(**names))
    ).fetchone()
    assert row is not None
    return row[0], row[1]


def _rekeyed(connection: psycopg.Connection, run_id: int, fact: Fact) -> int:
    """Facts to which the run has given other dimension rows; what they had is in the change feed."""
    row = connection.execute(
        """
        select count(*) from audit.change inner join audit.row_schema using (row_schema_id)
        where run_id = %s and table_name = %s and operation = 'update' and exists (
            select from unnest(columns, before, after) as cell (name, old, new)
            where name = any(%s) and old is distinct from new
        )
        """,
        [run_id, f"dwh.{fact.table}", [dimension.key for dimension in DIMENSIONS]],
    ).fetchone()
    return row[0] if row else 0


def _each(template: str, columns: list[str]) -> sql.Composable:
    return sql.SQL(", ").join(sql.SQL(template).format(sql.Identifier(name)) for name in columns)
