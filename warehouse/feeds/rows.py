"""Rows of records in the text that COPY reads: one for the record, one for each member of its lists."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from warehouse.feeds.record import Problem, Record
from warehouse.feeds.typed import CONVERTERS, MOST_KEY_BYTES, NULL, Mistyped, to_json, type_name
from warehouse.feeds.typed import escape as escaped
from warehouse.sources.declaration import Table
from warehouse.sources.feed import ColumnType

_MISSING: Final = object()
# A member of a list that is no object, in _rescued_data.
MEMBER: Final = "_value"


@dataclass
class TableRows:
    """The rows of one table that are not sent yet."""

    table: Table
    # By column of the file, what converts its values.
    converters: Sequence[tuple[str, Callable[[Any], str]]]
    lines: list[str] = field(default_factory=list)
    count: int = 0
    # How often which fields came with which types: (names, types).
    shapes: Counter[tuple[tuple[str, ...], tuple[type, ...]]] = field(default_factory=Counter)
    # By column and type of the value, how often it did not fit.
    mistyped: Counter[tuple[str, str]] = field(default_factory=Counter)

    def cells(self, fields: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
        """The cells of an object, and what is left of it: fields that no column has, and values that do not fit."""
        self.shapes[tuple(fields), tuple(map(type, fields.values()))] += 1
        cells, rescued, known = [], {}, 0
        for name, convert in self.converters:
            value = fields.get(name, _MISSING)
            if value is _MISSING:
                cells.append(NULL)
                continue
            known += 1
            if value is None:
                cells.append(NULL)
                continue
            try:
                cells.append(convert(value))
            except Mistyped:
                cells.append(NULL)
                rescued[name] = value
                self.mistyped[name, type_name(type(value))] += 1
        if known < len(fields):
            columns = {name for name, _ in self.converters}
            rescued |= {name: value for name, value in fields.items() if name not in columns}
        return cells, rescued

    def take(self) -> bytes:
        """The rows that are not sent yet, as COPY reads them."""
        content = "\n".join(self.lines) + "\n" if self.lines else ""
        self.lines.clear()
        return content.encode()


class RowMaker:
    """Makes the rows of a feed's tables out of its records."""

    def __init__(
        self, record: Table, items: Sequence[Table], columns: dict[str, dict[str, ColumnType]]
    ) -> None:
        def rows(table: Table) -> TableRows:
            kinds = columns[table.name]
            return TableRows(table, [(name, CONVERTERS[kind]) for name, kind in kinds.items()])

        self.record = rows(record)
        self.items = [rows(table) for table in items]
        names = [name for name, _ in self.record.converters]
        self._key = [(name, names.index(name)) for name in record.key]

    @property
    def tables(self) -> list[TableRows]:
        """All tables, that of the records first."""
        return [self.record, *self.items]

    def add(self, record: Record, place: str) -> Problem | None:
        """Add the rows of a record; `place` are the cells that say which file it is of, up to its line.

        Returns why it has no key, if it has none: then nothing is added.
        """
        fields = record.fields
        assert fields is not None
        lists = []
        for rows in self.items:
            name = rows.table.items or ""
            lists.append(fields.pop(name) if type(fields.get(name)) is list else None)
        cells, rescued = self.record.cells(fields)
        key = []
        for name, position in self._key:
            cell = cells[position]
            if cell == NULL or not cell:
                return Problem(f"{name} is missing", f"{name} is empty, or not of its type.")
            if len(cell) > MOST_KEY_BYTES:
                return Problem(f"{name} is too long", f"{name} has {len(cell):,} characters.")
            key.append(cell)
        line = str(record.line)
        self.record.lines.append("\t".join([*cells, _rescued(rescued), place.replace("\0", line)]))
        self.record.count += 1
        prefix = "\t".join(key)
        file_id = place.partition("\t")[0]
        for rows, members in zip(self.items, lists, strict=True):
            for number, member in enumerate(members or (), start=1):
                is_object = type(member) is dict
                cells, rescued = rows.cells(member if is_object else {})
                if not is_object:
                    rescued = {MEMBER: member}
                rows.lines.append("\t".join([prefix, str(number), *cells, _rescued(rescued), file_id, line]))
                rows.count += 1
        return None


def _rescued(rescued: dict[str, Any]) -> str:
    return escaped(to_json(rescued)) if rescued else NULL
