"""By when a task's owner has to come with a newer SVID."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tasks", sa.Column("svid_due", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("tasks", "svid_due")
