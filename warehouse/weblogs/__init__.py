"""Web logs: loads the access logs of the lake into dwh.fact_weblog."""

from warehouse.weblogs.dry_run import WeblogDryRun, dry_run_load
from warehouse.weblogs.loader import load
from warehouse.weblogs.maintenance.reclassify import Reclassified, reclassify
from warehouse.weblogs.maintenance.retention import Removed, retain
from warehouse.weblogs.result import FileLoad, Progress, WeblogLoad

__all__ = [
    "FileLoad",
    "Progress",
    "Reclassified",
    "Removed",
    "WeblogDryRun",
    "WeblogLoad",
    "dry_run_load",
    "load",
    "reclassify",
    "retain",
]
