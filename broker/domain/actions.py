"""Actions: each use of a tool or a credential that was decided, allowed or not; a task's actions in order are its chain."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from broker.domain.effects import Effect
from broker.domain.errors import DenialClass, IllegalTransitionError
from broker.domain.identifiers import ActionId, TaskId
from broker.domain.one_form import one_form
from broker.domain.quick import quick
from broker.domain.spiffe import SpiffeId


class ActionKind(StrEnum):
    """What was asked for."""

    TOOL = "tool"
    CREDENTIAL = "credential"


class ActionOutcome(StrEnum):
    """How an allowed action went, as the agent says."""

    OPEN = "open"
    """Not said yet."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    NOT_DONE = "not-done"
    """It was allowed, and the agent did not do it."""


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One link of a chain."""

    action_id: ActionId
    task_id: TaskId
    owner: SpiffeId
    position: int
    """1 for the first of its task, without gaps."""
    kind: ActionKind
    name: str
    """The tool's or the role's."""
    effect: Effect
    arguments_digest: str
    at: datetime
    allowed: bool
    reason: str = ""
    """The wire's reason when it was refused."""
    denial_class: DenialClass | None = None
    labels: frozenset[str] = frozenset()
    """What the task is labelled with because of it."""
    sticks_until: datetime | None = None
    """Until when its effect stays denied to the instance, and longer to the task; None: it does not stick."""
    idempotency_key: str | None = None
    outcome: ActionOutcome = ActionOutcome.OPEN
    closed_at: datetime | None = None

    def denies(self, task_id: TaskId, effect: Effect, now: datetime) -> bool:
        """Whether this refusal holds for such an effect of that task, which is of the same instance (rule R9)."""
        if self.allowed or self.sticks_until is None:
            return False
        return (task_id == self.task_id or now < self.sticks_until) and self.effect.touches(effect)

    def closed(self, outcome: ActionOutcome, at: datetime) -> Action:
        """Open to closed.

        Raises:
            IllegalTransitionError: it was refused, or is closed already.
        """
        if not self.allowed or self.outcome is not ActionOutcome.OPEN:
            raise IllegalTransitionError(self.action_id, self.outcome, outcome)
        return replace(self, outcome=outcome, closed_at=at)


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """What a task has done so far, as far as a decision needs it."""

    length: int = 0
    """All of them, the refused ones as well: the position of the last one."""
    steps: tuple[str, ...] = ()
    """Names of those that were allowed, in order."""
    times: Mapping[str, tuple[datetime, ...]] = field(default_factory=lambda: MappingProxyType({}))
    """When each name was allowed, oldest first."""
    labels: frozenset[str] = frozenset()
    denials: int = 0
    last: str = ""
    last_refused: str = ""

    def after(self, action: Action) -> Chain:
        """With one more at its end.

        Raises:
            ValueError: it is not the next one.
        """
        if action.position != self.length + 1:
            message = f"action {action.position} does not follow {self.length}"
            raise ValueError(message)
        if not action.allowed:
            return replace(self, length=action.position, denials=self.denials + 1, last_refused=action.name)
        earlier = self.times.get(action.name, ())
        return Chain(  # `replace` takes twice as long, and each call of a tool comes by here
            length=action.position,
            steps=(*self.steps, action.name),
            times=MappingProxyType({**self.times, action.name: (*earlier, action.at)}),
            labels=self.labels | action.labels,
            denials=self.denials,
            last=action.name,
            last_refused=self.last_refused,
        )


NO_ACTIONS: Final = Chain()


def chain_of(actions: Sequence[Action]) -> Chain:
    """The chain that these actions, all of one task and in order, make."""
    chain = NO_ACTIONS
    for action in actions:
        chain = chain.after(action)
    return chain


def digest_of(arguments: Mapping[str, object]) -> str:
    """SHA-256 (hex) of the arguments in one form: JSON with sorted keys, without spaces, in UTF-8.

    Raises:
        ValueError: a number is infinite or none.
        TypeError: a value is nothing that JSON has.
    """
    text = _ONE_FORM(arguments)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _as_dict(value: object) -> dict[str, object]:
    """For mappings of other kinds than `dict`."""
    if isinstance(value, Mapping):
        return dict(value)
    message = f"JSON has no {type(value).__name__}"
    raise TypeError(message)


_ONE_FORM: Final = one_form(ensure_ascii=False, allow_nan=False, default=_as_dict)
