"""Alembic's environment: one connection, whose transaction, lock and timeouts `warehouse.migrations.revisions` sets."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transaction_per_migration=False)
with context.begin_transaction():
    context.run_migrations()
