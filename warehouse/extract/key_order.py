"""The order of a table's keys that source and mirror share, and SQL conditions for ranges of keys in that order."""

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from warehouse.db.identifiers import text_array

# Values of a key as text; empty if the range is open at this end.
Bound = tuple[str, ...]


@dataclass(frozen=True)
class KeyPart:
    """A column of a key, and the collations of its indexes on both servers, where they are not the default."""

    name: str
    type: str
    source_collation: str | None = None
    mirror_collation: str | None = None

    def ordered(self, *, at_source: bool = False, of: str | None = None) -> sql.Composable:
        """SQL expression for comparing and sorting in the order of the index; `of` is the relation's alias."""
        collation = self.source_collation if at_source else self.mirror_collation
        name = sql.Identifier(of, self.name) if of else sql.Identifier(self.name)
        return sql.SQL("{} collate {}").format(name, sql.Identifier(collation)) if collation else name


@dataclass(frozen=True)
class KeyOrder:
    """The columns of a key in the order of its index; keys are compared as rows of them."""

    parts: tuple[KeyPart, ...]

    @property
    def needs_mirror_index(self) -> bool:
        """Whether the mirror needs an index for this order, since its primary key has another one."""
        return any(part.mirror_collation for part in self.parts)

    def sorted(self, *, of: str | None = None, is_descending: bool = False) -> sql.Composable:
        """SQL list of the key's columns in the mirror, for `order by` and for comparisons of rows."""
        template = sql.SQL("{} desc" if is_descending else "{}")
        return sql.SQL(", ").join(template.format(part.ordered(of=of)) for part in self.parts)

    def texts(self, *, of: str) -> sql.Composable:
        """The key of a row as an array of texts."""
        return text_array([part.name for part in self.parts], of)

    def within(self, low: Bound, high: Bound, *, at_source: bool = False) -> sql.Composable:
        """SQL condition on a row: its key is at or past `low`, and before `high`."""
        ends = [(sign, bound) for sign, bound in ((">=", low), ("<", high)) if bound]
        if not ends:
            return sql.SQL("true")
        return sql.SQL(" and ").join(
            sql.SQL("({}) {} ({})").format(
                sql.SQL(", ").join(part.ordered(at_source=at_source) for part in self.parts),
                sql.SQL(sign),
                self._typed(bound),
            )
            for sign, bound in ends
        )

    def _typed(self, bound: Sequence[str]) -> sql.Composable:
        return sql.SQL(", ").join(
            sql.SQL("{}::{}").format(sql.Literal(value), sql.SQL(part.type))
            for part, value in zip(self.parts, bound, strict=True)
        )
