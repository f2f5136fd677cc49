"""How far a share that was counted can be trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

_Z: Final = 1.959964
"""Of 95 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proportion:
    """So many of so many."""

    hits: int
    of: int

    @property
    def share(self) -> float:
        """0 to 1; nothing of nothing is 0."""
        return self.hits / self.of if self.of else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Where the true share is, at 95 %, by E. B. Wilson, 1927; anywhere, where nothing was counted."""
        if not self.of:
            return 0.0, 1.0
        root = _Z * _Z / self.of
        middle = (self.share + root / 2) / (1 + root)
        half = _Z / (1 + root) * math.sqrt(self.share * (1 - self.share) / self.of + root / (4 * self.of))
        return max(0.0, middle - half), min(1.0, middle + half)
