"""When a picture was submitted again, by which it is kept for so much longer."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add a column that services of revision 0009 need not know."""
    op.add_column("images", sa.Column("submitted_at", sa.BigInteger))
