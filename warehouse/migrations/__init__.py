"""Alembic migrations: the only place with DDL of the warehouse's tables.

Numbered migrations in `versions/` change tables and are frozen; `revisions` runs them. Views, functions, triggers,
comments and grants are declared in files (`declared`) and applied after the last one, in the same transaction.
"""
