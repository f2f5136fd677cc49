"""Runs what has to be done again and again, and outlives every failure of one round."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any, TypeAlias

from broker.domain.errors import BrokerError
from broker.ports.system import Clock

logger = logging.getLogger(__name__)

Round: TypeAlias = tuple[str, Callable[[], Coroutine[Any, Any, object]], timedelta]
"""Its name, what it does, and how often."""


async def run_rounds(
    name: str, one_round: Callable[[], Awaitable[object]], *, every: timedelta, clock: Clock
) -> None:
    """Run `one_round` every `every` until cancelled. Its failure is logged, and the next round comes."""
    while True:
        try:
            await one_round()
        except BrokerError as error:
            logger.error("%s: %s; next round in %s", name, error.reason, every)
        except Exception:
            logger.exception("%s failed; next round in %s", name, every)
        await clock.sleep(every)
