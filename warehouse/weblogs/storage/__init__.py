"""Parsed rows into tables: dictionaries, partitions, aggregates, COPY."""
