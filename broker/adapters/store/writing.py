"""Applies changes inside a transaction that somebody else begins and commits.

Each change is one or two statements whose WHERE clause is its precondition: no row, no change, ConflictError.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from sqlalchemy import Connection, bindparam, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from broker.adapters.store.rows import audit_row, lease_row, task_row
from broker.adapters.store.schema import audit_records, leases, task_tokens, tasks
from broker.domain import changes as c
from broker.domain.audit import ChainHead
from broker.domain.audit import append as append_to_chain
from broker.domain.lease import LeaseState, RevokeCause
from broker.domain.task import TaskState
from broker.ports.store import Conflict, ConflictError

_ACTIVE = TaskState.ACTIVE.value
_ENDING = TaskState.ENDING.value
_ENDED = TaskState.ENDED.value
_INTENDED = LeaseState.INTENDED.value
_LIVE = LeaseState.LIVE.value
_REVOKING = LeaseState.REVOKING.value
_REVOKED = LeaseState.REVOKED.value
_VOID = LeaseState.VOID.value
_OPEN = (_INTENDED, _LIVE, _REVOKING)

# Statements are built once: building costs more than running them.
_LIVE_TASKS = select(func.count()).where(
    tasks.c.owner == bindparam("b_owner"), tasks.c.state.in_((_ACTIVE, _ENDING))
)
_INSERT_TASK = insert(tasks)
_TASK_STATE = select(tasks.c.state).where(tasks.c.task_id == bindparam("b_task"))
_INSERT_TOKEN = insert(task_tokens)
_TOUCH = (
    update(tasks)
    .where(tasks.c.task_id == bindparam("b_task"), tasks.c.state == _ACTIVE)
    .values(heartbeat_due=bindparam("b_due"))
)
_END_TASK = (
    update(tasks)
    .where(tasks.c.task_id == bindparam("b_task"), tasks.c.state == _ACTIVE)
    .values(
        state=_ENDING,
        end_cause=bindparam("b_cause"),
        end_at=bindparam("b_at"),
        end_outcome=bindparam("b_outcome"),
        end_reason=bindparam("b_reason"),
    )
)
_END_LEASES = (
    update(leases)
    .where(leases.c.task_id == bindparam("b_task"), leases.c.state.in_((_INTENDED, _LIVE)))
    .values(
        state=_REVOKING,
        revoke_cause=RevokeCause.TASK_ENDED.value,
        revoking_since=bindparam("b_at"),
        next_attempt_at=bindparam("b_at"),
    )
)
_OPEN_LEASES = select(func.count()).where(leases.c.task_id == bindparam("b_task"), leases.c.state.in_(_OPEN))
_FINISH_TASK = (
    update(tasks)
    .where(tasks.c.task_id == bindparam("b_task"), tasks.c.state == _ENDING)
    .values(state=_ENDED, ended_at=bindparam("b_at"))
)
_INSERT_LEASE = insert(leases)
_TASK_OF_LEASE = (
    select(tasks.c.state)
    .join(leases, leases.c.task_id == tasks.c.task_id)
    .where(leases.c.lease_id == bindparam("b_lease"))
)
_ISSUE = (
    update(leases)
    .where(leases.c.lease_id == bindparam("b_lease"), leases.c.state == _INTENDED)
    .values(
        state=_LIVE,
        vault_lease_id=bindparam("b_vault_lease"),
        issued_at=bindparam("b_at"),
        expires_at=bindparam("b_expires"),
        renewable=bindparam("b_renewable"),
    )
)
_VOID_LEASE = (
    update(leases)
    .where(leases.c.lease_id == bindparam("b_lease"), leases.c.state == _INTENDED)
    .values(state=_VOID, revoked_at=bindparam("b_at"))
)
_EXTEND = (
    update(leases)
    .where(leases.c.lease_id == bindparam("b_lease"), leases.c.state == _LIVE)
    .values(expires_at=bindparam("b_expires"))
)
_REVOKE = (
    update(leases)
    .where(leases.c.lease_id == bindparam("b_lease"), leases.c.state.in_((_INTENDED, _LIVE)))
    .values(
        state=_REVOKING,
        revoke_cause=bindparam("b_cause"),
        revoking_since=bindparam("b_at"),
        next_attempt_at=bindparam("b_at"),
        vault_lease_id=func.coalesce(bindparam("b_vault_lease"), leases.c.vault_lease_id),
    )
)
_FILL = (
    update(leases)
    .where(
        leases.c.lease_id == bindparam("b_lease"),
        leases.c.state == _REVOKING,
        leases.c.vault_lease_id.is_(None),
    )
    .values(vault_lease_id=bindparam("b_vault_lease"))
)
_POSTPONE = (
    update(leases)
    .where(leases.c.lease_id == bindparam("b_lease"), leases.c.state == _REVOKING)
    .values(attempts=leases.c.attempts + 1, next_attempt_at=bindparam("b_next"))
)
_CONFIRM = (
    update(leases)
    .where(leases.c.lease_id == bindparam("b_lease"), leases.c.state == _REVOKING)
    .values(state=_REVOKED, revoked_at=bindparam("b_at"), next_attempt_at=None)
)
_INSERT_AUDIT = insert(audit_records)


def apply(  # noqa: C901, PLR0912 - one arm a change, each a line or two
    connection: Connection, batch: Sequence[c.Change], head: ChainHead | None
) -> ChainHead | None:
    """Apply `batch` in order; return the audit chain's head after it.

    Raises:
        ConflictError: a precondition does not hold; the caller rolls back to before the batch.
    """
    for change in batch:
        match change:
            case c.Append():
                record = append_to_chain(head, change.event)
                connection.execute(_INSERT_AUDIT, audit_row(record))
                head = ChainHead(sequence=record.sequence, hash=record.hash)
            case c.CreateTask():
                _create_task(connection, change)
            case c.AddTaskToken():
                if connection.execute(_TASK_STATE, {"b_task": change.task_id}).scalar() not in {
                    _ACTIVE,
                    _ENDING,
                }:
                    raise ConflictError(Conflict.TASK_NOT_ACTIVE)
                connection.execute(
                    _INSERT_TOKEN,
                    {"accessor": change.accessor, "task_id": change.task_id, "made_at": change.at},
                )
            case c.TouchTask():
                parameters = {"b_task": change.task_id, "b_due": change.heartbeat_due}
                _demand(connection.execute(_TOUCH, parameters).rowcount, Conflict.TASK_NOT_ACTIVE)
            case c.EndTask():
                _end_task(connection, change)
            case c.FinishTask():
                task = {"b_task": change.task_id}
                if connection.execute(_OPEN_LEASES, task).scalar():
                    raise ConflictError(Conflict.TASK_HOLDS_LEASES)
                _demand(
                    connection.execute(_FINISH_TASK, {**task, "b_at": change.at}).rowcount,
                    Conflict.TASK_NOT_ENDING,
                )
            case c.CreateLease():
                _create_lease(connection, change)
            case c.IssueLease():
                if connection.execute(_TASK_OF_LEASE, {"b_lease": change.lease_id}).scalar() != _ACTIVE:
                    raise ConflictError(Conflict.TASK_NOT_ACTIVE)
                parameters = {
                    "b_lease": change.lease_id,
                    "b_vault_lease": change.vault_lease_id,
                    "b_at": change.at,
                    "b_expires": change.expires_at,
                    "b_renewable": change.renewable,
                }
                _demand(connection.execute(_ISSUE, parameters).rowcount, Conflict.LEASE_STATE)
            case c.VoidLease():
                parameters = {"b_lease": change.lease_id, "b_at": change.at}
                _demand(connection.execute(_VOID_LEASE, parameters).rowcount, Conflict.LEASE_STATE)
            case c.ExtendLease():
                parameters = {"b_lease": change.lease_id, "b_expires": change.expires_at}
                _demand(connection.execute(_EXTEND, parameters).rowcount, Conflict.LEASE_STATE)
            case c.RevokeLease():
                _revoke_lease(connection, change)
            case c.PostponeRevocation():
                parameters = {"b_lease": change.lease_id, "b_next": change.next_attempt_at}
                _demand(connection.execute(_POSTPONE, parameters).rowcount, Conflict.LEASE_STATE)
            case c.ConfirmRevoked():
                parameters = {"b_lease": change.lease_id, "b_at": change.at}
                _demand(connection.execute(_CONFIRM, parameters).rowcount, Conflict.LEASE_STATE)
            case _:
                assert_never(change)
    return head


def _create_task(connection: Connection, change: c.CreateTask) -> None:
    live = connection.execute(_LIVE_TASKS, {"b_owner": str(change.task.owner)}).scalar_one()
    try:
        connection.execute(_INSERT_TASK, task_row(change.task))
    except IntegrityError as error:
        raise ConflictError(Conflict.TASK_KEY_TAKEN) from error
    if live >= change.max_live:
        raise ConflictError(Conflict.TASK_LIMIT)


def _end_task(connection: Connection, change: c.EndTask) -> None:
    end = change.end
    parameters = {
        "b_task": change.task_id,
        "b_cause": end.cause.value,
        "b_at": end.at,
        "b_outcome": end.outcome.value if end.outcome else None,
        "b_reason": end.reason,
    }
    _demand(connection.execute(_END_TASK, parameters).rowcount, Conflict.TASK_NOT_ACTIVE)
    connection.execute(_END_LEASES, {"b_task": change.task_id, "b_at": end.at})


def _create_lease(connection: Connection, change: c.CreateLease) -> None:
    task = {"b_task": change.lease.task_id}
    if connection.execute(_TASK_STATE, task).scalar() != _ACTIVE:
        raise ConflictError(Conflict.TASK_NOT_ACTIVE)
    open_leases = connection.execute(_OPEN_LEASES, task).scalar_one()
    try:
        connection.execute(_INSERT_LEASE, lease_row(change.lease))
    except IntegrityError as error:
        raise ConflictError(Conflict.LEASE_KEY_TAKEN) from error
    if open_leases >= change.max_live:
        raise ConflictError(Conflict.LEASE_LIMIT)


def _revoke_lease(connection: Connection, change: c.RevokeLease) -> None:
    parameters = {
        "b_lease": change.lease_id,
        "b_cause": change.cause.value,
        "b_at": change.at,
        "b_vault_lease": change.vault_lease_id,
    }
    if connection.execute(_REVOKE, parameters).rowcount:
        return
    if change.vault_lease_id is None:
        raise ConflictError(Conflict.LEASE_STATE)
    fill = {"b_lease": change.lease_id, "b_vault_lease": change.vault_lease_id}
    _demand(connection.execute(_FILL, fill).rowcount, Conflict.LEASE_STATE)


def _demand(rows: int, otherwise: Conflict) -> None:
    if rows != 1:
        raise ConflictError(otherwise)
