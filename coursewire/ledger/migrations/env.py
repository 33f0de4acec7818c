"""Run by Alembic; the connection comes from `coursewire.ledger.migrate`."""

from alembic import context

from coursewire.ledger.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
