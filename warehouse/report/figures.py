"""Figures of the report: convert rows of marts to charts, headlines and warnings."""

from calendar import day_abbr
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import groupby
from math import ceil
from statistics import median
from typing import Any

from warehouse.errors import counted, visible
from warehouse.model.mart import Mart, format_cell, refreshed_tables, title_of
from warehouse.report.charts import Bar, ColumnChart, Slot, bars, compact, stacked_columns
from warehouse.report.read import Content, Row
from warehouse.report.world import HEIGHT, WIDTH, country_paths

ACTIONS = ("view", "search", "add_to_cart", "checkout", "login", "other")
# In the order of their segments in a column, from bottom to top.
STATUSES = (
    "succeeded",
    "skipped",
    "dry run",
    "undone",
    "running",
    "cancelled",
    "stopped",
    "failed",
    "crashed",
)
# Show at most this many unread files.
MOST_FILES = 20
STALE_HOURS = 26
# Name at most this many countries that are not on the map.
MOST_MISSING = 4
BARS_SHOWN = 15


@dataclass(frozen=True)
class Sales:
    """Twelve months of one source in one currency."""

    source: str
    currency: str
    months: Sequence[Row]
    chart: ColumnChart | None

    @property
    def total(self) -> Row:
        """The sum of each amount and count over the months; None if no month has a value."""
        names = [name for name in self.months[0] if name.endswith(("_amount", "_count"))]
        return {name: _total(row[name] for row in self.months) for name in names}


@dataclass(frozen=True)
class Durations:
    """How long the last runs of a flow took."""

    flow: str
    summary: str
    chart: ColumnChart | None


@dataclass(frozen=True)
class Headline:
    """A number that sums up a part of the report."""

    label: str
    value: str
    detail: str


@dataclass(frozen=True)
class Attention:
    """Something that needs attention: its level (`bad` or `warn`), the section with details, and a hint."""

    level: str
    text: str
    anchor: str
    hint: str = ""


@dataclass(frozen=True)
class Notice:
    """An attribution that a licence requires: text, link, and text after the link."""

    text: str
    name: str
    url: str
    rest: str = ""


@dataclass(frozen=True)
class Shape:
    """A country on the map: its SVG path, its shade from 0 (no users) to 4, and its tooltip."""

    path: str
    shade: int
    title: str


@dataclass(frozen=True)
class WorldMap:
    """The world map, its legend by shade, and the countries that are not on it."""

    width: int
    height: int
    shapes: Sequence[Shape]
    legend: Sequence[tuple[int, str]]
    summary: str
    missing: Sequence[str]


def sales(content: Content) -> list[Sales]:
    """Return the monthly sales of the last year, per source and currency."""
    return [
        Sales(months[0]["source_system"], months[0]["currency"], months, _sales_chart(months))
        for _, months in content.in_groups(content["monthly_sales"])
    ]


def traffic_chart(content: Content) -> ColumnChart | None:
    """Chart requests per day by action; days without requests are empty columns."""
    days: dict[date, dict[str, float]] = {}
    for row in content["traffic"]:
        action = row["action"] if row["action"] in ACTIONS else "other"
        counts = days.setdefault(row["request_date"], {})
        counts[action] = counts.get(action, 0) + row["interaction_count"]
    if not days:
        return None
    first, last = min(days), max(days)
    slots = []
    for day in (first + timedelta(n) for n in range((last - first).days + 1)):
        values = days.get(day, {})
        counts_text = ", ".join(
            f"{values[action]:,.0f} {action.replace('_', ' ')}" for action in ACTIONS if values.get(action)
        )
        slots.append(
            Slot(
                f"{day:%-d %b}",
                f"{day:%a %-d %b %Y}: {sum(values.values()):,.0f} requests\n{counts_text}",
                values,
            )
        )
    return stacked_columns(
        slots, {action: action.replace("_", " ") for action in ACTIONS}, gap=0.16, labels=10
    )


def runs_chart(content: Content) -> ColumnChart | None:
    """Chart runs per day by status; days without runs are empty columns."""
    days: dict[date, dict[str, float]] = {}
    for row in content["runs_by_day"]:
        days.setdefault(row["started_date"], {})[row["status"]] = row["run_count"]
    if not days:
        return None
    first, last = min(days), content.read_at.date()
    slots = []
    for day in (first + timedelta(n) for n in range((last - first).days + 1)):
        values = days.get(day, {})
        counts_text = ", ".join(f"{values[status]:,.0f} {status}" for status in STATUSES if status in values)
        slots.append(Slot(f"{day:%-d %b}", f"{day:%a %-d %b %Y}: {counts_text or 'no runs'}", values))
    return stacked_columns(slots, _statuses(content["runs_by_day"]), labels=10)


def durations(content: Content) -> list[Durations]:
    """Chart the durations of the last runs of each flow."""
    return [
        _durations(flow, list(runs))
        for flow, runs in groupby(content["runs_by_flow"], key=lambda run: run["flow"])
    ]


def world_map(content: Content) -> WorldMap | None:
    """Draw the number of logged-in users by country on a map; None if there are none."""
    counts = {row["country"]: row for row in content["countries_by_logged_users"] if row["user_count"]}
    if not counts:
        return None
    largest = max(row["user_count"] for row in counts.values())
    paths = country_paths()
    shapes = [
        Shape(path, _shade(counts[code]["user_count"], largest), _country(counts[code]))
        if code in counts
        else Shape(path, 0, "")
        for code, path in paths.items()
    ]
    legend = [(0, "none")]
    for shade in range(1, 5):
        first, last = largest * (shade - 1) // 4 + 1, largest * shade // 4
        if first <= last:
            legend.append((shade, f"{first:,}" if first == last else f"{first:,} – {last:,}"))
    most = sorted(counts.values(), key=lambda row: -row["user_count"])[:5]
    missing = [_country(row) for code, row in counts.items() if code not in paths]
    if len(missing) > MOST_MISSING:
        missing[MOST_MISSING:] = [f"{len(missing) - MOST_MISSING} more in the table below"]
    return WorldMap(WIDTH, HEIGHT, shapes, legend, "; ".join(map(_country, most)), missing)


def quarantine_bars(content: Content) -> tuple[Bar, ...]:
    """Return bars of quarantined rows per rule."""
    return bars(
        [
            (row["rule"], f"{row['source']} · {row['entity']}", row["waiting_count"])
            for row in content["quarantine_by_rule"]
        ]
    )


@dataclass(frozen=True)
class Group:
    """A mart's rows for one source and currency, with the bars to draw and the name of their measure."""

    title: str
    measure: str
    rows: Sequence[Row]
    columns: Sequence[str]
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Grid:
    """A heat map: numbers by row and column, shaded by their ratio to the largest one."""

    title: str
    columns: Sequence[str]
    rows: Mapping[str, Sequence[float]]

    def shade(self, value: float) -> int:
        """Return the shade of a value: 0 for zero, else 1 to 4."""
        largest = max((each for values in self.rows.values() for each in values), default=0)
        return 0 if value <= 0 or largest <= 0 else _shade(value, largest)

    @staticmethod
    def short(value: float) -> str:
        """Format a number for a narrow cell."""
        return compact(value) if value else ""


@dataclass(frozen=True)
class SourceState:
    """Freshness of a source, with its numbers of tables, quarantined rows and failing checks."""

    source: str
    complete_at: datetime | None
    tables: int
    waiting: int
    failing: int


def source_states(content: Content) -> list[SourceState]:
    """Return the state of each source and feed, and of the stored marts."""
    states = []
    for source, found in groupby(content["table_freshness"], key=lambda row: row["source"]):
        tables = list(found)
        waiting = sum(row["waiting_count"] for row in content["quarantine_size"] if row["source"] == source)
        failing = sum(
            row["outcome"] in ("failed", "warned")
            for row in content["data_quality"]
            if row["source"] == source
        )
        states.append(SourceState(source, _least_complete(tables), len(tables), waiting, failing))
    return states


def _least_complete(tables: Sequence[Row]) -> datetime | None:
    """Return as of when all tables of a source are complete; of the marts, those that refresh-marts maintains."""
    refreshed = refreshed_tables()
    moments = [
        row["complete_at"] for row in tables if row["source"] != "mart" or row["table_name"] in refreshed
    ]
    # Without those that the source no longer declares.
    return min((moment for moment in moments if moment is not None), default=None)


def grouped(content: Content, mart: Mart) -> list[Group]:
    """Group a mart's rows by source and currency, which are never added up, with their bars."""
    assert mart.picture is not None
    label, value = mart.picture
    parts = ("source_system", "currency")
    groups = []
    for group, rows in content.in_groups(content.answers[mart.name]):
        columns = [name for name in rows[0] if name not in parts]
        drawn = [
            (_label(row, label), _detail(row, label), row[value]) for row in rows if row[value] is not None
        ]
        if mart.sequence is None:
            # Sort by value, since the mart may be sorted by category first.
            drawn.sort(key=lambda bar: -bar[2])
        if not any(number for *_, number in drawn):
            continue
        shown = bars(
            [(name, detail, float(number)) for name, detail, number in drawn[:BARS_SHOWN]],
            lambda number: format_cell(value, number),
        )
        groups.append(Group(group, title_of(value), rows, columns, shown))
    return groups


def category_months(content: Content) -> list[Grid]:
    """Return heat maps of net sales by category and month of the last year, per source and currency."""
    grids = []
    for group, rows in content.in_groups(content["category_by_month"]):
        months = sorted({row["ordered_month"] for row in rows})
        amounts = {(row["category"], row["ordered_month"]): float(row["net_amount"]) for row in rows}
        categories = sorted({row["category"] for row in rows})
        grids.append(
            Grid(
                group,
                [f"{month:%b %y}" for month in months],
                {
                    category: [amounts.get((category, month), 0) for month in months]
                    for category in categories
                },
            )
        )
    return grids


def weekday_hours(content: Content) -> Grid | None:
    """Return the heat map of requests by day of the week and hour."""
    rows = content["interactions_by_weekday_hour"]
    if not rows:
        return None
    counts = {(row["day_of_week"], row["request_hour"]): float(row["interaction_count"]) for row in rows}
    return Grid(
        "",
        [f"{hour}" for hour in range(24)],
        {name: [counts.get((day, hour), 0) for hour in range(24)] for day, name in enumerate(day_abbr, 1)},
    )


def feature_bars(content: Content) -> tuple[Bar, ...]:
    """Return bars of the number of customers per profit level."""
    return bars(
        [
            (
                f"Profit level {row['profit_level']}",
                f"{row['source_system']} · {row['spend_last_year_amount']:,.2f} {row['currency']} in the last year, "
                f"as of {row['as_of_date']}",
                row["customer_count"],
            )
            for row in content["customer_features"]
        ]
    )


def _shade(value: float, largest: float) -> int:
    return max(1, ceil(4 * value / largest))


def _country(row: Row) -> str:
    name = row["country_name"] or row["country"]
    return f"{name}: {row['user_count']:,.0f} users"


def _label(row: Row, label: str) -> str:
    text = "–" if row[label] is None else str(row[label])
    return f"Customer {text}" if label.endswith("_key") else text


def _detail(row: Row, label: str) -> str:
    """Return the attributes that distinguish rows with the same label."""
    names = ("category", "customer_country", "country", "loyalty_tier", "traffic_medium", "segment")
    return " · ".join(
        str(row[name]) for name in names if name in row and name != label and row[name] is not None
    )


def headlines(content: Content, groups: Sequence[Sales]) -> list[Headline]:
    """Return the numbers at the top of the report for which there is data."""
    shown = []
    for group in groups[:2]:
        months, total = group.months, group.total
        span = f"{months[0]['month']:%b %Y} – {months[-1]['month']:%b %Y}"
        detail = f"{total['order_count']:,.0f} orders, {span}"
        shown.append(
            Headline(f"Net sales, {group.source}", f"{total['net_amount']:,.0f} {group.currency}", detail)
        )
    if content["traffic"]:
        requests = sum(row["interaction_count"] for row in content["traffic"])
        days = len({row["request_date"] for row in content["traffic"]})
        shown.append(Headline("Requests", f"{requests:,.0f}", f"on the last {days} days with traffic"))
    if tables := content["capture_verification"]:
        equal = sum(table["verdict"] == "equal" for table in tables)
        shown.append(
            Headline(
                "Source = mirror",
                f"{equal} of {len(tables)}",
                "tables: the rows compared in this run are equal",
            )
        )
    quarantined = sum(row["waiting_count"] for row in content["quarantine_size"])
    shown.append(Headline("In quarantine", f"{quarantined:,}", "rows and lines"))
    return shown


def attention(content: Content) -> list[Attention]:
    """List the problems that need attention, worst first."""
    problems = [
        Attention(
            "bad",
            f"{run['flow']} {run['status']} at {run['started_at']:%Y-%m-%d %H:%M} UTC: "
            f"{run['error'] or 'no reason given'}",
            "runs",
            run["hint"] or "",
        )
        for run in content["last_run_of_flow"]
        if run["status"] in ("failed", "stopped", "crashed")
    ]
    problems += [
        Attention("bad", f"{table['source']}.{table['table_name']} and its mirror differ.", "verification")
        for table in content["capture_verification"]
        if table["verdict"] != "equal"
    ]
    warned = [check for check in content["data_quality"] if check["outcome"] == "warned"]
    for (source, dataset), checks in groupby(warned, key=lambda check: (check["source"], check["dataset"])):
        batch = "web-log batch" if source == "weblogs" else f"{dataset} batch of {source}"
        names = ", ".join(f"{check['check_name']} ({check['measured'] or 0:,.0f})" for check in checks)
        problems.append(Attention("warn", f"The last {batch} has warnings: {names}.", "quality"))
    problems += [
        Attention(
            "warn",
            visible(f"{file['path']} {file['reason']}: it is not read."),
            "quality",
            file["hint"] or "",
        )
        for file in content["unread_file"]
        if file["status"] in ("unrecognized", "unread")
    ][:MOST_FILES]
    for source, complete_at in sorted(_complete(content).items()):
        if content.read_at - complete_at > timedelta(hours=STALE_HOURS):
            problems.append(
                Attention(
                    "warn",
                    f"{source} was last read completely {age(complete_at, content.read_at)}.",
                    "freshness",
                )
            )
    return problems


def notices(content: Content) -> list[Notice]:
    """Return the attributions that the licences of the used GeoIP databases require."""
    attributions = []
    for row in content["geoip"]:
        if row["geoip"].lower().startswith(("dbip", "db-ip")):
            text = f"Countries of addresses ({row['geoip']}): IP geolocation by"
            attributions.append(
                Notice(text, "DB-IP", "https://db-ip.com", "Creative Commons Attribution 4.0.")
            )
        elif row["geoip"].lower().startswith(("geolite", "geoip2")):
            text = f"Countries of addresses ({row['geoip']}): GeoLite2 data created by"
            attributions.append(Notice(text, "MaxMind", "https://www.maxmind.com"))
    return attributions


def age(moment: datetime | None, now: datetime) -> str:
    """Format an age roughly: 40 s ago, 5 min ago, 3 h ago, 12 days ago."""
    if moment is None:
        return "never"
    seconds = max((now - moment).total_seconds(), 0)
    for unit, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def _complete(content: Content) -> dict[str, datetime]:
    return {
        row["source"]: row["complete_at"]
        for row in content["table_freshness"]
        if row["source"] != "mart" and row["complete_at"] is not None
    }


def _durations(flow: str, runs: Sequence[Row]) -> Durations:
    worked: list[float] = [
        run["duration_seconds"] for run in runs if run["status"] not in ("crashed", "skipped")
    ]
    longest = max(worked, default=1.0)
    # The recorded duration of a crashed run is meaningless, that of a skipped one near 0: draw both in a visible size.
    shown = {"crashed": longest, "skipped": longest / 20}
    slots = [
        Slot(
            f"{run['started_at']:%-d %b}",
            f"Run {run['run_id']}, {run['started_at']:%Y-%m-%d %H:%M}: {run['status']} after "
            f"{run['duration_seconds']:,.1f} s",
            {run["status"]: shown.get(run["status"]) or run["duration_seconds"]},
        )
        for run in runs
    ]
    usual = f"median {median(worked):,.1f} s, longest {longest:,.1f} s" if worked else "none succeeded"
    return Durations(
        flow, f"last {counted(len(runs), 'run')}: {usual}", stacked_columns(slots, _statuses(runs), labels=5)
    )


def _statuses(rows: Sequence[Row]) -> dict[str, str]:
    seen = {row["status"] for row in rows}
    return {status: status for status in STATUSES if status in seen}


def _sales_chart(months: Sequence[Row]) -> ColumnChart | None:
    slots = []
    for row in months:
        returned, net = float(row["returned_net_amount"]), float(row["net_amount"])
        profit = row["profit_amount"]
        slots.append(
            Slot(
                f"{row['month']:%b %y}",
                f"{row['month']:%B %Y}: {row['order_count']:,} orders\nbefore discount {row['gross_amount']:,.2f}\n"
                f"after discount {net:,.2f}\nof which returned {returned:,.2f}"
                + (f"\nprofit {profit:,.2f}" if profit is not None else ""),
                {"kept": net - returned, "returned": returned, "discount": float(row["discount_amount"])},
                None if profit is None else float(profit),
            )
        )
    return stacked_columns(
        slots, {"kept": "net sales, kept", "returned": "net sales, returned since", "discount": "discount"}
    )


def _total(values: Any) -> float | None:
    numbers = [value for value in values if value is not None]
    return sum(numbers) if numbers else None
