"""What a newer version needs and an older one does not know: a column that may be NULL."""
# ruff: noqa: INP001, it becomes a module of an image

from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision = "9999"
down_revision = max(file.name[:4] for file in Path(__file__).parent.glob("[0-9]*.py"))


def upgrade() -> None:
    """Add the column."""
    op.add_column("images", sa.Column("camera", sa.String(100)))
