"""Find what an entity's conform SQL reads, and refuse SQL whose declaration does not follow all changes of that.

If a change in a mirror led to no key of the entity, rows of the star would go stale unnoticed.
"""

import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from warehouse.db.connection_errors import is_of_statement
from warehouse.db.dependencies import Dependencies, read_dependencies
from warehouse.db.identifiers import listed, to_paste
from warehouse.errors import DeclarationError
from warehouse.extract.catalog import columns_of
from warehouse.extract.staged import Staged
from warehouse.model.fact_sql import select_with_members
from warehouse.model.sql_text import hash_parts
from warehouse.sources.joins import Join
from warehouse.sources.source import Entity, Table


@dataclass(frozen=True)
class Reads:
    """What the SQL of an entity reads."""

    # By table of the source, the columns read; None for all columns.
    columns: Mapping[Table, frozenset[str] | None]
    # Views and functions that it reads through.
    objects: frozenset[str]


@dataclass(frozen=True)
class _Unfollowed:
    """A table or function that the SQL reads without following its changes, and a line of source.toml to add."""

    what: str
    section: str
    line: str


def check_reads(connection: psycopg.Connection, entity: Entity) -> Reads:
    """Find what the entity's SQL reads.

    Raises:
        DeclarationError: the SQL or a join fails, or a join is missing; names the lines to add to source.toml.
    """
    with connection.transaction(force_rollback=True):
        create_empty_changed_keys(connection, entity)
        read = _read(connection, entity)
        unfollowed = list(_find_unfollowed(connection, entity, read))
    if unfollowed:
        raise _refuse(entity, unfollowed)
    return Reads(
        {
            table: None if read.reads_whole_rows else read.tables.get(("raw", table.mirror), frozenset())
            for table in entity.tables.values()
        },
        read.objects,
    )


def hash_reads(entity: Entity, staged: Staged) -> str:
    """Hash what `check_reads` depends on besides the entity's definition; while both are unchanged, it is skipped."""
    columns = {one.table: [(column.name, column.type) for column in one.columns] for one in staged.tables}
    return hash_parts(
        sorted(entity.stale),
        sorted(entity.tables),
        [(table.name, columns.get(table)) for table in entity.reads],
    )


def create_empty_changed_keys(connection: psycopg.Connection, entity: Entity) -> None:
    """Create the table of changed keys that the conform SQL reads. That of an earlier run is replaced, since its key
    may have had other columns or types."""
    connection.execute(
        sql.SQL(
            "drop table if exists {keys}; create unlogged table {keys} as select {key}, false as _has_updated_at, "
            "false as _is_new, false as _is_outdated from {mirror} limit 0"
        ).format(
            keys=sql.Identifier("staging", f"{entity.source}_{entity.name}_changed_keys"),
            key=listed(entity.table.key),
            mirror=sql.Identifier("raw", entity.table.mirror),
        )
    )


def conform_query(entity: Entity) -> sql.Composable:
    """The source's conform SQL, for use as a subquery."""
    return sql.SQL("\n" + entity.sql.strip().rstrip(";") + "\n")


def explain_sql_error(entity: Entity, error: psycopg.Error) -> Exception:
    """Return a DeclarationError for conform SQL that the server rejects; `error` itself if the SQL is not at fault."""
    if not is_of_statement(error):
        return error
    message = str(error).strip().splitlines()
    hint = "It must be one select over the mirrors (raw.…) and its changed keys."
    if isinstance(error, psycopg.errors.UndefinedColumn):
        hint = (
            f"Changed keys have ({', '.join(entity.table.key)}), and a mirror has the columns that its table has in "
            "the source. List what it has nothing for under unmapped_columns."
        )
    if isinstance(error, psycopg.errors.UndefinedFunction) and "mart.composite_key(" in message[0]:
        hint = "Its parts are texts: mart.composite_key(tenant_id::text, id::text)."
    return DeclarationError(
        f"conform/{entity.name}.sql of source '{entity.source}' fails: {message[0]}{_place(entity, message[1:])}.",
        hint=hint,
    )


def _place(entity: Entity, details: Sequence[str]) -> str:
    """Return ' (line N)' for the line of the SQL file that an error is about; empty if the server names none of it."""
    match = re.match(r"LINE (\d+): (.*)", details[0]) if details else None
    if match is None:
        return ""
    # `conform_query` strips the file's leading lines and puts one empty line before the SQL.
    above = entity.sql[: len(entity.sql) - len(entity.sql.lstrip())].count("\n")
    number = int(match[1]) - 1 + above
    lines = entity.sql.splitlines()
    is_there = 0 < number <= len(lines) and match[2].strip(". ") in lines[number - 1]
    return f" (line {number})" if is_there else ""


def mirrors(entity: Entity, joins: Sequence[Join]) -> list[sql.Composable]:
    """FROM items of the tables that joins lead through, as `raw.source_a as a`, aliased as in the join conditions."""
    return [
        sql.SQL("{} as {}").format(_relation(entity, name), sql.Identifier(name))
        for name in dict.fromkeys(near for join in joins for near in join.near)
    ]


def _relation(entity: Entity, name: str) -> sql.Composable:
    """The mirror that a join names, or a subquery on the star table that the entity follows."""
    if name in entity.tables:
        return sql.Identifier("raw", entity.tables[name].mirror)
    return sql.SQL("({})").format(select_with_members(name))


def conditions(joins: Sequence[Join]) -> sql.Composable:
    """The conjunction (AND) of the joins' conditions."""
    return sql.SQL(" and ").join(sql.SQL("({})").format(sql.SQL(join.condition)) for join in joins)


def _read(connection: psycopg.Connection, entity: Entity) -> Dependencies:
    """Read from the server what the SQL and the joins depend on; raises DeclarationError for the one that fails."""
    query = conform_query(entity)
    try:
        with connection.transaction():
            for join in entity.follows:
                connection.execute(sql.SQL("{} limit 0").format(_join_query(entity, join)))
            return read_dependencies(
                connection, [query, *(_join_query(entity, join) for join in entity.joins)]
            )
    except psycopg.Error as failure:
        if not is_of_statement(failure):
            raise
        # Find out which of them fails.
        try:
            with connection.transaction():
                read_dependencies(connection, [query])
        except psycopg.Error as error:
            raise explain_sql_error(entity, error) from None
        for join in (*entity.joins, *entity.follows):
            try:
                with connection.transaction():
                    connection.execute(sql.SQL("{} limit 0").format(_join_query(entity, join)))
            except psycopg.Error as error:
                if not is_of_statement(error):
                    raise
                raise DeclarationError(
                    f"The join of {join.table} in [entities.{entity.name}] of source '{entity.source}' fails: "
                    f"{str(error).strip().splitlines()[0]}.",
                    hint=f"It reads: {join.condition}. The mirrors' columns are those of the source's tables.",
                ) from None
        raise


def _join_query(entity: Entity, join: Join) -> sql.Composable:
    changed = sql.SQL("{} as {}").format(_relation(entity, join.table), sql.Identifier(join.alias))
    return sql.SQL("select 1 as one from {} where {}").format(
        sql.SQL(", ").join([changed, *mirrors(entity, [join])]), conditions([join])
    )


def _find_unfollowed(
    connection: psycopg.Connection, entity: Entity, read: Dependencies
) -> Iterator[_Unfollowed]:
    own, joined = entity.table, {join.table for join in entity.joins}
    changed_keys = ("staging", f"{entity.source}_{entity.name}_changed_keys")
    declared = {("raw", table.mirror): table for table in entity.tables.values()}
    followed = {("dwh", join.table) for join in entity.follows}
    for place in read.tables:
        name = ".".join(place)
        table = declared.get(place)
        known_as = table.name if table else name
        if (
            place == changed_keys
            or place in followed
            or table == own
            or known_as in joined
            or known_as in entity.stale
        ):
            continue
        if table is None:
            yield _Unfollowed(f"{name}, which is no mirror of a table of this source", "stale", _reason(name))
        else:
            yield _Unfollowed(name, "joins", f"{_key(known_as)} = {_guess(connection, entity, table)}")
    for function in read.opaque_functions:
        if function not in entity.stale:
            what = f"function {function}, of which the database does not know what it reads (write it in SQL)"
            yield _Unfollowed(what, "stale", _reason(function))
    if own.name not in joined and own.name not in entity.stale and _own_reads(connection, entity, read) > 1:
        yield _Unfollowed(
            f"other rows of raw.{own.mirror} beside the changed ones (it is named more than once)",
            "joins",
            f"{_key(own.name)} = {_guess_group(own)}",
        )


def _own_reads(connection: psycopg.Connection, entity: Entity, read: Dependencies) -> int:
    """Count how often the SQL names the entity's own mirror; more than once means that rows depend on other rows."""
    row = connection.execute(
        "select to_regclass(format('raw.%%I', %s::text))::oid::bigint", [entity.table.mirror]
    ).fetchone()
    in_joins = sum((join.table, *join.near).count(entity.table.name) for join in entity.joins)
    return read.occurrences.get(row[0] if row else 0, 0) - in_joins


def _refuse(entity: Entity, unfollowed: Sequence[_Unfollowed]) -> DeclarationError:
    what = "; ".join(dict.fromkeys(one.what for one in unfollowed))
    sections = {
        section: [one.line for one in unfollowed if one.section == section] for section in ("joins", "stale")
    }
    lines = "\n\n".join(
        "\n".join([f"[entities.{entity.name}.{section}]", *dict.fromkeys(found)])
        for section, found in sections.items()
        if found
    )
    return DeclarationError(
        f"conform/{entity.name}.sql of source '{entity.source}' reads {what}. Nothing says which keys of {entity.name} "
        "change with it, so they would go stale.",
        hint=f"Add to the source.toml of '{entity.source}', and correct what it guesses:\n\n{lines}\n\n"
        'If any change concerns every key, the condition is "true". If it may be stale, say so under '
        f"[entities.{entity.name}.stale], with the reason. See docs/sources.md.",
    )


def _guess(connection: psycopg.Connection, entity: Entity, table: Table) -> str:
    """Guess the condition of a join from `table` to the entity, from the names of key columns."""
    columns = columns_of(connection, "raw", table.mirror)
    joined = (entity.tables[name] for name in dict.fromkeys(join.table for join in entity.joins))
    nearer = [entity.table, *(one for one in joined if one not in (entity.table, table))]
    for near in nearer:
        near_columns = columns_of(connection, "raw", near.mirror)
        # One of the two tables may have the other's key columns, with or without the table's name as a prefix.
        children = _references(near, columns), _references(table, near_columns)
        pairs = zip(children[0], near.key, strict=False), zip(table.key, children[1], strict=False)
        for references, named in zip(children, pairs, strict=True):
            if references:
                terms = (f"{to_paste(table.name, mine)} = {to_paste(near.name, its)}" for mine, its in named)
                return _text(" and ".join(terms))
    return _text(f"{to_paste(table.name)}.COLUMN = {to_paste(entity.table.name)}.COLUMN")


def _references(table: Table, columns: Container[str]) -> list[str]:
    """Return those of `columns` that seem to refer to the key of `table`; empty if a key column has no match."""
    matches = [
        next(
            (one for one in (f"{table.name}_{name}", name) if one in columns and one.lower() != "id"),
            None,
        )
        for name in table.key
    ]
    return [name for name in matches if name is not None] if None not in matches else []


def _guess_group(table: Table) -> str:
    column = to_paste(table.key[0]) if len(table.key) > 1 else "COLUMN"
    return _text(f"changed.{column} = {to_paste(table.name)}.{column}")


def _reason(name: str) -> str:
    return f'{_key(name)} = "why its changes need not be followed"'


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else f'"{name}"'


def _text(condition: str) -> str:
    return f"'{condition}'" if '"' in condition else f'"{condition}"'
