"""While others write: each row that differs was committed after the range of its key was verified last."""

from collections.abc import Sequence

import psycopg
from psycopg import sql

from warehouse.db.connections import connect
from warehouse.extract.copy_stream import copy_stream
from warehouse.sources.source import Table

# A commit takes its time from the clock, and is seen once its record is on the disk.
COMMITTING = "5 s"


def find_overlooked(source_url: str, warehouse_url: str, tables: Sequence[Table]) -> list[str]:
    """Rows in which source and mirror differ although their range was verified after their last commit.

    Of each row the transaction that wrote it last is known, and its commit where the source tracks that. Rows that were
    truncated nobody has noted down; they are recognised as a whole.
    """
    overlooked: list[str] = []
    with connect(source_url) as reader, connect(warehouse_url) as here:
        reader.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
        (is_tracked,) = reader.execute(
            "select current_setting('track_commit_timestamp')::boolean"
        ).fetchone() or (False,)
        committed_at = "pg_xact_commit_timestamp(xmin)" if is_tracked else "null::timestamptz"
        for table in tables:
            rows = _differing(reader, here, table, committed_at)
            overlooked += [f"{table.name} {key}, written by '{cause}': {what}" for key, cause, what in rows]
        here.rollback()
    return overlooked


def _differing(
    reader: psycopg.Connection, here: psycopg.Connection, table: Table, committed_at: str
) -> list[tuple[str, str, str]]:
    description = reader.execute(
        sql.SQL("select * from {} limit 0").format(sql.Identifier(table.schema, table.name))
    ).description
    columns = [column.name for column in description or ()]

    def each(template: str, names: Sequence[str], separator: str = ", ") -> sql.Composable:
        return sql.SQL(separator).join(sql.SQL(template).format(sql.Identifier(name)) for name in names)

    written = f"xmin::text::bigint, {committed_at}"
    names = {
        "mirror": sql.Identifier("raw", table.mirror),
        "columns": each("{}", columns),
        "same": each("mirror.{0} = truth.{0}", table.key, " and "),
        "mirrored": each("mirror.{}", columns),
        "true": each("truth.{}", columns),
        "truth_key": sql.Identifier("truth", table.key[0]),
        "mirror_key": sql.Identifier("mirror", table.key[0]),
        "key_text": each("coalesce(truth.{0}, mirror.{0})::text", table.key, " || ',' || "),
        "key": each("coalesce(truth.{0}, mirror.{0})", table.key),
        # Keys of the shop are whole numbers.
        "lows": sql.SQL(", ").join(
            sql.SQL("low_key[{}]::bigint").format(sql.Literal(position + 1))
            for position in range(len(table.key))
        ),
        "source": sql.Identifier(table.schema, table.name),
        "name": sql.Literal(table.name),
        "written": sql.SQL(written),
        "committing": sql.Literal(COMMITTING),
    }
    here.execute("drop table if exists pg_temp.truth, pg_temp.gone")
    here.execute(
        sql.SQL(
            "create temp table truth as select {columns}, 0::bigint as xid, now() as committed_at from {mirror} limit 0"
        ).format(**names)
    )
    here.execute(
        "create temp table gone (gone_key text, gone_cause text, gone_xid bigint, gone_at timestamptz)"
    )
    copies = {
        "truth": "select {columns}, {written} from {source}",
        "gone": "select row_key, cause, {written} from fault.gone where table_name = {name}",
    }
    for into, query in copies.items():
        copy_stream(
            reader,
            sql.SQL("copy ({}) to stdout (format binary)").format(sql.SQL(query).format(**names)),
            here,
            sql.SQL("copy {} from stdin (format binary)").format(sql.Identifier("pg_temp", into)),
        )
    here.execute("analyze pg_temp.truth; create index on pg_temp.gone (gone_key); analyze pg_temp.gone")
    return here.execute(
        sql.SQL(
            """
            with mirror as (select * from {mirror} where not _is_deleted),

            differing as (
                select
                    {key_text} as row_key, array[{key}]::bigint[] as key,
                    coalesce(truth.cause, gone_cause, 'first') as cause,
                    coalesce(truth.xid, gone_xid) as xid, coalesce(truth.committed_at, gone_at) as committed_at
                from pg_temp.truth full join mirror on {same}
                left join lateral (
                    select * from pg_temp.gone where gone_key = {key_text} and {truth_key} is null
                    order by gone_xid desc limit 1
                ) as gone on true
                where ({truth_key} is null and gone_key is not null) or {mirror_key} is null
                    or row({mirrored})::record *<> row({true})::record and {truth_key} is not null
            )

            select row_key, cause, format(
                'committed at %s by transaction %s, its range verified at %s, when all before %s had ended',
                committed_at, xid, verified_at, snapshot_xmin
            )
            from differing
            cross join lateral (
                select verified_at, snapshot_xmin from audit.key_range
                where table_name = {name}
                    and (low_key = '{{}}' or array[{lows}] <= differing.key)
                order by cardinality(low_key) desc, array[{lows}] desc limit 1
            ) as range
            where xid < snapshot_xmin or committed_at + {committing}::interval < verified_at
            order by row_key
            """
        ).format(**names)
    ).fetchall()
