"""Archive changed rows of dimensions, quarantine, runs and watermarks: captured batches do not contain them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from warehouse.archive.pending import begin_batch, keep_rows, publish_rows
from warehouse.db.identifiers import listed, text_array
from warehouse.db.locks import transaction_lock
from warehouse.history.change_log import STAR_LOCK
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
# Conditions for rows that a run changes without having inserted them, and that no trigger logs.
_ALSO_CHANGED: Final = {"audit.run": "or run_id = {run_id} or undone_by_run_id = {run_id}"}
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
    has_noted: bool = False
    # Archive all audit rows of these runs: other runs published while they were writing.
    runs: Sequence[int] = ()

    @property
    def full_name(self) -> str:
        """`schema.table`."""
        return f"{self.schema}.{self.name}"

    @property
    def path(self) -> str:
        """The table's path in the archive."""
        return f"{self.schema}/{self.name}"


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
        if table.schema != "audit" or not table.has_run_id or table.name in ("run", "load"):
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
    tables = [
        replace(one, has_noted=with_noted, runs=runs if one.schema == "audit" else ())
        for one in _read_tables(connection)
    ]
    if not tables:
        return 0
    rows = connection.execute(
        sql.SQL(" union all ").join(
            sql.SQL("select {} where {}").format(sql.Literal(one.full_name), _work(one, run_id))
            for one in tables
        )
    ).fetchall()
    changed = {name for (name,) in rows}
    count = 0
    for table in tables:
        if table.full_name in changed or not table.is_known:
            count += _archive(connection, run_id, table)
    return count


def _archive(connection: psycopg.Connection, run_id: int, table: ArchivedTable) -> int:
    names = _names(table, run_id)
    columns = list(zip(table.columns, table.types, strict=True))
    batch_id, _ = begin_batch(connection, table.path, run_id, table.key, columns)
    if not table.is_known:
        keep_rows(
            connection,
            batch_id,
            sql.Literal("truncate"),
            [None for _ in columns],
            sql.SQL("(values (1)) as one"),
        )
    keep_rows(
        connection,
        batch_id,
        sql.Literal("write"),
        [sql.Identifier("written", name) for name in table.columns],
        sql.SQL("{} as written").format(_changed(table, run_id) if table.is_known else names["table"]),
    )
    if table.is_known and table.full_name not in _ALSO_CHANGED and table.name != "load":
        place = {name: number for number, name in enumerate(table.key, start=1)}
        keep_rows(
            connection,
            batch_id,
            sql.Literal("remove"),
            [
                sql.SQL("gone.row_key[{}]").format(sql.Literal(place[name])) if name in place else None
                for name in table.columns
            ],
            sql.SQL(
                "({logged}) as gone where row_key <> '{{}}' and not exists ("
                "select from {table} as written where ({key}) = ({typed}))"
            ).format(**names, typed=_typed_key(table, "gone")),
        )
    connection.execute(
        sql.SQL(
            """
            insert into audit.archive_table (path, last_key, changes_until)
            values ({path}, {last_key}, {logged_until})
            on conflict (path) do update set last_key = excluded.last_key, changes_until = excluded.changes_until
            """
        ).format(
            path=sql.Literal(table.path),
            logged_until=sql.Literal(table.logged_until),
            last_key=sql.SQL("(select max({key}) from {table})").format(**names)
            if table.is_numbered
            else sql.SQL("(select max({day}) - date '1970-01-01' from {table})").format(
                **names, day=sql.Identifier(table.key[0])
            )
            if table.is_daily
            else sql.NULL,
        )
    )
    return publish_rows(connection, batch_id)


def _names(table: ArchivedTable, run_id: int) -> Mapping[str, sql.Composable]:
    names: dict[str, sql.Composable] = {
        "table": sql.Identifier(table.schema, table.name),
        "key": listed(table.key),
        "run_id": sql.Literal(run_id),
        "log": sql.SQL("audit.change" if table.schema == "dwh" else _AUDIT_IMAGES),
        "name": sql.Literal(table.full_name),
        "until": sql.SQL("{}::timestamptz").format(sql.Literal(table.changes_until or "-infinity")),
        "runs": sql.SQL("{}::bigint[]").format(sql.Literal(list(table.runs))),
    }
    names["logged"] = sql.SQL(f"{_LOGGED} {_NOTED if table.has_noted else ''}").format(**names)
    return names


def _typed_key(table: ArchivedTable, row: str) -> sql.Composable:
    types = dict(zip(table.columns, table.types, strict=True))
    return sql.SQL(", ").join(
        sql.SQL("{}.row_key[{}]::{}").format(sql.Identifier(row), sql.Literal(number), sql.SQL(types[name]))
        for number, name in enumerate(table.key, start=1)
    )


def _is_new(table: ArchivedTable, run_id: int) -> sql.Composable:
    """Return the SQL condition of rows that were inserted since the last archiving, or changed without being logged."""
    names = _names(table, run_id)
    is_new: sql.Composable = sql.SQL("false")
    if table.is_numbered:
        is_new = sql.SQL("{key} > {last_key}").format(**names, last_key=sql.Literal(table.last_key or -1))
    elif table.is_daily:
        is_new = sql.SQL("({day} > {last} or {day} = {last} and run_id = {run_id})").format(
            **names,
            day=sql.Identifier(table.key[0]),
            last=sql.SQL("date '1970-01-01' + {}").format(sql.Literal(table.last_key or 0)),
        )
    elif table.has_run_id:
        is_new = sql.SQL("run_id = {run_id}").format(**names)
    also = _ALSO_CHANGED.get(table.full_name, "")
    if table.runs and table.has_run_id:
        also += " or run_id = any({runs})"
    return sql.SQL("({} {})").format(is_new, sql.SQL(also).format(**names))


def _changed(table: ArchivedTable, run_id: int) -> sql.Composable:
    """Return a subquery of the rows inserted or changed since the last archiving.

    It is a union of two parts, each of which uses an index: a single condition with `or` would scan the table.
    """
    return sql.SQL(
        """
        (
            select * from {table} where {is_new}
            union all
            select * from {table}
            where ({key}) in (select {typed} from ({logged}) as logged) and {is_new} is not true
        )
        """
    ).format(**_names(table, run_id), is_new=_is_new(table, run_id), typed=_typed_key(table, "logged"))


def _work(table: ArchivedTable, run_id: int) -> sql.Composable:
    """Return the SQL condition that the table has rows to archive."""
    return sql.SQL("exists (select from {table} where {is_new}) or exists ({logged})").format(
        **_names(table, run_id), is_new=_is_new(table, run_id)
    )


def _read_tables(connection: psycopg.Connection) -> list[ArchivedTable]:
    names = [
        *(f"dwh.{one.table}" for one in (*DIMENSIONS, *SNAPSHOTS)),
        *map(str, REFERENCE_TABLES),
        *(f"audit.{name}" for name in AUDIT_TABLES),
    ]
    with connection.cursor(row_factory=class_row(ArchivedTable)) as cursor:
        return cursor.execute(_TABLES, [names]).fetchall()


_TABLES: Final = """
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
        select log.name, least(statement_timestamp(), min(coalesce(writer.xact_start, '-infinity'))
                filter (where held.locktype is not null)) as until
        from (values ('audit.change'), ('audit.before_image')) as log (name)
        -- A transaction with uncommitted log rows holds this lock, and wrote them after its xact_start. That column is
        -- null for sessions of other roles: then assume '-infinity'.
        left join pg_locks as held
            on held.relation = log.name::regclass and held.mode = 'RowExclusiveLock'
            and held.database = (select oid from pg_database where datname = current_database())
            and held.pid is distinct from pg_backend_pid()
        left join pg_stat_activity as writer on held.pid = writer.pid
        group by log.name
    ) as logged on logged.name = case namespace.nspname when 'dwh' then 'audit.change' else 'audit.before_image' end
    left join audit.archive_table as archived on archived.path = namespace.nspname || '/' || relation.relname
    where namespace.nspname || '.' || relation.relname = any(%s)
    order by namespace.nspname, relation.oid
"""
