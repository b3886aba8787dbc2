"""Benchmark of loading access logs into PostgreSQL: dwh, a bare COPY as the lower bound, and other tools."""
