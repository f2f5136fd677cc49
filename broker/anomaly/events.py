"""What detectors see: the ordered events of an instance and its tasks.

What always holds: an event is complete for its kind, its time is aware, and events have one order, so that whoever sees the
same events folds them the same way. No argument's value is in an event but for what an effect's resource names.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from broker.domain.actions import Action, ActionKind, ActionOutcome
from broker.domain.catalog import CredentialRole, Tool
from broker.domain.classification import Classification
from broker.domain.effects import EVERY_VERB, EVERYTHING, Effect
from broker.domain.errors import DenialClass
from broker.domain.flows import Origin, Writes
from broker.domain.identifiers import ActionId, TaskId
from broker.domain.quick import quick
from broker.domain.spiffe import SpiffeId
from broker.domain.task import EndCause, Outcome


class EventKind(StrEnum):
    """What happened."""

    DECLARED = "declared"
    CALLED = "called"
    """An authenticated call was seen."""
    DECIDED = "decided"
    CLOSED = "closed"
    TASK_ENDED = "task-ended"
    INSTANCE_ENDED = "instance-ended"


_OF_NO_TASK: Final = frozenset({EventKind.CALLED, EventKind.INSTANCE_ENDED})


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """A link of a task's chain, and what the catalog says of its tool or role."""

    action_id: ActionId
    kind: ActionKind
    name: str
    effect: Effect
    allowed: bool
    reason: str = ""
    denial_class: DenialClass | None = None
    labels: frozenset[str] = frozenset()
    classification: Classification = Classification.PUBLIC
    reads_untrusted: bool = False
    writes: Writes = Writes.NOTHING
    canary: bool = False
    """Nobody's work needs it: the catalog has it so that whoever touches it shows themselves."""

    @property
    def has_effect(self) -> bool:
        """Whether it says anything of what would happen: what is not in the catalog does not."""
        effect = self.effect
        return bool(effect.verbs != EVERY_VERB or effect.resource != EVERYTHING or effect.destination)


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """How an allowed action went, as the agent says."""

    action_id: ActionId
    outcome: ActionOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Called:
    """From where, and with which SVID and key."""

    address: str
    """The peer's IP address, without its port."""
    svid_sha256: str
    key_fingerprint: str = ""
    """Digest of the key that the peer showed it holds; empty where none was shown."""


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One of them."""

    kind: EventKind
    at: datetime
    instance: SpiffeId
    agent_class: str
    task_id: TaskId | None = None
    task_type: str = ""
    environment: str = ""
    position: int = 0
    """The action's in its chain; 0 for what is no action."""
    delegator: SpiffeId | None = None
    """The instance on whose behalf this one acts; its watch sees the event as well."""
    decided: Decided | None = None
    closed: Closed | None = None
    called: Called | None = None
    end: EndCause | None = None
    outcome: Outcome | None = None

    def __post_init__(self) -> None:
        """See that it is complete.

        Raises:
            ValueError: its time is naive, or a part is missing, or one too many.
        """
        if self.at.tzinfo is None:
            message = "an event's time is aware"
            raise ValueError(message)
        kind = self.kind
        if (
            (self.decided is None) is (kind is EventKind.DECIDED)
            or (self.closed is None) is (kind is EventKind.CLOSED)
            or (self.called is None) is (kind is EventKind.CALLED)
        ):
            message = f"an event of kind {kind.value} has its own part and no other"
            raise ValueError(message)
        if self.task_id is None and kind not in _OF_NO_TASK:
            message = f"an event of kind {kind.value} is of a task"
            raise ValueError(message)


_RANK: Final = {
    EventKind.DECLARED: 0,
    EventKind.CALLED: 1,
    EventKind.DECIDED: 2,
    EventKind.CLOSED: 2,
    EventKind.TASK_ENDED: 3,
    EventKind.INSTANCE_ENDED: 4,
}

Place = tuple[datetime, int, int, tuple[str, ...]]
"""Where an event stands among others."""


def place_of(event: Event) -> Place:
    """Its time, what must come first at one time, its position, and something that no two different ones share."""
    rest: tuple[str, ...] = (event.kind.value, str(event.instance), event.task_id or "")
    if event.decided is not None:
        rest = (*rest, event.decided.action_id)
    if event.closed is not None:
        rest = (*rest, event.closed.action_id, event.closed.outcome.value)
    if event.called is not None:
        rest = (*rest, event.called.address, event.called.svid_sha256, event.called.key_fingerprint)
    return event.at, _RANK[event.kind], event.position, rest


def in_order(*streams: Iterable[Event]) -> tuple[Event, ...]:
    """What several replicas saw, as one that had seen it all: each event once, in order."""
    return tuple(sorted({event for stream in streams for event in stream}, key=place_of))


def decided_of(action: Action, entry: Tool | CredentialRole | None, *, canary: bool = False) -> Decided:
    """A link with what the catalog says of it; `entry` is None for what is not listed."""
    return Decided(
        action_id=action.action_id,
        kind=action.kind,
        name=action.name,
        effect=action.effect,
        allowed=action.allowed,
        reason=action.reason,
        denial_class=action.denial_class,
        labels=action.labels,
        classification=Classification.PUBLIC if entry is None else entry.reads.classification,
        reads_untrusted=entry is not None and entry.reads.origin is Origin.UNTRUSTED,
        writes=Writes.NOTHING if entry is None else entry.writes,
        canary=canary,
    )
