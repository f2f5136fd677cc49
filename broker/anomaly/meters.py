"""How fast and how much: leaky counts of one task's actions, at three paces, and of the resources that they reach.

A leaky count is Page's cumulative sum for a Poisson rate: it grows by one with each action, sinks by the rate that is still
all right, and never goes below nothing (E. S. Page, "Continuous Inspection Schemes", Biometrika 1954). Resources are counted
in a bitmap of fixed size (K.-Y. Whang and others, "A Linear-Time Probabilistic Counting Algorithm for Database Applications",
1990), so that a task that touches a million of them takes no more memory than one that touches ten.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Final

from broker.anomaly.events import Decided

BITS: Final = 8192
HELD: Final = 8 + BITS // 64
"""Values that one task's meters hold, counting 64 bits of the bitmap as one."""


class Meter(StrEnum):
    """What is counted."""

    BURST = "burst"
    """Actions, less one a second."""
    SUSTAINED = "sustained"
    """Actions, less one every thirty seconds."""
    TOTAL = "total"
    """Actions."""
    RESOURCES = "resources"
    """Different resources."""


LEAKS: Final[Mapping[Meter, float]] = {Meter.BURST: 1.0, Meter.SUSTAINED: 1 / 30, Meter.TOTAL: 0.0}
"""By how much each count sinks in a second."""


class Meters:
    """Those of one task."""

    def __init__(self) -> None:
        self._level = dict.fromkeys(LEAKS, 0.0)
        self._seen = bytearray(BITS // 8)
        self._last: datetime | None = None
        self.peaks: dict[Meter, float] = dict.fromkeys(Meter, 0.0)
        """The most that each has shown."""

    def count(self, decided: Decided, at: datetime) -> None:
        """One more action."""
        passed = 0.0 if self._last is None else max(0.0, (at - self._last).total_seconds())
        self._last = at
        for meter, leak in LEAKS.items():
            self._level[meter] = max(0.0, self._level[meter] - leak * passed) + 1.0
            self.peaks[meter] = max(self.peaks[meter], self._level[meter])
        if decided.has_effect and self._is_new(decided):
            self.peaks[Meter.RESOURCES] += 1.0

    def _is_new(self, decided: Decided) -> bool:
        written = f"{decided.effect.destination}\n{decided.effect.resource}".casefold()
        digest = hashlib.blake2b(written.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        place, bit = divmod(int.from_bytes(digest) % BITS, 8)
        new = not self._seen[place] & (1 << bit)
        self._seen[place] |= 1 << bit
        return new
