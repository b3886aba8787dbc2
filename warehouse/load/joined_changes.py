"""Keys of an entity that changes of joined rows concern, by the joins that its source declares.

A joined row concerns the keys that it leads to now, and those that it led to before it changed. The tables between it
and the entity are looked up as they are now: if a row there changed as well, it has led to its own keys.
"""

from collections.abc import Iterator, Sequence

import psycopg
from psycopg import sql

from warehouse.db.identifiers import listed, qualified, same_key
from warehouse.extract.staging_tables import before_table, delta_table
from warehouse.load.batch import Batch
from warehouse.load.reads import Reads, check_reads, conditions, mirrors
from warehouse.sources.declaration import Table
from warehouse.sources.joins import Join, column_of, paths

# Beside the columns of a mirror, whose names are the source's.
FLAGS = sql.Identifier("<flags>")


def keys_of_joined_rows(batch: Batch) -> Iterator[sql.Composable]:
    """Select keys and flags that changes of joined tables concern: one query for each way that leads to the entity."""
    entity = batch.entity
    reads: Reads | None = None
    for table in dict.fromkeys(entity.tables[join.table] for join in entity.joins):
        if table == entity.table or not batch.exists("select from {delta}", delta=delta_table(table)):
            continue
        columns = None
        if _is_known(batch.connection, table) and batch.exists(
            "select from {before}", before=before_table(table)
        ):
            reads = reads or check_reads(batch.connection, entity)
            columns = reads.columns[table]
        rows = _changed_rows(batch, table, columns)
        joins = [join for join in entity.joins if join.table == table.name]
        if any(_needs_unknown_rows(batch.connection, table, join) for join in joins):
            yield batch.format("select {source_key}, 0 from {mirror}")
            continue
        if to_itself := [join for join in joins if join.is_self_join]:
            rows = sql.SQL("{} union all {}").format(rows, _joined_to_itself(table, to_itself, rows))
        for path in paths(entity.joins, table.name, entity.table.name):
            yield follow(batch, table.name, path, rows)


def with_rows_joined_to_them(batch: Batch, keys: sql.Composable) -> sql.Composable:
    """Select `keys` with flags, and the keys of the rows that the entity's table joins to theirs."""
    table = batch.entity.table
    joins = [join for join in batch.entity.joins if join.table == table.name]
    if not joins:
        return keys
    if any(_needs_unknown_rows(batch.connection, table, join) for join in joins) and batch.exists(
        "select from {delta}", delta=delta_table(table)
    ):
        return batch.format("{keys} union all select {source_key}, 0 from {mirror}", keys=keys)
    if all(join.is_grouping and join.refers_only_to(table.key) for join in joins):
        return _with_groups(batch, keys, joins)
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


def _with_groups(batch: Batch, keys: sql.Composable, joins: Sequence[Join]) -> sql.Composable:
    """Select `keys` with flags, and the keys of the rows that share those columns of a key that the joins compare.

    The key itself says to which group a row belongs: the mirror is read for the other rows of the groups alone, and
    once for each group, however many of its rows have changed.
    """
    table = batch.entity.table
    compared = {column_of(one.expression) for join in joins for one in join.equalities}
    return batch.format(
        """
        (
            with reached ({source_key}, _flags) as ({keys})
            table reached
            union all
            select {next_key}, changed._flags
            from (select distinct {compared}, _flags & 1 as _flags from reached) as changed
            cross join lateral ({next}) as next
        )
        """,
        keys=keys,
        next_key=qualified("next", table.key),
        compared=listed([name for name in table.key if name in compared]),
        next=_rows_joined_to(table, joins),
    )


def _is_known(connection: psycopg.Connection, table: Table) -> bool:
    """Whether this run knows how the rows were that it has changed."""
    row = connection.execute(
        "select to_regclass(%s) is not null", [before_table(table).as_string(connection)]
    ).fetchone()
    return bool(row and row[0])


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
