"""Source and copy, compared whole: every row by its key and all its values, moved into one database and joined."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import psycopg
from psycopg import sql

from warehouse.db.connections import connect
from warehouse.extract.copy_stream import copy_stream
from warehouse.sources.source import Table


@dataclass
class Difference:
    """Rows of all tables that a copy has wrong, by the kind of the write that it missed."""

    rows: int = 0
    # In the source and not in the copy; there with older values; in the copy more than once; gone from the source.
    lost: Counter[str] = field(default_factory=Counter)
    stale: Counter[str] = field(default_factory=Counter)
    duplicated: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return sum(sum(kind.values()) for kind in (self.lost, self.stale, self.duplicated, self.kept))


def compare(
    source_url: str,
    copy_url: str,
    tables: Sequence[Table],
    relation: Callable[[Table], sql.Identifier],
    live: sql.SQL,
) -> Difference:
    """Differences between a source at rest and the `live` rows of its copy."""
    found = Difference()
    with connect(source_url) as reader, connect(copy_url) as here:
        for table in tables:
            _compare(reader, here, table, relation(table), live, found)
        here.rollback()
    return found


def _compare(
    reader: psycopg.Connection,
    here: psycopg.Connection,
    table: Table,
    copy: sql.Identifier,
    live: sql.SQL,
    found: Difference,
) -> None:
    columns = [
        column.name
        for column in reader.execute(
            sql.SQL("select * from {} limit 0").format(sql.Identifier(table.schema, table.name))
        ).description
        or ()
    ]

    def each(template: str, names: Sequence[str], separator: str = ", ") -> sql.Composable:
        return sql.SQL(separator).join(sql.SQL(template).format(sql.Identifier(name)) for name in names)

    names = {
        "copy": copy,
        "live": live,
        "columns": each("{}", columns),
        "key": each("{}", table.key),
        "same": each("copy.{0} = truth.{0}", table.key, " and "),
        "key_text": each("copy.{}::text", table.key, " || ',' || "),
        "copied": each("copy.{}", columns),
        "true": each("truth.{}", columns),
        "truth_key": sql.Identifier("truth", table.key[0]),
        "copy_key": sql.Identifier("copy", table.key[0]),
        "source": sql.Identifier(table.schema, table.name),
    }
    here.execute("drop table if exists pg_temp.truth, pg_temp.gone")
    here.execute(sql.SQL("create temp table truth as select {columns} from {copy} limit 0").format(**names))
    here.execute("create temp table gone (row_key text, cause text)")
    found.rows += copy_stream(
        reader,
        sql.SQL("copy (select {columns} from {source}) to stdout (format binary)").format(**names),
        here,
        sql.SQL("copy pg_temp.truth from stdin (format binary)"),
    )
    copy_stream(
        reader,
        sql.SQL(
            "copy (select row_key, max(cause) from fault.gone where table_name = {} group by row_key) "
            "to stdout (format binary)"
        ).format(sql.Literal(table.name)),
        here,
        sql.SQL("copy pg_temp.gone from stdin (format binary)"),
    )
    here.execute("analyze pg_temp.truth; analyze pg_temp.gone")
    differing = here.execute(
        sql.SQL(
            """
            with copy as (select * from {copy} where {live})
            select case when {copy_key} is null then 'lost' else 'stale' end, coalesce(truth.cause, 'first'), count(*)
            from pg_temp.truth left join copy on {same}
            where {copy_key} is null or row({copied})::record *<> row({true})::record
            group by 1, 2
            union all
            -- what nobody has noted down was truncated
            select 'kept', coalesce(gone.cause, 'truncate'), count(*)
            from copy left join pg_temp.truth on {same} left join pg_temp.gone on gone.row_key = {key_text}
            where {truth_key} is null group by 2
            union all
            select 'duplicated', 'any', count(*) - count(distinct row({key})) from copy
            having count(*) > count(distinct row({key}))
            """
        ).format(**names)
    ).fetchall()
    for kind, cause, rows in differing:
        getattr(found, kind)[cause] += rows
