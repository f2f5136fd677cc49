"""Findings, holds, what was learned, sightings, and messages to systems outside.

A broker that does not know holds would give a held task what it must not get: none begins on this schema.
"""

import sqlalchemy as sa
from alembic import op

from broker.adapters.store.migrating import leave_behind

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def _text(length: int | None = None) -> sa.types.TypeEngine[str]:
    """Compared byte by byte in every database."""
    if length is None:
        return sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    leave_behind(op.get_bind(), revision)
    op.add_column("tasks", sa.Column("hold", _text(16), nullable=True))
    op.create_table(
        "findings",
        sa.Column("finding_id", _text(64), primary_key=True),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("detector", _text(32), nullable=False),
        sa.Column("rule", _text(64), nullable=False),
        sa.Column("severity", _text(16), nullable=False),
        sa.Column("confidence", sa.Double, nullable=False),
        sa.Column("instance", _text(), nullable=False),
        sa.Column("task_id", _text(64), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("found_at", sa.BigInteger, nullable=False),
        sa.Column("evidence", _text(), nullable=False),
        sa.Column("expected", _text(), nullable=False),
        sa.Column("happened", _text(), nullable=False),
        sa.Column("source", _text(), nullable=False),
        sa.Column("event_key", _text(), nullable=False),
        sa.Column("answer", _text(16), nullable=False),
        sa.Column("answered_at", sa.BigInteger),
        sa.Column("mark", _text(16), nullable=False),
        sa.Column("marked_by", _text(), nullable=False),
    )
    op.create_index("findings_in_order", "findings", ["number"], unique=True)
    op.create_index("findings_by_task", "findings", ["task_id"])
    op.create_index("findings_by_instance", "findings", ["instance", "number"])
    waiting = sa.text("answered_at IS NULL")
    op.create_index(
        "findings_unanswered", "findings", ["number"], sqlite_where=waiting, postgresql_where=waiting
    )
    op.create_table(
        "models",
        sa.Column("name", _text(32), primary_key=True),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("data", _text(), nullable=False),
    )
    op.create_table(
        "sightings",
        sa.Column("instance", _text(), primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("address", _text(64), nullable=False),
        sa.Column("svid_sha256", _text(64), nullable=False),
        sa.Column("key_fingerprint", _text(128), nullable=False),
    )
    op.create_table(
        "messages",
        sa.Column("message_id", _text(64), primary_key=True),
        sa.Column("receiver", _text(64), nullable=False),
        sa.Column("kind", _text(32), nullable=False),
        sa.Column("body", _text(), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_attempt_at", sa.BigInteger, nullable=False),
    )
    op.create_index("messages_in_order", "messages", ["receiver", "created_at", "message_id"])


def downgrade() -> None:
    for table in ("messages", "sightings", "models", "findings"):
        op.drop_table(table)
    op.drop_column("tasks", "hold")
