"""Reading chains of actions, and what a decision needs of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from sqlalchemy import bindparam, func, or_, select

from broker.adapters.store.anomaly_sql import OPEN_OF_TASK
from broker.adapters.store.reading import OPEN, leases_from
from broker.adapters.store.rows import action_of, task_of
from broker.adapters.store.schema import actions, leases, tasks
from broker.adapters.store.session import EPOCH, MICROSECOND, Session, Statement, one_of
from broker.domain.actions import Action
from broker.domain.identifiers import ActionId, TaskId
from broker.ports.store import ActionFacts

_ACTION = Statement(select(actions).where(actions.c.action_id == bindparam("b_action")))
_ACTION_BY_KEY = Statement(
    select(actions).where(
        actions.c.task_id == bindparam("b_task"), actions.c.idempotency_key == bindparam("b_key")
    )
)
_IN_ORDER = Statement(
    select(actions)
    .where(actions.c.task_id == bindparam("b_task"), actions.c.position > bindparam("b_after"))
    .order_by(actions.c.position)
    .limit(bindparam("b_limit"))
)
_DENIED = Statement(
    select(actions)
    .where(
        actions.c.owner == bindparam("b_owner"),
        actions.c.sticks_until.is_not(None),
        or_(actions.c.sticks_until > bindparam("b_now"), actions.c.task_id == bindparam("b_task")),
    )
    .order_by(actions.c.at.desc(), actions.c.position.desc())
    .limit(bindparam("b_limit"))
)
_BY_KEY = Statement(
    select(leases).where(
        leases.c.task_id == bindparam("b_task"), leases.c.idempotency_key == bindparam("b_key")
    )
)
_of_task = leases.c.task_id == tasks.c.task_id
_AROUND = Statement(
    select(
        tasks,
        select(func.coalesce(func.max(actions.c.position), 0))
        .where(actions.c.task_id == tasks.c.task_id)
        .scalar_subquery()
        .label("length"),
        select(func.count())
        .where(_of_task, one_of(leases.c.state, OPEN))
        .scalar_subquery()
        .label("live_leases"),
        select(func.min(leases.c.issued_at))
        .where(_of_task, one_of(leases.c.state, OPEN))
        .scalar_subquery()
        .label("oldest"),
        OPEN_OF_TASK.label("open_anomalies"),
    ).where(tasks.c.task_id == bindparam("b_task"))
)
"""The task, and what is counted around it, in one question."""


def action(session: Session, action_id: ActionId) -> Action | None:
    """One action."""
    rows = session.rows(_ACTION, b_action=action_id)
    return action_of(rows[0]) if rows else None


def actions_of(session: Session, task_id: TaskId, after: int, limit: int) -> tuple[Action, ...]:
    """A task's chain in order."""
    rows = session.rows(_IN_ORDER, b_task=task_id, b_after=after, b_limit=limit)
    return tuple(action_of(row) for row in rows)


def action_facts(session: Session, task_id: TaskId, now: datetime, limit: int) -> ActionFacts:
    """What a decision about the task needs, without what holds an idempotency key."""
    rows = session.rows(_AROUND, b_task=task_id)
    if not rows:
        return ActionFacts(task=None, length=0, denied=(), live_leases=0, oldest_lease=None)
    around = rows[0]
    found = task_of(around)
    denied = session.rows(_DENIED, b_owner=str(found.owner), b_now=now, b_task=task_id, b_limit=limit)
    oldest = around["oldest"]
    return ActionFacts(
        task=found,
        length=around["length"],
        denied=tuple(action_of(row) for row in denied),
        live_leases=around["live_leases"],
        oldest_lease=None if oldest is None else EPOCH + oldest * MICROSECOND,
        open_anomalies=around["open_anomalies"],
    )


def facts_with_key(
    session: Session, task_id: TaskId, now: datetime, limit: int, key: str | None
) -> ActionFacts:
    """What a decision about the task needs, and what holds the idempotency key."""
    facts = action_facts(session, task_id, now, limit)
    return facts if key is None or facts.task is None else with_key(session, facts, task_id, key)


def with_key(session: Session, facts: ActionFacts, task_id: TaskId, key: str) -> ActionFacts:
    """The same, and what holds the idempotency key of an acquire or a call."""
    leases = leases_from(session.rows(_BY_KEY, b_task=task_id, b_key=key))
    under_key = session.rows(_ACTION_BY_KEY, b_task=task_id, b_key=key)
    return replace(
        facts,
        holds_key=next((lease for lease in leases if lease.holds_key), None),
        under_key=action_of(under_key[0]) if under_key else None,
    )
