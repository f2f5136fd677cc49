"""Events, made short."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from broker.anomaly.events import Called, Closed, Decided, Event, EventKind
from broker.anomaly.learning import Model, lesson_of, merged
from broker.domain.actions import ActionKind, ActionOutcome
from broker.domain.classification import Classification
from broker.domain.effects import Effect, Verb
from broker.domain.errors import DenialClass
from broker.domain.flows import Writes
from broker.domain.identifiers import ActionId, TaskId
from broker.domain.spiffe import SpiffeId
from broker.domain.task import EndCause

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
ONE = SpiffeId(trust_domain="example.org", path="/agent/bot/one")
DB = "postgresql://db:5432"


def an_event(
    kind: EventKind,
    at: float,
    *,
    task: str | None = "task-1",
    task_type: str = "sort",
    environment: str = "staging",
    position: int = 0,
    decided: Decided | None = None,
    closed: Closed | None = None,
    called: Called | None = None,
    end: EndCause | None = None,
) -> Event:
    return Event(
        kind=kind,
        at=NOON + timedelta(seconds=at),
        instance=ONE,
        agent_class="bot",
        task_id=None if task is None else TaskId(task),
        task_type=task_type,
        environment=environment,
        position=position,
        decided=decided,
        closed=closed,
        called=called,
        end=end,
    )


def decided(
    at: float,
    name: str = "read",
    resource: str = "orders/17",
    *,
    verb: Verb = Verb.READ,
    destination: str = DB,
    denial: DenialClass | None = None,
    reason: str = "POLICY_DENIED",
    level: Classification = Classification.INTERNAL,
    untrusted: bool = False,
    writes: Writes = Writes.NOTHING,
    canary: bool = False,
    task: str = "task-1",
    task_type: str = "sort",
    environment: str = "staging",
) -> Event:
    """Allowed where no class of denial is given."""
    return an_event(
        EventKind.DECIDED,
        at,
        task=task,
        task_type=task_type,
        environment=environment,
        position=int(at * 1000) + 1,
        decided=Decided(
            action_id=ActionId(f"action-{task}-{at}-{name}"),
            kind=ActionKind.TOOL,
            name=name,
            effect=Effect(verbs=frozenset({verb}), resource=resource, destination=destination),
            allowed=denial is None,
            reason="" if denial is None else reason,
            denial_class=denial,
            classification=level,
            reads_untrusted=untrusted,
            writes=writes,
            canary=canary,
        ),
    )


def declared(
    at: float = 0, *, task: str = "task-1", task_type: str = "sort", environment: str = "staging"
) -> Event:
    return an_event(EventKind.DECLARED, at, task=task, task_type=task_type, environment=environment)


def closed(event: Event, at: float, outcome: ActionOutcome) -> Event:
    assert event.decided is not None
    own = Closed(action_id=event.decided.action_id, outcome=outcome)
    return an_event(EventKind.CLOSED, at, task=event.task_id, position=event.position, closed=own)


def called(
    at: float, address: str = "10.0.0.1", svid: str = "a", key: str = "k", task: str | None = "task-1"
) -> Event:
    own = Called(address=address, svid_sha256=svid, key_fingerprint=key)
    return an_event(EventKind.CALLED, at, task=task, called=own)


def model_of(
    *names: str, tasks: int = 60, task_type: str = "sort", level: Classification | None = None
) -> Model:
    """Of so many tasks that all did this, on the same resource."""
    events = [declared(task_type=task_type)]
    events += [
        decided(number + 1, name, task_type=task_type, level=level or Classification.INTERNAL)
        for number, name in enumerate(names)
    ]
    return merged([lesson_of(events)] * tasks)
