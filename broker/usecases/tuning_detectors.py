"""Better parameters by measurement: small steps on one part of the recorded work, and what came of them on the other.

The work is cut in two by time, at the moment that has half of the tasks that went wrong before it. On the earlier part each
detector is tuned by itself: one parameter at a time gets a smaller or a larger value, and the best step is taken, as long as
there is one. The best has at most so many false alarms, then catches most, then has the fewest false alarms; where two are equal,
what is in use stays. What is reported was measured on the later part, on which nothing was chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from broker.anomaly.findings import DetectorName
from broker.anomaly.watching import WatchParameters
from broker.domain.identifiers import TaskId
from broker.usecases.comparing_findings import Score, bad_tasks, honest_tasks, score
from broker.usecases.detecting_again import Models, Work, detect
from broker.usecases.recorded_findings import Labels

LEAST_BAD: Final = 5
"""Tasks that went wrong, in each part, that a detector should see: with fewer it is left as it is."""
LEAST_HONEST: Final = 100
"""Honest tasks in each part."""
MOST_HONEST: Final = 5_000
"""Honest tasks of the earlier part that each step is measured on; of more, evenly chosen ones."""
MOST_STEPS: Final = 6
"""Of one detector."""

Neighbours = Callable[[WatchParameters, str], Iterable[WatchParameters]]
"""The same parameters with other values for one of them."""

MATTERS: Final[Mapping[DetectorName, tuple[str, ...]]] = {
    DetectorName.RETRY_STORM: (
        "retries.structural.level",
        "retries.structural.in_all",
        "retries.grantable.level",
        "retries.transient.level",
        "retries.failed.level",
        "retries.false_alarm",
        "retries.most_refused",
        "retries.most_over_tasks",
    ),
    DetectorName.PIVOT: ("pivots.enough", "pivots.usual", "pivots.next_task", "pivots.horizon"),
    DetectorName.ESCALATION: ("escalation.usual", "escalation.rises", "escalation.over_tasks"),
    DetectorName.DRIFT: ("drift.enough", "drift.slack"),
    DetectorName.VOLUME: ("volume.enough", "volume.slack", "volume.least_deviation"),
    DetectorName.IDENTITY_MISUSE: ("identity.grace", "identity.calls_after_lapse"),
}
"""Parameters that are tried, of each detector. A canary has none."""


class TooLittleError(Exception):
    """There is too little to measure by; says of what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """What became of one detector."""

    detector: DetectorName
    tuned: bool
    """Whether there was enough to measure by."""
    before: Score
    """On the later part, as the other one."""
    after: Score


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """What came of it."""

    parameters: WatchParameters
    before: Score
    """All detectors together on the later part, with the parameters in use."""
    after: Score
    """The same with the new ones."""
    detectors: tuple[Tuned, ...]

    @property
    def worse(self) -> bool:
        """Whether the later part says that it was better before: more of one mistake, and no less of the other."""
        missed = self.after.missed - self.before.missed
        false = self.after.false.hits - self.before.false.hits
        return max(missed, false) > 0 and min(missed, false) >= 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    bad: frozenset[TaskId]
    honest: frozenset[TaskId]

    def of(self, bad: frozenset[TaskId]) -> _Part:
        """With those alone that one detector should see."""
        return _Part(bad=self.bad & bad, honest=self.honest)

    @property
    def enough(self) -> bool:
        """Whether it says anything."""
        return len(self.bad) >= LEAST_BAD and len(self.honest) >= LEAST_HONEST


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuner:
    """See the module."""

    work: Work
    labels: Labels
    models: Models
    neighbours: Neighbours
    most_false: float
    """Share of honest tasks that may have a false alarm of a detector."""

    def __call__(self, base: WatchParameters) -> Tuning:
        """Tune.

        Raises:
            TooLittleError: there is too little to measure by, for every detector.
        """
        earlier, later = self._parts()
        chosen, done = base, []
        for detector in MATTERS:
            bad = bad_tasks(self.work, self.labels, detector)
            enough = earlier.of(bad).enough and later.of(bad).enough
            if enough:
                chosen = self._tuned(
                    chosen, detector, _Part(bad=earlier.bad & bad, honest=_some(earlier.honest))
                )
            done.append((detector, enough, later.of(bad)))
        if not any(enough for _, enough, _ in done):
            raise TooLittleError(_missing(earlier, later))
        return Tuning(
            parameters=chosen,
            before=self._score(base, None, later),
            after=self._score(chosen, None, later),
            detectors=tuple(
                Tuned(
                    detector=detector,
                    tuned=enough,
                    before=self._score(base, detector, part),
                    after=self._score(chosen, detector, part),
                )
                for detector, enough, part in done
            ),
        )

    def _parts(self) -> tuple[_Part, _Part]:
        tasks = self.work.tasks
        bad, honest = bad_tasks(self.work, self.labels), honest_tasks(self.work, self.labels)
        times = sorted(tasks[one].declared_at for one in bad)
        if not times:
            message = "no task is known to have gone wrong: confirm findings, or name attacks"
            raise TooLittleError(message)
        cut = times[len(times) // 2]
        early = frozenset(one for one, task in tasks.items() if task.declared_at < cut)
        return _Part(bad=bad & early, honest=honest & early), _Part(bad=bad - early, honest=honest - early)

    def _tuned(self, base: WatchParameters, detector: DetectorName, part: _Part) -> WatchParameters:
        best, rank = base, self._rank(self._score(base, detector, part))
        for _ in range(MOST_STEPS):
            tried = [
                (self._rank(self._score(one, detector, part)), one)
                for name in MATTERS[detector]
                for one in self.neighbours(best, name)
            ]
            found = max(tried, key=lambda pair: pair[0], default=(rank, best))
            if found[0] <= rank:
                break
            rank, best = found
        return best

    def _rank(self, found: Score) -> tuple[float, int, int]:
        """The greater the better."""
        beyond = max(0.0, found.false.share - self.most_false)
        return -beyond, found.caught.hits, -found.false.hits

    def _score(self, parameters: WatchParameters, by: DetectorName | None, part: _Part) -> Score:
        tasks = part.bad | part.honest
        found = detect(self.work.of(tasks), self.models, parameters, by=by, tasks=tasks)
        return score(found, bad=part.bad, honest=part.honest)


def _some(tasks: Collection[TaskId]) -> frozenset[TaskId]:
    ordered = sorted(tasks)
    every = -(-len(ordered) // MOST_HONEST) or 1
    return frozenset(ordered[::every])


def _missing(earlier: _Part, later: _Part) -> str:
    return (
        f"the earlier part has {len(earlier.bad)} tasks that went wrong and {len(earlier.honest)} honest ones, the later "
        f"part {len(later.bad)} and {len(later.honest)}; it takes {LEAST_BAD} of one detector and {LEAST_HONEST} in each"
    )
