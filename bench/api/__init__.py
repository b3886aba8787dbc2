"""Benchmark of the order API: orders per second, compared with psql."""
