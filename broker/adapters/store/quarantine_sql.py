"""Statements about quarantines and the tasks that they concern, for reading and for writing.

A quarantine concerns a task by its owner: the same instance, one of the class, or one of the trust domain
(`QuarantineTarget.concerns`, which these statements say in SQL).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, bindparam, delete, func, insert, literal, or_, select, text

from broker.adapters.store.rows import QUARANTINE_COLUMNS
from broker.adapters.store.schema import quarantines, tasks
from broker.adapters.store.session import Statement
from broker.domain.quarantine import TargetKind
from broker.domain.task import TaskState

_SCHEME: Final = "spiffe://"


def _concerns(kind: TargetKind, name: ColumnElement[Any]) -> ColumnElement[bool]:
    match kind:
        case TargetKind.INSTANCE:
            return tasks.c.owner == name
        case TargetKind.AGENT_CLASS:
            return tasks.c.agent_class == name
        case TargetKind.TRUST_DOMAIN:
            # Not LIKE: "_" may stand in a trust domain's name.
            beginning = func.substr(tasks.c.owner, 1, func.length(name) + len(_SCHEME) + 1)
            return beginning == literal(_SCHEME).concat(name).concat("/")


_TARGET: Final = and_(quarantines.c.kind == bindparam("b_kind"), quarantines.c.name == bindparam("b_name"))

INSERT: Final = Statement(insert(quarantines), columns=QUARANTINE_COLUMNS)
DELETE: Final = Statement(delete(quarantines).where(_TARGET))
ALL: Final = Statement(select(quarantines))
BY_TARGET: Final = Statement(select(quarantines).where(_TARGET))
PAGE: Final = Statement(
    select(quarantines)
    .where(
        or_(
            quarantines.c.kind > bindparam("b_kind"),
            and_(quarantines.c.kind == bindparam("b_kind"), quarantines.c.name > bindparam("b_name")),
        )
    )
    .order_by(quarantines.c.kind, quarantines.c.name)
    .limit(bindparam("b_limit"))
)
_OF_OWNER: Final = (
    select(quarantines.c.kind)
    .where(
        or_(
            *(
                and_(quarantines.c.kind == kind.value, quarantines.c.name == bindparam(f"b_{kind.name}"))
                for kind in TargetKind
            )
        )
    )
    .limit(1)
)
WELCOME: Final = and_(
    tasks.c.task_id == bindparam("task_id"),
    tasks.c.owner == bindparam("b_INSTANCE"),
    tasks.c.state == TaskState.ACTIVE.value,
    tasks.c.hold.is_(None),
    ~_OF_OWNER.exists(),
)
"""That the task `task_id`, of that owner, may do something: takes names as `OF_OWNER` does."""
OF_OWNER: Final = Statement(_OF_OWNER)
"""Whether an owner is quarantined: takes a name of each kind, as `b_INSTANCE` and so on."""

TASK_OF_OWNER: Final = Statement(
    select(tasks.c.state, tasks.c.hold, _OF_OWNER.scalar_subquery().label("quarantined")).where(
        tasks.c.task_id == bindparam("b_task"), tasks.c.owner == bindparam("b_INSTANCE")
    )
)
"""A task of that owner, and whether the owner is quarantined: takes names as `OF_OWNER` does."""

COUNT_BY_KIND: Final[Mapping[TargetKind, Statement]] = {
    kind: Statement(
        select(func.count().label("tasks"))
        .select_from(tasks)
        .where(_concerns(kind, bindparam("b_name")), tasks.c.state == bindparam("b_state"))
    )
    for kind in TargetKind
}
ACTIVE_BY_KIND: Final[Mapping[TargetKind, Statement]] = {
    kind: Statement(
        select(text("1"))
        .select_from(tasks)
        .where(_concerns(kind, bindparam("b_name")), tasks.c.state == TaskState.ACTIVE.value)
        .limit(1)
    )
    for kind in TargetKind
}
QUARANTINED_TASKS: Final = tuple(
    Statement(
        select(tasks)
        .join_from(quarantines, tasks, _concerns(kind, quarantines.c.name))
        .where(quarantines.c.kind == kind.value, tasks.c.state == TaskState.ACTIVE.value)
        .limit(bindparam("b_limit"))
    )
    for kind in TargetKind
)
"""One for each kind: joined by equality, so that a task is not compared with every quarantine there is."""
