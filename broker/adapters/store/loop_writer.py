"""Commits that are applied on the event loop's own thread, and made durable on another.

For SQLite: applying takes some ten microseconds a commit, of this process's own memory. On a thread of its own it would take
several times that, because the two threads would wait for each other at each statement. Only what really waits, the disk and
other programs that hold the file, is left to the other thread; whatever arrives meanwhile is the next batch.

Where more calls are under way than commits wait, the first of a batch waits a moment for theirs: a transaction of eight costs
little more than one of one. One that is alone waits for nobody.

What always holds: at any moment one thread alone uses the session; a batch is answered after its COMMIT returned.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol, TypeAlias

from broker.adapters.store.committing import MOST_AT_ONCE, Applied, Commit, Writes, answer, settle
from broker.adapters.store.session import WritingSession

_MOMENT: Final = 0.001
"""Seconds that a commit waits for others that may be on their way."""


class QuickWrites(Writes, Protocol):
    """Writes, for a database whose lock is taken at once or not at all."""

    def begun_at_once(self, session: WritingSession) -> bool:
        """Begin a transaction if nobody keeps it waiting."""
        ...

    def on_their_way(self) -> int:
        """How many calls are under way that may commit something, with those that wait for that."""
        ...


_Then: TypeAlias = Callable[[Exception | None], None]
_Work: TypeAlias = tuple[asyncio.AbstractEventLoop, Callable[[], None], _Then]


class _OtherThread:
    """Does one thing after another, and tells the loop that wanted it. Half of what an executor costs, which makes a lock, a
    condition and a future each time."""

    def __init__(self) -> None:
        self._wanted: Final[queue.SimpleQueue[_Work | None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def do(self, loop: asyncio.AbstractEventLoop, work: Callable[[], None], then: _Then) -> None:
        """Do `work`; then, in the loop's thread, `then` with what went wrong."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="store-write", daemon=True)
            self._thread.start()
        self._wanted.put((loop, work, then))

    def end(self) -> None:
        """Finish what is wanted; nothing else is."""
        if self._thread is not None:
            self._wanted.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (wanted := self._wanted.get()) is not None:
            loop, work, then = wanted
            error: Exception | None = None
            try:
                work()
            except Exception as raised:  # noqa: BLE001 - whatever it is, `then` says what follows
                error = raised
            except BaseException as raised:  # noqa: BLE001 - the thread has to live
                error = RuntimeError(type(raised).__name__)
            with suppress(RuntimeError):  # the loop has ended: the next one that commits starts anew
                loop.call_soon_threadsafe(then, error)


class LoopWriter:
    """Implements committing.Writer. Of one loop at a time; a loop that ended leaves its place to the next."""

    def __init__(self, writes: QuickWrites) -> None:
        self._writes = writes
        self._waits: Final = _OtherThread()
        self._lock: Final = threading.Lock()
        self._waiting: list[Commit] = []
        self._under_way: list[Commit] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        """The loop that is at it; None while nothing is under way."""
        self._session: WritingSession | None = None
        self._closed = False

    @property
    def works(self) -> bool:
        """Until it is closed."""
        return not self._closed

    def add(self, commit: Commit) -> None:
        """Take one, in its loop's thread."""
        with self._lock:
            self._waiting.append(commit)
            if self._loop is not None and not self._loop.is_closed():
                return
            abandoned = self._loop is not None
            self._loop = commit.loop
        if abandoned:
            self._elsewhere(self._start_anew, self._opened)
        else:
            self._gather(commit.loop)

    def _gather(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin, in a moment if others are on their way."""
        if len(self._waiting) < min(self._writes.on_their_way(), MOST_AT_ONCE):
            loop.call_later(_MOMENT, self._begin)
        else:
            self._begin()

    async def close(self) -> None:
        """Finish what was added."""
        self._closed = True
        loop = asyncio.get_running_loop()
        while self._loop is not None and not self._loop.is_closed():
            last = Commit((), loop, loop.create_future())
            self.add(last)
            await asyncio.wait({last.done})
            last.done.exception()
        await asyncio.to_thread(self._waits.end)
        if self._session is not None:
            self._session.close()
            self._session = None

    def _begin(self) -> None:
        """The next batch, if anything waits; else there is nothing to do until something does."""
        with self._lock:
            if not self._waiting:
                self._loop = None
                return
        if self._session is not None and self._writes.begun_at_once(self._session):
            self._apply()
        else:
            self._elsewhere(self._open, self._opened)

    def _open(self) -> None:
        """In the other thread: wait for the lock."""
        self._session = self._writes.begun(self._session)

    def _start_anew(self) -> None:
        """In the other thread, after a loop that ended in the middle of something: what was not durable is not."""
        if self._session is not None:
            self._session.close()
            self._session = None
        self._writes.unsettled()
        self._open()

    def _opened(self, error: Exception | None) -> None:
        if error is not None:
            self._fail(error)
        else:
            self._apply()

    def _apply(self) -> None:
        assert self._session is not None  # noqa: S101 - it was begun
        self._under_way = self._waiting[:MOST_AT_ONCE]
        del self._waiting[:MOST_AT_ONCE]
        try:
            applied = self._writes.apply(self._session, self._under_way)
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing of the batch is applied
            self._fail(error)
            return
        if applied is None:
            self._answered()
        else:
            self._elsewhere(self._session.commit, lambda error: self._committed(applied, error))

    def _committed(self, applied: Applied, error: Exception | None) -> None:
        if error is not None:
            self._fail(error)
            return
        self._writes.durable(applied)
        self._answered()

    def _fail(self, error: Exception) -> None:
        """Those that came meanwhile have waited as long, and would fare no better."""
        self._under_way += self._waiting
        self._waiting = []
        self._writes.failed(self._under_way, self._session, error)
        self._session = None
        self._answered()

    def _answered(self) -> None:
        done, self._under_way = self._under_way, []
        loop = self._loop
        settle([commit for commit in done if commit.loop is loop])
        answer([commit for commit in done if commit.loop is not loop])
        if self._waiting and loop is not None:
            self._gather(loop)
        else:
            self._begin()

    def _elsewhere(self, work: Callable[[], None], then: _Then) -> None:
        """Do what may wait in the other thread, and go on here."""
        assert self._loop is not None  # noqa: S101 - something is under way
        self._waits.do(self._loop, work, then)
