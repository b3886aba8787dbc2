"""Archive mirror rows that were changed by an undo or a repair, not by a captured batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from warehouse.archive.manifest import Entry, write_manifest
from warehouse.archive.pending import MIRROR_OPERATION, MIRROR_RUN, begin_batch, keep_rows, publish_rows
from warehouse.archive.place import table_path
from warehouse.db.identifiers import text_array
from warehouse.extract.catalog import mirrored_columns
from warehouse.sources.source import Table


class MirrorChanges:
    """Mirror rows of one source that this transaction changes: note their keys first, change them, then `archive`."""

    def __init__(self, connection: psycopg.Connection, source: str) -> None:
        self._connection = connection
        with connection.cursor(row_factory=class_row(_Mirror)) as cursor:
            mirrors = cursor.execute(_MIRRORS, [source]).fetchall()
        archived_runs = connection.execute(
            "select path, captured_run_id from audit.archive_table where captured_run_id is not null"
        ).fetchall()
        # Skip mirrors that were last loaded with the archive off: their next run archives all their rows anyway.
        self._mirrors = [one for one in mirrors if (one.path, one.run_id) in archived_runs]
        connection.execute("drop table if exists pg_temp.archive_noted")
        connection.execute("create temp table archive_noted (table_name text, row_key text[]) on commit drop")

    def note_rows_of(self, run_ids: Sequence[int]) -> None:
        """Note the keys of all mirror rows whose last writer is one of these runs."""
        for one in self._mirrors:
            self._connection.execute(
                sql.SQL(
                    "insert into pg_temp.archive_noted select {}, {} from {} as written where _run_id = any({})"
                ).format(
                    sql.Literal(f"raw.{one.mirror}"),
                    text_array(one.key, "written"),
                    sql.Identifier("raw", one.mirror),
                    sql.Literal(list(run_ids)),
                )
            )

    def note_images_of(self, run_id: int) -> None:
        """Note the keys of all mirror rows that have a before-image of this run."""
        self._connection.execute(
            """
            insert into pg_temp.archive_noted
            select table_name, row_key from audit.before_image
            where run_id = %s and table_name = any(%s) and row_key is not null
            """,
            [run_id, [f"raw.{one.mirror}" for one in self._mirrors]],
        )

    def archive(self, run_id: int, kind: Literal["undo", "repair"]) -> int:
        """Queue the noted rows for the archive, as the current transaction has left them. Returns their number."""
        count = 0
        for one in self._mirrors:
            count += self._archive(one, run_id, kind)
            self._connection.execute(
                """
                update audit.archive_table set captured_run_id =
                    (select run_id from audit.watermark where source = %s and table_name = %s)
                where path = %s
                """,
                [one.source, one.name, one.path],
            )
        return count

    def _archive(self, one: "_Mirror", run_id: int, kind: Literal["undo", "repair"]) -> int:
        if not self._connection.execute(
            "select from pg_temp.archive_noted where table_name = %s limit 1", [f"raw.{one.mirror}"]
        ).rowcount:
            return 0
        columns = tuple(mirrored_columns(self._connection, one.table).items())
        batch_id, _ = begin_batch(self._connection, one.path, run_id, one.key, columns)
        names = {
            "mirror": sql.Identifier("raw", one.mirror),
            "name": sql.Literal(f"raw.{one.mirror}"),
            "key": text_array(one.key, "written"),
        }
        noted = sql.SQL(
            "(select distinct row_key from pg_temp.archive_noted where table_name = {name}) as noted"
        ).format(**names)
        keep_rows(
            self._connection,
            batch_id,
            MIRROR_OPERATION,
            [sql.Identifier("written", name) for name, _ in columns],
            sql.SQL("{noted} inner join {mirror} as written on {key} = noted.row_key").format(
                **names, noted=noted
            ),
            MIRROR_RUN,
        )
        place = {name: number for number, name in enumerate(one.key, start=1)}
        keep_rows(
            self._connection,
            batch_id,
            sql.SQL("'remove'::text"),
            [
                sql.SQL("noted.row_key[{}]").format(sql.Literal(place[name])) if name in place else None
                for name, _ in columns
            ],
            sql.SQL(
                "{noted} where not exists (select from {mirror} as written where {key} = noted.row_key)"
            ).format(**names, noted=noted),
        )
        rows = publish_rows(self._connection, batch_id)
        write_manifest(
            self._connection, run_id, [Entry(one.table, kind, columns, None, batch_id, rows, None)]
        )
        return rows


@dataclass(frozen=True)
class _Mirror:
    source: str
    name: str
    mirror: str
    key: tuple[str, ...]
    run_id: int

    @property
    def path(self) -> str:
        return table_path(self.source, self.name)

    @property
    def table(self) -> Table:
        return Table(self.source, self.name, "", tuple(self.key), None)


_MIRRORS: Final = """
    select watermark.source, watermark.table_name as name, watermark.mirror, key.names as key, watermark.run_id
    from audit.watermark as watermark
    inner join pg_index on indrelid = to_regclass(format('raw.%%I', watermark.mirror)) and indisprimary
    cross join lateral (
        select array_agg(attname::text order by part.position) as names
        from unnest(indkey) with ordinality as part (attnum, position)
        inner join pg_attribute on attrelid = indrelid and pg_attribute.attnum = part.attnum
    ) as key
    where watermark.source = %s
"""
