"""Connections, locks, SQL composition, schema version, roles."""
