"""Keys of an entity that changes of joined rows concern, by the joins that its source declares.

A joined row concerns the keys that it leads to now, and those that it led to before it changed. The tables between it
and the entity are looked up as they are now: if a row there changed as well, it has led to its own keys.
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

# Beside the columns of a mirror, whose names are the source's.
FLAGS = sql.Identifier("<flags>")


@dataclass
class Reached:
    """Queries of what changes concern, with flags: keys, and groups of keys by the columns that they share."""

    keys: list[sql.Composable] = field(default_factory=list)
    groups: list[sql.Composable] = field(default_factory=list)


def keys_of_joined_rows(batch: Batch) -> Reached:
    """Select what changes of joined tables concern: one query for each way that leads to the entity.

    A way that leads to whole groups of the entity's rows, as from an order to its lines, ends there: which rows these
    are is looked up once for each group, whoever has changed it; see `with_rows_joined_to_them`.
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
    """Select the reached keys with flags, and the keys of the rows that the entity's table joins to theirs."""
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
        # A row that left a group concerns the rows that stayed.
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
    """Columns of the key that rows share which the entity's table joins to each other; none where it is otherwise."""
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

    The key itself says to which group a row belongs: the mirror is read for the other rows of the groups alone, and
    once for each group, however many of its rows have changed.
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
    """Whether this run knows how the rows were that it has changed."""
    return staying_session.is_filled(connection, before_name(table))


def _needs_unknown_rows(connection: psycopg.Connection, table: Table, join: Join) -> bool:
    """Whether the join depends on values that rows had before, and nobody knows them: a mirror made again."""
    return bool(join.near) and not join.refers_only_to(table.key) and not _is_known(connection, table)


def _changed_rows(batch: Batch, table: Table, columns: frozenset[str] | None) -> sql.Composable:
    """Select the rows that changed in one of `columns` (None: in any), as they are and as they were, with flags."""
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
        -- no timestamp says when a row went elsewhere
        select before.*, 0 from {before} as before inner join {table} as mirror on {same_before} where {differ}
        """,
        **names,
    )


def _images_differ(columns: frozenset[str] | None) -> sql.Composable:
    if columns is None:
        return sql.SQL("true")
    # Bytes, as the merge of the mirror compares them: that needs no equality operator.
    return (
        sql.SQL("row({})::record *<> row({})::record").format(
            qualified("mirror", sorted(columns)), qualified("before", sorted(columns))
        )
        if columns
        else sql.SQL("false")
    )


def _rows_joined_to(table: Table, joins: Sequence[Join]) -> sql.Composable:
    """Select the keys of rows that a table joins to its row `changed`, of a query around it."""
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
    """Select the rows that a table joins to `rows`, and those that it joins to them, and so on."""
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
    """Select the groups of the entity's rows that `rows` of a table, with FLAGS, lead to; None where it is not groups.

    It is where the last join of the path compares the columns of a group and nothing else.
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
    """Select the keys that `rows` of a table, with FLAGS, lead to."""
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
