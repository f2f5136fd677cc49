"""Applies changes inside a transaction that somebody else begins and commits.

Each change is one or two statements whose WHERE clause is its precondition: no row, no change, ConflictError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import assert_never

from sqlalchemy import String, Text, bindparam, case, cast, func, insert, select, update

from broker.adapters.store import anomaly_sql, message_sql
from broker.adapters.store.claim_sql import claimed
from broker.adapters.store.quarantine_sql import (
    ACTIVE_BY_KIND,
    BY_TARGET,
    DELETE,
    INSERT,
    OF_OWNER,
    TASK_OF_OWNER,
    WELCOME,
)
from broker.adapters.store.rows import (
    ACTION_COLUMNS,
    AUDIT_COLUMNS,
    LEASE_COLUMNS,
    TASK_COLUMNS,
    action_row,
    audit_row,
    lease_row,
    quarantine_row,
    task_row,
)
from broker.adapters.store.schema import actions, audit_records, leases, store_facts, task_tokens, tasks
from broker.adapters.store.session import Row, Session, Statement, UniqueViolationError, one_of
from broker.domain import changes as c
from broker.domain.actions import Action, ActionOutcome
from broker.domain.audit import ChainHead
from broker.domain.audit import append as append_to_chain
from broker.domain.identifiers import TaskId
from broker.domain.lease import LeaseState, RevokeCause
from broker.domain.quarantine import QuarantineTarget
from broker.domain.spiffe import SpiffeId
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

_LIVE_TASKS = Statement(
    select(func.count().label("tasks")).where(
        tasks.c.owner == bindparam("b_owner"), one_of(tasks.c.state, (_ACTIVE, _ENDING))
    )
)
_INSERT_TASK = Statement(insert(tasks), columns=TASK_COLUMNS)
_TASK_STATE = Statement(
    select(tasks.c.state, tasks.c.hold, tasks.c.owner).where(tasks.c.task_id == bindparam("b_task"))
)
_INSERT_TOKEN = Statement(insert(task_tokens), columns=("accessor", "task_id", "made_at"))
_TOUCH = Statement(
    update(tasks)
    .where(tasks.c.task_id == bindparam("b_task"), tasks.c.state == _ACTIVE)
    .values(heartbeat_due=bindparam("b_due"), svid_due=bindparam("b_svid_due"))
)
_DETACH = Statement(
    update(tasks)
    .where(tasks.c.task_id == bindparam("b_task"), tasks.c.state == _ACTIVE)
    .values(
        heartbeat_due=case(
            (tasks.c.heartbeat_due > bindparam("b_due"), bindparam("b_due")), else_=tasks.c.heartbeat_due
        )
    )
)
_END_TASK = Statement(
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
_END_LEASES = Statement(
    update(leases)
    .where(leases.c.task_id == bindparam("b_task"), one_of(leases.c.state, (_INTENDED, _LIVE)))
    .values(
        state=_REVOKING,
        revoke_cause=RevokeCause.TASK_ENDED.value,
        revoking_since=bindparam("b_at"),
        next_attempt_at=bindparam("b_at"),
    )
)
_OPEN_LEASES = Statement(
    select(func.count().label("leases")).where(
        leases.c.task_id == bindparam("b_task"), one_of(leases.c.state, _OPEN)
    )
)
_FINISH_TASK = Statement(
    update(tasks)
    .where(tasks.c.task_id == bindparam("b_task"), tasks.c.state == _ENDING)
    .values(state=_ENDED, ended_at=bindparam("b_at"))
)
_INSERT_LEASE = Statement(
    insert(leases),
    columns=LEASE_COLUMNS,
    on_postgresql=claimed(insert(leases).values({name: bindparam(name) for name in LEASE_COLUMNS})),
)
_TASK_OF_LEASE = Statement(
    select(tasks.c.state, tasks.c.hold, tasks.c.owner)
    .join(leases, leases.c.task_id == tasks.c.task_id)
    .where(leases.c.lease_id == bindparam("b_lease"))
)
_ISSUE = Statement(
    update(leases)
    .where(leases.c.lease_id == bindparam("b_lease"), leases.c.state == _INTENDED)
    .values(
        state=_LIVE,
        vault_lease_id=bindparam("b_vault_lease"),
        issued_at=bindparam("b_at"),
        expires_at=bindparam("b_expires"),
        renewable=bindparam("b_renewable"),
        account=bindparam("b_account"),
    )
)
_VOID_LEASE = Statement(
    update(leases)
    .where(leases.c.lease_id == bindparam("b_lease"), leases.c.state == _INTENDED)
    .values(state=_VOID, revoked_at=bindparam("b_at"))
)
_EXTEND = Statement(
    update(leases)
    .where(leases.c.lease_id == bindparam("b_lease"), leases.c.state == _LIVE)
    .values(expires_at=bindparam("b_expires"))
)
_REVOKE = Statement(
    update(leases)
    .where(leases.c.lease_id == bindparam("b_lease"), one_of(leases.c.state, (_INTENDED, _LIVE)))
    .values(
        state=_REVOKING,
        revoke_cause=bindparam("b_cause"),
        revoking_since=bindparam("b_at"),
        next_attempt_at=bindparam("b_at"),
        vault_lease_id=func.coalesce(bindparam("b_vault_lease"), leases.c.vault_lease_id),
    )
)
_FILL = Statement(
    update(leases)
    .where(
        leases.c.lease_id == bindparam("b_lease"),
        leases.c.state == _REVOKING,
        leases.c.vault_lease_id.is_(None),
    )
    .values(vault_lease_id=bindparam("b_vault_lease"))
)
_POSTPONE = Statement(
    update(leases)
    .where(leases.c.lease_id == bindparam("b_lease"), leases.c.state == _REVOKING)
    .values(attempts=leases.c.attempts + 1, next_attempt_at=bindparam("b_next"))
)
_CONFIRM = Statement(
    update(leases)
    .where(leases.c.lease_id == bindparam("b_lease"), leases.c.state == _REVOKING)
    .values(state=_REVOKED, revoked_at=bindparam("b_at"), next_attempt_at=None)
)
_INSERT_ACTION = Statement(
    insert(actions).from_select(
        ACTION_COLUMNS,
        # PostgreSQL does not know the types of what is selected; a cast to VARCHAR(64) would cut a longer text.
        select(
            *(
                cast(
                    bindparam(name),
                    Text() if isinstance(actions.c[name].type, String) else actions.c[name].type,
                )
                for name in ACTION_COLUMNS
            )
        ).where(WELCOME),
    )
)
_CLOSE_ACTION = Statement(
    update(actions)
    .where(
        actions.c.action_id == bindparam("b_action"),
        actions.c.task_id == bindparam("b_task"),
        actions.c.allowed,
        actions.c.outcome == ActionOutcome.OPEN.value,
    )
    .values(outcome=bindparam("b_outcome"), closed_at=bindparam("b_at"))
)
NOTHING = Statement(
    update(store_facts).where(store_facts.c.name == "identity").values(fact=store_facts.c.fact)
)
"""Changes nothing, and has to reach the disk all the same."""

_INSERT_AUDIT = Statement(insert(audit_records), columns=AUDIT_COLUMNS)


def apply(  # noqa: C901, PLR0912, PLR0915 - one arm a change, each a line or two
    session: Session, batch: Sequence[c.Change], head: ChainHead | None
) -> ChainHead | None:
    """Apply `batch` in order; return the audit chain's head after it.

    Raises:
        ConflictError: a precondition does not hold; the caller rolls back to before the batch.
    """
    for change in batch:
        match change:
            case c.Append():
                record = append_to_chain(head, change.event)
                session.change(_INSERT_AUDIT, **audit_row(record))
                head = ChainHead(sequence=record.sequence, hash=record.hash)
            case c.RecordAction():
                _record_action(session, change.action)
            case c.CreateTask():
                _create_task(session, change)
            case c.AddTaskToken():
                if _state_of(session, change.task_id) != _ACTIVE:
                    raise ConflictError(Conflict.TASK_NOT_ACTIVE)
                session.change(
                    _INSERT_TOKEN, accessor=change.accessor, task_id=change.task_id, made_at=change.at
                )
            case c.TouchTask():
                touched = session.change(
                    _TOUCH, b_task=change.task_id, b_due=change.heartbeat_due, b_svid_due=change.svid_due
                )
                _demand(touched, Conflict.TASK_NOT_ACTIVE)
            case c.DetachTask():
                detached = session.change(_DETACH, b_task=change.task_id, b_due=change.heartbeat_due)
                _demand(detached, Conflict.TASK_NOT_ACTIVE)
            case c.EndTask():
                _end_task(session, change)
            case c.FinishTask():
                if _open_leases(session, change.task_id):
                    raise ConflictError(Conflict.TASK_HOLDS_LEASES)
                finished = session.change(_FINISH_TASK, b_task=change.task_id, b_at=change.at)
                _demand(finished, Conflict.TASK_NOT_ENDING)
            case c.CreateLease():
                _create_lease(session, change)
            case c.IssueLease():
                _issue_lease(session, change)
            case c.VoidLease():
                voided = session.change(_VOID_LEASE, b_lease=change.lease_id, b_at=change.at)
                _demand(voided, Conflict.LEASE_STATE)
            case c.ExtendLease():
                extended = session.change(_EXTEND, b_lease=change.lease_id, b_expires=change.expires_at)
                _demand(extended, Conflict.LEASE_STATE)
            case c.RevokeLease():
                _revoke_lease(session, change)
            case c.PostponeRevocation():
                later = session.change(_POSTPONE, b_lease=change.lease_id, b_next=change.next_attempt_at)
                _demand(later, Conflict.LEASE_STATE)
            case c.ConfirmRevoked():
                confirmed = session.change(_CONFIRM, b_lease=change.lease_id, b_at=change.at)
                _demand(confirmed, Conflict.LEASE_STATE)
            case c.CloseAction():
                closed = session.change(
                    _CLOSE_ACTION,
                    b_action=change.action_id,
                    b_task=change.task_id,
                    b_outcome=change.outcome.value,
                    b_at=change.at,
                )
                _demand(closed, Conflict.ACTION_STATE)
            case c.AddQuarantine():
                _add_quarantine(session, change)
            case c.RemoveQuarantine():
                _remove_quarantine(session, change)
            case c.RecordFinding():
                anomaly_sql.record(session, change)
            case c.AnswerFinding():
                anomaly_sql.answered(session, change)
            case c.MarkFinding():
                anomaly_sql.marked(session, change)
            case c.HoldTask():
                anomaly_sql.hold(session, change)
            case c.LiftHold():
                anomaly_sql.lift(session, change)
            case c.SaveModel():
                anomaly_sql.save_model(session, change)
            case c.SeeInstance():
                anomaly_sql.see(session, change)
            case c.AddMessage():
                message_sql.add(session, change.message)
            case c.PostponeMessage():
                message_sql.postpone(session, change)
            case c.RemoveMessage():
                message_sql.remove(session, change)
            case _:
                assert_never(change)
    return head


def _add_quarantine(session: Session, change: c.AddQuarantine) -> None:
    target = change.quarantine.target
    if not session.rows(BY_TARGET, b_kind=target.kind.value, b_name=target.name):
        session.change(INSERT, **quarantine_row(change.quarantine))


def _remove_quarantine(session: Session, change: c.RemoveQuarantine) -> None:
    target = change.target
    if session.rows(ACTIVE_BY_KIND[target.kind], b_name=target.name):
        raise ConflictError(Conflict.QUARANTINE_UNFINISHED)
    removed = session.change(DELETE, b_kind=target.kind.value, b_name=target.name)
    _demand(removed, Conflict.QUARANTINE_MISSING)


def _demand_welcome(session: Session, owner: SpiffeId) -> None:
    names = {f"b_{target.kind.name}": target.name for target in QuarantineTarget.all_of(owner)}
    if names and session.rows(OF_OWNER, **names):
        raise ConflictError(Conflict.OWNER_QUARANTINED)


def _create_task(session: Session, change: c.CreateTask) -> None:
    _demand_welcome(session, change.task.owner)
    live = session.rows(_LIVE_TASKS, b_owner=str(change.task.owner))[0]["tasks"]
    try:
        session.change(_INSERT_TASK, **task_row(change.task))
    except UniqueViolationError as error:
        raise ConflictError(Conflict.TASK_KEY_TAKEN) from error
    if live >= change.max_live:
        raise ConflictError(Conflict.TASK_LIMIT)


def _end_task(session: Session, change: c.EndTask) -> None:
    end = change.end
    ended = session.change(
        _END_TASK,
        b_task=change.task_id,
        b_cause=end.cause.value,
        b_at=end.at,
        b_outcome=end.outcome.value if end.outcome else None,
        b_reason=end.reason,
    )
    _demand(ended, Conflict.TASK_NOT_ACTIVE)
    session.change(_END_LEASES, b_task=change.task_id, b_at=end.at)


def _create_lease(session: Session, change: c.CreateLease) -> None:
    rows = session.rows(_TASK_STATE, b_task=change.lease.task_id)
    if not rows or rows[0]["state"] != _ACTIVE:
        raise ConflictError(Conflict.TASK_NOT_ACTIVE)
    _demand_welcome(session, SpiffeId.parse(rows[0]["owner"]))
    _demand_no_hold(rows[0])
    open_leases = _open_leases(session, change.lease.task_id)
    try:
        session.change(_INSERT_LEASE, **lease_row(change.lease))
    except UniqueViolationError as error:
        raise ConflictError(Conflict.LEASE_KEY_TAKEN) from error
    if open_leases >= change.max_live:
        raise ConflictError(Conflict.LEASE_LIMIT)


def _record_action(session: Session, action: Action) -> None:
    names = _names_of(action.owner)
    try:
        if names and session.change(_INSERT_ACTION, **action_row(action), **names):
            return
    except UniqueViolationError as error:
        raise ConflictError(Conflict.CHAIN_MOVED_ON) from error
    raise ConflictError(_unwelcome(session, action.task_id, names))


def _unwelcome(session: Session, task_id: TaskId, names: Mapping[str, str]) -> Conflict:
    """Why a task may do nothing."""
    rows = session.rows(TASK_OF_OWNER, b_task=task_id, **names) if names else []
    if not rows or rows[0]["state"] != _ACTIVE:
        return Conflict.TASK_NOT_ACTIVE
    return Conflict.TASK_ON_HOLD if rows[0]["quarantined"] is None else Conflict.OWNER_QUARANTINED


@lru_cache(maxsize=1024)  # each action of an instance asks
def _names_of(owner: SpiffeId) -> Mapping[str, str]:
    return {f"b_{target.kind.name}": target.name for target in QuarantineTarget.all_of(owner)}


def _issue_lease(session: Session, change: c.IssueLease) -> None:
    rows = session.rows(_TASK_OF_LEASE, b_lease=change.lease_id)
    if not rows or rows[0]["state"] != _ACTIVE:
        raise ConflictError(Conflict.TASK_NOT_ACTIVE)
    _demand_welcome(session, SpiffeId.parse(rows[0]["owner"]))
    _demand_no_hold(rows[0])
    issued = session.change(
        _ISSUE,
        b_lease=change.lease_id,
        b_vault_lease=change.vault_lease_id,
        b_at=change.at,
        b_expires=change.expires_at,
        b_renewable=change.renewable,
        b_account=change.account,
    )
    _demand(issued, Conflict.LEASE_STATE)


def _revoke_lease(session: Session, change: c.RevokeLease) -> None:
    revoking = session.change(
        _REVOKE,
        b_lease=change.lease_id,
        b_cause=change.cause.value,
        b_at=change.at,
        b_vault_lease=change.vault_lease_id,
    )
    if revoking:
        return
    if change.vault_lease_id is None:
        raise ConflictError(Conflict.LEASE_STATE)
    filled = session.change(_FILL, b_lease=change.lease_id, b_vault_lease=change.vault_lease_id)
    _demand(filled, Conflict.LEASE_STATE)


def _demand_no_hold(task: Row) -> None:
    if task["hold"] is not None:
        raise ConflictError(Conflict.TASK_ON_HOLD)


def _state_of(session: Session, task_id: str) -> str | None:
    rows = session.rows(_TASK_STATE, b_task=task_id)
    return rows[0]["state"] if rows else None


def _open_leases(session: Session, task_id: str) -> int:
    count: int = session.rows(_OPEN_LEASES, b_task=task_id)[0]["leases"]
    return count


def _demand(rows: int, otherwise: Conflict) -> None:
    if rows != 1:
        raise ConflictError(otherwise)
