"""The HTML report: marts, runs and quality in one file that needs no network."""

from warehouse.report.write import write

__all__ = ["write"]
