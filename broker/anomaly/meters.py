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
from functools import lru_cache
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
        levels, peaks = self._level, self.peaks
        for meter, leak in LEAKS.items():
            level = levels[meter] = max(0.0, levels[meter] - leak * passed) + 1.0
            peaks[meter] = max(peaks[meter], level)
        if decided.has_effect and self._is_new(decided):
            self.peaks[Meter.RESOURCES] += 1.0

    def _is_new(self, decided: Decided) -> bool:
        place, bit = _bit_of(decided.effect.destination, decided.effect.resource)
        new = not self._seen[place] & (1 << bit)
        self._seen[place] |= 1 << bit
        return new


@lru_cache(maxsize=256)  # the same resources come again and again
def _bit_of(destination: str, resource: str) -> tuple[int, int]:
    """Byte and bit of the bitmap that stand for it."""
    written = f"{destination}\n{resource}".casefold()
    digest = hashlib.blake2b(written.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return divmod(int.from_bytes(digest) % BITS, 8)
