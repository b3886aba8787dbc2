"""Alembic's environment: one connection, handed in by `warehouse.migrations`."""

from alembic import context

connection = context.config.attributes["connection"]
# A migration that waits for a lock makes every reader wait behind it: it gives up soon, and can be run again.
connection.exec_driver_sql("set local lock_timeout = '30s'")
connection.exec_driver_sql("set local timezone = 'UTC'")
context.configure(connection=connection, transaction_per_migration=False)
with context.begin_transaction():
    context.run_migrations()
