"""Keeps a source of the `spiffe` package open.

The package is synchronous and has threads of its own; it closes a source for good on errors that it holds for
final. Here a source is supervised: when it dies, another one is opened, with backoff, until `close`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Final, Generic, Protocol, TypeVar

logger = logging.getLogger(__name__)

FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 10.0
CHECK_EVERY: Final = 1.0


class Source(Protocol):
    """What the package's sources have in common."""

    def subscribe_for_updates(self, callback: Callable[[], None]) -> None:
        """Call back, on a thread of the package's, after each update."""
        ...

    def is_closed(self) -> bool:
        """Whether it ended, for good."""
        ...


AnySource = TypeVar("AnySource", bound=Source)


class Supervised(Generic[AnySource]):
    """A thread that opens a source, has each update taken, and opens another when it ends."""

    def __init__(
        self,
        name: str,
        open_source: Callable[[], AbstractContextManager[AnySource]],
        take: Callable[[AnySource], None],
    ) -> None:
        self._name = name
        self._open = open_source
        self._take = take
        self._taken = threading.Event()
        self._stop = threading.Event()
        self.trouble = "SPIRE's Workload API has not answered yet"
        self.thread = threading.Thread(target=self._supervise, name=name, daemon=True)

    async def start(self, *, patience: timedelta) -> bool:
        """Start, and wait for the first update; False when there was none in time."""
        self.thread.start()
        return await asyncio.to_thread(self._taken.wait, patience.total_seconds())

    def close(self) -> None:
        """Stop, for good."""
        self._stop.set()
        if self.thread.is_alive():
            self.thread.join(timeout=5)

    def _supervise(self) -> None:
        pause = FIRST_PAUSE
        while not self._stop.is_set():
            try:
                with self._open() as source:
                    changed = threading.Event()
                    source.subscribe_for_updates(changed.set)
                    self._update(source)
                    pause = FIRST_PAUSE
                    while not self._stop.is_set() and not source.is_closed():
                        if changed.wait(CHECK_EVERY):
                            changed.clear()
                            self._update(source)
            except Exception as error:  # noqa: BLE001 - whatever it was, another source is opened
                self.trouble = f"{type(error).__name__}: {error}"
                logger.warning("%s: the source ended (%s); opening another", self._name, self.trouble)
            self._stop.wait(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    def _update(self, source: AnySource) -> None:
        self._take(source)
        self._taken.set()
