"""Find keys to conform because a joined row changed, by the joins that the source declares for the entity.

A changed row affects the keys that it is joined to now, and those that it was joined to before. Tables between it and
the entity are read as they are now: a row there that changed as well is followed by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import psycopg
from psycopg import sql

from warehouse.db import staying_session
from warehouse.db.identifiers import listed, qualified, same_key
from warehouse.extract.staging_tables import before_name, before_table, delta_table
from warehouse.load.batch import Batch
from warehouse.load.reads import Reads, check_reads, conditions, mirrors
from warehouse.sources.joins import Join, column_of, paths
from warehouse.sources.source import Table

# The column is added to those of a mirror, so its name must not be one that a source uses.
FLAGS = sql.Identifier("<flags>")


@dataclass
class Reached:
    """Queries for affected rows, with flags: by their keys, or by groups of rows that share some key columns."""

    keys: list[sql.Composable] = field(default_factory=list)
    groups: list[sql.Composable] = field(default_factory=list)


def keys_of_joined_rows(batch: Batch) -> Reached:
    """Select the keys that changes of joined tables affect: one query for each join path to the entity.

    If a path leads to whole groups of the entity's rows, as from an order to its lines, its query returns the groups:
    `with_rows_joined_to_them` then looks up the rows of each group once, however many changes affect it.
    """
    entity = batch.entity
    reached = Reached()
    group = _group_columns(batch)
    reads: Reads | None = None
    for table in dict.fromkeys(entity.tables[join.table] for join in entity.joins):
        if table == entity.table or not batch.exists("select from {delta}", delta=delta_table(table)):
            continue
        columns = None
        if _is_known(batch.connection, table) and batch.exists(
            "select from {before}", before=before_table(table)
        ):
            reads = reads or staying_session.remembered(
                batch.connection,
                ("reads", entity.source, entity.name),
                partial(check_reads, batch.connection, entity),
            )
            columns = reads.columns[table]
        rows = _changed_rows(batch, table, columns)
        joins = [join for join in entity.joins if join.table == table.name]
        if any(_needs_unknown_rows(batch.connection, table, join) for join in joins):
            reached.keys.append(batch.format("select {source_key}, 0 from {mirror}"))
            continue
        if to_itself := [join for join in joins if join.is_self_join]:
            rows = sql.SQL("{} union all {}").format(rows, _joined_to_itself(table, to_itself, rows))
        for path in paths(entity.joins, table.name, entity.table.name):
            if groups := _follow_to_groups(batch, table.name, path, rows, group):
                reached.groups.append(groups)
            else:
                reached.keys.append(follow(batch, table.name, path, rows))
    return reached


def with_rows_joined_to_them(batch: Batch, reached: Reached) -> sql.Composable:
    """Select the reached keys with flags, and the keys of rows that self-joins of the entity's table join to them."""
    table = batch.entity.table
    joins = _self_joins(batch)
    keys: sql.Composable = sql.SQL(" union all ").join(reached.keys)
    if not joins:
        return keys
    if any(_needs_unknown_rows(batch.connection, table, join) for join in joins) and batch.exists(
        "select from {delta}", delta=delta_table(table)
    ):
        return batch.format("{keys} union all select {source_key}, 0 from {mirror}", keys=keys)
    if group := _group_columns(batch):
        return _with_groups(batch, keys, reached.groups, joins, group)
    names = {
        "keys": keys,
        "same": same_key(table.key, "reached", "changed"),
        "next": _rows_joined_to(table, joins),
        "next_key": qualified("next", table.key),
    }
    step = batch.format(
        "select {next_key}, reached._flags & 1 from reached inner join {mirror} as changed on {same} "
        "cross join lateral ({next}) as next",
        **names,
    )
    if _is_known(batch.connection, table):
        # Rows that stayed in a group are affected by a row that left it: follow the old images, too.
        names["keys"] = batch.format(
            "{keys} union all select {next_key}, 0 from {before} as changed cross join lateral ({next}) as next",
            **names,
            before=before_table(table),
        )
    if all(join.is_grouping for join in joins):
        return batch.format(
            "(with reached ({source_key}, _flags) as ({keys}) table reached union all {step})",
            **names,
            step=step,
        )
    return batch.format(
        "(with recursive reached ({source_key}, _flags) as ({keys} union {step}) table reached)",
        **names,
        step=step,
    )


def _self_joins(batch: Batch) -> list[Join]:
    return [join for join in batch.entity.joins if join.table == batch.entity.table.name]


def _group_columns(batch: Batch) -> list[str]:
    """Return the key columns by which self-joins group the entity's rows; none if there are other self-joins."""
    table, joins = batch.entity.table, _self_joins(batch)
    if not all(join.is_grouping and join.refers_only_to(table.key) for join in joins):
        return []
    compared = {column_of(one.expression) for join in joins for one in join.equalities}
    return [name for name in table.key if name in compared]


def _with_groups(
    batch: Batch,
    keys: sql.Composable,
    groups: Sequence[sql.Composable],
    joins: Sequence[Join],
    group: Sequence[str],
) -> sql.Composable:
    """Select `keys` with flags, and the keys of all rows of their groups and of `groups`.

    The group of a row is a part of its key, so the mirror is read only for the other rows of the groups, and once for
    each group, however many of its rows have changed.
    """
    of_keys = batch.format("select {group}, _flags & 1 as _flags from reached", group=listed(group))
    return batch.format(
        """
        (
            with reached ({source_key}, _flags) as ({keys})
            table reached
            union all
            select {next_key}, changed._flags
            from (select distinct {group}, _flags from ({groups}) as found) as changed
            cross join lateral ({next}) as next
        )
        """,
        keys=keys,
        next_key=qualified("next", batch.entity.table.key),
        group=listed(group),
        groups=sql.SQL(" union all ").join([of_keys, *groups]),
        next=_rows_joined_to(batch.entity.table, joins),
    )


def _is_known(connection: psycopg.Connection, table: Table) -> bool:
    """Return whether this run has kept the old images of the rows that it has changed."""
    return staying_session.is_filled(connection, before_name(table))


def _needs_unknown_rows(connection: psycopg.Connection, table: Table, join: Join) -> bool:
    """Return whether the join depends on old values that were not kept, because the mirror was created again."""
    return bool(join.near) and not join.refers_only_to(table.key) and not _is_known(connection, table)


def _changed_rows(batch: Batch, table: Table, columns: frozenset[str] | None) -> sql.Composable:
    """Select the new and old images of rows that changed in one of `columns` (None: in any), with flags."""
    names = {
        "table": sql.Identifier("raw", table.mirror),
        "delta": delta_table(table),
        "before": before_table(table),
        "same_delta": same_key(table.key, "mirror", "delta"),
        "same_before": same_key(table.key, "mirror", "before"),
        "differ": _images_differ(columns),
        "flags": FLAGS,
    }
    if not _is_known(batch.connection, table):
        return batch.format(
            "select mirror.*, delta._has_updated_at::integer as {flags} "
            "from {delta} as delta inner join {table} as mirror on {same_delta}",
            **names,
        )
    return batch.format(
        """
        select mirror.*, delta._has_updated_at::integer as {flags}
        from {delta} as delta inner join {table} as mirror on {same_delta}
        left join {before} as before on {same_before}
        where delta._operation <> 'update' or {differ}
        union all
        -- an old image has no flags: the source has no timestamp of when it left the keys that it led to
        select before.*, 0 from {before} as before inner join {table} as mirror on {same_before} where {differ}
        """,
        **names,
    )


def _images_differ(columns: frozenset[str] | None) -> sql.Composable:
    if columns is None:
        return sql.SQL("true")
    # Compare bytes, as the merge of the mirror does: *<> needs no equality operator for the columns' types.
    return (
        sql.SQL("row({})::record *<> row({})::record").format(
            qualified("mirror", sorted(columns)), qualified("before", sorted(columns))
        )
        if columns
        else sql.SQL("false")
    )


def _rows_joined_to(table: Table, joins: Sequence[Join]) -> sql.Composable:
    """Select the keys of rows that self-joins of a table join to the row `changed` of the enclosing query."""
    return sql.SQL(" union all ").join(
        sql.SQL("select {} from {} as {} where {}").format(
            qualified(table.name, table.key),
            sql.Identifier("raw", table.mirror),
            sql.Identifier(table.name),
            conditions([join]),
        )
        for join in joins
    )


def _joined_to_itself(table: Table, joins: list[Join], rows: sql.Composable) -> sql.Composable:
    """Select the rows that self-joins of a table join to `rows`, directly or through other rows."""
    return sql.SQL(
        """
        select mirror.*, 0 from {mirror} as mirror inner join (
            with recursive reached as (
                select next.* from ({rows}) as changed cross join lateral ({next}) as next
                union
                select next.* from reached inner join {mirror} as changed on {same}
                cross join lateral ({next}) as next
            )
            select {key} from reached
        ) as reached on {same_mirror}
        """
    ).format(
        mirror=sql.Identifier("raw", table.mirror),
        rows=rows,
        next=_rows_joined_to(table, joins),
        same=same_key(table.key, "reached", "changed"),
        same_mirror=same_key(table.key, "reached", "mirror"),
        key=listed(table.key),
    )


def _follow_to_groups(
    batch: Batch, table: str, path: tuple[Join, ...], rows: sql.Composable, group: Sequence[str]
) -> sql.Composable | None:
    """Select the groups of the entity's rows that `rows` of a table, with FLAGS, lead to.

    None unless the last join of the path compares exactly the columns of `group`.
    """
    entity_table = batch.entity.table.name
    *way, last = path
    expressions = {column_of(one.near_expression): one.expression for one in last.equalities}
    if (
        not group
        or any(entity_table in join.near for join in way)
        or last.near != (entity_table,)
        or not last.has_equalities_only
        or len(last.equalities) != len(group)
        or expressions.keys() != set(group)
    ):
        return None
    return batch.format(
        "select {expressions}, {changed}.{flags} as _flags from {tables} where {conditions}",
        expressions=sql.SQL(", ").join(
            sql.SQL("{} as {}").format(sql.SQL(expressions[name]), sql.Identifier(name)) for name in group
        ),
        changed=sql.Identifier(table),
        flags=FLAGS,
        tables=sql.SQL(" cross join ").join(
            [sql.SQL("({}) as {}").format(rows, sql.Identifier(table)), *mirrors(batch.entity, way)]
        ),
        conditions=conditions(way) if way else sql.SQL("true"),
    )


def follow(batch: Batch, table: str, path: tuple[Join, ...], rows: sql.Composable) -> sql.Composable:
    """Select the keys that `rows` of a table, with FLAGS, lead to along a join path."""
    names = {
        "keys": qualified(batch.entity.table.name, batch.entity.table.key),
        "rows": rows,
        "changed": sql.Identifier(table),
        "conditions": conditions(path),
        "flags": FLAGS,
    }
    if not path[0].near:
        return batch.format(
            "select {source_key}, 0 from {mirror} where exists (select from ({rows}) as {changed} where {conditions})",
            **names,
        )
    return batch.format(
        "select {keys}, {changed}.{flags} from ({rows}) as {changed} cross join {mirrors} where {conditions}",
        **names,
        mirrors=sql.SQL(" cross join ").join(mirrors(batch.entity, path)),
    )
