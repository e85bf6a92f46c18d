"""Alembic's entry point; ``__main__`` puts the connection into the config."""

from alembic import context

from services.common.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite alters a table by copying it
)
with context.begin_transaction():
    context.run_migrations()
