"""The wall clock, and one that does not jump when the wall clock does."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

logger = logging.getLogger(__name__)

_SLEW: Final = 0.05
"""How much faster or slower than time itself the clock may run to make up for a jump."""

_BELIEVED: Final = timedelta(seconds=1)
"""What a clock may be corrected by at once: drift, and what NTP does all day."""

_SET_RIGHT: Final = timedelta(minutes=5)
"""A jump of more than this is no accident: somebody set the clock right, and it is believed at once."""

_SLOW: Final = 0.5
"""Seconds within which a reference has to answer for its answer to mean anything."""


_COUNTER: Final[Callable[[], float]] = partial(time.clock_gettime, time.CLOCK_BOOTTIME)
"""The machine's own: seconds since its start, asleep or not."""


class SystemClock:
    """Implements ports.system.Clock."""

    def now(self) -> datetime:
        """Return the time in UTC."""
        return datetime.now(UTC)

    async def sleep(self, duration: timedelta) -> None:
        """Sleep."""
        await asyncio.sleep(max(duration.total_seconds(), 0))


class FollowingClock(SystemClock):
    """Counts by the machine's own counter, which nobody can set, and follows a reference (`follow`, again and again).

    The reference is the wall clock, whose jumps of up to five minutes are made up for slowly, so that they end no task; or
    what several replicas share, which they follow to the letter, so that all have the same time.
    """

    def __init__(
        self,
        reference: Callable[[], Awaitable[datetime]],
        *,
        to_the_letter: bool,
        counter: Callable[[], float] = _COUNTER,
    ) -> None:
        self._reference = reference
        self._to_the_letter = to_the_letter
        self._counter = counter
        self._time = datetime.now(UTC)
        self._at = counter()
        self._behind = False

    @classmethod
    def of_wall(
        cls,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
        counter: Callable[[], float] = _COUNTER,
    ) -> FollowingClock:
        """Follows the wall clock, and is set to it to begin with."""

        async def reference() -> datetime:
            return wall()

        clock = cls(reference, to_the_letter=False, counter=counter)
        clock._time = wall()
        return clock

    def now(self) -> datetime:
        """Return the time in UTC."""
        return self._time + timedelta(0, self._counter() - self._at)

    async def follow(self) -> None:
        """A round: ask the reference, and correct what is wrong.

        Raises:
            StoreUnavailableError, or what else the reference raises: the clock goes on as it is.
        """
        asked = self._counter()
        told = await self._reference()
        answered = self._counter()
        if answered - asked > _SLOW:
            return
        now = self.now()
        wrong = told + timedelta(seconds=(answered - asked) / 2) - now
        if not self._to_the_letter and _BELIEVED < abs(wrong) <= _SET_RIGHT:
            if not self._behind:
                logger.warning("the clock jumped by %.1f s: followed slowly", wrong.total_seconds())
            self._behind = True
            most = timedelta(seconds=(answered - self._at) * _SLEW)
            wrong = max(-most, min(wrong, most))
        else:
            self._behind = False
        self._time, self._at = now + wrong, answered
