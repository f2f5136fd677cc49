"""A watch over one instance: every detector, folded over the events of it and its tasks.

What always holds: a watch is what its events, in their order, make of it, and nothing else. So it is lost at no restart (it is
rebuilt from the chain), and replicas that each saw a part find what one finds that saw everything, once their events are put in
order (`rebuild`). It holds a bounded number of values, whatever an instance does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from broker.anomaly.canaries import Canaries, CanaryParameters
from broker.anomaly.detector import Detector
from broker.anomaly.drift import Drift, DriftParameters
from broker.anomaly.escalation import Escalation, EscalationParameters
from broker.anomaly.events import Event, in_order, place_of
from broker.anomaly.findings import Finding
from broker.anomaly.identity_misuse import IdentityMisuse, IdentityParameters
from broker.anomaly.learning import NOTHING_LEARNED, Model
from broker.anomaly.pivots import PivotParameters, Pivots
from broker.anomaly.retries import RetryParameters, RetryStorms
from broker.anomaly.volume import Volume, VolumeParameters
from broker.domain.identifiers import TaskId


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchParameters:
    """Those of each detector."""

    retries: RetryParameters = field(default_factory=RetryParameters)
    pivots: PivotParameters = field(default_factory=PivotParameters)
    escalation: EscalationParameters = field(default_factory=EscalationParameters)
    drift: DriftParameters = field(default_factory=DriftParameters)
    volume: VolumeParameters = field(default_factory=VolumeParameters)
    identity: IdentityParameters = field(default_factory=IdentityParameters)
    canaries: CanaryParameters = field(default_factory=CanaryParameters)


class Watch:
    """See the module."""

    def __init__(self, model: Model = NOTHING_LEARNED, parameters: WatchParameters | None = None) -> None:
        chosen = parameters or WatchParameters()
        self._drift = Drift(chosen.drift, model)
        self._detectors: tuple[Detector, ...] = (
            Canaries(chosen.canaries),
            IdentityMisuse(chosen.identity),
            RetryStorms(chosen.retries),
            Pivots(chosen.pivots, model),
            Escalation(chosen.escalation, model),
            self._drift,
            Volume(chosen.volume, model),
        )
        self._last: Event | None = None
        self._out_of_order = False

    def is_next(self, event: Event) -> bool:
        """Whether it stands after all that was taken."""
        last = self._last
        return last is None or event.at > last.at or place_of(event) > place_of(last)

    @property
    def must_rebuild(self) -> bool:
        """Whether an event came after one that it stands before: then this is not what a whole view would have found."""
        return self._out_of_order

    def observe(self, event: Event) -> tuple[Finding, ...]:
        """Take the next event; what is found at it. The same event again right after itself changes nothing."""
        if self.is_next(event):
            self._last = event
        elif self._last is not None and place_of(event) == place_of(self._last):
            return ()
        else:
            self._out_of_order = True
        found: tuple[Finding, ...] = ()
        for detector in self._detectors:
            new = detector.observe(event)
            if new:
                found += new
        return found

    def standing(self, task_id: TaskId) -> str:
        """What there is to say of the order of a task's steps; also that not enough was seen yet."""
        return self._drift.standing(task_id).value

    def size(self) -> int:
        """Values that are held now."""
        return sum(detector.size() for detector in self._detectors)

    def most(self) -> int:
        """Values that can be held at most, whatever is observed."""
        return sum(detector.most() for detector in self._detectors)


def rebuild(
    *streams: Iterable[Event], model: Model = NOTHING_LEARNED, parameters: WatchParameters | None = None
) -> tuple[Watch, tuple[Finding, ...]]:
    """A watch as the events of all streams make it, and all that is found; what stands in several counts once."""
    watch = Watch(model, parameters)
    found = [finding for event in in_order(*streams) for finding in watch.observe(event)]
    return watch, tuple(found)
