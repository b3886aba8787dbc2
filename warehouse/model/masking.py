"""Personal data: label the columns that hold it, and define views that mask or omit them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from warehouse.model.declaration import Dimension
from warehouse.model.mart import read_marts
from warehouse.model.schema import TABLES
from warehouse.model.star import DIMENSIONS
from warehouse.model.tables import HAS_QUARANTINED_UPDATE, dimension_table

# Marts with personal data that have a masked view; other marts with personal data only feed these.
MASKED_MARTS: Final = (
    "sales",
    "orders",
    "order_totals",
    "customer_order_totals",
    "customer_ranking",
    "customer_feature",
    "leads",
)


class Label(NamedTuple):
    """A column that holds personal data, with the kind."""

    schema: str
    table: str
    column: str
    kind: str


class Mask(NamedTuple):
    """How a kind of personal data is masked; columns of other kinds are omitted."""

    # Suffix of the masked column's name; a suffix that ends in _date replaces the name's own _date.
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
# Columns outside of the star: rows and lines in quarantine, and addresses that are moved to another country.
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
    """Yield the columns that hold personal data: of star, marts, audit and staging tables, and the shop's mirror."""
    for table in TABLES:
        for column in table.columns:
            if column.personal:
                yield Label(table.schema, table.name, column.name, column.personal)
    for mart in read_marts().values():
        for name, kind in mart.personal.items():
            yield Label("mart", mart.name, name, kind)
    yield from OTHER_LABELS
    # The mirror of the shop's customers has columns of the same names.
    (customer,) = [dimension for dimension in DIMENSIONS if dimension.entity == "customer"]
    for column in customer.columns:
        if column.personal:
            yield Label("raw", "shop_customer", column.name, column.personal)


def masked_views() -> list[MaskedView]:
    """Return a view for each dimension with personal data, on its current members, and for each of MASKED_MARTS."""
    views = [
        _masked_dimension(dimension)
        for dimension in DIMENSIONS
        if any(column.personal for column in dimension.columns)
    ]
    for name in MASKED_MARTS:
        mart = read_marts()[name]
        selected, comments = _masked(mart.columns, mart.personal, name)
        views.append(
            MaskedView(
                f"{name}_masked",
                f"{mart.description} Personal data are masked, customers have their surrogate key.",
                f"select {selected} from mart.{name} as {name}",
                comments,
            )
        )
    return views


def _masked_dimension(dimension: Dimension) -> MaskedView:
    entity = dimension.entity
    # Natural keys are omitted, since those of some sources contain names; members have their surrogate key.
    kept = {"source_system", dimension.key, *dimension.attributes, HAS_QUARANTINED_UPDATE.name}
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
    """Return the select list, and descriptions by column."""
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
