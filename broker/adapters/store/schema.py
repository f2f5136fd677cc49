"""The tables. Migrations make them; this says what the code expects to find.

Nothing here can hold a secret (rule R6): a test reads the columns' names. Times are microseconds since 1970 in
UTC, so that they sort and compare the same in every database.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    text,
)

metadata: Final = MetaData()

tasks: Final = Table(
    "tasks",
    metadata,
    Column("task_id", String(64), primary_key=True),
    Column("owner", Text, nullable=False),
    Column("agent_class", String(64), nullable=False),
    Column("task_type", String(64), nullable=False),
    Column("intent", Text, nullable=False),
    Column("roles", Text, nullable=False),  # JSON array, sorted
    Column("tools", Text),  # likewise; none in tasks of older brokers
    Column("environment", String(64), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("deadline", BigInteger, nullable=False),
    Column("heartbeat_interval_us", BigInteger, nullable=False),
    Column("heartbeat_due", BigInteger, nullable=False),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("idempotency_key", String(128)),
    Column("request_digest", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("end_cause", String(32)),
    Column("end_at", BigInteger),
    Column("end_outcome", String(16)),
    Column("end_reason", Text),
    Column("ended_at", BigInteger),
    Column("svid_due", BigInteger),
    Column("claimed_by", String(64)),  # which replica works on it, and until when (claiming.py)
    Column("claimed_until", BigInteger),
    Column("hold", String(16)),
    Index("tasks_by_owner", "owner", "task_id"),
    Index("tasks_by_deadline", "state", "deadline"),
    Index("tasks_by_heartbeat", "state", "heartbeat_due"),
    Index("tasks_by_owner_state", "owner", "state"),
    Index("tasks_by_class_state", "agent_class", "state"),
    Index(
        "tasks_one_per_key",
        "owner",
        "idempotency_key",
        unique=True,
        sqlite_where=text("idempotency_key IS NOT NULL"),
        postgresql_where=text("idempotency_key IS NOT NULL"),
    ),
)

task_tokens: Final = Table(
    "task_tokens",
    metadata,
    Column("accessor", String(128), primary_key=True),
    Column("task_id", String(64), ForeignKey("tasks.task_id"), nullable=False, index=True),
    Column("made_at", BigInteger, nullable=False),
)

_HOLDS_KEY: Final = (
    "state <> 'void' AND (revoke_cause IS NULL OR revoke_cause NOT IN ('in-doubt', 'undelivered'))"
)

leases: Final = Table(
    "leases",
    metadata,
    Column("lease_id", String(64), primary_key=True),
    Column("task_id", String(64), ForeignKey("tasks.task_id"), nullable=False),
    Column("role", String(64), nullable=False),
    Column("idempotency_key", String(128), nullable=False),
    Column("request_digest", String(64), nullable=False),
    Column("accessor", String(128), nullable=False),
    Column("intended_at", BigInteger, nullable=False),
    Column("max_expires_at", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),
    Column("vault_lease_id", Text),
    Column("renewable", Boolean, nullable=False),
    Column("issued_at", BigInteger),
    Column("expires_at", BigInteger),
    Column("revoke_cause", String(16)),
    Column("revoking_since", BigInteger),
    Column("revoked_at", BigInteger),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_at", BigInteger),
    Column("claimed_by", String(64)),
    Column("claimed_until", BigInteger),
    Column("account", Text),  # a name at the backend, and no secret
    Index("leases_by_task", "task_id", "state"),
    Index("leases_by_expiry", "state", "expires_at"),
    Index("leases_by_attempt", "state", "next_attempt_at"),
    Index("leases_by_intent", "state", "intended_at"),
    Index(
        "leases_one_per_key",
        "task_id",
        "idempotency_key",
        unique=True,
        sqlite_where=text(_HOLDS_KEY),
        postgresql_where=text(_HOLDS_KEY),
    ),
)

audit_records: Final = Table(
    "audit_records",
    metadata,
    Column("sequence", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("previous_hash", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    Column("kind", String(64), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    Column("task_id", String(64), nullable=False),
    Column("lease_id", String(64), nullable=False),
    Column("request_id", String(64), nullable=False),
    Column("facts", Text, nullable=False),  # JSON object
    Index("audit_by_task", "task_id", "kind"),
)

actions: Final = Table(
    "actions",
    metadata,
    Column("action_id", String(64), primary_key=True),
    Column("task_id", String(64), ForeignKey("tasks.task_id"), nullable=False),
    Column("owner", Text, nullable=False),
    Column("position", Integer, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("name", String(64), nullable=False),
    Column("verbs", Text, nullable=False),  # JSON array, sorted
    Column("resource", Text, nullable=False),
    Column("destination", Text, nullable=False),
    Column("arguments_digest", String(64), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("allowed", Boolean, nullable=False),
    Column("reason", String(64), nullable=False),
    Column("denial_class", String(16)),
    Column("labels", Text, nullable=False),  # JSON array, sorted
    Column("sticks_until", BigInteger),
    Column("outcome", String(16), nullable=False),
    Column("closed_at", BigInteger),
    Column("idempotency_key", String(128)),
    Index(
        "actions_one_per_key",
        "task_id",
        "idempotency_key",
        unique=True,
        sqlite_where=text("idempotency_key IS NOT NULL"),
        postgresql_where=text("idempotency_key IS NOT NULL"),
    ),
    Index("actions_in_order", "task_id", "position", unique=True),
    Index(
        "actions_denied",
        "owner",
        "sticks_until",
        sqlite_where=text("sticks_until IS NOT NULL"),
        postgresql_where=text("sticks_until IS NOT NULL"),
    ),
)

store_facts: Final = Table(
    "store_facts",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("fact", Text, nullable=False),
)

turns: Final = Table(
    "turns",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("holder", String(64), nullable=False),
    Column("until", BigInteger, nullable=False),
)

quarantines: Final = Table(
    "quarantines",
    metadata,
    Column("kind", String(16), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("since", BigInteger, nullable=False),
    Column("imposed_by", Text, nullable=False),
    Column("reason", Text, nullable=False),
)

_WAITING: Final = text("answered_at IS NULL")

findings: Final = Table(
    "findings",
    metadata,
    Column("finding_id", String(64), primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("detector", String(32), nullable=False),
    Column("rule", String(64), nullable=False),
    Column("severity", String(16), nullable=False),
    Column("confidence", Double, nullable=False),
    Column("instance", Text, nullable=False),
    Column("task_id", String(64), nullable=False),  # empty where it is about none
    Column("at", BigInteger, nullable=False),
    Column("found_at", BigInteger, nullable=False),
    Column("evidence", Text, nullable=False),  # JSON array
    Column("expected", Text, nullable=False),
    Column("happened", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("event_key", Text, nullable=False),
    Column("answer", String(16), nullable=False),
    Column("answered_at", BigInteger),
    Column("mark", String(16), nullable=False),
    Column("marked_by", Text, nullable=False),
    Index("findings_in_order", "number", unique=True),
    Index("findings_by_task", "task_id"),
    Index("findings_by_instance", "instance", "number"),
    Index("findings_unanswered", "number", sqlite_where=_WAITING, postgresql_where=_WAITING),
)

models: Final = Table(
    "models",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("data", Text, nullable=False),  # JSON
)

sightings: Final = Table(
    "sightings",
    metadata,
    Column("instance", Text, primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("address", String(64), nullable=False),
    Column("svid_sha256", String(64), nullable=False),
    Column("key_fingerprint", String(128), nullable=False),
)

messages: Final = Table(
    "messages",
    metadata,
    Column("message_id", String(64), primary_key=True),
    Column("receiver", String(64), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("body", Text, nullable=False),  # JSON
    Column("created_at", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_at", BigInteger, nullable=False),
    Index("messages_in_order", "receiver", "created_at", "message_id"),
)
