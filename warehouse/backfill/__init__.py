"""Backfill: which days of a source or of the web logs are loaded, and how a day is loaded again."""

from warehouse.backfill.calendar import daily_loads, ensure_days, plan, read_calendar
from warehouse.backfill.facts import FactDays
from warehouse.backfill.partition import DailyLoad, Partition
from warehouse.backfill.trail import done_by, load_day

__all__ = [
    "DailyLoad",
    "FactDays",
    "Partition",
    "daily_loads",
    "done_by",
    "ensure_days",
    "load_day",
    "plan",
    "read_calendar",
]
