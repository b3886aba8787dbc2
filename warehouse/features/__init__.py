"""Customer features for analysis and model training: built per as-of date, exported, clustered."""

from warehouse.features.build import build

__all__ = ["build"]
