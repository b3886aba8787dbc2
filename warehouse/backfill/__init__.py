"""Backfill: which days of a source or feed are loaded, and how a day is loaded again."""

from warehouse.backfill.calendar import ensure_days, feeds_of, plan, read_calendar
from warehouse.backfill.facts import FactDays
from warehouse.backfill.partition import Feed, Partition
from warehouse.backfill.trail import done_by, load_day

__all__ = [
    "FactDays",
    "Feed",
    "Partition",
    "done_by",
    "ensure_days",
    "feeds_of",
    "load_day",
    "plan",
    "read_calendar",
]
