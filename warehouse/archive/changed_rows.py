"""Archive changed rows of dimensions, quarantine, runs and watermarks: captured batches do not contain them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from warehouse.archive.pending import begin_batch, keep_rows, publish_rows
from warehouse.db.identifiers import listed, text_array
from warehouse.db.locks import transaction_lock
from warehouse.history.change_log import COMMITTED_UNTIL, STAR_LOCK
from warehouse.model import weblog
from warehouse.model.star import DIMENSIONS, SNAPSHOTS

# Tables of the audit trail that a rebuild needs.
AUDIT_TABLES: Final = (
    "run", "load", "quarantine", "watermark", "definition", "precedence", "freshness", "file", "file_part",
    "file_read", "feed_field",
)  # fmt: skip
# Tables of the star that migrations fill and loads extend. The calendar needs no archive: it can be generated.
REFERENCE_TABLES: Final = (weblog.COUNTRY,)
# Live capture publishes several batches a second, and archives the audit trail only this often. Changed rows of
# dimensions and quarantine are archived with each batch.
OVERDUE_SECONDS: Final = 30.0
# Look for unarchived audit rows in this many last runs of a flow: those that failed or were killed may have some.
_RECENT_RUNS: Final = 10
# No trigger logs what happens to these tables; no row of theirs is deleted.
_UNLOGGED: Final = ("audit.run", "audit.load")
_LOGGED: Final = (
    "select distinct row_key from {log} "
    "where table_name = {name} and operation <> 'alter' and changed_at > {until}"
)
# The predicate must equal that of the partial index: most before-images are of mirrors, not of audit tables.
_AUDIT_IMAGES: Final = "(select * from audit.before_image where table_name like 'audit.%') as image"
# An undo notes the rows that it restores or deletes, since no trigger logs them.
_NOTED: Final = "union select row_key from pg_temp.archive_noted where table_name = {name}"


@dataclass(frozen=True)
class ArchivedTable:
    """A table whose changed rows are archived: columns, types, key, and how far it is archived already."""

    schema: str
    name: str
    columns: Sequence[str]
    types: Sequence[str]
    key: Sequence[str]
    # The key is an identity column, which grows with each insert.
    is_numbered: bool
    # The key begins with a date, and only the latest date gets new rows.
    is_daily: bool
    has_run_id: bool
    is_known: bool
    last_key: int | None
    changes_until: str | None
    # All logged changes before this time are committed: this pass reads up to it.
    logged_until: str

    @property
    def full_name(self) -> str:
        """`schema.table`."""
        return f"{self.schema}.{self.name}"

    @property
    def path(self) -> str:
        """The table's path in the archive."""
        return f"{self.schema}/{self.name}"


@dataclass(frozen=True)
class _Changes:
    """SQL that finds what has changed in a table since it was archived, in two ways that each use an index."""

    table: ArchivedTable
    # Condition on a row: it is new, or a run has changed it.
    is_written: sql.Composable
    # Query of the keys of other rows that were changed or deleted: logged by a trigger, or noted by an undo.
    logged_keys: sql.Composable

    @property
    def exist(self) -> sql.Composable:
        """Condition that there are changes."""
        return self._format("exists (select from {table} where {is_written}) or exists ({logged_keys})")

    @property
    def rows(self) -> sql.Composable:
        """Subquery of the changed rows, each once. With `or` instead of `union all`, it would scan the table."""
        return self._format(
            """
            (
                select * from {table} where {is_written}
                union all
                select * from {table}
                where ({key}) in (select {typed_key} from ({logged_keys}) as logged) and {is_written} is not true
            )
            """
        )

    @property
    def deleted_keys(self) -> sql.Composable:
        """Subquery of the keys, as texts, of rows that are gone."""
        return self._format(
            "({logged_keys}) as logged where logged.row_key <> '{{}}' "
            "and not exists (select from {table} where ({key}) = ({typed_key}))"
        )

    def _format(self, statement: LiteralString) -> sql.Composable:
        types = dict(zip(self.table.columns, self.table.types, strict=True))
        return sql.SQL(statement).format(
            table=sql.Identifier(self.table.schema, self.table.name),
            key=listed(self.table.key),
            is_written=self.is_written,
            logged_keys=self.logged_keys,
            typed_key=sql.SQL(", ").join(
                sql.SQL("logged.row_key[{}]::{}").format(sql.Literal(number), sql.SQL(types[name]))
                for number, name in enumerate(self.table.key, start=1)
            ),
        )


def is_overdue(connection: psycopg.Connection) -> bool:
    """Whether the audit trail was archived more than OVERDUE_SECONDS ago, or never."""
    return not connection.execute(
        "select from audit.archive_table where path = 'audit/run' "
        "and changes_until > clock_timestamp() - make_interval(secs => %s)",
        [OVERDUE_SECONDS],
    ).rowcount


def has_changed_rows(connection: psycopg.Connection) -> bool:
    """Whether this transaction has changed a dimension, a daily snapshot or the quarantine."""
    row = connection.execute(
        """
        select current_setting('track_counts') = 'off' or bool_or(
            pg_stat_get_xact_tuples_inserted(changed) + pg_stat_get_xact_tuples_updated(changed)
                + pg_stat_get_xact_tuples_deleted(changed) > 0
        )
        from unnest(%s::text[]::regclass[]) as changed
        """,
        [[*(f"dwh.{one.table}" for one in (*DIMENSIONS, *SNAPSHOTS)), "audit.quarantine"]],
    ).fetchone()
    return row == (True,)


def note_rows_of(connection: psycopg.Connection, run_ids: Sequence[int]) -> None:
    """Note the audit rows that these runs have written, before an undo, so that `archive_changed_rows` finds them."""
    for table in _read_tables(connection):
        if table.schema != "audit" or not table.has_run_id or table.full_name in _UNLOGGED:
            continue
        connection.execute(
            sql.SQL(
                "insert into pg_temp.archive_noted "
                "select {name}, {key} from {table} as written where run_id = any({run_ids}) union "
                "select table_name, row_key from audit.before_image "
                "where run_id = any({run_ids}) and table_name = {name} and row_key is not null"
            ).format(
                name=sql.Literal(table.full_name),
                key=text_array(table.key, "written"),
                table=sql.Identifier(table.schema, table.name),
                run_ids=sql.Literal(list(run_ids)),
            )
        )


def note_rows(connection: psycopg.Connection, table: str, keys: Sequence[str]) -> None:
    """Note rows that an undo changes though no undone run has written them, if the undo is archived."""
    if keys and connection.execute("select to_regclass('pg_temp.archive_noted')").fetchone() != (None,):
        connection.execute(
            "insert into pg_temp.archive_noted select %s, array[one] from unnest(%s::text[]) as one",
            [table, list(keys)],
        )


def archive_trail(connection: psycopg.Connection, run_id: int) -> None:
    """Archive all audit rows of this run and of its flow's recent runs that did not succeed.

    `archive_changed_rows` alone may miss them: it reads keys above the last archived one, and a concurrent run may have
    archived higher keys before these rows were committed. `connection` is in autocommit; waits for the star's lock.
    """
    with connection.transaction():
        rows = connection.execute(
            """
            select run_id
            from (
                select run_id, status
                from audit.run
                where run_id <= %(run_id)s and flow = (select flow from audit.run where run_id = %(run_id)s)
                order by run_id desc limit %(limit)s
            ) as recent
            where run_id = %(run_id)s or status <> 'succeeded'
            """,
            {"run_id": run_id, "limit": _RECENT_RUNS},
        ).fetchall()
        archive_changed_rows(connection, run_id, runs=[one for (one,) in rows])


def archive_changed_rows(
    connection: psycopg.Connection,
    run_id: int,
    *,
    with_noted: bool = False,
    runs: Sequence[int] = (),
) -> int:
    """Queue for the archive all rows changed since the last call, by any transaction. Returns their number.

    A table that is not archived yet is archived completely. `with_noted` adds the rows of pg_temp.archive_noted, `runs`
    all audit rows of these runs. The star's lock is held to the end of the transaction, so that batches are published
    in the order of their numbers.
    """
    transaction_lock(connection, STAR_LOCK)
    changes = [_changes_of(one, run_id, with_noted, runs) for one in _read_tables(connection)]
    if not changes:
        return 0
    rows = connection.execute(
        sql.SQL(" union all ").join(
            sql.SQL("select {} where {}").format(sql.Literal(one.table.full_name), one.exist)
            for one in changes
        )
    ).fetchall()
    changed = {name for (name,) in rows}
    return sum(
        _archive(connection, run_id, one)
        for one in changes
        if one.table.full_name in changed or not one.table.is_known
    )


def _changes_of(table: ArchivedTable, run_id: int, with_noted: bool, runs: Sequence[int]) -> _Changes:
    """Return how a table's changes are found; see `archive_changed_rows`."""
    conditions: list[LiteralString] = []
    if table.is_numbered:
        conditions.append("{key} > {last_number}")
    elif table.is_daily:
        # The run may have replaced rows of the last day.
        conditions += ["{day} > {last_day}", "{day} = {last_day} and run_id = {run_id}"]
    elif table.has_run_id:
        conditions.append("run_id = {run_id}")
    if table.full_name == "audit.run":
        # A run updates its own row, and those of the runs that it undoes.
        conditions += ["run_id = {run_id}", "undone_by_run_id = {run_id}"]
    if runs and table.schema == "audit" and table.has_run_id:
        conditions.append("run_id = any({runs})")
    names: dict[str, sql.Composable] = {
        "key": listed(table.key),
        "last_number": sql.Literal(table.last_key or -1),
        "day": sql.Identifier(table.key[0]),
        "last_day": sql.SQL("date '1970-01-01' + {}").format(sql.Literal(table.last_key or 0)),
        "run_id": sql.Literal(run_id),
        "runs": sql.SQL("{}::bigint[]").format(sql.Literal(list(runs))),
        "log": sql.SQL("audit.change" if table.schema == "dwh" else _AUDIT_IMAGES),
        "name": sql.Literal(table.full_name),
        "until": sql.SQL("{}::timestamptz").format(sql.Literal(table.changes_until or "-infinity")),
    }
    return _Changes(
        table,
        is_written=sql.SQL("({})").format(sql.SQL(" or ".join(conditions) or "false").format(**names)),
        logged_keys=sql.SQL(f"{_LOGGED} {_NOTED if with_noted else ''}").format(**names),
    )


def _archive(connection: psycopg.Connection, run_id: int, changes: _Changes) -> int:
    """Queue a table's changed rows for the archive, or all rows if it is not known there; returns their number."""
    table = changes.table
    own = sql.Identifier(table.schema, table.name)
    columns = list(zip(table.columns, table.types, strict=True))
    batch_id, _ = begin_batch(connection, table.path, run_id, table.key, columns)
    if not table.is_known:
        one_row = sql.SQL("(values (1)) as one")
        keep_rows(connection, batch_id, sql.Literal("truncate"), [None for _ in columns], one_row)
    keep_rows(
        connection,
        batch_id,
        sql.Literal("write"),
        [sql.Identifier("written", name) for name in table.columns],
        sql.SQL("{} as written").format(changes.rows if table.is_known else own),
    )
    if table.is_known and table.full_name not in _UNLOGGED:
        place = {name: number for number, name in enumerate(table.key, start=1)}
        keep_rows(
            connection,
            batch_id,
            sql.Literal("remove"),
            [
                sql.SQL("logged.row_key[{}]").format(sql.Literal(place[name])) if name in place else None
                for name in table.columns
            ],
            changes.deleted_keys,
        )
    last_key: sql.Composable = sql.NULL
    if table.is_numbered:
        last_key = sql.SQL("(select max({}) from {})").format(listed(table.key), own)
    elif table.is_daily:
        last_key = sql.SQL("(select max({}) - date '1970-01-01' from {})").format(
            sql.Identifier(table.key[0]), own
        )
    connection.execute(
        sql.SQL(
            """
            insert into audit.archive_table (path, last_key, changes_until)
            values ({path}, {last_key}, {logged_until})
            on conflict (path) do update set last_key = excluded.last_key, changes_until = excluded.changes_until
            """
        ).format(
            path=sql.Literal(table.path), last_key=last_key, logged_until=sql.Literal(table.logged_until)
        )
    )
    return publish_rows(connection, batch_id)


def _read_tables(connection: psycopg.Connection) -> list[ArchivedTable]:
    names = [
        *(f"dwh.{one.table}" for one in (*DIMENSIONS, *SNAPSHOTS)),
        *map(str, REFERENCE_TABLES),
        *(f"audit.{name}" for name in AUDIT_TABLES),
    ]
    with connection.cursor(row_factory=class_row(ArchivedTable)) as cursor:
        return cursor.execute(_TABLES, [names]).fetchall()


_TABLES: Final = f"""
    select
        namespace.nspname as schema,
        relation.relname as name,
        attribute.names as columns,
        attribute.types,
        key.names as key,
        key.is_identity as is_numbered,
        key.types[1] = 'date' as is_daily,
        'run_id' = any(attribute.names) as has_run_id,
        archived.changes_until is not null as is_known,
        archived.last_key,
        archived.changes_until::text as changes_until,
        greatest(archived.changes_until, logged.until)::text as logged_until
    from pg_class as relation
    inner join pg_namespace as namespace on relation.relnamespace = namespace.oid
    inner join pg_index on indrelid = relation.oid and indisprimary
    cross join lateral (
        select
            array_agg(attname::text order by attnum) as names,
            array_agg(format_type(atttypid, atttypmod) order by attnum) as types
        from pg_attribute where attrelid = relation.oid and attnum > 0 and not attisdropped
    ) as attribute
    cross join lateral (
        select
            array_agg(attname::text order by part.position) as names,
            array_agg(format_type(atttypid, atttypmod) order by part.position) as types,
            bool_and(attidentity <> '') as is_identity
        from unnest(indkey) with ordinality as part (attnum, position)
        inner join pg_attribute on attrelid = relation.oid and pg_attribute.attnum = part.attnum
    ) as key
    inner join (
        with log (name) as (values ('audit.change'), ('audit.before_image')) {COMMITTED_UNTIL}
    ) as logged on logged.name = case namespace.nspname when 'dwh' then 'audit.change' else 'audit.before_image' end
    left join audit.archive_table as archived on archived.path = namespace.nspname || '/' || relation.relname
    where namespace.nspname || '.' || relation.relname = any(%s)
    order by namespace.nspname, relation.oid
"""
