"""Personal data: which columns hold it, and views that show them masked or not at all."""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from warehouse.model.declaration import Dimension
from warehouse.model.schema import TABLES
from warehouse.model.star import DIMENSIONS
from warehouse.model.tables import HAS_QUARANTINED_UPDATE, dimension_table

MARTS: Final = Path(__file__).parent / "marts" / "comments.toml"
# Marts that show personal data, with their masked views.
MASKED_MARTS: Final = {"sales": "sales_masked"}


class Label(NamedTuple):
    """A column that holds personal data, and of which kind."""

    schema: str
    table: str
    column: str
    kind: str


class Mask(NamedTuple):
    """How a kind of personal data is shown; other kinds are left out."""

    # In place of the last word of the column's name, or after it.
    word: str
    expression: str
    description: str


MASKS: Final = {
    "name": Mask("masked", "left({0}, 1) || '***'", "First letter of: {0}"),
    "e-mail": Mask("masked", "regexp_replace({0}, '^.*@', '***@')", "Domain of: {0}"),
    "document number": Mask("masked", "'***' || right({0}, 2)", "Last two characters of: {0}"),
    "birth date": Mask(
        "year_date", "date_trunc('year', {0}::timestamp)::date", "First day of the year of: {0}"
    ),
}
# Beside the star: rows and lines in quarantine, addresses on their way to another country.
OTHER_LABELS: Final = (
    Label("audit", "quarantine", "row_data", "rows of any kind"),
    Label("audit", "quarantine", "raw_text", "lines of any kind"),
    Label("staging", "weblog_moving", "ip_address", "IP address"),
)


@dataclass(frozen=True)
class MaskedView:
    """A view in schema mart without personal data."""

    name: str
    description: str
    query: str
    # Description by column.
    columns: Mapping[str, str]


def labels() -> Iterator[Label]:
    """Every column that holds personal data: of the star as declared, of marts, of audit and staging tables."""
    for table in TABLES:
        for column in table.columns:
            if column.personal:
                yield Label(table.schema, table.name, column.name, column.personal)
    for mart, entry in _marts().items():
        for name, kind in entry.get("personal", {}).items():
            yield Label("mart", mart, name, kind)
    yield from OTHER_LABELS
    # The shop's customers have these columns under the same names.
    (customer,) = [dimension for dimension in DIMENSIONS if dimension.entity == "customer"]
    for column in customer.columns:
        if column.personal:
            yield Label("raw", "shop_customer", column.name, column.personal)


def masked_views() -> list[MaskedView]:
    """A view of each dimension that holds personal data, as its members are now, and of each such mart."""
    views = [
        _masked_dimension(dimension)
        for dimension in DIMENSIONS
        if any(column.personal for column in dimension.columns)
    ]
    marts = _marts()
    for mart, name in MASKED_MARTS.items():
        columns, personal = marts[mart]["columns"], marts[mart]["personal"]
        selected, comments = _masked(columns, personal, mart)
        views.append(
            MaskedView(
                name,
                f"{marts[mart]['comment']} Personal data are masked.",
                f"select {selected} from mart.{mart} as {mart}",
                comments,
            )
        )
    return views


def _masked_dimension(dimension: Dimension) -> MaskedView:
    entity = dimension.entity
    kept = {"source_system", *dimension.natural_key, *dimension.attributes, HAS_QUARANTINED_UPDATE.name}
    columns = {column.name: column for column in dimension_table(dimension).columns if column.name in kept}
    selected, comments = _masked(
        {name: column.description for name, column in columns.items()},
        {name: column.personal for name, column in columns.items() if column.personal},
        entity,
    )
    present = "is_current" if dimension.has_history else "not is_deleted"
    return MaskedView(
        f"{entity}_masked",
        f"One row per {entity} as it is now; personal data are masked or left out.",
        f"select {selected} from dwh.{dimension.table} as {entity} where {present} and {dimension.key} <> 0",
        comments,
    )


def _masked(
    columns: Mapping[str, str], personal: Mapping[str, str], table: str
) -> tuple[str, dict[str, str]]:
    """The select list, and the description of each column."""
    selected, comments = [], {}
    for name, description in columns.items():
        if name not in personal:
            selected.append(f"{table}.{name}")
            comments[name] = description
        elif mask := MASKS.get(personal[name]):
            masked = f"{name.removesuffix('_date') if mask.word.endswith('_date') else name}_{mask.word}"
            selected.append(f"{mask.expression.format(f'{table}.{name}')} as {masked}")
            comments[masked] = mask.description.format(_uncapitalized(description))
    return ", ".join(selected), comments


def _uncapitalized(description: str) -> str:
    text = description.removesuffix(" (personal data)")
    return text[0].lower() + text[1:] if text[1:2].islower() else text


def _marts() -> dict[str, dict[str, dict[str, str]]]:
    marts: dict[str, dict[str, dict[str, str]]] = tomllib.loads(MARTS.read_text())["mart"]
    return {name: entry for name, entry in marts.items() if isinstance(entry, dict)}
