"""What one would write in an afternoon: `updated_at > the highest seen`, upserted by key. It has to lose rows here."""

from collections.abc import Sequence

import psycopg
from psycopg import sql

from warehouse.db.connections import connect
from warehouse.extract.copy_stream import copy_stream
from warehouse.sources.source import Table


class NaiveMirror:
    """Copies of a source's tables, kept by a timestamp cursor alone."""

    def __init__(self, source_url: str, mirror_url: str, tables: Sequence[Table]) -> None:
        self._source_url, self.url, self._tables = source_url, mirror_url, tables

    def relation(self, table: Table) -> sql.Identifier:
        """Where the copy of `table` is."""
        return sql.Identifier("public", table.name)

    def capture(self) -> None:
        """Read what is newer than the newest row so far, of all tables in one snapshot."""
        with connect(self._source_url) as reader, connect(self.url) as writer:
            reader.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
            for table in self._tables:
                self._capture(reader, writer, table)

    def _capture(self, reader: psycopg.Connection, writer: psycopg.Connection, table: Table) -> None:
        assert table.cursor is not None
        names = {
            "copy": self.relation(table),
            "source": sql.Identifier(table.schema, table.name),
            "cursor": sql.Identifier(table.cursor),
            "key": sql.SQL(", ").join(map(sql.Identifier, table.key)),
        }
        row = writer.execute(sql.SQL("select max({cursor})::text from {copy}").format(**names)).fetchone()
        newest = row[0] if row else None
        writer.execute(
            sql.SQL("create temp table batch on commit drop as select * from {copy} limit 0").format(**names)
        )
        newer = sql.SQL("{} > {}").format(names["cursor"], sql.Literal(newest)) if newest else sql.SQL("true")
        copy_stream(
            reader,
            sql.SQL("copy (select * from {source} where {newer}) to stdout (format binary)").format(
                **names, newer=newer
            ),
            writer,
            sql.SQL("copy pg_temp.batch from stdin (format binary)"),
        )
        writer.execute(
            sql.SQL("delete from {copy} where ({key}) in (select {key} from pg_temp.batch)").format(**names)
        )
        writer.execute(sql.SQL("insert into {copy} select * from pg_temp.batch").format(**names))
        writer.commit()
