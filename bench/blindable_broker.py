"""A broker that can be told not to look: `python -m bench.blindable_broker serve --config F`; SIGUSR1 blinds it, SIGUSR2 ends that.

It is the broker itself; while it is blind, no step of a task reaches its detectors. One process is measured with them and without.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from broker import bootstrap
from broker.anomaly.events import Event
from broker.cli.serve import run
from broker.config.settings import Settings
from broker.domain.changes import Change
from broker.usecases.notice import Notice

BLIND = signal.SIGUSR1
SEEING = signal.SIGUSR2


async def _serve(settings: Settings) -> None:
    blind, see = asyncio.Event(), Notice.__call__

    async def see_unless_blind(
        notice: Notice, event: Event, *, request_id: str = "", first: Sequence[Change] = ()
    ) -> tuple[str, ...]:
        return () if blind.is_set() else await see(notice, event, request_id=request_id, first=first)

    Notice.__call__ = see_unless_blind  # type: ignore[method-assign, assignment]
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(BLIND, blind.set)
    loop.add_signal_handler(SEEING, blind.clear)
    await bootstrap.serve(settings)


if __name__ == "__main__":
    run(Path(sys.argv[sys.argv.index("--config") + 1]), _serve)
