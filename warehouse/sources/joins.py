"""Joins of an entity: SQL conditions in source.toml by which a changed row of a table leads to the entity's rows."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from warehouse.errors import DeclarationError

# Alias of the changed row in the condition of a self-join.
CHANGED = "changed"

_NAME = r'"(?:[^"]|"")+"|[A-Za-z_]\w*'
_QUALIFIED = re.compile(rf"({_NAME})\s*\.\s*({_NAME})(\s*\()?")
_TEXT = re.compile(r"'(?:[^']|'')*'")
_EQUALS = re.compile(r"(?<![<>!:=])=(?![>=])")


@dataclass(frozen=True)
class Equality:
    """One term of a condition: an expression on a row of table `near` equals one on a row of the joined table."""

    near: str
    near_expression: str
    expression: str


@dataclass(frozen=True)
class Join:
    """A condition that joins a changed row of `table` to rows of the tables `near`, which are nearer to the entity.

    Conditions use the tables' declared names, and `changed` for the changed row of a self-join. Without `near`, a
    change affects every key.
    """

    table: str
    near: tuple[str, ...]
    condition: str

    @property
    def is_self_join(self) -> bool:
        return self.table in self.near

    @property
    def alias(self) -> str:
        """Alias of the changed row in the condition."""
        return CHANGED if self.is_self_join else self.table

    @property
    def equalities(self) -> tuple[Equality, ...]:
        """The terms of the condition that are equalities of two expressions, which an index can serve."""
        return tuple(filter(None, map(self._equality, _terms(self.condition))))

    @property
    def has_equalities_only(self) -> bool:
        """Whether all terms of the condition are equalities."""
        return len(self.equalities) == len(_terms(self.condition))

    @property
    def is_grouping(self) -> bool:
        """Whether a self-join compares columns with themselves, so that one step reaches all rows of a group."""
        return self.has_equalities_only and all(
            column_of(one.near_expression) == column_of(one.expression) is not None for one in self.equalities
        )

    def refers_only_to(self, key: Sequence[str]) -> bool:
        """Return whether the condition uses only columns of `key` of the changed row, which never change."""
        return self.has_equalities_only and all(column_of(one.expression) in key for one in self.equalities)

    def _equality(self, term: str) -> Equality | None:
        sides = _EQUALS.split(term)
        if len(sides) != 2:
            return None
        for expression, near_expression in (sides, reversed(sides)):
            others = {name for name, _ in _qualified(near_expression)}
            if {name for name, _ in _qualified(expression)} == {self.alias} and len(others) == 1:
                (near,) = others
                if near in self.near:
                    return Equality(near, near_expression.strip(), expression.strip())
        return None


def parse_join(table: str, condition: str, tables: Mapping[str, object], where: str) -> Join:
    """Parse the condition of a join of `table`.

    Raises:
        DeclarationError: it names a table that is not declared, or does not name the table itself.
    """
    names = list(dict.fromkeys(name for name, _ in _qualified(condition)))
    for name in names:
        if name not in tables and name != CHANGED:
            raise DeclarationError(
                f"{where}: the join of {table} names table '{name}', which is not declared.",
                hint=f"Write each column as TABLE.column, where [tables.TABLE] is declared: {', '.join(tables)}.",
            )
    is_self_join = CHANGED in names and CHANGED not in tables
    alias = CHANGED if is_self_join else table
    near = tuple(name for name in names if name != alias)
    if (bool(near) != (alias in names)) or (is_self_join and near != (table,)):
        raise DeclarationError(
            f"{where}: the join of {table} must compare a column of {table} with one of another table: '{condition}'.",
            hint=f'{table} = "{table}.COLUMN = TABLE.COLUMN"; joined to itself: "changed.COLUMN = {table}.COLUMN"; '
            'where any change concerns every key: "true".',
        )
    return Join(table, near, condition)


def paths(joins: Sequence[Join], table: str, entity_table: str) -> Iterator[tuple[Join, ...]]:
    """Yield each join path from a changed row of `table` to `entity_table`, as joins whose conditions are combined."""
    for join in joins:
        if join.table == table and not join.is_self_join:
            for rest in product(*(list(paths(joins, near, entity_table)) for near in join.near)):
                yield tuple(dict.fromkeys((join, *(one for path in rest for one in path))))
    if table == entity_table:
        yield ()


def check_joins(joins: Sequence[Join], entity_table: str, where: str) -> None:
    """Check that every join leads to the entity's own table.

    Raises:
        DeclarationError: a table on a path has no join, leads back, or is joined to itself.
    """

    def follow(name: str, seen: tuple[str, ...]) -> None:
        if name == entity_table:
            return
        if name in seen:
            raise DeclarationError(
                f"{where}: the joins of {' and '.join(seen)} lead to each other and not to {entity_table}.",
                hint=f"Join one of them to {entity_table}.",
            )
        mine = [join for join in joins if join.table == name]
        if not any(not join.is_self_join for join in mine):
            by = f", by which {seen[-1]} is joined," if seen else ""
            raise DeclarationError(
                f"{where}: {name}{by} is not joined to {entity_table}.",
                hint=f'Add {name} = "{name}.COLUMN = {entity_table}.COLUMN".',
            )
        if seen and any(join.is_self_join for join in mine):
            raise DeclarationError(
                f"{where}: {seen[-1]} is joined by {name}, which is joined to itself.",
                hint=f'Join {seen[-1]} to {entity_table}, or take every key as changed: {seen[-1]} = "true".',
            )
        for join in mine:
            for near in join.near:
                if not join.is_self_join:
                    follow(near, (*seen, name))

    for join in joins:
        if join.table == entity_table and not join.is_self_join:
            raise DeclarationError(
                f"{where}: {entity_table} is the table that the entity is made from.",
                hint=f'Join the other table to it; or it to itself: {entity_table} = "changed.COLUMN = '
                f'{entity_table}.COLUMN".',
            )
        follow(join.table, ())


def column_of(expression: str) -> str | None:
    """Return the column's name if the expression is just a qualified column; else None."""
    match = _QUALIFIED.fullmatch(expression)
    return _fold(match[2]) if match and not match[3] else None


def without_table(expression: str) -> str:
    """Remove the table from qualified columns, for an index expression."""
    return _QUALIFIED.sub(lambda match: match[0] if match[3] else match[2], expression)


def _qualified(text: str) -> list[tuple[str, str]]:
    return [(_fold(match[1]), _fold(match[2])) for match in _QUALIFIED.finditer(_blank(text)) if not match[3]]


def _fold(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()


def _blank(text: str) -> str:
    return _TEXT.sub(lambda match: "'" + " " * (len(match[0]) - 2) + "'", text)


def _terms(condition: str) -> list[str]:
    """Split a condition at `and` outside of parentheses."""
    blank, depth, start, terms = _blank(condition), 0, 0, []
    for match in re.finditer(r"[()]|\band\b", blank, re.IGNORECASE):
        if match[0] in "()":
            depth += 1 if match[0] == "(" else -1
        elif depth == 0:
            terms.append(condition[start : match.start()].strip())
            start = match.end()
    return [*terms, condition[start:].strip()]
