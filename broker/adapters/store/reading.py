"""Queries, each on a connection that sees everything committed before."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime, timedelta

from sqlalchemy import and_, bindparam, func, not_, or_, select, text

from broker.adapters.store.anomaly_sql import COUNT_UNANSWERED
from broker.adapters.store.claim_sql import NOW
from broker.adapters.store.message_sql import COUNT as COUNT_MESSAGES
from broker.adapters.store.quarantine_sql import ALL as ALL_QUARANTINES
from broker.adapters.store.quarantine_sql import BY_TARGET, COUNT_BY_KIND, PAGE, QUARANTINED_TASKS
from broker.adapters.store.rows import audit_of, lease_of, quarantine_of, task_of
from broker.adapters.store.schema import audit_records, leases, task_tokens, tasks
from broker.adapters.store.session import EPOCH, Row, Session, Statement, one_of
from broker.domain.audit import AuditRecord, ChainHead
from broker.domain.errors import FieldInvalidError, FieldViolation
from broker.domain.identifiers import LeaseId, TaskId, TokenAccessor
from broker.domain.lease import Lease, LeaseState
from broker.domain.quarantine import Quarantine, QuarantineTarget, TargetKind
from broker.domain.spiffe import SpiffeId
from broker.domain.task import Task, TaskState
from broker.ports.store import (
    LeaseCounts,
    QuarantinePage,
    QuarantineStatus,
    StoreFigures,
    TaskPage,
)

_ACTIVE = TaskState.ACTIVE.value
OPEN = (LeaseState.INTENDED.value, LeaseState.LIVE.value, LeaseState.REVOKING.value)

_TASK = Statement(select(tasks).where(tasks.c.task_id == bindparam("b_task")))
_TASK_BY_KEY = Statement(
    select(tasks).where(tasks.c.owner == bindparam("b_owner"), tasks.c.idempotency_key == bindparam("b_key"))
)
_LEASE = Statement(select(leases).where(leases.c.lease_id == bindparam("b_lease")))
_LEASES_OF = Statement(
    select(leases)
    .where(leases.c.task_id == bindparam("b_task"))
    .order_by(leases.c.intended_at, leases.c.lease_id)
)
_LEASE_COUNTS = Statement(
    select(leases.c.state, func.count().label("number"))
    .where(leases.c.task_id == bindparam("b_task"))
    .group_by(leases.c.state)
)
_TOKENS = Statement(
    select(task_tokens.c.accessor)
    .where(task_tokens.c.task_id == bindparam("b_task"))
    .order_by(task_tokens.c.made_at)
)
_TASKS_BY_STATE = Statement(
    select(tasks.c.state, func.count().label("number"))
    .where(one_of(tasks.c.state, (_ACTIVE, TaskState.ENDING.value)))
    .group_by(tasks.c.state)
)
_LEASES_BY_STATE = Statement(
    select(leases.c.state, func.count().label("number"))
    .where(one_of(leases.c.state, OPEN))
    .group_by(leases.c.state)
)
_OLDEST_REVOKING = Statement(
    select(func.min(leases.c.revoking_since).label("since")).where(
        leases.c.state == LeaseState.REVOKING.value
    )
)
LAPSED = Statement(
    select(tasks)
    .where(
        tasks.c.state == _ACTIVE,
        or_(tasks.c.deadline <= bindparam("b_now"), tasks.c.heartbeat_due <= bindparam("b_now")),
    )
    .order_by(tasks.c.deadline)
    .limit(bindparam("b_limit"))
)
ENDING = Statement(
    select(tasks)
    .where(
        tasks.c.state == TaskState.ENDING.value,
        ~select(text("1"))
        .select_from(leases)
        .where(leases.c.task_id == tasks.c.task_id, one_of(leases.c.state, OPEN))
        .exists(),
    )
    .order_by(tasks.c.end_at)
    .limit(bindparam("b_limit"))
)
DUE_FOR_RENEWAL = Statement(
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
EXPIRED = Statement(
    select(leases)
    .where(leases.c.state == LeaseState.LIVE.value, leases.c.expires_at <= bindparam("b_now"))
    .order_by(leases.c.expires_at)
    .limit(bindparam("b_limit"))
)
_other = leases.alias("other")
_WAITS_FOR_ANOTHER = and_(
    leases.c.vault_lease_id.is_(None),
    select(text("1"))
    .select_from(_other)
    .where(
        _other.c.task_id == leases.c.task_id,
        _other.c.accessor == leases.c.accessor,
        _other.c.vault_lease_id.is_not(None),
        one_of(_other.c.state, OPEN),
    )
    .exists(),
)
TO_REVOKE = Statement(
    select(leases)
    .where(
        leases.c.state == LeaseState.REVOKING.value,
        leases.c.next_attempt_at <= bindparam("b_now"),
        not_(_WAITS_FOR_ANOTHER),
    )
    .order_by(leases.c.next_attempt_at)
    .limit(bindparam("b_limit"))
)
INTENDED = Statement(
    select(leases)
    .where(leases.c.state == LeaseState.INTENDED.value, leases.c.intended_at <= bindparam("b_before"))
    .order_by(leases.c.intended_at)
    .limit(bindparam("b_limit"))
)
_TASKS_OF = Statement(
    select(tasks)
    .where(
        tasks.c.owner == bindparam("b_owner"),
        tasks.c.task_id < bindparam("b_before"),
        or_(*(tasks.c.state == bindparam(f"b_{state.value}") for state in TaskState)),
    )
    .order_by(tasks.c.task_id.desc())
    .limit(bindparam("b_limit"))
)
NOTIFY = Statement(select(func.pg_notify(bindparam("b_channel"), bindparam("b_what"))))
_DATABASE_TIME = Statement(select(NOW.label("now")))
_AFTER_ALL = TaskId("~")  # sorts after every id
_AUDIT_AFTER = Statement(
    select(audit_records)
    .where(audit_records.c.sequence > bindparam("b_after"))
    .order_by(audit_records.c.sequence)
    .limit(bindparam("b_limit"))
)
_AUDIT_HEAD = Statement(
    select(audit_records.c.sequence, audit_records.c.hash).order_by(audit_records.c.sequence.desc()).limit(1)
)


def task(session: Session, task_id: TaskId) -> Task | None:
    """One task."""
    rows = session.rows(_TASK, b_task=task_id)
    return task_of(rows[0]) if rows else None


def task_by_key(session: Session, owner: SpiffeId, key: str) -> Task | None:
    """The owner's task under a key."""
    rows = session.rows(_TASK_BY_KEY, b_owner=str(owner), b_key=key)
    return task_of(rows[0]) if rows else None


def tasks_of(
    session: Session, owner: SpiffeId, states: AbstractSet[TaskState], page_size: int, page_token: str
) -> TaskPage:
    """One page, newest first; ids sort by age."""
    wanted = states or frozenset(TaskState)
    before = _open_token(owner, page_token) if page_token else _AFTER_ALL
    rows = session.rows(
        _TASKS_OF,
        b_owner=str(owner),
        b_before=before,
        b_limit=page_size + 1,
        **{f"b_{state.value}": state.value if state in wanted else "" for state in TaskState},
    )
    found = tuple(task_of(row) for row in rows[:page_size])
    more = len(rows) > page_size
    return TaskPage(tasks=found, next_token=_make_token(owner, found[-1].task_id) if more else "")


def lease(session: Session, lease_id: LeaseId) -> Lease | None:
    """One lease."""
    rows = session.rows(_LEASE, b_lease=lease_id)
    return lease_of(rows[0]) if rows else None


def leases_of(session: Session, task_id: TaskId) -> tuple[Lease, ...]:
    """A task's leases, oldest first."""
    return leases_from(session.rows(_LEASES_OF, b_task=task_id))


def task_tokens_of(session: Session, task_id: TaskId) -> tuple[TokenAccessor, ...]:
    """Accessors of a task's tokens."""
    return tuple(TokenAccessor(row["accessor"]) for row in session.rows(_TOKENS, b_task=task_id))


def lease_counts(session: Session, task_id: TaskId) -> LeaseCounts:
    """How many leases a task has."""
    numbers = {row["state"]: row["number"] for row in session.rows(_LEASE_COUNTS, b_task=task_id)}
    return LeaseCounts(ever=sum(numbers.values()), unfinished=sum(numbers.get(state, 0) for state in OPEN))


def lapsed_tasks(session: Session, now: datetime, limit: int) -> tuple[Task, ...]:
    """Active tasks that are overdue."""
    return tuple(task_of(row) for row in session.rows(LAPSED, b_now=now, b_limit=limit))


def ending_tasks(session: Session, limit: int) -> tuple[Task, ...]:
    """Ending tasks that hold nothing any more."""
    return tuple(task_of(row) for row in session.rows(ENDING, b_limit=limit))


def leases_due_for_renewal(session: Session, before: datetime, limit: int) -> tuple[Lease, ...]:
    """Live leases of active tasks that expire before `before`."""
    return leases_from(session.rows(DUE_FOR_RENEWAL, b_before=before, b_limit=limit))


def leases_expired(session: Session, now: datetime, limit: int) -> tuple[Lease, ...]:
    """Live leases whose time ran out."""
    return leases_from(session.rows(EXPIRED, b_now=now, b_limit=limit))


def quarantines(session: Session) -> tuple[Quarantine, ...]:
    """Every quarantine."""
    return tuple(quarantine_of(row) for row in session.rows(ALL_QUARANTINES))


def quarantine(session: Session, target: QuarantineTarget) -> QuarantineStatus | None:
    """The quarantine of one target."""
    rows = session.rows(BY_TARGET, b_kind=target.kind.value, b_name=target.name)
    return _status(session, quarantine_of(rows[0])) if rows else None


def quarantine_page(session: Session, page_size: int, page_token: str) -> QuarantinePage:
    """One page, by kind and name."""
    after = _open_quarantine_token(page_token) if page_token else None
    rows = session.rows(
        PAGE,
        b_kind=after.kind.value if after else "",
        b_name=after.name if after else "",
        b_limit=page_size + 1,
    )
    found = tuple(_status(session, quarantine_of(row)) for row in rows[:page_size])
    more = len(rows) > page_size
    return QuarantinePage(
        quarantines=found, next_token=_make_quarantine_token(found[-1].quarantine.target) if more else ""
    )


def quarantined_tasks(session: Session, limit: int) -> tuple[Task, ...]:
    """Active tasks whose owner is quarantined."""
    found: dict[TaskId, Task] = {}
    for statement in QUARANTINED_TASKS:
        rows = session.rows(statement, b_limit=limit)
        found |= {one.task_id: one for one in map(task_of, rows)}
    return tuple(found.values())[:limit]


def audit_records_after(session: Session, after: int, limit: int) -> tuple[AuditRecord, ...]:
    """Audit records in order."""
    return tuple(audit_of(row) for row in session.rows(_AUDIT_AFTER, b_after=after, b_limit=limit))


def audit_head(session: Session) -> ChainHead | None:
    """The newest audit record's place and hash."""
    rows = session.rows(_AUDIT_HEAD)
    return ChainHead(sequence=rows[0]["sequence"], hash=rows[0]["hash"]) if rows else None


def leases_from(rows: Sequence[Row]) -> tuple[Lease, ...]:
    """Rows as leases."""
    return tuple(lease_of(row) for row in rows)


def _status(session: Session, found: Quarantine) -> QuarantineStatus:
    statement = COUNT_BY_KIND[found.target.kind]
    unfinished = sum(
        session.rows(statement, b_name=found.target.name, b_state=state.value)[0]["tasks"]
        for state in (TaskState.ACTIVE, TaskState.ENDING)
    )
    return QuarantineStatus(quarantine=found, unfinished_tasks=unfinished)


def _make_quarantine_token(target: QuarantineTarget) -> str:
    return base64.urlsafe_b64encode(f"{target.kind.value}:{target.name}".encode()).decode()


def _open_quarantine_token(token: str) -> QuarantineTarget:
    try:
        kind, _, name = base64.urlsafe_b64decode(token.encode()).decode().partition(":")
        if name:
            return QuarantineTarget(kind=TargetKind(kind), name=name)
    except (binascii.Error, UnicodeError, ValueError):
        pass
    raise FieldInvalidError(
        [FieldViolation(field="page_token", remedy="give back next_page_token as it was")]
    )


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


def figures(session: Session) -> StoreFigures:
    """See ports.store."""
    (oldest,) = session.rows(_OLDEST_REVOKING)
    since = oldest["since"]
    return StoreFigures(
        tasks={TaskState(row["state"]): row["number"] for row in session.rows(_TASKS_BY_STATE)},
        leases={LeaseState(row["state"]): row["number"] for row in session.rows(_LEASES_BY_STATE)},
        oldest_revoking_since=None if since is None else EPOCH + timedelta(microseconds=since),
        unanswered_findings=session.rows(COUNT_UNANSWERED)[0]["number"],
        messages=session.rows(COUNT_MESSAGES)[0]["number"],
    )


def database_time(session: Session) -> datetime:
    """The clock of a database that has one."""
    (row,) = session.rows(_DATABASE_TIME)
    return EPOCH + timedelta(microseconds=row["now"])
