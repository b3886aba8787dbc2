"""Facts: the business SQL of `warehouse/sql/<fact>.sql` merged by natural key; a line that vanished is removed."""

from functools import cache
from pathlib import Path

import psycopg
from psycopg import sql

from warehouse.publish import history, overwrite
from warehouse.star import DIMENSIONS, Fact

SQL = Path(__file__).parent.parent / "sql"


def merge_fact(
    connection: psycopg.Connection, run_id: int, source: str, fact: Fact, *, all_new: bool
) -> dict[str, int]:
    """Merge the batch and pg_temp.removed into a fact; rows inserted, updated (of them rekeyed) and deleted.

    Members that the batch names and no dimension holds are inferred first, so that no reference is lost.
    """
    for dimension in DIMENSIONS:
        if dimension.entity not in fact.references:
            continue
        if dimension.has_history:
            history.infer_missing(connection, run_id, source, dimension, fact.entity, fact.event_time)
        else:
            overwrite.infer_missing(connection, run_id, dimension, fact.entity)
    connection.execute(_text("dim_date.sql").encode())
    # A table that is made by its query may be computed in parallel, one that is inserted into may not.
    connection.execute(
        sql.SQL(
            "drop table if exists pg_temp.prepared; create temp table prepared on commit drop as {}"
        ).format(_query(fact.table))
    )
    described = connection.execute("select * from pg_temp.prepared limit 0").description
    columns = [column.name for column in described or ()]
    key = (*fact.natural_key, "source_system")
    names = {
        "fact": sql.Identifier("dwh", fact.table),
        "columns": sql.SQL(", ").join(map(sql.Identifier, columns)),
        "key": sql.SQL(", ").join(map(sql.Identifier, key)),
        "run_id": sql.Literal(run_id),
        "source": sql.Literal(source),
    }
    if all_new and _is_empty(connection, fact):
        inserted = connection.execute(
            sql.SQL(
                "insert into {fact} ({columns}, run_id) select {columns}, {run_id} from pg_temp.prepared"
            ).format(**names)
        )
        return {"inserted": inserted.rowcount, "updated": 0, "deleted": 0}
    names |= {
        "assigned": _each("{0} = excluded.{0}", [name for name in columns if name not in key]),
        "before": _each("known.{}", columns),
        "after": _each("excluded.{}", columns),
        "gone": _each("known.{0} = removed.{0}", list(fact.natural_key), " and "),
    }
    merged = connection.execute(
        sql.SQL(
            """
            with merged as (
                insert into {fact} as known ({columns}, run_id)
                select {columns}, {run_id} from pg_temp.prepared
                on conflict ({key}) do update set {assigned}, run_id = excluded.run_id
                where row({before}) is distinct from row({after})
                -- only a row that another one has locked or updated bears an xmax
                returning known.xmax = 0 as is_new
            )

            select count(*) filter (where is_new), count(*) filter (where not is_new) from merged
            """
        ).format(**names)
    ).fetchone()
    assert merged is not None
    deleted = connection.execute(
        sql.SQL(
            "delete from {fact} as known using pg_temp.removed as removed "
            "where {gone} and known.source_system = {source}"
        ).format(**names)
    )
    return {
        "inserted": merged[0],
        "updated": merged[1],
        "rekeyed": _rekeyed(connection, run_id, fact) if merged[1] else 0,
        "deleted": deleted.rowcount,
    }


def _rekeyed(connection: psycopg.Connection, run_id: int, fact: Fact) -> int:
    """Facts to which the run has given other dimension rows; what they had is in the change feed."""
    row = connection.execute(
        """
        select count(*) from audit.change inner join audit.layout using (layout_id)
        where run_id = %s and table_name = %s and operation = 'update' and exists (
            select from unnest(columns, before, after) as cell (name, old, new)
            where name = any(%s) and old is distinct from new
        )
        """,
        [run_id, f"dwh.{fact.table}", [dimension.key for dimension in DIMENSIONS]],
    ).fetchone()
    return row[0] if row else 0


def _is_empty(connection: psycopg.Connection, fact: Fact) -> bool:
    row = connection.execute(
        sql.SQL("select not exists (select from {})").format(sql.Identifier("dwh", fact.table))
    ).fetchone()
    return bool(row and row[0])


def _each(template: str, columns: list[str], separator: str = ", ") -> sql.Composable:
    return sql.SQL(separator).join(sql.SQL(template).format(sql.Identifier(name)) for name in columns)


def _query(name: str) -> sql.Composable:
    return sql.SQL(_text(f"{name}.sql").strip().rstrip(";") + "\n")


@cache
def _text(name: str) -> str:
    return (SQL / name).read_text()
