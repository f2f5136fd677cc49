"""Quarantines of instances, classes and trust domains, with who imposed them."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "quarantines",
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("imposed_by", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "name"),
    )
    op.execute(
        "INSERT INTO quarantines (kind, name, since, imposed_by, reason) "
        "SELECT 'instance', spiffe_id, since, '', reason FROM quarantined_instances"
    )
    op.drop_table("quarantined_instances")
    op.create_index("tasks_by_class_state", "tasks", ["agent_class", "state"], unique=False)


def downgrade() -> None:
    message = "the older schema cannot hold quarantines of classes and trust domains: restore a copy instead"
    raise NotImplementedError(message)
