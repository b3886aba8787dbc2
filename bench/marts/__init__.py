"""Benchmark of marts and dashboards: how long readers wait."""
