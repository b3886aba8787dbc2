"""Decide how a run reads each table of a source: small ones completely, large ones by scan or index, or not at all."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import psycopg

from warehouse.extract.access_paths import AccessPaths
from warehouse.extract.catalog import columns_of_each
from warehouse.extract.expected import live_rows
from warehouse.extract.limits import ReadLimits
from warehouse.extract.open_transactions import OpenTransactions
from warehouse.extract.watermark import Watermark, Window
from warehouse.sources.source import Table

# scan: every row is looked at. cursor: changed rows are read by the cursor's index. skip: nothing is read.
Way = Literal["scan", "cursor", "skip"]


@dataclass(frozen=True)
class Reading:
    """How a table is read in a run, and a note about it for the user."""

    way: Way
    note: str | None = None


def smallest_tables(
    writer: psycopg.Connection, watermarks: Mapping[Table, Watermark | None], scan_rows: int
) -> set[Table]:
    """Select the smallest tables, up to `scan_rows` rows in total: they are compared completely in every run."""
    mirrors = columns_of_each(writer, *(("raw", table.mirror) for table in watermarks))
    sizes = {
        table: live_rows(writer, table) if watermark.row_count is None else watermark.row_count
        for (table, watermark), mirrored in zip(watermarks.items(), mirrors, strict=True)
        if watermark is not None and mirrored
    }
    return take_smallest(sizes, scan_rows)


def take_smallest(sizes: Mapping[Table, int], scan_rows: int) -> set[Table]:
    """Select the smallest tables, up to `scan_rows` rows in total; `sizes` are their rows."""
    small, total = set(), 0
    for table, rows in sorted(sizes.items(), key=lambda item: (item[1], item[0].name)):
        total += rows
        if total > scan_rows:
            break
        small.add(table)
    return small


def last_open_transactions(watermarks: Mapping[Table, Watermark | None]) -> OpenTransactions | None:
    """Return the transactions that were open at the last snapshot of the source; None if they were not recorded."""
    recorded = [
        (watermark.captured_at, watermark.open_transactions)
        for watermark in watermarks.values()
        if watermark is not None and watermark.open_transactions is not None
    ]
    return max(recorded, key=lambda one: one[0])[1] if recorded else None


def choose_reading(
    table: Table,
    window: Window,
    paths: AccessPaths,
    limits: ReadLimits,
    taken_at: datetime,
    *,
    has_ranges: bool,
) -> Reading:
    """Decide how a table that is too large to be scanned in every run is read in this one."""
    watermark = window.watermark
    if watermark is None or window.is_rewritten or window.new_relations:
        return Reading("scan")
    since_scan = taken_at - watermark.complete_at
    if not paths.has_cursor_index:
        if is_due(since_scan, limits.scan_interval):
            return Reading("scan")
        reason = f"no index begins with {table.cursor}" if table.cursor else "it has no cursor"
        return Reading(
            "skip",
            f"not read in this run: {reason}, so that it is scanned every {limits.scan_interval}, last at "
            f"{watermark.complete_at:%Y-%m-%d %H:%M:%S} UTC",
        )
    if watermark.open_transactions is None:
        return Reading("scan")
    if paths.key_order is None:
        # Without a common order of its keys, it cannot be verified by ranges: scan it before `verify_within` is over.
        interval = taken_at - watermark.captured_at
        return Reading("scan" if is_due(since_scan + interval, limits.verify_within) else "cursor")
    return Reading("cursor" if has_ranges else "scan")


def is_due(elapsed: timedelta, interval: timedelta) -> bool:
    """Whether an interval has passed; also true if the source's clock was set back."""
    return elapsed >= interval or elapsed < timedelta(0)
