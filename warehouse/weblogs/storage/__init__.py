"""Store parsed rows in tables: dictionaries, partitions, aggregates, COPY."""
