"""Drift: steps in an order that is unlikely for this task type, by what completed tasks of it did.

Each allowed step, taken once where it is repeated at once, is as surprising as the model says; what it surprises beyond the
average of its place is summed up, less a slack, and never below nothing. One rare step is forgiven, several are not: the
step after a rare one is judged by what was before that one as well, so that one detour counts once.

Source: orders of calls as the self of a process are S. Forrest and others, "A Sense of Self for Unix Processes", IEEE Symposium
on Security and Privacy 1996, and C. Warrender and others, "Detecting Intrusions Using System Calls: Alternative Data Models",
1999; the sum is E. S. Page's, "Continuous Inspection Schemes", 1954.

What it does not see: an attack in the usual order, and anything at all before enough tasks of the type were seen: then it says
so (`standing`) and finds nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from broker.anomaly.bounded import Recent, Said
from broker.anomaly.detector import Parameters
from broker.anomaly.events import Decided, Event, EventKind
from broker.anomaly.findings import Alarm, DetectorName, Finding, finding, named
from broker.anomaly.learning import NOTHING_LEARNED, START, Model, TypeModel
from broker.domain.findings import Severity
from broker.domain.identifiers import ActionId, TaskId


class Standing(StrEnum):
    """What the detector has to say of a task."""

    NOT_ENOUGH_SEEN = "not enough seen yet"
    USUAL = "usual"
    UNUSUAL = "unusual"


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftParameters(Parameters):
    """How much surprise is too much, in bits."""

    least_tasks: int = 50
    """Completed tasks of the type before anything is said."""
    slack: float = 1.5
    """Surprise beyond the average of its place that each step may have."""
    surprise: float = 4.0
    """What goes beyond the slack by so much is a step out of place: the next one is judged with and without it."""
    enough: float = 11.0
    """Sum of what goes beyond the slack that is a finding."""
    most_at_once: float = 7.0
    """What one step adds at most: a single one is never a finding."""


@dataclass(slots=True)
class _Path:
    before: tuple[str, str] = (START, START)
    without: tuple[str, str] | None = None
    """What would be before, had the last step not been; None where that one was no surprise."""
    score: float = 0.0
    unusual: bool = False
    evidence: tuple[ActionId, ...] = ()


class Drift:
    """See the module."""

    def __init__(self, parameters: DriftParameters | None = None, model: Model = NOTHING_LEARNED) -> None:
        self._parameters = parameters or DriftParameters()
        self._model = model
        self._paths: Recent[str, _Path] = Recent(self._parameters.most_tasks)
        self._types: Recent[str, str] = Recent(self._parameters.most_tasks)
        self._said = Said(self._parameters.most_said)

    def observe(self, event: Event) -> tuple[Finding, ...]:
        """Take the next event."""
        task_id = event.task_id or ""
        if event.kind is EventKind.DECLARED:
            self._types.put(task_id, event.task_type)
            self._paths.put(task_id, _Path())
        decided = event.decided
        if decided is None or not decided.allowed or not self._knows(event.task_type):
            return ()
        if task_id not in self._types:
            return ()  # its beginning was not seen: no place to judge by
        path = self._paths.use(task_id, _Path)
        if decided.name == path.before[1]:
            return ()
        self._go_on(path, decided, self._model.of(event.task_type))
        if path.score < self._parameters.enough:
            return ()
        path.unusual, path.score = True, 0.0
        if not self._said.first_time(task_id):
            return ()
        alarm = Alarm(
            rule="unlikely-order",
            severity=Severity.MEDIUM,
            confidence=0.8,
            evidence=path.evidence,
            expected="steps in an order that completed tasks of this type had",
            happened=f"several steps that hardly ever come there, the last one {named(decided.name)}",
        )
        return (finding(DetectorName.DRIFT, event, alarm),)

    def standing(self, task_id: TaskId) -> Standing:
        """What there is to say of a task."""
        task_type, path = self._types.get(task_id), self._paths.get(task_id)
        if task_type is None or not self._knows(task_type):
            return Standing.NOT_ENOUGH_SEEN
        return Standing.UNUSUAL if path is not None and path.unusual else Standing.USUAL

    def size(self) -> int:
        """Values that are held now."""
        return len(self._paths) + len(self._types) + len(self._said)

    def most(self) -> int:
        """Values that can be held at most."""
        return 2 * self._parameters.most_tasks + self._parameters.most_said

    def _knows(self, task_type: str) -> bool:
        return self._model.of(task_type).tasks >= self._parameters.least_tasks

    def _go_on(self, path: _Path, decided: Decided, known: TypeModel) -> None:
        parameters = self._parameters
        beyond = known.excess(path.before, decided.name) - parameters.slack
        if path.without is not None:
            beyond = min(beyond, known.excess(path.without, decided.name) - parameters.slack)
        path.without = path.before if beyond > parameters.surprise else None
        path.score = max(0.0, path.score + min(beyond, parameters.most_at_once))
        path.before = (path.before[1], decided.name)
        path.evidence = (*path.evidence[-7:], decided.action_id) if path.score > 0.0 else ()
