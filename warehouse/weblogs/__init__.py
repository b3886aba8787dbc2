"""Web logs: access logs in the lake become rows of dwh.fact_weblog, fast and without losing a line."""

from warehouse.weblogs.loader import load
from warehouse.weblogs.reclassify import Reclassified, reclassify
from warehouse.weblogs.rehearsal import Rehearsal, rehearse
from warehouse.weblogs.result import FileLoad, Progress, WeblogLoad
from warehouse.weblogs.retention import Removed, retain

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
