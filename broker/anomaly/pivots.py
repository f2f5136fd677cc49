"""Pivots: after a denial, the same effect, resource or destination by another tool, role, task or delegate.

Source: rule R9 of the design (a denial is of an effect, whatever tries next); the pattern is the confused deputy's, asked a
second time through another door (N. Hardy, "The Confused Deputy", 1988). Touches are weighed, and the weights summed over each
denial: what can only be a way around it counts whole, what honest work may look like counts half.

What it does not see: another resource with the same content, and a way around a denial that was forgotten because so many
others came after it (which is probing, and found as that).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from broker.anomaly.bounded import Recent, Said
from broker.anomaly.detector import Parameters
from broker.anomaly.events import Decided, Event, EventKind
from broker.anomaly.findings import Alarm, DetectorName, Finding, finding, named
from broker.anomaly.learning import NOTHING_LEARNED, Model
from broker.domain.effects import Effect, Verb
from broker.domain.errors import (
    DenialClass,
    EffectDeniedError,
    RoleNotAllowedError,
    StepNotAllowedError,
    ToolNotAllowedError,
)
from broker.domain.findings import Severity
from broker.domain.identifiers import ActionId

_OF_A_NAME: Final = frozenset(
    {
        ToolNotAllowedError.reason,
        RoleNotAllowedError.reason,
        StepNotAllowedError.reason,
        EffectDeniedError.reason,
    }
)
"""Reasons that are about a name, a moment or an earlier denial: they add no effect to those that were denied."""
_CHANGES: Final = frozenset(Verb) - {Verb.READ}


@dataclass(frozen=True, slots=True, kw_only=True)
class PivotParameters(Parameters):
    """Weights of touches, and how long denials count."""

    most_denied: int = 200
    """Denied effects that are remembered; a broker refuses everything after as many."""
    enough: float = 1.0
    """Weights that sum up to so much are a pivot."""
    narrower: float = 0.5
    """Part of what was denied, only read: an honest agent may ask for less."""
    other_change: float = 0.5
    """Another change of the very resource."""
    other_place: float = 0.5
    """The same of the same resource at another destination, where it reads or is a usual tool; else it counts whole."""
    same_place: float = 0.34
    """Something else that is changed at the destination of a denied change in the same task, by a tool that is not usual."""
    next_task: timedelta = timedelta(minutes=15)
    """How long the same tool in another task is a pivot: as long as the denial sticks to the instance."""
    horizon: timedelta = timedelta(hours=24)
    """How long another tool in another task is one. In the denial's own task there is no limit."""
    most_names: int = 512
    """Tools and roles that tasks used before a denial."""
    usual: float = 0.02
    """Share of completed tasks of the type from which on a tool or role is the type's usual one."""
    least_tasks: int = 30
    """Completed tasks of the type before anything is usual."""


@dataclass(slots=True)
class _Denial:
    effect: Effect
    name: str
    task_id: str
    instance: str
    at: datetime
    action_id: ActionId
    weight: float = 0.0
    tried: set[tuple[str, str, str]] = field(default_factory=set)
    """Other ways that were counted; as many as it takes to be enough."""


class Pivots:
    """See the module."""

    def __init__(self, parameters: PivotParameters | None = None, model: Model = NOTHING_LEARNED) -> None:
        self._parameters = parameters or PivotParameters()
        self._model = model
        self._denied: Recent[ActionId, _Denial] = Recent(self._parameters.most_denied)
        self._used: Recent[tuple[str, str], bool] = Recent(self._parameters.most_names)
        self._said = Said(self._parameters.most_said)

    def observe(self, event: Event) -> tuple[Finding, ...]:
        """Take the next event."""
        decided = event.decided
        if decided is None or event.kind is not EventKind.DECIDED or not decided.has_effect:
            return ()
        first = self._touches(event, decided) if self._denied else None
        if not decided.allowed:
            self._remember(event, decided)
        else:
            self._used.put((event.task_id or "", decided.name), True)  # noqa: FBT003 - a set, held as a mapping
        return () if first is None else (finding(DetectorName.PIVOT, event, first),)

    def size(self) -> int:
        """Values that are held now."""
        ways = sum(1 + len(denial.tried) for denial in self._denied.values())
        return ways + len(self._used) + len(self._said)

    def most(self) -> int:
        """Values that can be held at most."""
        parameters = self._parameters
        return parameters.most_denied * (2 + _MOST_WAYS) + parameters.most_names + parameters.most_said

    def _touches(self, event: Event, decided: Decided) -> Alarm | None:
        """Add it to every denial that it touches; the first of which that is too much now."""
        found = [
            self._alarm(event, decided, denial)
            for denial in tuple(self._denied.values())
            if self._counts(event, decided, denial)
        ]
        return next((alarm for alarm in found if alarm is not None), None)

    def _remember(self, event: Event, decided: Decided) -> None:
        if decided.denial_class is DenialClass.TRANSIENT or decided.reason in _OF_A_NAME:
            return
        denial = _Denial(
            effect=decided.effect,
            name=decided.name,
            task_id=event.task_id or "",
            instance=str(event.instance),
            at=event.at,
            action_id=decided.action_id,
        )
        if not any(_is_again(denial, known) for known in self._denied.values()):
            self._denied.put(decided.action_id, denial)

    def _counts(self, event: Event, decided: Decided, denial: _Denial) -> bool:
        """Add the weight of this touch; whether it is enough now."""
        way = (decided.name[:256], event.task_id or "", str(event.instance))
        if way == (denial.name[:256], denial.task_id, denial.instance) or way in denial.tried:
            return False
        since = event.at - denial.at
        same_task, same_name = way[1] == denial.task_id, way[0] == denial.name[:256]
        limit = self._parameters.next_task if same_name else self._parameters.horizon
        if not same_task and since > limit:
            return False
        weight = self._weight(event, decided, denial, same_name=same_name)
        if weight <= 0.0:
            return False
        denial.weight += weight
        if len(denial.tried) < _MOST_WAYS:
            denial.tried.add(way)
        return denial.weight >= self._parameters.enough - 0.001

    def _weight(self, event: Event, decided: Decided, denial: _Denial, *, same_name: bool) -> float:
        parameters, mine, theirs = self._parameters, decided.effect, denial.effect
        if theirs.touches(mine):
            if theirs.contains(mine):
                less = not mine.contains(theirs) and not mine.verbs & _CHANGES
                return parameters.narrower if less else 1.0
            return self._weight_of_more(event, decided, denial)
        if same_name or not (theirs.resource and mine.resource):
            return 0.0
        here = Effect(verbs=mine.verbs, resource=mine.resource, destination=theirs.destination)
        if theirs.contains(here):
            certain = mine.verbs & _CHANGES and not self._is_usual(event, decided)
            return 1.0 if certain else parameters.other_place
        if not (mine.verbs & _CHANGES and theirs.verbs & _CHANGES) or self._is_usual(event, decided):
            return 0.0
        return self._weight_of_change(event, decided, denial)

    def _weight_of_change(self, event: Event, decided: Decided, denial: _Denial) -> float:
        """Of another change than the denied one."""
        parameters, mine, theirs = self._parameters, decided.effect, denial.effect
        if theirs.contains(Effect(verbs=theirs.verbs, resource=mine.resource, destination=mine.destination)):
            return parameters.other_change
        near = mine.destination and mine.destination == theirs.destination
        same_task = (event.task_id or "") == denial.task_id
        return parameters.same_place if near and same_task and self._knows(event) else 0.0

    def _weight_of_more(self, event: Event, decided: Decided, denial: _Denial) -> float:
        """Of what would do the denied thing and others: in another task, where it is allowed, it was decided anew."""
        if self._is_usual(event, decided):
            return 0.0
        anew = decided.allowed and (event.task_id or "") != denial.task_id
        return 1.0 if not anew or self._knows(event) else 0.0

    def _knows(self, event: Event) -> bool:
        return self._model.of(event.task_type).tasks >= self._parameters.least_tasks

    def _is_usual(self, event: Event, decided: Decided) -> bool:
        """Whether the task used it before, or such tasks do: then it is no way around anything."""
        if (event.task_id or "", decided.name) in self._used:
            return True
        share = self._model.of(event.task_type).share(f"name:{decided.name}")
        return self._knows(event) and share >= self._parameters.usual

    def _alarm(self, event: Event, decided: Decided, denial: _Denial) -> Alarm | None:
        if not self._said.first_time(denial.action_id, decided.name, event.task_id or ""):
            return None
        return Alarm(
            rule="another-way",
            severity=Severity.HIGH,
            confidence=0.9 if denial.effect.touches(decided.effect) else 0.75,
            evidence=(denial.action_id,),
            expected=f"nothing more that would do what was denied to {named(denial.name)}",
            happened=f"{named(decided.name)} {_how(event, denial)} would do it, and was "
            + ("allowed" if decided.allowed else "refused"),
        )


_MOST_WAYS: Final = 8


def _is_again(denial: _Denial, known: _Denial) -> bool:
    """Whether the same way was denied the same before."""
    return (denial.effect, denial.name, denial.task_id, denial.instance) == (
        known.effect,
        known.name,
        known.task_id,
        known.instance,
    )


def _how(event: Event, denial: _Denial) -> str:
    if str(event.instance) != denial.instance:
        return "of another instance that acts for this one"
    return (
        "of the same task" if (event.task_id or "") == denial.task_id else "of another task of the instance"
    )
