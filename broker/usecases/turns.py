"""One after another, for each key by itself: a task's decisions, an instance's watch.

What always holds: who waits comes in the order of arrival; nothing is kept of a key that nobody holds or waits for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Turns(Generic[K]):
    """See the module. Of one event loop."""

    def __init__(self) -> None:
        self._turns: dict[K, Turn[K]] = {}

    def __len__(self) -> int:
        return len(self._turns)

    def is_taken(self, key: K) -> bool:
        """Whether somebody holds it, or waits for it."""
        return key in self._turns

    def of(self, key: K) -> Turn[K]:
        """For `async with`: waits for those that came before."""
        turn = self._turns.get(key)
        if turn is None:
            turn = self._turns[key] = Turn(self._turns, key)
        return turn


class Turn(Generic[K]):
    """That of one key, for all who hold it or wait for it. Only to be entered at once, as `Turns.of` gives it."""

    __slots__ = ("_key", "_lock", "_turns", "_users")

    def __init__(self, turns: dict[K, Turn[K]], key: K) -> None:
        self._turns = turns
        self._key = key
        self._lock = asyncio.Lock()
        self._users = 0

    async def __aenter__(self) -> None:
        self._users += 1
        try:
            await self._lock.acquire()
        except BaseException:
            self._leave()
            raise

    async def __aexit__(self, *_error: object) -> None:
        self._lock.release()
        self._leave()

    def _leave(self) -> None:
        self._users -= 1
        if not self._users:
            del self._turns[self._key]
