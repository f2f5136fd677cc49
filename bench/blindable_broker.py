"""A broker that can be told not to look: `python -m bench.blindable_broker serve --config F`; SIGUSR1 blinds it, SIGUSR2 ends that.

It is the broker itself; while it is blind, no step of a task reaches its detectors. One process is measured with them and without.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

from broker import bootstrap
from broker.anomaly.events import Event
from broker.config.settings import Settings, load_settings
from broker.domain.changes import Change
from broker.logs import set_up_logging
from broker.usecases.notice import Notice

BLIND = signal.SIGUSR1
SEEING = signal.SIGUSR2


class _Eyes:
    """Stands before what notices."""

    def __init__(self) -> None:
        self.shut = False
        self._see = Notice.__call__

    def install(self) -> None:
        see, eyes = self._see, self

        async def called(
            notice: Notice, event: Event, *, request_id: str = "", first: Sequence[Change] = ()
        ) -> tuple[str, ...]:
            return () if eyes.shut else await see(notice, event, request_id=request_id, first=first)

        Notice.__call__ = called  # type: ignore[method-assign, assignment]


async def _serve(settings: Settings, eyes: _Eyes) -> None:
    loop = asyncio.get_running_loop()
    for number, shut in ((BLIND, True), (SEEING, False)):
        loop.add_signal_handler(number, setattr, eyes, "shut", shut)
    await bootstrap.serve(settings)


def main() -> None:
    """As `tasklease serve`."""
    settings = load_settings(Path(sys.argv[sys.argv.index("--config") + 1]))
    set_up_logging(style=settings.log.format, level=settings.log.level)
    eyes = _Eyes()
    eyes.install()
    uvloop.run(_serve(settings, eyes))


if __name__ == "__main__":
    main()
