"""What every detector is: a fold over events, bounded in memory, that gives findings.

What always holds: the same parameters, the same model and the same events in the same order give the same findings. A detector
reads no clock, no file and no randomness. The methods are written out here rather than taken from a library of streaming
statistics, which would be one more thing to trust: each is a few lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from broker.anomaly.events import Event
from broker.anomaly.findings import Finding


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """What every detector's parameters have."""

    most_tasks: int = 32
    """Tasks of one instance that are remembered."""
    most_said: int = 256
    """Findings that are remembered, so as not to be repeated."""


class Detector(Protocol):
    """See the module."""

    def observe(self, event: Event) -> tuple[Finding, ...]:
        """Take the next event; what is found at it, each cause once."""
        ...

    def size(self) -> int:
        """Values that are held now."""
        ...

    def most(self) -> int:
        """Values that can be held at most, whatever is observed."""
        ...
