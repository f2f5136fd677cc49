"""Which steps may follow which: the allowed chain of a task type, with counts and rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final

from broker.domain.actions import Chain
from broker.domain.chain_pattern import ANYTHING, ChainPattern


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLimit:
    """How often a tool or role may be used: in all, and within any stretch of time."""

    at_most: int | None = None
    per: timedelta | None = None
    """With it, `at_most` holds for each stretch of this length; without it for the whole task."""

    def is_used_up(self, times: int) -> bool:
        """Whether no later moment allows another one after so many."""
        if self.at_most is None or (self.per is not None and self.at_most > 0):
            return False
        return times >= self.at_most

    def is_full(self, times: Sequence[datetime], now: datetime) -> bool:
        """Whether the stretch that ends now has no room. What is exactly as old as it is long is no longer in it."""
        if self.at_most is None or self.per is None:
            return False
        return sum(at > now - self.per for at in times) >= self.at_most

    def as_text(self) -> str:
        """For people: `may be used 3 times in 60 s`."""
        if self.at_most == 0:
            return "may not be used"
        often = "once" if self.at_most == 1 else f"{self.at_most} times"
        where = "a task" if self.per is None else f"{self.per.total_seconds():.15g} s"
        return f"may be used {often} in {where}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NotNow:
    """Why a step may not come now."""

    text: str
    for_good: bool
    """Whether no later moment of this task makes it right."""
    expected: frozenset[str] = frozenset()
    """The steps that may come instead; empty for none, or for any other one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainRule:
    """See the module. Without pattern and limits everything goes."""

    pattern: ChainPattern = ANYTHING
    limits: Mapping[str, tuple[StepLimit, ...]] = field(default_factory=lambda: MappingProxyType({}))

    def objection(self, chain: Chain, step: str, now: datetime) -> NotNow | None:
        """Why `step` may not follow `chain` at `now`; None when it may."""
        times = chain.times.get(step, ())
        limits = self.limits.get(step, ())
        used_up = next((limit for limit in limits if limit.is_used_up(len(times))), None)
        state = self.pattern.after(chain.steps)
        if not self.pattern.allows(state, step):
            expected = self.pattern.expected(state)
            before = repr(chain.last) if chain.last else "the beginning"
            what = ", ".join(sorted(expected)) or "nothing more"
            return NotNow(
                text=f"{step!r} does not follow {before}: expected is {what}",
                for_good=used_up is not None or not self.pattern.can_still_come(state, step),
                expected=expected,
            )
        if used_up is not None:
            return NotNow(text=f"{step!r} {used_up.as_text()}", for_good=True)
        full = next((limit for limit in limits if limit.is_full(times, now)), None)
        return None if full is None else NotNow(text=f"{step!r} {full.as_text()}", for_good=False)


ANY_CHAIN: Final = ChainRule()
