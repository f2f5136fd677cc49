"""What waits to be committed, and how whoever waits is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from broker.adapters.store.session import WritingSession
from broker.domain.audit import ChainHead
from broker.domain.changes import Change

MOST_AT_ONCE: Final = 128
"""Commits that share one transaction."""


@dataclass(slots=True)
class Commit:
    """What waits for a writer."""

    changes: Sequence[Change]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[None]
    """Of `loop`, and touched by it alone."""
    refusal: Exception | None = None


@dataclass(frozen=True, slots=True)
class Applied:
    """A batch that is applied, and not durable yet."""

    head: ChainHead | None
    changes: Sequence[Change]


class Writes(Protocol):
    """What a writer asks of its store."""

    def begun(self, session: WritingSession | None) -> WritingSession:
        """A session with a transaction, which waits for others that write; another one where that one was lost."""
        ...

    def apply(self, session: WritingSession, batch: Sequence[Commit]) -> Applied | None:
        """Apply a batch, each of it or not at all; None where nothing is left to be made durable."""
        ...

    def durable(self, applied: Applied) -> None:
        """It was committed."""
        ...

    def failed(self, batch: Sequence[Commit], session: WritingSession | None, error: Exception) -> None:
        """Nothing of the batch is applied."""
        ...

    def unsettled(self) -> None:
        """What became of the last batch was never heard: nothing that was kept in memory holds."""
        ...


class Writer(Protocol):
    """Makes commits durable, those that arrive together in one transaction."""

    @property
    def works(self) -> bool:
        """Whether it takes commits."""
        ...

    def add(self, commit: Commit) -> None:
        """Take one; it is answered when it is durable, or never will be."""
        ...

    async def close(self) -> None:
        """Finish what was added."""
        ...


def answer(batch: Sequence[Commit]) -> None:
    """Wake whoever waits, once for each loop: a loop that is woken for each commit of a batch does little else."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Commit]] = {}
    for commit in batch:
        by_loop.setdefault(commit.loop, []).append(commit)
    for loop, commits in by_loop.items():
        with suppress(RuntimeError):  # closed: nobody waits there any more
            loop.call_soon_threadsafe(settle, commits)


def settle(commits: Sequence[Commit]) -> None:
    """Answer, in the loop's own thread. Who went away is not answered."""
    for commit in commits:
        if commit.done.done():
            continue
        if commit.refusal is None:
            commit.done.set_result(None)
        else:
            commit.done.set_exception(commit.refusal)
