"""How well each face can be recognised."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add what services of revision 0002 need not know: they leave the new column NULL."""
    op.add_column("faces", sa.Column("quality", sa.JSON))
