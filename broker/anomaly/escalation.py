"""Escalation: a chain that climbs in privilege, classification or environment, or that puts together what is dangerous together.

Source: what may follow what has been read is D. E. Denning's lattice, "A Lattice Model of Secure Information Flow", 1976; that
private data, untrusted content and a way out are harmful together is S. Willison, "The Lethal Trifecta for AI Agents", 2025;
that one subject should not do both halves of a sensitive transaction is D. Clark and D. Wilson, "A Comparison of Commercial
and Military Computer Security Policies", 1987.

What it does not see: a combination that tasks of this type have always had (then it is the policy's business), and one whose
halves lie in two tasks that both do only what is usual for them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from broker.anomaly.bounded import Recent, Said
from broker.anomaly.detector import Parameters
from broker.anomaly.events import Decided, Event, EventKind
from broker.anomaly.findings import Alarm, DetectorName, Finding, findings, named
from broker.anomaly.learning import (
    LEVEL_FACTS,
    NOTHING_LEARNED,
    POWER_FACTS,
    Model,
    TypeModel,
    fact_of_combination,
)
from broker.anomaly.traits import (
    COMBINATIONS,
    SINKS,
    SOURCES,
    Combination,
    Trait,
    level_of,
    power_of,
    traits_of,
)
from broker.domain.errors import DenialClass
from broker.domain.findings import Severity
from broker.domain.identifiers import ActionId

_RANKS: Final = (
    frozenset({"dev", "development", "sandbox", "local"}),
    frozenset({"test", "qa", "ci"}),
    frozenset({"staging", "preprod", "pre-production"}),
    frozenset({"prod", "production", "live"}),
)
_KEPT: Final = 5
"""Values that one task's state holds beside its traits and evidence."""
_MOST_EVIDENCE: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class EscalationParameters(Parameters):
    """What is usual, and how long halves of a combination in two tasks belong together."""

    least_tasks: int = 50
    """Completed tasks of the type (or of the class, for environments) before anything is usual or not."""
    tasks_for_rare: int = 200
    """The same before what was never seen counts where a single step up, or a combination with good uses, is all there is."""
    usual: float = 0.005
    """Share of completed tasks from which on a combination, tool or role is usual."""
    rises: int = 3
    """Times that a task asks for more than ever before, two of them refused, that are a climb."""
    over_tasks: timedelta = timedelta(hours=24)
    """How far apart the halves of a combination may lie in two tasks, where one of them is unusual there."""
    close_tasks: timedelta = timedelta(minutes=15)
    """The same where not enough was seen to say what is usual."""
    after_refusal: timedelta = timedelta(hours=1)
    """How long after a refusal a task of the same type in a higher environment is a climb."""


@dataclass(slots=True)
class _Source:
    """Where a trait came from last."""

    at: datetime
    task_id: str
    action_id: ActionId
    unusual: bool


@dataclass(slots=True)
class _Reached:
    """How far a task has come."""

    environment: str = ""
    height: int = -1
    rises: int = 0
    refused: int = 0
    mistake: str = ""
    """A tool or role above what is usual that was refused."""
    evidence: tuple[ActionId, ...] = ()
    traits: dict[Trait, ActionId] = field(default_factory=dict)


class Escalation:
    """See the module."""

    def __init__(
        self, parameters: EscalationParameters | None = None, model: Model = NOTHING_LEARNED
    ) -> None:
        self._parameters = parameters or EscalationParameters()
        self._model = model
        self._tasks: Recent[str, _Reached] = Recent(self._parameters.most_tasks)
        self._sources: dict[tuple[Trait, bool], _Source] = {}
        """By trait and whether it was unusual where it was."""
        self._refused_at: tuple[datetime, int, str] | None = None
        self._said = Said(self._parameters.most_said)

    def observe(self, event: Event) -> tuple[Finding, ...]:
        """Take the next event."""
        alarms: list[Alarm | None] = []
        if event.kind is EventKind.DECLARED:
            alarms = [self._environment(event)]
            self._tasks.put(event.task_id or "", _Reached(environment=event.environment))
        elif event.decided is not None:
            reached = self._tasks.use(event.task_id or "", _Reached)
            own = traits_of(event.decided)
            alarms = [
                None if own.isdisjoint(SINKS) else self._combines(event, event.decided, own, reached),
                None if event.environment == reached.environment else self._moved(event, reached),
                self._above_usual(event, event.decided, reached),
                self._climbs(event, event.decided, reached),
            ]
            self._remember(event, event.decided, own, reached)
        return findings(DetectorName.ESCALATION, event, alarms)

    def size(self) -> int:
        """Values that are held now."""
        tasks = sum(_KEPT + len(one.evidence) + len(one.traits) for one in self._tasks.values())
        return tasks + len(self._sources) + 1 + len(self._said)

    def most(self) -> int:
        """Values that can be held at most."""
        task = _KEPT + _MOST_EVIDENCE + len(SOURCES)
        return self._parameters.most_tasks * task + 2 * len(SOURCES) + 1 + self._parameters.most_said

    # Combinations -------------------------------------------------------------------------------------------

    def _combines(
        self, event: Event, decided: Decided, own: frozenset[Trait], reached: _Reached
    ) -> Alarm | None:
        combined = (self._combined(event, decided, own, reached, one) for one in COMBINATIONS)
        return next((one for one in combined if one is not None), None)

    def _combined(
        self, event: Event, decided: Decided, own: frozenset[Trait], reached: _Reached, one: Combination
    ) -> Alarm | None:
        if one.last not in own:
            return None
        if one.before <= reached.traits.keys():
            evidence = tuple(reached.traits[trait] for trait in sorted(one.before))
            known = self._model.of(event.task_type)
            enough = known.tasks >= self._parameters.least_tasks
            usual = enough and known.share(fact_of_combination(one.name)) >= self._parameters.usual
            seen = known.tasks >= self._parameters.tasks_for_rare
            if usual or (one.needs_evidence and not (seen and decided.allowed)):
                return None
            return self._alarm(event, decided, one, evidence, over_tasks=False)
        unknown = self._model.of(event.task_type).tasks < self._parameters.least_tasks
        if one.needs_evidence or (unknown and Trait.UNTRUSTED in one.before):
            return None
        sources = [self._source(event, decided, reached, trait) for trait in sorted(one.before)]
        found = tuple(source for source in sources if source is not None)
        return (
            self._alarm(event, decided, one, found, over_tasks=True) if len(found) == len(sources) else None
        )

    def _source(self, event: Event, decided: Decided, reached: _Reached, trait: Trait) -> ActionId | None:
        """The step in this task or, where it matters, in another one of the instance that had the trait."""
        if trait in reached.traits:
            return reached.traits[trait]
        parameters, sink_unusual = self._parameters, self._is_unusual(event, decided)
        for unusual in (True, False):
            source = self._sources.get((trait, unusual))
            if source is None or source.task_id == (event.task_id or ""):
                continue
            known = self._model.of(event.task_type).tasks >= parameters.least_tasks
            longest = parameters.over_tasks if known else parameters.close_tasks
            if (source.unusual or sink_unusual) and event.at - source.at <= longest:
                return source.action_id
        return None

    def _is_unusual(self, event: Event, decided: Decided) -> bool:
        """Whether tasks of this type hardly ever do it, or not enough was seen to say that they do."""
        known = self._model.of(event.task_type)
        if known.tasks < self._parameters.least_tasks:
            return True
        return known.share(f"name:{decided.name}") < self._parameters.usual

    def _alarm(
        self,
        event: Event,
        decided: Decided,
        one: Combination,
        evidence: tuple[ActionId, ...],
        *,
        over_tasks: bool,
    ) -> Alarm | None:
        if not self._said.first_time(one.name, event.task_id or ""):
            return None
        before = " and ".join(sorted(trait.value for trait in one.before))
        known = self._model.of(event.task_type).tasks >= self._parameters.least_tasks
        return Alarm(
            rule=one.name,
            severity=Severity.HIGH if over_tasks or one.needs_evidence else Severity.CRITICAL,
            confidence=0.6 if not known else 0.75 if over_tasks else 0.9,
            evidence=evidence,
            expected="not both, in tasks of this type",
            happened=f"something that {before}, and then {named(decided.name)}, which {one.last.value}"
            + (" in another task of the instance" if over_tasks else ""),
        )

    # Heights ------------------------------------------------------------------------------------------------

    def _above_usual(self, event: Event, decided: Decided, reached: _Reached) -> Alarm | None:
        known = self._model.of(event.task_type)
        if known.tasks < self._parameters.least_tasks:
            return None
        least = 1 if known.tasks >= self._parameters.tasks_for_rare else 2
        level, power = level_of(decided), power_of(decided)
        if known.facts.get(LEVEL_FACTS[level]) and known.facts.get(POWER_FACTS[power]):
            return None  # so far tasks of the type have been
        steps_up = max(level - _highest(known, LEVEL_FACTS), power - _highest(known, POWER_FACTS))
        if steps_up < least:
            return None
        if not decided.allowed and reached.mistake in {"", decided.name}:
            reached.mistake = decided.name[:256]
            return None  # one tool that is refused may be a mistake, two are not
        if not self._said.first_time("above-usual", event.task_id or ""):
            return None
        return Alarm(
            rule="above-usual",
            severity=Severity.HIGH,
            confidence=0.85,
            evidence=reached.evidence,
            expected="data and powers that tasks of this type have had before",
            happened=f"{named(decided.name)} reaches higher than any completed task of this type did",
        )

    def _climbs(self, event: Event, decided: Decided, reached: _Reached) -> Alarm | None:
        height = level_of(decided) + power_of(decided)
        for_good = not decided.allowed and decided.denial_class is not DenialClass.TRANSIENT
        if height > reached.height:
            reached.rises += reached.height >= 0
            reached.height = height
            reached.refused += for_good
            reached.evidence = (*reached.evidence[1 - _MOST_EVIDENCE :], decided.action_id)
        if reached.rises < self._parameters.rises or reached.refused < 2:
            return None
        if not self._said.first_time("climbs", event.task_id or ""):
            return None
        return Alarm(
            rule="climbs",
            severity=Severity.HIGH,
            confidence=0.85,
            evidence=reached.evidence,
            expected="to ask for no more once more was refused",
            happened="the task asked for more sensitive data or more power again and again, also after refusals",
        )

    # Environments -------------------------------------------------------------------------------------------

    def _environment(self, event: Event) -> Alarm | None:
        counts = self._model.environments.get(event.agent_class, {})
        if counts.get(event.environment, 0):
            return None
        enough = sum(counts.values()) >= self._parameters.least_tasks
        refused = self._refused_at
        climbs = (
            refused is not None
            and event.at - refused[0] <= self._parameters.after_refusal
            and rank_of(event.environment) > refused[1] >= 0
            and event.task_type == refused[2]
        )
        if not (enough or climbs) or not self._said.first_time("environment", event.environment):
            return None
        return Alarm(
            rule="environment",
            severity=Severity.HIGH if climbs else Severity.MEDIUM,
            confidence=0.85 if climbs else 0.7,
            expected="tasks in environments where instances of this class have worked",
            happened="a task in another environment" + (", after a refusal in a lower one" if climbs else ""),
        )

    def _moved(self, event: Event, reached: _Reached) -> Alarm | None:
        there = event.environment
        if not reached.environment or not there:
            return None
        if not self._said.first_time("moved", event.task_id or ""):
            return None
        return Alarm(
            rule="moved",
            severity=Severity.CRITICAL,
            confidence=0.95,
            expected="actions in the environment that the task was declared for",
            happened="an action in another one",
        )

    def _remember(self, event: Event, decided: Decided, own: frozenset[Trait], reached: _Reached) -> None:
        if not decided.allowed:
            if decided.denial_class is not DenialClass.TRANSIENT:
                self._refused_at = (event.at, rank_of(event.environment), event.task_type)
            return
        if own.isdisjoint(SOURCES):
            return
        unusual = self._is_unusual(event, decided)
        for trait in own & SOURCES:
            reached.traits[trait] = decided.action_id
            self._sources[(trait, unusual)] = _Source(
                at=event.at, task_id=event.task_id or "", action_id=decided.action_id, unusual=unusual
            )


def _highest(known: TypeModel, scale: tuple[str, ...]) -> int:
    """How far completed tasks of the type went."""
    return max((step for step, name in enumerate(scale) if known.facts.get(name)), default=0)


def rank_of(environment: str) -> int:
    """How close to production an environment is, by its name; -1 where the name does not say."""
    return next((rank for rank, names in enumerate(_RANKS) if environment.casefold() in names), -1)
