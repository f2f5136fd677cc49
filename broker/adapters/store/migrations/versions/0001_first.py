"""Tasks, task tokens, leases, the audit chain and quarantined instances."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_APPEND_ONLY = """
CREATE TRIGGER audit_records_no_{event} BEFORE {event} ON audit_records
BEGIN SELECT RAISE(ABORT, 'audit records are append-only'); END
"""
_APPEND_ONLY_FUNCTION = """
CREATE FUNCTION audit_records_append_only() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'audit records are append-only'; END $$
"""
_APPEND_ONLY_POSTGRESQL = """
CREATE TRIGGER audit_records_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_records
FOR EACH STATEMENT EXECUTE FUNCTION audit_records_append_only()
"""


def upgrade() -> None:
    op.create_table(
        "audit_records",
        sa.Column(
            "sequence",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=False,
            nullable=False,
        ),
        sa.Column("previous_hash", sa.String(length=64), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("task_id", sa.String(length=64), nullable=False),
        sa.Column("lease_id", sa.String(length=64), nullable=False),
        sa.Column("request_id", sa.String(length=64), nullable=False),
        sa.Column("facts", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("sequence"),
    )
    op.create_index("audit_by_task", "audit_records", ["task_id", "kind"], unique=False)
    op.create_table(
        "quarantined_instances",
        sa.Column("spiffe_id", sa.Text(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("spiffe_id"),
    )
    op.create_table(
        "tasks",
        sa.Column("task_id", sa.String(length=64), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("agent_class", sa.String(length=64), nullable=False),
        sa.Column("task_type", sa.String(length=64), nullable=False),
        sa.Column("intent", sa.Text(), nullable=False),
        sa.Column("roles", sa.Text(), nullable=False),
        sa.Column("environment", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("deadline", sa.BigInteger(), nullable=False),
        sa.Column("heartbeat_interval_us", sa.BigInteger(), nullable=False),
        sa.Column("heartbeat_due", sa.BigInteger(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("idempotency_key", sa.String(length=128), nullable=True),
        sa.Column("request_digest", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("end_cause", sa.String(length=32), nullable=True),
        sa.Column("end_at", sa.BigInteger(), nullable=True),
        sa.Column("end_outcome", sa.String(length=16), nullable=True),
        sa.Column("end_reason", sa.Text(), nullable=True),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("task_id"),
    )
    op.create_index("tasks_by_deadline", "tasks", ["state", "deadline"], unique=False)
    op.create_index("tasks_by_heartbeat", "tasks", ["state", "heartbeat_due"], unique=False)
    op.create_index("tasks_by_owner", "tasks", ["owner", "task_id"], unique=False)
    op.create_index("tasks_by_owner_state", "tasks", ["owner", "state"], unique=False)
    op.create_index(
        "tasks_one_per_key",
        "tasks",
        ["owner", "idempotency_key"],
        unique=True,
        sqlite_where=sa.text("idempotency_key IS NOT NULL"),
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
    )
    op.create_table(
        "leases",
        sa.Column("lease_id", sa.String(length=64), nullable=False),
        sa.Column("task_id", sa.String(length=64), nullable=False),
        sa.Column("role", sa.String(length=64), nullable=False),
        sa.Column("idempotency_key", sa.String(length=128), nullable=False),
        sa.Column("request_digest", sa.String(length=64), nullable=False),
        sa.Column("accessor", sa.String(length=128), nullable=False),
        sa.Column("intended_at", sa.BigInteger(), nullable=False),
        sa.Column("max_expires_at", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("vault_lease_id", sa.Text(), nullable=True),
        sa.Column("renewable", sa.Boolean(), nullable=False),
        sa.Column("issued_at", sa.BigInteger(), nullable=True),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("revoke_cause", sa.String(length=16), nullable=True),
        sa.Column("revoking_since", sa.BigInteger(), nullable=True),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["task_id"],
            ["tasks.task_id"],
        ),
        sa.PrimaryKeyConstraint("lease_id"),
    )
    op.create_index("leases_by_attempt", "leases", ["state", "next_attempt_at"], unique=False)
    op.create_index("leases_by_expiry", "leases", ["state", "expires_at"], unique=False)
    op.create_index("leases_by_intent", "leases", ["state", "intended_at"], unique=False)
    op.create_index("leases_by_task", "leases", ["task_id", "state"], unique=False)
    op.create_index(
        "leases_one_per_key",
        "leases",
        ["task_id", "idempotency_key"],
        unique=True,
        sqlite_where=sa.text(
            "state <> 'void' AND (revoke_cause IS NULL OR revoke_cause NOT IN ('in-doubt', 'undelivered'))"
        ),
        postgresql_where=sa.text(
            "state <> 'void' AND (revoke_cause IS NULL OR revoke_cause NOT IN ('in-doubt', 'undelivered'))"
        ),
    )
    op.create_table(
        "task_tokens",
        sa.Column("accessor", sa.String(length=128), nullable=False),
        sa.Column("task_id", sa.String(length=64), nullable=False),
        sa.Column("made_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["task_id"],
            ["tasks.task_id"],
        ),
        sa.PrimaryKeyConstraint("accessor"),
    )
    op.create_index(op.f("ix_task_tokens_task_id"), "task_tokens", ["task_id"], unique=False)
    if op.get_bind().dialect.name == "sqlite":
        op.execute(_APPEND_ONLY.format(event="UPDATE"))
        op.execute(_APPEND_ONLY.format(event="DELETE"))
    else:
        op.execute(_APPEND_ONLY_FUNCTION)
        op.execute(_APPEND_ONLY_POSTGRESQL)


def downgrade() -> None:
    message = "the first schema cannot be undone: delete the database instead"
    raise NotImplementedError(message)
