"""The audit trail as the events that detectors fold: what was declared, decided, closed and ended, in the trail's order.

What the trail has is taken from it, also where the catalog has changed since: effects, classes of denial, positions. What it
lacks comes from the catalog at hand (what a tool reads and where it writes), or is left out and counted: from which address
somebody called is in no record, so that rules about places and keys find nothing here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from broker.anomaly.bounded import Recent
from broker.anomaly.events import Closed, Decided, Event, EventKind, decided_of
from broker.domain.actions import Action, ActionKind, ActionOutcome
from broker.domain.audit import AuditEvent, AuditKind, AuditRecord
from broker.domain.catalog import Catalog, CredentialRole, Tool
from broker.domain.classification import Classification
from broker.domain.effects import EVERY_VERB, EVERYTHING, Effect, Verb
from broker.domain.errors import DenialClass
from broker.domain.flows import labels_of
from broker.domain.identifiers import ActionId, TaskId
from broker.domain.spiffe import AgentIdentity, InvalidSpiffeIdError, SpiffeId
from broker.domain.task import EndCause, Outcome

MOST_TASKS: Final = 100_000
"""Tasks that are known at once while the trail is read; of older ones, what comes later is unreadable."""
MOST_OPEN: Final = 1_000
"""Allowed actions of one task whose outcome may still be read."""

_TOOL: Final = {AuditKind.ACTION_ALLOWED, AuditKind.ACTION_DENIED}
_ALLOWED: Final = {AuditKind.ACTION_ALLOWED, AuditKind.CREDENTIAL_INTENDED}
_DECIDED: Final = _TOOL | {AuditKind.CREDENTIAL_INTENDED, AuditKind.CREDENTIAL_DENIED}
_NOWHERE: Final = Effect(verbs=EVERY_VERB, resource=EVERYTHING, destination="")
"""The effect of what no catalog had when it was asked for."""

_Entry = Tool | CredentialRole


@dataclass(slots=True)
class _Known:
    """A task, as far as its records have been read."""

    owner: SpiffeId
    agent_class: str
    task_type: str
    environment: str
    open: Recent[ActionId, int]
    """Positions of its allowed actions."""


class TrailEvents:
    """Reads records in order. Each call to `events` goes on where the last one ended."""

    def __init__(self, catalog: Catalog) -> None:
        """`catalog` says what the trail does not."""
        self._catalog = catalog
        self._tasks: Recent[str, _Known] = Recent(MOST_TASKS)
        self._readers: Mapping[str, Callable[[AuditEvent], Event | None]] = {
            AuditKind.TASK_DECLARED: self._declared,
            **dict.fromkeys(_DECIDED, self._decided),
            AuditKind.ACTION_CLOSED: self._closed,
            AuditKind.TASK_ENDING: self._ended,
            AuditKind.INSTANCE_ENDED: self._instance_ended,
        }
        self.unreadable = 0
        """Records that say too little: of tasks that were declared before the first record, or by an older version."""
        self.unlisted = 0
        """Actions with what the catalog at hand no longer has: what they read and where they wrote is not known."""

    def events(self, records: Iterable[AuditRecord]) -> Iterator[Event]:
        """Those of the records that detectors know of."""
        for record in records:
            reader = self._readers.get(record.event.kind)
            if reader is None:
                continue
            try:
                found = reader(record.event)
            except (KeyError, TypeError, ValueError, AttributeError, InvalidSpiffeIdError):
                found = None
            if found is None:
                self.unreadable += 1
            else:
                yield found

    def _declared(self, event: AuditEvent) -> Event | None:
        owner = SpiffeId.parse(event.actor)
        identity = AgentIdentity.of(owner)
        if identity is None or not event.task_id:
            return None
        known = _Known(
            owner=owner,
            agent_class=identity.agent_class,
            task_type=str(event.facts["task_type"]),
            environment=str(event.facts["environment"]),
            open=Recent(MOST_OPEN),
        )
        self._tasks.put(event.task_id, known)
        return _of_task(EventKind.DECLARED, event, known)

    def _decided(self, event: AuditEvent) -> Event | None:
        known = self._tasks.get(event.task_id)
        if known is None:
            return None
        entry = self._entry(event)
        action = _action(event, known, entry)
        if entry is None and action.effect != _NOWHERE:
            self.unlisted += 1
        if action.allowed:
            known.open.put(action.action_id, action.position)
        decided = decided_of(action, entry, canary=bool(getattr(entry, "canary", False)))
        return replace(
            _of_task(EventKind.DECIDED, event, known, decided=_as_it_was(decided, event)),
            position=action.position,
        )

    def _closed(self, event: AuditEvent) -> Event | None:
        known = self._tasks.get(event.task_id)
        action_id = ActionId(str(event.facts["action"]))
        position = None if known is None else known.open.get(action_id)
        if known is None or position is None:
            return None
        known.open.drop(action_id)
        closed = Closed(action_id=action_id, outcome=ActionOutcome(str(event.facts["outcome"])))
        return replace(_of_task(EventKind.CLOSED, event, known, closed=closed), position=position)

    def _ended(self, event: AuditEvent) -> Event | None:
        known = self._tasks.get(event.task_id)
        if known is None:
            return None
        outcome = str(event.facts.get("outcome", ""))
        return replace(
            _of_task(EventKind.TASK_ENDED, event, known),
            end=EndCause(str(event.facts["cause"])),
            outcome=Outcome(outcome) if outcome else None,
        )

    @staticmethod
    def _instance_ended(event: AuditEvent) -> Event | None:
        instance = SpiffeId.parse(str(event.facts["instance"]))
        identity = AgentIdentity.of(instance)
        if identity is None:
            return None
        return Event(
            kind=EventKind.INSTANCE_ENDED,
            at=event.at,
            instance=instance,
            agent_class=identity.agent_class,
        )

    def _entry(self, event: AuditEvent) -> _Entry | None:
        """The catalog's, of what was asked for."""
        if event.kind in _TOOL:
            return self._catalog.tools.get(str(event.facts["tool"]))
        return self._catalog.credential_roles.get(str(event.facts["role"]))


def _of_task(
    kind: EventKind,
    event: AuditEvent,
    known: _Known,
    *,
    decided: Decided | None = None,
    closed: Closed | None = None,
) -> Event:
    return Event(
        kind=kind,
        at=event.at,
        instance=known.owner,
        agent_class=known.agent_class,
        task_id=TaskId(event.task_id),
        task_type=known.task_type,
        environment=known.environment,
        decided=decided,
        closed=closed,
    )


def _action(event: AuditEvent, known: _Known, entry: _Entry | None) -> Action:
    """The link of the chain that was recorded with it."""
    facts, is_tool = event.facts, event.kind in _TOOL
    allowed = event.kind in _ALLOWED
    denial_class = "" if allowed else str(facts["denial_class"])
    return Action(
        action_id=ActionId(_text(facts["action"])),
        task_id=TaskId(event.task_id),
        owner=known.owner,
        position=_integer(facts["position"]),
        kind=ActionKind.TOOL if is_tool else ActionKind.CREDENTIAL,
        name=str(facts["tool" if is_tool else "role"]),
        effect=_effect_of_call(facts) if is_tool else _effect_of_role(facts, entry),
        arguments_digest=str(facts.get("arguments_sha256", "")),
        at=event.at,
        allowed=allowed,
        reason="" if allowed else str(facts["reason"]),
        denial_class=DenialClass(denial_class) if denial_class else None,
        labels=labels_of(entry.reads) if entry is not None and allowed else frozenset(),
    )


def _as_it_was(decided: Decided, event: AuditEvent) -> Decided:
    """With the classification that the record has, where it has one: a role's may have changed since."""
    recorded = event.facts.get("classification")
    return decided if recorded is None else replace(decided, classification=Classification(str(recorded)))


def _effect_of_call(facts: Mapping[str, object]) -> Effect:
    """What was written by `Effect.as_text`, whose resource stands beside it."""
    text, resource = str(facts["effect"]), str(facts["resource"])
    if not text:
        return _NOWHERE
    verbs, _, rest = text.partition(" ")
    shown = resource or "everything"
    if not rest.startswith(shown):
        raise ValueError
    destination = rest[len(shown) :]
    if destination and not destination.startswith(" at "):
        raise ValueError
    return Effect(
        verbs=EVERY_VERB if verbs == "anything" else frozenset(map(Verb, verbs.split("/"))),
        resource=resource,
        destination=destination.removeprefix(" at "),
    )


def _effect_of_role(facts: Mapping[str, object], entry: _Entry | None) -> Effect:
    """The recorded destination, with what the catalog at hand says can be done there."""
    destination = facts.get("destination")
    if destination is None:
        return _NOWHERE
    if not isinstance(entry, CredentialRole):
        return replace(_NOWHERE, destination=str(destination))
    return replace(entry.effect, destination=str(destination))


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError
    return value


def _integer(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError
    return value
