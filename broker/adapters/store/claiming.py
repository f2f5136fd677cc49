"""Who works on what, where several replicas share a database: claims that lapse by the database's clock.

A replica takes work with `FOR UPDATE SKIP LOCKED`: what another one holds, or is changing at this moment, is passed over and
never waited for. A claim is a courtesy, so that work is not done twice; what keeps two replicas from undoing each other is
each change's precondition (writing.py). So claims need not be durable, and lapse with whoever took them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Select,
    String,
    Table,
    and_,
    any_,
    bindparam,
    not_,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, insert

from broker.adapters.store import reading
from broker.adapters.store.claim_sql import NOW, UNTIL
from broker.adapters.store.rows import lease_of, task_of
from broker.adapters.store.schema import leases, tasks, turns
from broker.adapters.store.session import MICROSECOND, Session, Statement
from broker.domain import changes as c
from broker.domain.identifiers import LeaseId, TaskId
from broker.domain.lease import Lease, LeaseState
from broker.domain.task import Task


def _named(name: str) -> ColumnElement[Any]:
    return any_(bindparam(name, type_=ARRAY(String)))


def _free(table: Table) -> ColumnElement[bool]:
    """Nobody else's."""
    return or_(
        table.c.claimed_until.is_(None),
        table.c.claimed_until <= NOW,
        table.c.claimed_by == bindparam("b_holder"),
    )


def _claim(wanted: Statement, table: Table) -> Statement:
    """Claim what `wanted` finds and nobody else holds; returns the rows."""
    (key,) = table.primary_key.columns
    if not isinstance(wanted.core, Select):
        raise TypeError
    taken = (
        wanted.core.with_only_columns(key)
        .where(_free(table), not_(key == _named("b_besides")))
        .with_for_update(of=table, skip_locked=True)
        .cte("taken")
    )
    return Statement(
        update(table)
        .where(key.in_(select(taken.c[key.name])))
        .values(claimed_by=bindparam("b_holder"), claimed_until=UNTIL)
        .returning(*table.c)
    )


_LAPSED: Final = _claim(reading.LAPSED, tasks)
_ENDING: Final = _claim(reading.ENDING, tasks)
_DUE_FOR_RENEWAL: Final = _claim(reading.DUE_FOR_RENEWAL, leases)
_EXPIRED: Final = _claim(reading.EXPIRED, leases)
_TO_REVOKE: Final = _claim(reading.TO_REVOKE, leases)
_INTENDED: Final = _claim(reading.INTENDED, leases)
_NAMED: Final = _claim(Statement(select(leases).where(leases.c.lease_id == _named("b_leases"))), leases)

_CHANGED_LEASES: Final = Statement(
    update(leases)
    .where(
        or_(
            leases.c.lease_id == _named("b_leases"),
            and_(leases.c.task_id == _named("b_tasks"), leases.c.state == LeaseState.REVOKING.value),
        ),
        _free(leases),
    )
    .values(claimed_by=bindparam("b_holder"), claimed_until=UNTIL)
)
_CHANGED_TASKS: Final = Statement(
    update(tasks)
    .where(tasks.c.task_id == _named("b_tasks"), _free(tasks))
    .values(claimed_by=bindparam("b_holder"), claimed_until=UNTIL)
)
_TASKS_OF: Final = Statement(
    select(leases.c.task_id).where(leases.c.lease_id == _named("b_leases")).distinct()
)
_new_turn = insert(turns).values(
    name=bindparam("b_name"),
    holder=bindparam("b_holder"),
    until=NOW + bindparam("b_lasting", type_=BigInteger),
)
_TURN: Final = Statement(
    _new_turn.on_conflict_do_update(
        index_elements=[turns.c.name],
        set_={"holder": _new_turn.excluded.holder, "until": _new_turn.excluded.until},
        where=or_(turns.c.until <= NOW, turns.c.holder == _new_turn.excluded.holder),
    )
)


class Claims:
    """What one replica takes. `holder` names it, and nobody else."""

    def __init__(self, holder: str) -> None:
        self._holder = holder

    @property
    def holder(self) -> str:
        """Who takes."""
        return self._holder

    def lapsed_tasks(self, session: Session, now: datetime, limit: int) -> tuple[Task, ...]:
        """See ports.store."""
        found = self._tasks(session, _LAPSED, b_now=now, b_limit=limit)
        return tuple(sorted(found, key=lambda task: task.deadline))

    def ending_tasks(self, session: Session, limit: int) -> tuple[Task, ...]:
        """See ports.store."""
        found = self._tasks(session, _ENDING, b_limit=limit)
        return tuple(sorted(found, key=lambda task: task.end.at if task.end else task.deadline))

    def leases_due_for_renewal(self, session: Session, before: datetime, limit: int) -> tuple[Lease, ...]:
        """See ports.store."""
        found = self._leases(session, _DUE_FOR_RENEWAL, b_before=before, b_limit=limit)
        return tuple(sorted(found, key=lambda lease: lease.expires_at or before))

    def expired_leases(self, session: Session, now: datetime, limit: int) -> tuple[Lease, ...]:
        """See ports.store."""
        found = self._leases(session, _EXPIRED, b_now=now, b_limit=limit)
        return tuple(sorted(found, key=lambda lease: lease.expires_at or now))

    def leases_to_revoke(
        self, session: Session, now: datetime, limit: int, besides: Collection[LeaseId]
    ) -> tuple[Lease, ...]:
        """See ports.store."""
        found = self._leases(session, _TO_REVOKE, besides, b_now=now, b_limit=limit)
        return tuple(sorted(found, key=lambda lease: lease.next_attempt_at or now))

    def intended_leases(
        self, session: Session, before: datetime, limit: int, besides: Collection[LeaseId]
    ) -> tuple[Lease, ...]:
        """See ports.store."""
        found = self._leases(session, _INTENDED, besides, b_before=before, b_limit=limit)
        return tuple(sorted(found, key=lambda lease: lease.intended_at))

    def hold(self, session: Session, wanted: Collection[LeaseId]) -> frozenset[LeaseId]:
        """See ports.store."""
        found = self._leases(session, _NAMED, b_leases=list(wanted))
        return frozenset(lease.lease_id for lease in found)

    def turn(self, session: Session, name: str, lasting: timedelta) -> bool:
        """See ports.store."""
        return (
            session.change(_TURN, b_name=name, b_holder=self._holder, b_lasting=lasting // MICROSECOND) == 1
        )

    def claim_changed(self, session: Session, changes: Sequence[c.Change]) -> None:
        """Claim what `changes` left to be done, in their own transaction: whoever makes work does it first. A lease is
        held by whoever makes it from its INSERT on."""
        ended = [change.task_id for change in changes if isinstance(change, c.EndTask)]
        revoking = [change.lease_id for change in changes if isinstance(change, c.RevokeLease)]
        if revoking or ended:
            session.change(_CHANGED_LEASES, b_leases=revoking, b_tasks=ended, b_holder=self._holder)
        if ended:
            session.change(_CHANGED_TASKS, b_tasks=ended, b_holder=self._holder)

    def tasks_of_extended(self, session: Session, changes: Sequence[c.Change]) -> list[TaskId]:
        """Whose leases `changes` extended."""
        extended = [change.lease_id for change in changes if isinstance(change, c.ExtendLease)]
        if not extended:
            return []
        return [TaskId(row["task_id"]) for row in session.rows(_TASKS_OF, b_leases=extended)]

    def _tasks(self, session: Session, statement: Statement, **values: Any) -> list[Task]:  # noqa: ANN401 - column values
        return [
            task_of(row) for row in session.rows(statement, b_holder=self._holder, b_besides=[], **values)
        ]

    def _leases(
        self,
        session: Session,
        statement: Statement,
        besides: Collection[LeaseId] = (),
        **values: Any,  # noqa: ANN401 - column values
    ) -> list[Lease]:
        rows = session.rows(statement, b_holder=self._holder, b_besides=list(besides), **values)
        return [lease_of(row) for row in rows]
