"""A column of a source table, as the mirror has it and as the source delivers it."""

from dataclasses import dataclass

from psycopg import sql


@dataclass(frozen=True)
class Column:
    """A source column: its type in the mirror, and the cast by which the source delivers that type."""

    name: str
    type: str
    cast: str | None
    comment: str | None
    # SQL expression that replaces bytes which the source cannot deliver as text; see `undecodable`.
    decoded: sql.Composable | None = None

    @property
    def selected(self) -> sql.Composable:
        """Expression that selects it from the source, in the mirror's type."""
        if self.decoded is not None:
            return self.decoded
        name = sql.Identifier(self.name)
        return sql.SQL("{}::{}").format(name, sql.SQL(self.cast)) if self.cast else name
