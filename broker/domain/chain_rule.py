"""Which steps may follow which: the allowed chain of a task type, with counts and rates."""

from __future__ import annotations

from collections.abc import Mapping
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
        states = self.pattern.after(chain.steps)
        if not self.pattern.allows(states, step):
            expected = self.pattern.expected(states)
            what = ", ".join(sorted(expected)) or "nothing more"
            return NotNow(
                text=f"{step!r} does not follow {chain.last or 'the beginning'!r}: expected is {what}",
                for_good=not self.pattern.can_still_come(states, step),
                expected=expected,
            )
        times = chain.times.get(step, ())
        for limit in self.limits.get(step, ()):
            if limit.at_most is None:
                continue
            if limit.per is None:
                if len(times) >= limit.at_most:
                    return NotNow(text=f"{step!r} may be used {limit.at_most} times in a task", for_good=True)
            elif sum(at > now - limit.per for at in times) >= limit.at_most:
                seconds = limit.per.total_seconds()
                text = f"{step!r} may be used {limit.at_most} times in {seconds:g} s"
                return NotNow(text=text, for_good=False)
        return None


ANY_CHAIN: Final = ChainRule()
