"""How much of one instance outside systems hear: an agent that makes findings on purpose cannot flood them.

What always holds: memory is bounded; the store and the audit trail have every finding all the same.
"""

from __future__ import annotations

from collections import OrderedDict
from datetime import datetime, timedelta
from typing import Final

from broker.ports.system import Clock

AT_ONCE: Final = 60
"""Of one instance."""
ONE_EACH: Final = timedelta(seconds=10)
"""Then."""
MOST_INSTANCES: Final = 4096
"""That are remembered: those that were told of last."""


class TellingQuota:
    """See the module."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, datetime]] = OrderedDict()

    def grants(self, instance: str) -> bool:
        """Whether one more may be told of it; counts it."""
        now = self._clock.now()
        left, since = self._left.pop(instance, (float(AT_ONCE), now))
        left = min(left + max((now - since) / ONE_EACH, 0.0), AT_ONCE)
        granted = left >= 1
        self._left[instance] = (left - granted, now)
        if len(self._left) > MOST_INSTANCES:
            self._left.popitem(last=False)
        return granted
