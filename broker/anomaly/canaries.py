"""Canaries: tools and roles that no work needs. One touch is enough, allowed or not.

Source: L. Spitzner, "Honeytokens: The Other Honeypot", 2003; the argument that a decoy has no false alarms by its making is
that of A. Juels and R. Rivest, "Honeywords: Making Password-Cracking Detectable", CCS 2013.

What it does not see: whoever knows which entries are canaries. The catalog must not tell them to agents.
"""

from __future__ import annotations

from dataclasses import dataclass

from broker.anomaly.bounded import Said
from broker.anomaly.detector import Parameters
from broker.anomaly.events import Event
from broker.anomaly.findings import Alarm, DetectorName, Finding, finding, named
from broker.domain.findings import Severity


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryParameters(Parameters):
    """No threshold: there is none to set."""


class Canaries:
    """See the module."""

    def __init__(self, parameters: CanaryParameters | None = None) -> None:
        self._parameters = parameters or CanaryParameters()
        self._said = Said(self._parameters.most_said)

    def observe(self, event: Event) -> tuple[Finding, ...]:
        """Take the next event."""
        decided = event.decided
        if decided is None or not decided.canary:
            return ()
        if not self._said.first_time(event.task_id or "", decided.name):
            return ()
        alarm = Alarm(
            rule="touched",
            severity=Severity.CRITICAL,
            confidence=0.99,
            expected="no use: it is in the catalog as a canary alone",
            happened=f"{named(decided.name)} was asked for and {'allowed' if decided.allowed else 'refused'}",
        )
        return (finding(DetectorName.CANARY, event, alarm),)

    def size(self) -> int:
        """Values that are held now."""
        return len(self._said)

    def most(self) -> int:
        """Values that can be held at most."""
        return self._parameters.most_said
