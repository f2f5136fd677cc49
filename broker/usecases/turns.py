"""One after another, for each key by itself: a task's decisions, an instance's watch.

What always holds: who waits comes in the order of arrival; nothing is kept of a key that nobody holds or waits for.
"""

from __future__ import annotations

import asyncio
from collections import deque
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
    """That of one key, for all who hold it or wait for it. Only to be entered at once, as `Turns.of` gives it.

    No `asyncio.Lock`: each call takes a turn or two, and almost none has to wait.
    """

    __slots__ = ("_key", "_taken", "_turns", "_waiting")

    def __init__(self, turns: dict[K, Turn[K]], key: K) -> None:
        self._turns = turns
        self._key = key
        self._taken = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> None:
        if not self._taken:
            self._taken = True
            return
        given = asyncio.get_running_loop().create_future()
        self._waiting.append(given)
        try:
            await given
        except BaseException:
            if given.done() and not given.cancelled():
                self._pass_on()  # it was given, and nobody is there to take it
            raise

    async def __aexit__(self, *_error: object) -> None:
        self._pass_on()

    def _pass_on(self) -> None:
        while self._waiting:
            given = self._waiting.popleft()
            if not given.done():
                given.set_result(None)
                return
        del self._turns[self._key]
