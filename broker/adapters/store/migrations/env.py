"""Alembic's entry: runs on the connection that migrating.py opened."""

from alembic import context

from broker.adapters.store.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
