"""Queries, each on a connection that sees everything committed before."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, bindparam, func, or_, select, text

from broker.adapters.store.rows import audit_of, lease_of, task_of
from broker.adapters.store.schema import audit_records, leases, quarantined_instances, task_tokens, tasks
from broker.domain.audit import AuditKind, AuditRecord, ChainHead
from broker.domain.errors import FieldInvalidError, FieldViolation
from broker.domain.identifiers import LeaseId, TaskId, TokenAccessor
from broker.domain.lease import Lease, LeaseState
from broker.domain.spiffe import SpiffeId
from broker.domain.task import Task, TaskState
from broker.ports.store import AcquireFacts, TaskPage

_ACTIVE = TaskState.ACTIVE.value
_OPEN = (LeaseState.INTENDED.value, LeaseState.LIVE.value, LeaseState.REVOKING.value)

_TASK = select(tasks).where(tasks.c.task_id == bindparam("b_task"))
_TASK_BY_KEY = select(tasks).where(
    tasks.c.owner == bindparam("b_owner"), tasks.c.idempotency_key == bindparam("b_key")
)
_LEASE = select(leases).where(leases.c.lease_id == bindparam("b_lease"))
_LEASES_OF = (
    select(leases)
    .where(leases.c.task_id == bindparam("b_task"))
    .order_by(leases.c.intended_at, leases.c.lease_id)
)
_TOKENS = (
    select(task_tokens.c.accessor)
    .where(task_tokens.c.task_id == bindparam("b_task"))
    .order_by(task_tokens.c.made_at)
)
_BY_KEY = select(leases).where(
    leases.c.task_id == bindparam("b_task"), leases.c.idempotency_key == bindparam("b_key")
)
_COUNTS = select(
    select(func.count())
    .where(leases.c.task_id == bindparam("b_task"), leases.c.state.in_(_OPEN))
    .scalar_subquery(),
    select(func.count())
    .where(
        audit_records.c.task_id == bindparam("b_task"), audit_records.c.kind == AuditKind.CREDENTIAL_DENIED
    )
    .scalar_subquery(),
)
_LAPSED = (
    select(tasks)
    .where(
        tasks.c.state == _ACTIVE,
        or_(tasks.c.deadline <= bindparam("b_now"), tasks.c.heartbeat_due <= bindparam("b_now")),
    )
    .order_by(tasks.c.deadline)
    .limit(bindparam("b_limit"))
)
_ENDING = (
    select(tasks)
    .where(
        tasks.c.state == TaskState.ENDING.value,
        ~select(text("1"))
        .select_from(leases)
        .where(leases.c.task_id == tasks.c.task_id, leases.c.state.in_(_OPEN))
        .exists(),
    )
    .order_by(tasks.c.end_at)
    .limit(bindparam("b_limit"))
)
_DUE_FOR_RENEWAL = (
    select(leases)
    .join(tasks, tasks.c.task_id == leases.c.task_id)
    .where(
        leases.c.state == LeaseState.LIVE.value,
        leases.c.expires_at < bindparam("b_before"),
        leases.c.expires_at < leases.c.max_expires_at,
        leases.c.renewable,
        tasks.c.state == _ACTIVE,
    )
    .order_by(leases.c.expires_at)
    .limit(bindparam("b_limit"))
)
_EXPIRED = (
    select(leases)
    .where(leases.c.state == LeaseState.LIVE.value, leases.c.expires_at <= bindparam("b_now"))
    .order_by(leases.c.expires_at)
    .limit(bindparam("b_limit"))
)
_TO_REVOKE = (
    select(leases)
    .where(leases.c.state == LeaseState.REVOKING.value, leases.c.next_attempt_at <= bindparam("b_now"))
    .order_by(leases.c.next_attempt_at)
    .limit(bindparam("b_limit"))
)
_INTENDED = (
    select(leases)
    .where(leases.c.state == LeaseState.INTENDED.value, leases.c.intended_at <= bindparam("b_before"))
    .order_by(leases.c.intended_at)
    .limit(bindparam("b_limit"))
)
_UNREVOKED = select(func.count()).where(leases.c.state == LeaseState.REVOKING.value)
_AUDIT_AFTER = (
    select(audit_records)
    .where(audit_records.c.sequence > bindparam("b_after"))
    .order_by(audit_records.c.sequence)
    .limit(bindparam("b_limit"))
)
_AUDIT_HEAD = (
    select(audit_records.c.sequence, audit_records.c.hash).order_by(audit_records.c.sequence.desc()).limit(1)
)


def task(connection: Connection, task_id: TaskId) -> Task | None:
    """One task."""
    row = connection.execute(_TASK, {"b_task": task_id}).mappings().first()
    return None if row is None else task_of(row)


def task_by_key(connection: Connection, owner: SpiffeId, key: str) -> Task | None:
    """The owner's task under a key."""
    row = connection.execute(_TASK_BY_KEY, {"b_owner": str(owner), "b_key": key}).mappings().first()
    return None if row is None else task_of(row)


def tasks_of(
    connection: Connection, owner: SpiffeId, states: AbstractSet[TaskState], page_size: int, page_token: str
) -> TaskPage:
    """One page, newest first; ids sort by age."""
    query = select(tasks).where(tasks.c.owner == str(owner))
    if states:
        query = query.where(tasks.c.state.in_([state.value for state in states]))
    if page_token:
        query = query.where(tasks.c.task_id < _open_token(owner, page_token))
    rows = connection.execute(query.order_by(tasks.c.task_id.desc()).limit(page_size + 1)).mappings().all()
    found = tuple(task_of(row) for row in rows[:page_size])
    more = len(rows) > page_size
    return TaskPage(tasks=found, next_token=_make_token(owner, found[-1].task_id) if more else "")


def lease(connection: Connection, lease_id: LeaseId) -> Lease | None:
    """One lease."""
    row = connection.execute(_LEASE, {"b_lease": lease_id}).mappings().first()
    return None if row is None else lease_of(row)


def leases_of(connection: Connection, task_id: TaskId) -> tuple[Lease, ...]:
    """A task's leases, oldest first."""
    return _leases(connection, _LEASES_OF, b_task=task_id)


def task_tokens_of(connection: Connection, task_id: TaskId) -> tuple[TokenAccessor, ...]:
    """Accessors of a task's tokens."""
    return tuple(TokenAccessor(row) for row in connection.execute(_TOKENS, {"b_task": task_id}).scalars())


def acquire_facts(connection: Connection, task_id: TaskId, key: str) -> AcquireFacts:
    """A task's past, for an acquire."""
    under_key = _leases(connection, _BY_KEY, b_task=task_id, b_key=key)
    open_leases, denials = connection.execute(_COUNTS, {"b_task": task_id}).one()
    return AcquireFacts(
        holds_key=next((found for found in under_key if found.holds_key), None),
        open_leases=open_leases,
        denials=denials,
    )


def lapsed_tasks(connection: Connection, now: datetime, limit: int) -> tuple[Task, ...]:
    """Active tasks that are overdue."""
    rows = connection.execute(_LAPSED, {"b_now": now, "b_limit": limit}).mappings()
    return tuple(task_of(row) for row in rows)


def ending_tasks(connection: Connection, limit: int) -> tuple[Task, ...]:
    """Ending tasks that hold nothing any more."""
    return tuple(task_of(row) for row in connection.execute(_ENDING, {"b_limit": limit}).mappings())


def leases_due_for_renewal(connection: Connection, before: datetime, limit: int) -> tuple[Lease, ...]:
    """Live leases of active tasks that expire before `before`."""
    return _leases(connection, _DUE_FOR_RENEWAL, b_before=before, b_limit=limit)


def leases_expired(connection: Connection, now: datetime, limit: int) -> tuple[Lease, ...]:
    """Live leases whose time ran out."""
    return _leases(connection, _EXPIRED, b_now=now, b_limit=limit)


def leases_to_revoke(connection: Connection, now: datetime, limit: int) -> tuple[Lease, ...]:
    """Revoking leases whose next attempt is due."""
    return _leases(connection, _TO_REVOKE, b_now=now, b_limit=limit)


def leases_intended(connection: Connection, before: datetime, limit: int) -> tuple[Lease, ...]:
    """Leases that were intended before `before` and still are."""
    return _leases(connection, _INTENDED, b_before=before, b_limit=limit)


def unrevoked(connection: Connection) -> int:
    """Leases that are revoking."""
    return connection.execute(_UNREVOKED).scalar_one()


def quarantined(connection: Connection) -> frozenset[SpiffeId]:
    """Quarantined instances."""
    rows = connection.execute(select(quarantined_instances.c.spiffe_id)).scalars()
    return frozenset(SpiffeId.parse(row) for row in rows)


def audit_records_after(connection: Connection, after: int, limit: int) -> tuple[AuditRecord, ...]:
    """Audit records in order."""
    rows = connection.execute(_AUDIT_AFTER, {"b_after": after, "b_limit": limit}).mappings()
    return tuple(audit_of(row) for row in rows)


def audit_head(connection: Connection) -> ChainHead | None:
    """The newest audit record's place and hash."""
    row = connection.execute(_AUDIT_HEAD).first()
    return None if row is None else ChainHead(sequence=row.sequence, hash=row.hash)


def _leases(connection: Connection, query: Select[Any], **parameters: object) -> tuple[Lease, ...]:
    return tuple(lease_of(row) for row in connection.execute(query, parameters).mappings())


def _make_token(owner: SpiffeId, task_id: TaskId) -> str:
    return base64.urlsafe_b64encode(f"{task_id}:{_seal(owner, task_id)}".encode()).decode()


def _open_token(owner: SpiffeId, token: str) -> TaskId:
    """A page token is bound to its owner: not to hide anything, but so that a mixed-up one is noticed."""
    try:
        task_id, _, seal = base64.urlsafe_b64decode(token.encode()).decode().partition(":")
    except (binascii.Error, UnicodeError, ValueError):
        task_id, seal = "", ""
    if not task_id or seal != _seal(owner, TaskId(task_id)):
        raise FieldInvalidError(
            [FieldViolation(field="page_token", remedy="give back next_page_token as it was")]
        )
    return TaskId(task_id)


def _seal(owner: SpiffeId, task_id: TaskId) -> str:
    return hashlib.sha256(f"page\n{owner}\n{task_id}".encode()).hexdigest()[:16]
