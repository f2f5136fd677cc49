"""The work of tasks as the events that detectors fold: one by one as it happens, or read again from the store.

What always holds: an event that is made as something happens equals the one that is read of it later, so that whoever has both
has one. From where somebody called for a task that had ended already is in no store: that alone is not read again.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Final

from broker.anomaly.events import Called, Closed, Event, EventKind, decided_of
from broker.domain.actions import Action, ActionKind, ActionOutcome
from broker.domain.catalog import Catalog, CredentialRole, Tool
from broker.domain.identifiers import TaskId
from broker.domain.sightings import Sighting
from broker.domain.spiffe import AgentIdentity, SpiffeId
from broker.domain.task import EndCause, Task, TaskState
from broker.ports.store import Store

MOST_EVENTS: Final = 10_000
"""Of an instance, that are read again; what is beyond is left out, the tasks that ended first of all."""

_PAGE: Final = 1_000
_MOST_ACTIVE: Final = 128


def declared_event(task: Task) -> Event:
    """The beginning of a task."""
    return Event(
        kind=EventKind.DECLARED,
        at=task.created_at,
        instance=task.owner,
        agent_class=task.agent_class,
        task_id=task.task_id,
        task_type=task.task_type,
        environment=task.environment,
    )


def decided_event(action: Action, task: Task, catalog: Catalog) -> Event:
    """A link of its chain."""
    entry: Tool | CredentialRole | None
    if action.kind is ActionKind.TOOL:
        entry = catalog.tools.get(action.name)
    else:
        entry = catalog.credential_roles.get(action.name)
    return Event(
        kind=EventKind.DECIDED,
        at=action.at,
        instance=task.owner,
        agent_class=task.agent_class,
        task_id=task.task_id,
        task_type=task.task_type,
        environment=task.environment,
        position=action.position,
        decided=decided_of(action, entry, canary=entry is not None and entry.canary),
    )


def closed_event(action: Action, task: Task) -> Event:
    """How an allowed action went.

    Raises:
        ValueError: it is open.
    """
    if action.closed_at is None or action.outcome is ActionOutcome.OPEN:
        message = "an open action was not closed"
        raise ValueError(message)
    return Event(
        kind=EventKind.CLOSED,
        at=action.closed_at,
        instance=task.owner,
        agent_class=task.agent_class,
        task_id=task.task_id,
        task_type=task.task_type,
        environment=task.environment,
        position=action.position,
        closed=Closed(action_id=action.action_id, outcome=action.outcome),
    )


def ended_event(task: Task) -> Event:
    """The end of a task, from the moment at which it gets nothing more.

    Raises:
        ValueError: it is active.
    """
    if task.end is None:
        message = "an active task has not ended"
        raise ValueError(message)
    return Event(
        kind=EventKind.TASK_ENDED,
        at=task.end.at,
        instance=task.owner,
        agent_class=task.agent_class,
        task_id=task.task_id,
        task_type=task.task_type,
        environment=task.environment,
        end=task.end.cause,
        outcome=task.end.outcome,
    )


def called_event(instance: SpiffeId, sighting: Sighting, task: Task | None = None) -> Event:
    """A call from another place, or with another SVID, than before; for `task` where one is named that has ended."""
    return Event(
        kind=EventKind.CALLED,
        at=sighting.at,
        instance=instance,
        agent_class=_class_of(instance),
        task_id=None if task is None else task.task_id,
        task_type="" if task is None else task.task_type,
        environment="" if task is None else task.environment,
        called=Called(
            address=sighting.address,
            svid_sha256=sighting.svid_sha256,
            key_fingerprint=sighting.key_fingerprint,
        ),
    )


def instance_ended_event(instance: SpiffeId, at: datetime) -> Event:
    """The end of an instance, as whoever launched it reports."""
    return Event(kind=EventKind.INSTANCE_ENDED, at=at, instance=instance, agent_class=_class_of(instance))


async def events_of_task(store: Store, task: Task, catalog: Catalog) -> list[Event]:
    """All that is stored of a task: its beginning, its chain, its end.

    Raises:
        StoreUnavailableError: it cannot be read.
    """
    events, position = [declared_event(task)], 0
    while page := await store.actions_of(task.task_id, position, _PAGE):
        for action in page:
            events.append(decided_event(action, task, catalog))
            if action.closed_at is not None:
                events.append(closed_event(action, task))
        position = page[-1].position
        if len(page) < _PAGE:
            break
    if task.end is not None:
        events.append(ended_event(task))
        if task.end.cause is EndCause.INSTANCE_GONE:
            events.append(instance_ended_event(task.owner, task.end.at))
    return events


async def events_of_instance(
    store: Store, instance: SpiffeId, catalog: Catalog, *, most_tasks: int, besides: Collection[TaskId] = ()
) -> tuple[list[Event], tuple[Task, ...]]:
    """What is stored of an instance: its active tasks, its newest ones, those named `besides`, and from where it called.

    In no order. With it, the tasks that it is of.

    Raises:
        StoreUnavailableError: it cannot be read.
    """
    newest = await store.tasks_of(instance, states=frozenset(), page_size=most_tasks, page_token="")
    tasks = {task.task_id: task for task in newest.tasks}
    if newest.next_token:
        active = await store.tasks_of(
            instance, states={TaskState.ACTIVE}, page_size=_MOST_ACTIVE, page_token=""
        )
        tasks |= {task.task_id: task for task in active.tasks}
    for task_id in besides:
        named = None if task_id in tasks else await store.task(task_id)
        if named is not None and named.owner == instance:
            tasks[task_id] = named
    events = [called_event(instance, sighting) for sighting in await store.sightings_of(instance)]
    read = []
    for task in sorted(tasks.values(), key=lambda one: (one.end is None, one.created_at), reverse=True):
        if len(events) < MOST_EVENTS or task.end is None:
            events += await events_of_task(store, task, catalog)
            read.append(task)
    return events, tuple(read)


def _class_of(instance: SpiffeId) -> str:
    identity = AgentIdentity.of(instance)
    return "" if identity is None else identity.agent_class
