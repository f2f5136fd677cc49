"""Retry storms: the same effect again and again after it was refused or failed, and refusals of one effect after another.

Honest agents retry too. What tells a storm from them is the class of the denial (a structural one never turns into a yes, a
transient one may) and the pace: who backs off lets a leaky count sink between attempts.

Source: the count is a circuit breaker's (M. Nygard, "Release It!", 2007), with the pace that M. Brooker, "Exponential Backoff
And Jitter", 2015 asks of clients. Probing, one refusal each of many effects, is a sequential hypothesis test over first contacts:
J. Jung and others, "Fast Portscan Detection Using Sequential Hypothesis Testing", IEEE Symposium on Security and Privacy 2004;
the sum never goes below nothing, so that earlier good conduct buys no refusals.

What it does not see: a retry of a transient denial that keeps to an honest pace, and probing that is mixed with more first
contacts that are allowed than refused, until it has had as many refusals as no work needs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final

from broker.anomaly.bounded import Recent, Said
from broker.anomaly.detector import Parameters
from broker.anomaly.events import Closed, Decided, Event, EventKind
from broker.anomaly.findings import Alarm, DetectorName, Finding, findings, named
from broker.domain.actions import ActionOutcome
from broker.domain.effects import Effect, Verb
from broker.domain.errors import DenialClass
from broker.domain.findings import Severity
from broker.domain.identifiers import ActionId

_MOST_TEXT: Final = 1024
"""Characters of a resource, and of a destination, that tell effects apart here."""

MOST_OPEN: Final = 256
"""Allowed actions whose outcome is awaited."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How often one effect may be refused."""

    level: float
    """Height of the leaky count at which it is too much."""
    half_life: timedelta
    """In which the count halves."""
    in_all: int
    """Refusals in one task, without a yes between, at any pace, that are too many."""


_MINUTE: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryParameters(Parameters):
    """Patience by class of denial, and the odds of the test for probing."""

    structural: Patience = Patience(level=3.3, half_life=30 * _MINUTE, in_all=5)
    grantable: Patience = Patience(level=5.5, half_life=2 * _MINUTE, in_all=20)
    transient: Patience = Patience(level=7.5, half_life=timedelta(seconds=30), in_all=100)
    failed: Patience = Patience(level=7.5, half_life=timedelta(seconds=30), in_all=100)
    over_tasks: float = 1.0
    """By how much the count may be higher where several tasks are refused the same: each has to learn it."""
    most_effects: int = 256
    """Refused effects that are remembered."""
    honest_refused: float = 0.1
    """Share of an honest agent's first contacts that are refused for good, at most."""
    probing_refused: float = 0.7
    """The same of one that probes, at least."""
    false_alarm: float = 0.0001
    """Probability that the test takes an honest run for probing."""
    grantable_counts: float = 0.5
    """How much of a refusal one is that a person could turn into a yes."""
    most_refused: int = 20
    """Different effects refused for good in one task: more than its work needs, however many were allowed."""
    most_over_tasks: float = 8.0
    """The same summed up over tasks, each of which may have one, by Page's method."""
    counted_of_task: int = 3
    """How many of one task are summed up: a single hard task is no probing over tasks."""

    def patience(self, denial_class: DenialClass | None) -> Patience:
        """That with a class of denial; what has no class counts as structural."""
        match denial_class:
            case DenialClass.TRANSIENT:
                return self.transient
            case DenialClass.GRANTABLE:
                return self.grantable
            case _:
                return self.structural


@dataclass(slots=True)
class _Count:
    level: float = 0.0
    times: int = 0
    at: datetime | None = None
    evidence: tuple[ActionId, ...] = ()

    def one_more(self, at: datetime, patience: Patience, action_id: ActionId) -> bool:
        """Whether it is too much now, for one task."""
        if self.at is not None:
            self.level *= 0.5 ** (
                max(0.0, (at - self.at).total_seconds()) / patience.half_life.total_seconds()
            )
        self.level, self.times, self.at = self.level + 1.0, self.times + 1, at
        self.evidence = (*self.evidence[-7:], action_id)
        return self.level >= patience.level or self.times >= patience.in_all


_Key = tuple[str, str, Effect | str]
"""Refused or failed, in which task (none: in any), what."""


@dataclass(frozen=True, slots=True)
class _Refused:
    """An effect that was refused for good, in which task, and what it added to the test and to the sum over tasks."""

    task_id: str
    added: float
    over_tasks: float


@dataclass(slots=True)
class _Probing:
    score: float = 0.0
    over_tasks: float = 0.0
    evidence: tuple[ActionId, ...] = ()


class RetryStorms:
    """See the module."""

    def __init__(self, parameters: RetryParameters | None = None) -> None:
        self._parameters = parameters or RetryParameters()
        most = self._parameters.most_effects
        self._counts: Recent[_Key, _Count] = Recent(2 * most)
        self._open: Recent[ActionId, Decided] = Recent(MOST_OPEN)
        self._met: Recent[Effect | str, bool] = Recent(2 * most)
        self._refused: Recent[Effect | str, _Refused] = Recent(most)
        self._probing = _Probing()
        self._said = Said(self._parameters.most_said)

    def observe(self, event: Event) -> tuple[Finding, ...]:
        """Take the next event."""
        decided, closed = event.decided, event.closed
        if decided is not None and decided.allowed:
            self._allowed(event.task_id or "", decided)
            return ()
        if decided is not None:
            alarms = [self._again(event, decided), self._probes(event, decided)]
            return findings(DetectorName.RETRY_STORM, event, alarms)
        if closed is not None:
            return findings(DetectorName.RETRY_STORM, event, [self._failed(event, closed)])
        if event.kind is EventKind.DECLARED:
            self._probing.over_tasks = max(0.0, self._probing.over_tasks - 1.0)
        return ()

    def size(self) -> int:
        """Values that are held now."""
        held = len(self._counts) + len(self._open) + len(self._met) + len(self._refused)
        return held + len(self._said) + 1

    def most(self) -> int:
        """Values that can be held at most."""
        return 5 * self._parameters.most_effects + MOST_OPEN + self._parameters.most_said + 1

    def _allowed(self, task_id: str, decided: Decided) -> None:
        self._open.put(decided.action_id, decided)
        what = _what(decided)
        if self._counts:
            self._counts.drop(("denied", task_id, what))
            self._counts.drop(("denied", "", what))
        if what not in self._met:
            honest, probing = self._parameters.honest_refused, self._parameters.probing_refused
            self._probing.score = max(0.0, self._probing.score + math.log((1 - probing) / (1 - honest)))
        refused = self._refused.get(what)
        if refused is not None:  # it turned into a yes: it was no probing
            self._probing.score = max(0.0, self._probing.score - refused.added)
            self._probing.over_tasks = max(0.0, self._probing.over_tasks - refused.over_tasks)
            self._refused.drop(what)
        self._met.put(what, True)  # noqa: FBT003 - a set, held as a mapping

    def _again(self, event: Event, decided: Decided) -> Alarm | None:
        what, patience = _what(decided), self._parameters.patience(decided.denial_class)
        count = self._counts.use(("denied", event.task_id or "", what), _Count)
        everywhere = self._counts.use(("denied", "", what), _Count)
        too_often = count.one_more(event.at, patience, decided.action_id)
        everywhere.one_more(event.at, patience, decided.action_id)
        if everywhere.level >= patience.level + self._parameters.over_tasks and not too_often:
            too_often, count = True, everywhere
        if not too_often:
            return None
        if not self._said.first_time("denied", *_as_text(what)):
            return None
        how = "for good" if patience is self._parameters.structural else "for now"
        return Alarm(
            rule="refused-again",
            severity=Severity.MEDIUM,
            confidence=0.85,
            evidence=count.evidence,
            expected="to stop, to ask a person, or to wait longer each time, as the class of the denial says",
            happened=f"{named(decided.name)} was asked for {count.times} times and refused each time {how}",
        )

    def _failed(self, event: Event, closed: Closed) -> Alarm | None:
        decided = self._open.get(closed.action_id)
        self._open.drop(closed.action_id)
        if decided is None:
            return None
        what = _what(decided)
        if closed.outcome is not ActionOutcome.FAILED:
            self._counts.drop(("failed", event.task_id or "", what))
            return None
        count = self._counts.use(("failed", event.task_id or "", what), _Count)
        if not count.one_more(event.at, self._parameters.failed, decided.action_id):
            return None
        if not self._said.first_time("failed", *_as_text(what)):
            return None
        return Alarm(
            rule="failed-again",
            severity=Severity.LOW,
            confidence=0.7,
            evidence=count.evidence,
            expected="to wait longer after each failure, and to give up",
            happened=f"{named(decided.name)} failed {count.times} times in a row",
        )

    def _probes(self, event: Event, decided: Decided) -> Alarm | None:
        if decided.denial_class is DenialClass.TRANSIENT:
            return None
        what, parameters, probing = _what(decided), self._parameters, self._probing
        own = sum(one.task_id == (event.task_id or "") for one in self._refused.values())
        if what not in self._refused:
            grantable = decided.denial_class is DenialClass.GRANTABLE
            step = math.log(parameters.probing_refused / parameters.honest_refused)
            added = 0.0 if what in self._met else step * (parameters.grantable_counts if grantable else 1.0)
            over_tasks = 1.0 if own < parameters.counted_of_task else 0.0
            probing.score, probing.over_tasks = probing.score + added, probing.over_tasks + over_tasks
            probing.evidence = (*probing.evidence[-11:], decided.action_id)
            self._refused.put(what, _Refused(event.task_id or "", added, over_tasks))
            own += 1
        self._met.put(what, True)  # noqa: FBT003 - a set, held as a mapping
        enough = probing.score >= -math.log(parameters.false_alarm) or own >= parameters.most_refused
        if not enough and probing.over_tasks < parameters.most_over_tasks:
            return None
        probing.score = probing.over_tasks = 0.0
        if not self._said.first_time("probing", event.task_id or ""):
            return None
        return Alarm(
            rule="probing",
            severity=Severity.HIGH,
            confidence=0.9,
            evidence=probing.evidence,
            expected="most of what an agent asks for the first time is allowed to it",
            happened=f"{len(probing.evidence)} or more different effects were refused for good, with few allowed between",
        )


def _what(decided: Decided) -> Effect | str:
    """What was refused: its effect, or its name where nothing is known of it."""
    if not decided.has_effect:
        return decided.name[:256]
    effect = decided.effect
    return _as_one(effect.verbs, effect.resource[:_MOST_TEXT], effect.destination[:_MOST_TEXT])


@lru_cache(maxsize=1024)  # the same effects come again and again
def _as_one(verbs: frozenset[Verb], resource: str, destination: str) -> Effect:
    return Effect(
        verbs=verbs,
        resource=resource.casefold()[:_MOST_TEXT],
        destination=destination.casefold()[:_MOST_TEXT],
    )


def _as_text(what: Effect | str) -> tuple[str, ...]:
    if isinstance(what, str):
        return (what,)
    return (*sorted(what.verbs), what.resource, what.destination)
