"""A token bucket an instance, or whoever else is told apart, bounded in number."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from datetime import datetime, timedelta
from typing import Final

from broker.domain.errors import RateLimitedError

_MOST_INSTANCES: Final = 50_000


class RateLimit:
    """`rate` calls a second on average, `burst` at once, for each instance by itself."""

    def __init__(self, *, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._buckets: OrderedDict[Hashable, tuple[float, datetime]] = OrderedDict()

    def take(self, who: Hashable, cost: float, now: datetime) -> None:
        """Take `cost` from the instance's bucket.

        Raises:
            RateLimitedError: it holds less; says when it will hold enough.
        """
        level, since = self._buckets.pop(who, (self._burst, now))
        level = min(self._burst, level + max((now - since).total_seconds(), 0.0) * self._rate)
        enough = level >= cost
        self._buckets[who] = (level - cost if enough else level, now)
        if len(self._buckets) > _MOST_INSTANCES:
            self._buckets.popitem(last=False)
        if not enough:
            wait = timedelta(seconds=(cost - level) / self._rate)
            text = "too many calls from this instance: slow down"
            raise RateLimitedError(text, retry_after=wait)
