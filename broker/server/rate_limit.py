"""A token bucket an instance, bounded in number."""

from __future__ import annotations

from collections import OrderedDict
from datetime import datetime, timedelta
from typing import Final

from broker.domain.errors import RateLimitedError
from broker.domain.spiffe import SpiffeId

_MOST_INSTANCES: Final = 50_000


class RateLimit:
    """`rate` calls a second on average, `burst` at once, for each instance by itself."""

    def __init__(self, *, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._buckets: OrderedDict[SpiffeId, tuple[float, datetime]] = OrderedDict()

    def take(self, spiffe_id: SpiffeId, cost: float, now: datetime) -> None:
        """Take `cost` from the instance's bucket.

        Raises:
            RateLimitedError: it holds less; says when it will hold enough.
        """
        level, since = self._buckets.pop(spiffe_id, (self._burst, now))
        level = min(self._burst, level + max((now - since).total_seconds(), 0.0) * self._rate)
        enough = level >= cost
        self._buckets[spiffe_id] = (level - cost if enough else level, now)
        if len(self._buckets) > _MOST_INSTANCES:
            self._buckets.popitem(last=False)
        if not enough:
            wait = timedelta(seconds=(cost - level) / self._rate)
            text = "too many calls from this instance: slow down"
            raise RateLimitedError(text, retry_after=wait)
