"""Everybody's leases, for operators and for reconciling."""

from __future__ import annotations

import re
from typing import Final

from sqlalchemy import and_, bindparam, or_, select

from broker.adapters.store.rows import lease_of, task_of
from broker.adapters.store.schema import leases, store_facts, task_tokens, tasks
from broker.adapters.store.session import Session, Statement
from broker.domain.errors import FieldInvalidError, FieldViolation
from broker.domain.identifiers import TokenAccessor
from broker.domain.lease import LeaseState
from broker.domain.spiffe import SpiffeId
from broker.domain.task import Task
from broker.ports.store import LeaseFilter, LeasePage, OwnedLease

_TOKEN: Final = re.compile(r"[A-Za-z0-9-]{1,64}")

_PAGE: Final = Statement(
    select(leases, tasks.c.owner)
    .join(tasks, tasks.c.task_id == leases.c.task_id)
    .where(
        leases.c.lease_id > bindparam("b_after"),
        or_(bindparam("b_any_task") == 1, leases.c.task_id == bindparam("b_task")),
        or_(bindparam("b_any_owner") == 1, tasks.c.owner == bindparam("b_owner")),
        or_(
            *(and_(leases.c.state == state.value, bindparam(f"b_{state.value}") == 1) for state in LeaseState)
        ),
    )
    .order_by(leases.c.lease_id)
    .limit(bindparam("b_limit"))
)
_TASK_OF_TOKEN: Final = Statement(
    select(tasks)
    .join(task_tokens, task_tokens.c.task_id == tasks.c.task_id)
    .where(task_tokens.c.accessor == bindparam("b_accessor"))
)
_FACT: Final = Statement(select(store_facts.c.fact).where(store_facts.c.name == bindparam("b_name")))


def identity(session: Session) -> str:
    """See ports.store."""
    (row,) = session.rows(_FACT, b_name="identity")
    return str(row["fact"])


def lease_page(session: Session, wanted: LeaseFilter, page_size: int, page_token: str) -> LeasePage:
    """See ports.store; the token is the last lease's id."""
    if page_token and not _TOKEN.fullmatch(page_token):
        raise FieldInvalidError(
            [FieldViolation(field="page_token", remedy="give back next_page_token as it was")]
        )
    states = wanted.states or {state for state in LeaseState if not state.is_final}
    rows = session.rows(
        _PAGE,
        b_after=page_token,
        b_any_task=int(not wanted.task_id),
        b_task=wanted.task_id,
        b_any_owner=int(not wanted.owner),
        b_owner=wanted.owner,
        b_limit=page_size + 1,
        **{f"b_{state.value}": int(state in states) for state in LeaseState},
    )
    found = tuple(
        OwnedLease(lease=lease_of(row), owner=SpiffeId.parse(row["owner"])) for row in rows[:page_size]
    )
    return LeasePage(leases=found, next_token=found[-1].lease.lease_id if len(rows) > page_size else "")


def task_of_token(session: Session, accessor: TokenAccessor) -> Task | None:
    """See ports.store."""
    rows = session.rows(_TASK_OF_TOKEN, b_accessor=accessor)
    return task_of(rows[0]) if rows else None
