"""Runs the revisions for Alembic, on the connection that `schema.migrate` passes."""

from alembic import context

from rag_pipeline.stores.postgres.schema import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"], version_table=VERSION_TABLE, transaction_per_migration=True
)
with context.begin_transaction():
    context.run_migrations()
