"""Declaration of the web-log aggregates: keys, measures, and how both are computed from rows of dwh.fact_weblog.

All SQL that adds to them, subtracts from them, moves counts between keys or recounts them is generated from this
declaration: loads, retention, undo, re-classification, dry runs and reconcile.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from psycopg import sql

from warehouse.db.identifiers import listed, qualified
from warehouse.model import weblog

FACT: Final = sql.Identifier("dwh", "fact_weblog")
USER: Final = "web_user_key"
LAST_SEEN: Final = "last_seen_date"
# Types of key columns that are computed.
_DERIVED: Final = {"request_date": "date", "quarter_hour_at": "timestamptz"}
_ONE: Final = sql.Literal(1)
_REQUEST_DATE: Final = "(weblog.requested_at at time zone 'UTC')::date"
# In every time zone since 1972, a local day is a whole number of quarter hours.
_QUARTER_HOUR: Final = "date_bin('15 minutes', weblog.requested_at, timestamptz '1970-01-01 00:00:00+00')"


@dataclass(frozen=True)
class AggregateTable:
    """The table dwh.agg_weblog_<name>; additions of a batch are staged in staging.weblog_<name>."""

    name: str
    key: tuple[str, ...]
    # Column of the count, or, for pairs of a key and a user, of the day on which the user was last seen.
    measure: str

    @property
    def table(self) -> str:
        return f"agg_weblog_{self.name}"

    @property
    def staged_table(self) -> str:
        return f"weblog_{self.name}"

    @property
    def staged(self) -> sql.Identifier:
        return sql.Identifier("staging", self.staged_table)


@dataclass(frozen=True)
class Aggregate(AggregateTable):
    """Counts of requests by key. With `users`, also `user_count`, the number of rows of that table by key."""

    # Key columns with their expression over `weblog`, a row of the fact; others are columns of dwh.dim_request.
    from_fact: Mapping[str, str]
    # Condition, on a row `request` of dwh.dim_request, for requests that count.
    condition: str = "true"
    users: AggregateTable | None = None

    @property
    def measures(self) -> tuple[str, ...]:
        return (self.measure, "user_count") if self.users else (self.measure,)


def _aggregate(
    name: str,
    from_fact: Mapping[str, str],
    from_request: tuple[str, ...] = (),
    *,
    measure: str = "request_count",
    condition: str = "true",
    has_users: bool = False,
) -> Aggregate:
    key = (*from_fact, *from_request)
    users = AggregateTable(f"{name}_user", (*key, USER), LAST_SEEN) if has_users else None
    return Aggregate(name, key, measure, from_fact, condition, users)


AGGREGATES: Final = (
    _aggregate("country", {"country": "weblog.country"}, has_users=True),
    _aggregate("device", {"device_key": "weblog.device_key"}, has_users=True),
    _aggregate(
        "country_product",
        {"country": "weblog.country"},
        ("product_id",),
        measure="view_count",
        condition="request.action = 'view' and request.product_id is not null",
    ),
    # UTC days are for maintenance, quarter hours for days in the company's time zone.
    _aggregate("day", {"request_date": _REQUEST_DATE}, ("action",)),
    _aggregate("quarter_hour", {"quarter_hour_at": _QUARTER_HOUR}, ("action",)),
)
TABLES: Final[tuple[AggregateTable, ...]] = tuple(
    table for one in AGGREGATES for table in (one, one.users) if table is not None
)


def count_rows(aggregate: Aggregate, rows: sql.Composable, weight: sql.Composable = _ONE) -> sql.Composed:
    """Select key and measure of `rows`, a relation with the columns of the fact; each row counts `weight` times."""
    counted = sql.SQL(
        "select {expressions}, {request} sum({weight})::bigint as {measure} from {rows} as weblog"
    ).format(
        expressions=_expressions(aggregate),
        request=sql.SQL("weblog.request_key," if aggregate.key != tuple(aggregate.from_fact) else ""),
        weight=weight,
        measure=sql.Identifier(aggregate.measure),
        rows=rows,
    )
    groups = sql.SQL(", ").join(map(sql.SQL, aggregate.from_fact.values()))
    if aggregate.key == tuple(aggregate.from_fact):
        return sql.SQL("{} group by {}").format(counted, groups)
    from_request = [column for column in aggregate.key if column not in aggregate.from_fact]
    # Few request lines are distinct, so count rows before joining dim_request.
    return sql.SQL(
        """
        select {keys}, sum(counted.{measure})::bigint as {measure}
        from ({counted} group by {groups}, weblog.request_key) as counted
        inner join dwh.dim_request as request on counted.request_key = request.request_key
        where {condition}
        group by {keys}
        """
    ).format(
        keys=sql.SQL(", ").join(
            [qualified("counted", tuple(aggregate.from_fact)), qualified("request", from_request)]
        ),
        measure=sql.Identifier(aggregate.measure),
        counted=counted,
        groups=groups,
        condition=sql.SQL(aggregate.condition),
    )


def list_users(aggregate: Aggregate, rows: sql.Composable) -> sql.Composed:
    """Select the logged-in users of `rows` by key, with the day on which each was last seen."""
    return sql.SQL(
        """
        select {expressions}, weblog.web_user_key, max({day}) as last_seen_date
        from {rows} as weblog where weblog.web_user_key <> 0
        group by {key}, weblog.web_user_key
        """
    ).format(
        expressions=_expressions(aggregate),
        day=sql.SQL(_REQUEST_DATE),
        rows=rows,
        key=sql.SQL(", ").join(map(sql.SQL, aggregate.from_fact.values())),
    )


def count_rows_and_users(aggregate: Aggregate) -> sql.Composed:
    """Select key and all measures, computed from the whole fact."""
    if aggregate.users is None:
        return count_rows(aggregate, FACT)
    return sql.SQL(
        """
        select
            {key}, sum(by_user.row_count)::bigint as {measure},
            count(*) filter (where by_user.web_user_key <> 0) as user_count
        from (
            select {expressions}, weblog.web_user_key, count(*) as row_count from {fact} as weblog
            group by {groups}, weblog.web_user_key
        ) as by_user
        group by {key}
        """
    ).format(
        key=listed(aggregate.key),
        measure=sql.Identifier(aggregate.measure),
        expressions=_expressions(aggregate),
        fact=FACT,
        groups=sql.SQL(", ").join(map(sql.SQL, aggregate.from_fact.values())),
    )


def _expressions(aggregate: Aggregate) -> sql.Composed:
    return sql.SQL(", ").join(
        sql.SQL("{} as {}").format(sql.SQL(expression), sql.Identifier(column))
        for column, expression in aggregate.from_fact.items()
    )


def create_staged(aggregate: AggregateTable) -> str:
    """Return the statement that creates the staging table of an aggregate."""
    types = _types()
    kind = "bigint" if isinstance(aggregate, Aggregate) else "date"
    columns = [
        *(f"{name} {types[name]} not null" for name in aggregate.key),
        f"{aggregate.measure} {kind} not null",
    ]
    return f"create unlogged table staging.{aggregate.staged_table} ({', '.join(columns)})"


def create_aggregate(aggregate: AggregateTable) -> str:
    """Return the statement that creates the table of an aggregate."""
    types = _types()
    measures = aggregate.measures if isinstance(aggregate, Aggregate) else ()
    columns = [
        *(f"{name} {types[name]} not null" for name in aggregate.key),
        *(f"{name} bigint not null" for name in measures),
        "run_id bigint not null",
        *(() if measures else (f"{aggregate.measure} date",)),
        f"constraint pk_{aggregate.table} primary key ({', '.join(aggregate.key)})",
    ]
    # Free space in pages keeps updates within the page (HOT).
    return f"create table dwh.{aggregate.table} ({', '.join(columns)}) with (fillfactor = {70 if measures else 80})"


def _types() -> Mapping[str, str]:
    """Types of key columns by name."""
    columns = (*weblog.REQUEST.columns, *weblog.FACT.columns)
    return {column.name: column.type for column in columns} | _DERIVED
