"""Commits on a thread of their own, for a database to which every statement is a journey.

The thread takes whatever waits, applies it in one transaction, makes it durable, and only then answers: commits that arrive
together share the journey, one that arrives alone waits for nobody.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from typing import Final

from broker.adapters.store.committing import MOST_AT_ONCE, Commit, Writes, answer
from broker.adapters.store.session import WritingSession


class ThreadWriter:
    """Implements committing.Writer."""

    def __init__(self, writes: Writes) -> None:
        self._writes = writes
        self._queue: Final[queue.SimpleQueue[Commit | None]] = queue.SimpleQueue()
        self.thread: Final = threading.Thread(target=self._write, name="store-write", daemon=True)
        self.thread.start()

    @property
    def works(self) -> bool:
        """Whether the thread lives."""
        return self.thread.is_alive()

    def add(self, commit: Commit) -> None:
        """Take one."""
        self._queue.put(commit)

    async def close(self) -> None:
        """Finish what was added."""
        if self.thread.is_alive():
            self._queue.put(None)
            await asyncio.to_thread(self.thread.join)

    def _write(self) -> None:
        session: WritingSession | None = None
        stopping = False
        while not stopping:
            first = self._queue.get()
            if first is None:
                break
            batch = [first]
            try:
                session = self._writes.begun(session)
                stopping = self._add_waiting(batch)  # also what came while another replica had its turn
                applied = self._writes.apply(session, batch)
                if applied is not None:
                    session.commit()
                    self._writes.durable(applied)
            except Exception as error:  # noqa: BLE001 - whatever it is, nothing of the batch is applied
                # Those that came meanwhile have waited as long, and would fare no better.
                stopping = self._add_waiting(batch) or stopping
                self._writes.failed(batch, session, error)
                session = None
            answer(batch)
        if session is not None:
            session.close()

    def _add_waiting(self, batch: list[Commit]) -> bool:
        """Add what waits; whether the end of the queue was among it."""
        while len(batch) < MOST_AT_ONCE:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return False
            if item is None:
                return True
            batch.append(item)
        return False
