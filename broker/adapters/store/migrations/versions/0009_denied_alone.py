"""Only what sticks is in the index of what was denied: nearly every action is allowed, and was written there for nothing."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("actions_denied", "actions")
    sticks = sa.text("sticks_until IS NOT NULL")
    op.create_index(
        "actions_denied",
        "actions",
        ["owner", "sticks_until"],
        sqlite_where=sticks,
        postgresql_where=sticks,
    )


def downgrade() -> None:
    op.drop_index("actions_denied", "actions")
    op.create_index("actions_denied", "actions", ["owner", "sticks_until"])
