"""What a newer version needs and an older one does not know: a column that may be NULL."""
# ruff: noqa: INP001, it becomes a module of an image

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the column."""
    op.add_column("images", sa.Column("camera", sa.String(100)))
