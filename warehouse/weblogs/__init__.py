"""Web logs: access logs in the lake become rows of dwh.fact_weblog, fast and without losing a line."""

from warehouse.weblogs.dry_run import Rehearsal, rehearse
from warehouse.weblogs.loader import load
from warehouse.weblogs.maintenance.reclassify import Reclassified, reclassify
from warehouse.weblogs.maintenance.retention import Removed, retain
from warehouse.weblogs.result import FileLoad, Progress, WeblogLoad

__all__ = [
    "FileLoad",
    "Progress",
    "Reclassified",
    "Rehearsal",
    "Removed",
    "WeblogLoad",
    "load",
    "reclassify",
    "rehearse",
    "retain",
]
