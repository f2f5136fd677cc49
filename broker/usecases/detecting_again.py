"""Detectors once more, over work that was recorded: what they would find with these parameters.

What always holds: no task is judged by a model that was learned from it. The tasks of each type are dealt into two folds, in turn,
as they were declared; each fold is judged by what the other one taught. Taught is what completed with success and has nothing
against it: no attack, no finding that stands, and nothing that the detectors themselves find in a first pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Final

from broker.anomaly.canaries import Canaries
from broker.anomaly.detector import Detector
from broker.anomaly.drift import Drift
from broker.anomaly.escalation import Escalation
from broker.anomaly.events import Event, EventKind, in_order
from broker.anomaly.findings import DetectorName, Finding
from broker.anomaly.identity_misuse import IdentityMisuse
from broker.anomaly.learning import Model, lesson_of, merged
from broker.anomaly.pivots import Pivots
from broker.anomaly.retries import RetryStorms
from broker.anomaly.volume import Volume
from broker.anomaly.watching import Watch, WatchParameters
from broker.domain.identifiers import TaskId
from broker.domain.task import EndCause, Outcome

MOST_EVENTS: Final = 1_000_000
"""Events that are held at once: somewhat more than a gigabyte."""

_Watching = Detector | Watch

DETECTORS: Final[Mapping[DetectorName, Callable[[WatchParameters, Model], _Watching]]] = MappingProxyType(
    {
        DetectorName.RETRY_STORM: lambda chosen, _: RetryStorms(chosen.retries),
        DetectorName.PIVOT: lambda chosen, model: Pivots(chosen.pivots, model),
        DetectorName.ESCALATION: lambda chosen, model: Escalation(chosen.escalation, model),
        DetectorName.DRIFT: lambda chosen, model: Drift(chosen.drift, model),
        DetectorName.VOLUME: lambda chosen, model: Volume(chosen.volume, model),
        DetectorName.IDENTITY_MISUSE: lambda chosen, _: IdentityMisuse(chosen.identity),
        DetectorName.CANARY: lambda chosen, _: Canaries(chosen.canaries),
    }
)
"""Each detector by itself."""


class TooMuchError(Exception):
    """The trail has more events than are held at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkTask:
    """One task of the trail."""

    task_id: TaskId
    instance: str
    task_type: str
    declared_at: datetime
    succeeded: bool
    """Whether it completed, and its agent said with success."""
    fold: int
    """0 or 1: it is judged by what the other fold taught."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """All that was recorded: what each instance did, in order, and every task of which the declaration is there."""

    streams: Mapping[str, tuple[Event, ...]]
    tasks: Mapping[TaskId, WorkTask]

    def of(self, tasks: Collection[TaskId]) -> Work:
        """The instances of these tasks alone, with all that they did."""
        instances = {self.tasks[one].instance for one in tasks if one in self.tasks}
        return Work(
            streams={name: stream for name, stream in self.streams.items() if name in instances},
            tasks={one.task_id: one for one in self.tasks.values() if one.instance in instances},
        )


Models = tuple[Model, Model]
"""By the fold that taught them."""


def work_of(events: Iterable[Event]) -> Work:
    """Sort it by instance and task.

    Raises:
        TooMuchError: there are too many events.
    """
    streams: dict[str, list[Event]] = {}
    for number, event in enumerate(events):
        if number >= MOST_EVENTS:
            raise TooMuchError
        for whose in {event.instance, event.delegator or event.instance}:
            streams.setdefault(str(whose), []).append(event)
    ordered = {name: in_order(stream) for name, stream in streams.items()}
    return Work(streams=ordered, tasks=_tasks(ordered))


def _tasks(streams: Mapping[str, Sequence[Event]]) -> dict[TaskId, WorkTask]:
    declared = sorted(
        (event.at, event.task_id, str(event.instance), event.task_type)
        for name, stream in streams.items()
        for event in stream
        if event.kind is EventKind.DECLARED and event.task_id is not None and str(event.instance) == name
    )
    succeeded = {
        event.task_id
        for stream in streams.values()
        for event in stream
        if event.end is EndCause.COMPLETED and event.outcome is Outcome.SUCCEEDED
    }
    dealt: Counter[str] = Counter()
    tasks: dict[TaskId, WorkTask] = {}
    for at, task_id, instance, task_type in declared:
        tasks[task_id] = WorkTask(
            task_id=task_id,
            instance=instance,
            task_type=task_type,
            declared_at=at,
            succeeded=task_id in succeeded,
            fold=dealt[task_type] % 2,
        )
        dealt[task_type] += 1
    return tasks


def learn(work: Work, parameters: WatchParameters, *, without: Collection[TaskId]) -> Models:
    """What the work teaches, but for the tasks `without`, and but for what `parameters` find in what the others taught."""
    lessons = {
        task_id: lesson
        for task_id, lesson in _lessons(work)
        if work.tasks[task_id].succeeded and task_id not in without
    }
    first = _models(work, lessons)
    found = {one.task_id for one in detect(work, first, parameters)}
    return _models(work, {one: lesson for one, lesson in lessons.items() if one not in found})


def _lessons(work: Work) -> Iterator[tuple[TaskId, Model]]:
    for name, stream in work.streams.items():
        by_task: dict[TaskId, list[Event]] = {}
        for event in stream:
            if event.task_id is not None and event.task_id in work.tasks and str(event.instance) == name:
                by_task.setdefault(event.task_id, []).append(event)
        for task_id, events in by_task.items():
            yield task_id, lesson_of(events)


def _models(work: Work, lessons: Mapping[TaskId, Model]) -> Models:
    first, second = (
        merged(lesson for task_id, lesson in lessons.items() if work.tasks[task_id].fold == fold)
        for fold in (0, 1)
    )
    return first, second


def detect(
    work: Work,
    models: Models,
    parameters: WatchParameters,
    *,
    by: DetectorName | None = None,
    tasks: Collection[TaskId] | None = None,
) -> Iterator[Finding]:
    """What is found, by all detectors or `by` one; only in `tasks`, where they are given."""
    for stream in work.streams.values():
        folds = {_fold(work, event) for event in stream if tasks is None or event.task_id in tasks}
        for fold in sorted(folds):
            model = models[1 - fold]
            watching = Watch(model, parameters) if by is None else DETECTORS[by](parameters, model)
            for event in stream:
                found = watching.observe(event)
                if found and _fold(work, event) == fold and (tasks is None or event.task_id in tasks):
                    yield from found


def _fold(work: Work, event: Event) -> int:
    """What is of no task, or of one whose declaration was not read, taught nobody: either fold may judge it."""
    known = None if event.task_id is None else work.tasks.get(event.task_id)
    return 0 if known is None else known.fold
