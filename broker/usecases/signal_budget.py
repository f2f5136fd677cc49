"""How much each reporter has reported of late: a bucket a reporter, of this process alone.

What always holds: only what is new counts, so that a report that is sent again until it is answered costs its sender nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from datetime import datetime, timedelta
from typing import Final

from broker.domain.errors import RateLimitedError

_MOST_REPORTERS: Final = 10_000


class SignalBudget:
    """See the module."""

    def __init__(self) -> None:
        self._left: OrderedDict[str, tuple[float, datetime]] = OrderedDict()

    def take(self, reporter: str, per_minute: int, now: datetime) -> None:
        """Take one of what `reporter` has left.

        Raises:
            RateLimitedError: it has none left; says when it will have.
        """
        left, since = self._left.pop(reporter, (float(per_minute), now))
        passed = max((now - since) / timedelta(minutes=1), 0.0)
        left = min(float(per_minute), left + passed * per_minute)
        enough = left >= 1
        self._left[reporter] = (left - 1 if enough else left, now)
        if len(self._left) > _MOST_REPORTERS:
            self._left.popitem(last=False)
        if not enough:
            text = "more signals than the settings take from this reporter: send them again later"
            raise RateLimitedError(text, retry_after=timedelta(minutes=(1 - left) / per_minute))

    def give_back(self, reporter: str, per_minute: int) -> None:
        """What was taken last came to nothing."""
        found = self._left.get(reporter)
        if found is not None:
            self._left[reporter] = (min(float(per_minute), found[0] + 1), found[1])
