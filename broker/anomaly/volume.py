"""Rate and volume: bursts, sustained speed, slow scraping, fan-out over resources; by what tasks of the type usually do.

Four meters run for each task (broker.anomaly.meters). Each is compared with the peaks that completed tasks of the type had, as
a score in standard deviations of the logarithm. Over the tasks of an instance the scores are summed up by Page's method, so
that many tasks that are each a little too large are found as one that is far too large is.

Source: E. S. Page, "Continuous Inspection Schemes", Biometrika 1954, twice: within a task as leaky counts, over tasks as a sum
of scores.

What it does not see: an instance that always does a little more than others of its class do, by less than the slack.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

from broker.anomaly.bounded import Recent, Said
from broker.anomaly.detector import Parameters
from broker.anomaly.events import Decided, Event, EventKind
from broker.anomaly.findings import Alarm, DetectorName, Finding, finding
from broker.anomaly.learning import NOTHING_LEARNED, Model
from broker.anomaly.meters import HELD, Meter, Meters
from broker.domain.findings import Severity


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeParameters(Parameters):
    """What is too much of each."""

    least_tasks: int = 50
    """Completed tasks of the type before they are what is compared with."""
    least_deviation: float = 0.2
    """Standard deviations of the logarithm are taken for at least so much: types that never vary are no traps."""
    slack: float = 1.0
    """Deviations above the mean that each task may have."""
    enough: float = 4.0
    """Sum of deviations beyond the slack that is a finding."""
    most_carried: float = 12.0
    """What earlier tasks add up to at most; of totals and resources alone, as speed is nothing that adds up."""
    honest_burst: float = 20.0
    """What is all right for any type, of each meter: so small a number says nothing."""
    honest_sustained: float = 20.0
    honest_total: float = 30.0
    honest_resources: float = 15.0
    unknown_burst: float = 80.0
    """Limits for types of which not enough was seen: that of each meter."""
    unknown_sustained: float = 300.0
    unknown_total: float = 1000.0
    unknown_resources: float = 300.0

    def limits(self) -> dict[Meter, float]:
        """Those of a type of which not enough was seen."""
        return {
            Meter.BURST: self.unknown_burst,
            Meter.SUSTAINED: self.unknown_sustained,
            Meter.TOTAL: self.unknown_total,
            Meter.RESOURCES: self.unknown_resources,
        }

    def honest(self) -> dict[Meter, float]:
        """What is all right for any type."""
        return {
            Meter.BURST: self.honest_burst,
            Meter.SUSTAINED: self.honest_sustained,
            Meter.TOTAL: self.honest_total,
            Meter.RESOURCES: self.honest_resources,
        }


_ADD_UP: Final = frozenset({Meter.TOTAL, Meter.RESOURCES})
_SAYS: Final = {
    Meter.BURST: "actions in a burst",
    Meter.SUSTAINED: "actions at this speed for so long",
    Meter.TOTAL: "actions",
    Meter.RESOURCES: "different resources",
}


@dataclass(slots=True)
class _Running:
    task_type: str
    meters: Meters = field(default_factory=Meters)


class Volume:
    """See the module."""

    def __init__(self, parameters: VolumeParameters | None = None, model: Model = NOTHING_LEARNED) -> None:
        self._parameters = parameters or VolumeParameters()
        self._model = model
        self._limits, self._honest = self._parameters.limits(), self._parameters.honest()
        self._least_limit = min(self._limits.values())
        self._running: Recent[str, _Running] = Recent(self._parameters.most_tasks)
        self._carried: dict[Meter, float] = dict.fromkeys(Meter, 0.0)
        self._said = Said(self._parameters.most_said)

    def observe(self, event: Event) -> tuple[Finding, ...]:
        """Take the next event."""
        task_id = event.task_id or ""
        if event.kind is EventKind.TASK_ENDED:
            self._carry(task_id)
            return ()
        decided = event.decided
        if decided is None:
            return ()
        running = self._running.use(task_id, lambda: _Running(event.task_type))
        running.meters.count(decided, event.at)
        if self._model.of(event.task_type).tasks < self._parameters.least_tasks:
            alarm = self._beyond_limits(task_id, running)
        else:
            alarm = self._beyond_usual(event, decided, running)
        return () if alarm is None else (finding(DetectorName.VOLUME, event, alarm),)

    def size(self) -> int:
        """Values that are held now."""
        return len(self._running) * (1 + HELD) + len(self._carried) + len(self._said)

    def most(self) -> int:
        """Values that can be held at most."""
        return self._parameters.most_tasks * (1 + HELD) + len(Meter) + self._parameters.most_said

    def _beyond_limits(self, task_id: str, running: _Running) -> Alarm | None:
        peaks = running.meters.peaks
        if peaks[Meter.TOTAL] <= self._least_limit:
            return None  # no meter shows more than the total
        for meter, peak in peaks.items():
            if peak > self._limits[meter] and self._said.first_time(task_id, meter):
                return Alarm(
                    rule=f"{meter.value}-unknown",
                    severity=Severity.LOW,
                    confidence=0.5,
                    expected="not enough seen yet to say; few tasks of any type do so much",
                    happened=f"{peak:.0f} {_SAYS[meter]}",
                )
        return None

    def _beyond_usual(self, event: Event, decided: Decided, running: _Running) -> Alarm | None:
        enough = self._parameters.enough
        for meter, peak in running.meters.peaks.items():
            if peak <= self._honest[meter]:
                continue
            alone = self._beyond_slack(meter, running)
            if alone is None or alone <= 0.0 or alone + self._others(meter, running) <= enough:
                continue
            several = alone <= enough
            if not several and math.log1p(peak) <= self._model.of(event.task_type).peaks[meter].second:
                continue  # tasks that completed did as much
            if self._said.first_time("" if several else event.task_id or "", meter):
                return _alarm(decided, meter, peak, several=several)
        return None

    def _others(self, meter: Meter, running: _Running) -> float:
        """What the other tasks are beyond the slack, where that adds up."""
        if meter not in _ADD_UP:
            return 0.0
        others = [self._beyond_slack(meter, one) for one in self._running.values() if one is not running]
        return self._carried[meter] + sum(max(0.0, beyond or 0.0) for beyond in others)

    def _beyond_slack(self, meter: Meter, running: _Running) -> float | None:
        """By how many deviations a task is beyond the slack; None where there is nothing to compare it with."""
        known, parameters = self._model.of(running.task_type), self._parameters
        moments = known.peaks.get(meter)
        if moments is None or known.tasks < parameters.least_tasks:
            return None
        peak = running.meters.peaks[meter]
        return moments.score(peak, least_deviation=parameters.least_deviation) - parameters.slack

    def _carry(self, task_id: str) -> None:
        running = self._running.get(task_id)
        if running is None:
            return
        self._running.drop(task_id)
        for meter, carried in self._carried.items():
            beyond = self._beyond_slack(meter, running)
            if beyond is not None:
                self._carried[meter] = min(max(0.0, carried + beyond), self._parameters.most_carried)


def _alarm(decided: Decided, meter: Meter, peak: float, *, several: bool) -> Alarm:
    return Alarm(
        rule=f"{meter.value}-over-tasks" if several else meter.value,
        severity=Severity.MEDIUM,
        confidence=0.75 if several else 0.85,
        evidence=(decided.action_id,),
        expected="about as much as completed tasks of this type did",
        happened=f"{peak:.0f} {_SAYS[meter]}"
        + (", beside or after other tasks that were too large as well" if several else ""),
    )
