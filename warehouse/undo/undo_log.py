"""Undo of one table: the before-images of its rows, read from the change log and restored."""

from collections.abc import Iterator, Sequence
from typing import Final

import psycopg
from psycopg import sql

from warehouse.archive.changed_rows import note_rows
from warehouse.db.identifiers import listed, same_key
from warehouse.errors import UndoRefused
from warehouse.history.logged_tables import LoggedTable, logged_tables
from warehouse.load.scd2 import PARKED
from warehouse.model.calendar import DATE
from warehouse.model.weblog import DIMENSIONS

FILES: Final = "audit.file"
POSITIONS: Final = "audit.watermark"
# Columns of audit.watermark that describe one read: set to null if the before-image of an earlier read has none.
FOUND_WITH_POSITION: Final = ("open_transactions", "row_count", "rotation_started_at", "changes_counted")
# Rows of these tables are never deleted, since other runs use the same texts of web logs, file ids and days.
PERMANENT: Final = [FILES, str(DATE), *(str(table) for table in DIMENSIONS)]


def changed_tables(connection: psycopg.Connection, run_ids: Sequence[int]) -> list[LoggedTable]:
    """Find the tables that the runs may have written to, in the order of their creation.

    With every dimension if a mirror was touched, since a run infers members of dimensions that it did not load.
    """
    touched = {name for (name,) in connection.execute(_TOUCHED, {"run_ids": list(run_ids)}).fetchall()}
    has_mirror = any(name.startswith("raw.") for name in touched)
    return [
        table
        for table in logged_tables(connection)
        if table.schema == "audit"
        or table.full_name in touched
        or (has_mirror and table.is_of_star and table.name.startswith("dim_"))
    ]


class UndoLog:
    """Undo of one table: its rows as they were before the first of the runs changed them."""

    def __init__(self, connection: psycopg.Connection, table: LoggedTable, run_ids: Sequence[int]) -> None:
        self._connection, self.table = connection, table
        self._names: dict[str, sql.Composable] = {
            "table": sql.Identifier(table.schema, table.name),
            "images": sql.Identifier("pg_temp", "image"),
            "log": sql.Identifier("audit", "change" if table.is_of_star else "before_image"),
            "id": sql.Identifier("change_id" if table.is_of_star else "image_id"),
            "run_column": sql.Identifier("_run_id" if table.schema == "raw" else "run_id"),
            "run_ids": sql.Literal(list(run_ids)),
            "name": sql.Literal(table.full_name),
            "same": same_key(table.key, "written", "image"),
        }
        # Rows that are inserted before the transaction that loads: they stay, so that ids and keys stay the same.
        self._is_permanent = table.full_name in PERMANENT
        self._names["existed"] = self._sql(
            "true" if self._is_permanent else "image.{run_column} <> all({run_ids})"
        )
        self._row_schemas = connection.execute(
            self._sql(
                "select row_schema_id, columns from audit.row_schema where row_schema_id in "
                "(select row_schema_id from {log} "
                "where run_id = any({run_ids}) and table_name = {name} and operation <> 'alter')"
            )
        ).fetchall()
        # A column that was added to the table since keeps its value.
        logged = set(table.columns).intersection(*(columns for _, columns in self._row_schemas))
        self._columns = [name for name in table.columns if name in logged] if self._row_schemas else []
        self._unknown = [
            name for name in FOUND_WITH_POSITION if table.full_name == POSITIONS and name not in logged
        ]

    def delete_inserted(self) -> int:
        """Delete the rows that the runs inserted. Returns their number."""
        if self._is_permanent:
            return 0
        unless_existed: sql.Composable = sql.SQL("")
        if self._row_schemas:
            self._load_images()
            unless_existed = self._sql(
                "and not exists (select from {images} as image where {same} and {existed})"
            )
        return self._connection.execute(
            self._sql(
                "delete from {table} as written where written.{run_column} = any({run_ids}) {unless_existed}",
                unless_existed=unless_existed,
            )
        ).rowcount

    def restore_changed(self) -> tuple[int, int]:
        """Restore the rows that the runs updated or deleted. Returns the numbers of rows updated and inserted again."""
        if not self._row_schemas:
            return 0, 0
        self._load_images()
        if self.table.full_name == FILES:
            self._connection.execute(_YIELD_PATHS)
            freed = self._connection.execute(_FREE_PATHS).fetchall()
            note_rows(self._connection, FILES, [str(file_id) for (file_id,) in freed])
        if self.table.is_of_star and "valid_from" in self._columns:
            self._park_versions()
        # The key of a mirror is restored, too: equal keys may differ in their text (1.0, 1.00).
        assigned = [
            name for name in self._columns if name not in self.table.key or self.table.schema == "raw"
        ]
        update = self._sql(
            "update {table} as written set {assigned} from {images} as image where {same} and {existed}",
            assigned=sql.SQL(", ").join(
                [
                    *(sql.SQL("{0} = image.{0}").format(sql.Identifier(name)) for name in assigned),
                    *(sql.SQL("{} = null").format(sql.Identifier(name)) for name in self._unknown),
                ]
            ),
        )
        updated = sum(
            self._connection.execute(update + condition).rowcount for condition in self._update_conditions()
        )
        restored = self._sql(
            "select {columns} from {images} as image "
            "where {existed} and not exists (select from {table} as written where {same})",
            columns=listed(self._columns),
        )
        if self.table.is_of_star:
            self._connection.execute(
                self._sql(
                    """
                    insert into audit.change
                        (table_name, operation, row_key, run_id, database_user, changed_at, row_schema_id, after)
                    select
                        {name}, 'insert', array[{key}]::text[], audit.current_run_id(), session_user, clock_timestamp(),
                        audit.row_schema_id({name}::regclass), array[{values}]::text[]
                    from ({restored}) as restored
                    """,
                    key=_texts(self.table.key),
                    values=sql.SQL(", ").join(
                        sql.SQL("{}::text").format(sql.Identifier(name))
                        if name in self._columns
                        else sql.SQL("null")
                        for name in self.table.columns
                    ),
                    restored=restored,
                )
            )
        inserted = self._connection.execute(
            self._sql(
                "insert into {table} ({columns}) overriding system value {restored}",
                columns=listed(self._columns),
                restored=restored,
            )
        ).rowcount
        return updated, inserted

    def _park_versions(self) -> None:
        """Move versions whose times are restored out of the way, if a repair has moved the start of any: they are
        restored in no order, and one may overlap another that is not restored yet."""
        statement = """
            update {table} as written set {parked}
            from (select *, row_number() over () as number from {images}) as image
            where {same} and {existed}
                and (written.valid_from, written.valid_to) <> (image.valid_from, image.valid_to)
                and exists (
                    select from {images} as image inner join {table} as written on {same}
                    where written.valid_from <> image.valid_from
                )
        """
        self._connection.execute(self._sql(statement, parked=PARKED))

    def _update_conditions(self) -> Iterator[sql.Composable]:
        """Yield the condition of each update. Files may have swapped their paths, which are unique: these are restored
        one by one, newest change first."""
        if self.table.full_name != FILES:
            yield sql.SQL("")
            return
        orders = self._connection.execute("select image_order from pg_temp.image order by 1 desc").fetchall()
        for (order,) in orders:
            yield sql.SQL(" and image.image_order = {}").format(sql.Literal(order))

    def drop_added_columns(self) -> None:
        """Drop the columns that the runs added to a mirror.

        Raises:
            UndoRefused: something else depends on such a column.
        """
        added = self._connection.execute(
            self._sql(
                "select before[1] from audit.before_image "
                "where run_id = any({run_ids}) and table_name = {name} and operation = 'alter'"
            )
        ).fetchall()
        for (column,) in added:
            drop = self._sql(
                "alter table {table} drop column if exists {column}", column=sql.Identifier(column)
            )
            try:
                self._connection.execute(drop)
            except psycopg.errors.DependentObjectsStillExist as error:
                raise UndoRefused(
                    f"Column {column} of {self.table.full_name} came with the run, and cannot be dropped: "
                    f"{error.diag.message_detail}.",
                    hint="Drop what depends on the column, then undo the run. Nothing was undone.",
                ) from error

    def _load_images(self) -> None:
        """Fill pg_temp.image with the first image of each row, in the table's own columns."""
        first = self._sql(
            "select distinct on (row_key) row_schema_id, before, {id} as image_order from {log} "
            "where run_id = any({run_ids}) and table_name = {name} and operation <> 'alter' order by row_key, {id}"
        )
        types = dict(zip(self.table.columns, self.table.types, strict=True))
        parts = [
            self._sql(
                "select {values} from first_image where row_schema_id = {row_schema} and before is not null",
                values=sql.SQL(", ").join(
                    [
                        *(
                            sql.SQL("before[{}]::{} as {}").format(
                                sql.Literal(columns.index(name) + 1),
                                sql.SQL(types[name]),
                                sql.Identifier(name),
                            )
                            for name in self._columns
                        ),
                        # Not for mirrors, which may have a column of that name.
                        *([sql.SQL("image_order")] if self.table.full_name == FILES else []),
                    ]
                ),
                row_schema=sql.Literal(row_schema_id),
            )
            for row_schema_id, columns in self._row_schemas
        ]
        self._connection.execute("drop table if exists pg_temp.image")
        self._connection.execute(
            self._sql(
                "create temp table image on commit drop as with first_image as materialized ({first}) {parts}",
                first=first,
                parts=sql.SQL(" union all ").join(parts),
            )
        )
        self._connection.execute("analyze pg_temp.image")

    def _sql(self, text: str, **more: sql.Composable) -> sql.Composed:
        return sql.SQL(text).format(**self._names, **more)


def _texts(names: Sequence[str]) -> sql.Composable:
    return sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in names)


# Paths are unique: of rows that had no data before the runs, one for each path gets it back.
_YIELD_PATHS: Final = """
    update pg_temp.image as later set status = 'replaced'
    from pg_temp.image as earlier
    where earlier.feed = later.feed and earlier.path = later.path and earlier.file_id < later.file_id
        and earlier.status <> 'replaced' and later.status = 'partial' and later.size_bytes = -1
"""

# Free the paths of rows without loaded data that a later run, undone or failed, has left.
_FREE_PATHS: Final = """
    update audit.file set status = 'replaced'
    from pg_temp.image
    where file.feed = image.feed and file.path = image.path and file.file_id <> image.file_id
        and image.status <> 'replaced' and file.status = 'partial' and file.size_bytes = -1
    returning file.file_id
"""

_TOUCHED: Final = """
    select table_name from audit.load where run_id = any(%(run_ids)s)
    union
    select table_name from audit.change where run_id = any(%(run_ids)s)
    union
    select table_name from audit.before_image where run_id = any(%(run_ids)s)
"""
