"""The whole life of tasks and leases, as data: every transition, the change that makes it durable, and what may follow.

ARCHITECTURE.md prints it (`python -m tools.lifecycle` writes that part, a check compares it). A property-based test walks it on
the real store. What always holds: the effect is begun only when the transition is durable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from broker.domain import changes
from broker.domain.lease import LeaseState
from broker.domain.task import TaskState

State = TaskState | LeaseState


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One arrow. `before` is None where something comes into being."""

    before: State | None
    after: State
    change: type[changes.Change]
    effect: str
    """What only then happens, for people."""

    @property
    def of(self) -> str:
        """`task` or `lease`."""
        return "task" if isinstance(self.after, TaskState) else "lease"


LIFECYCLE: Final = (
    Transition(
        before=None, after=TaskState.ACTIVE, change=changes.CreateTask, effect="the agent gets the task's id"
    ),
    Transition(
        before=TaskState.ACTIVE,
        after=TaskState.ENDING,
        change=changes.EndTask,
        effect="every lease of it is revoking, in the same transaction; nothing more is issued",
    ),
    Transition(
        before=TaskState.ENDING,
        after=TaskState.ENDED,
        change=changes.FinishTask,
        effect="it is said to have ended",
    ),
    Transition(
        before=None, after=LeaseState.INTENDED, change=changes.CreateLease, effect="Vault is asked to make it"
    ),
    Transition(
        before=LeaseState.INTENDED,
        after=LeaseState.LIVE,
        change=changes.IssueLease,
        effect="the secret leaves the process",
    ),
    Transition(
        before=LeaseState.INTENDED,
        after=LeaseState.VOID,
        change=changes.VoidLease,
        effect="none: Vault made nothing, and said so",
    ),
    Transition(
        before=LeaseState.INTENDED,
        after=LeaseState.REVOKING,
        change=changes.RevokeLease,
        effect="in doubt: its token is revoked",
    ),
    Transition(
        before=LeaseState.LIVE,
        after=LeaseState.REVOKING,
        change=changes.RevokeLease,
        effect="Vault revokes it, again and again until it is gone",
    ),
    Transition(
        before=LeaseState.REVOKING,
        after=LeaseState.REVOKED,
        change=changes.ConfirmRevoked,
        effect="it is said to be revoked",
    ),
)
"""In the order of a life."""


def is_drawn(before: State | None, after: State) -> bool:
    """Whether there is such an arrow; staying is none."""
    return any(one.before is before and one.after is after for one in LIFECYCLE)


def can_lead_to(before: State | None, after: State) -> bool:
    """Whether arrows lead from one to the other, in any number."""
    if before is after:
        return True
    return any(
        can_lead_to(one.after, after)
        for one in LIFECYCLE
        if one.before is before and (before is not None or type(one.after) is type(after))
    )


def as_markdown() -> str:
    """The table that ARCHITECTURE.md has."""
    lines = ["| | from | to | change | once it is durable |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| {one.of} | {one.before or ''} | {one.after} | `{one.change.__name__}` | {one.effect} |"
        for one in LIFECYCLE
    ]
    return "\n".join(lines)
