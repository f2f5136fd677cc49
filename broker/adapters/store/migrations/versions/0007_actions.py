"""Tools in a task's scope, and its chain of actions."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def _text(length: int | None = None) -> sa.types.TypeEngine[str]:
    """Compared byte by byte in every database."""
    if length is None:
        return sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("tasks", sa.Column("tools", _text(), nullable=True))
    op.create_table(
        "actions",
        sa.Column("action_id", _text(64), primary_key=True),
        sa.Column("task_id", _text(64), sa.ForeignKey("tasks.task_id"), nullable=False),
        sa.Column("owner", _text(), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("kind", _text(16), nullable=False),
        sa.Column("name", _text(64), nullable=False),
        sa.Column("verbs", _text(), nullable=False),
        sa.Column("resource", _text(), nullable=False),
        sa.Column("destination", _text(), nullable=False),
        sa.Column("arguments_digest", _text(64), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("allowed", sa.Boolean, nullable=False),
        sa.Column("reason", _text(64), nullable=False),
        sa.Column("denial_class", _text(16)),
        sa.Column("labels", _text(), nullable=False),
        sa.Column("sticks_until", sa.BigInteger),
        sa.Column("outcome", _text(16), nullable=False),
        sa.Column("closed_at", sa.BigInteger),
        sa.Column("idempotency_key", _text(128)),
    )
    op.create_index("actions_in_order", "actions", ["task_id", "position"], unique=True)
    keyed = sa.text("idempotency_key IS NOT NULL")
    op.create_index(
        "actions_one_per_key",
        "actions",
        ["task_id", "idempotency_key"],
        unique=True,
        sqlite_where=keyed,
        postgresql_where=keyed,
    )
    op.create_index("actions_denied", "actions", ["owner", "sticks_until"])


def downgrade() -> None:
    op.drop_table("actions")
    op.drop_column("tasks", "tools")
