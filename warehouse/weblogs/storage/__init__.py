"""Parsed rows into tables: lookups, partitions, aggregates, COPY."""
