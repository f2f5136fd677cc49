"""Whose turn it is to deliver messages, and receivers that answer as a test tells them to."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from broker.domain.findings import Severity
from broker.domain.messages import Message, ReceiverKind
from broker.ports.system import Clock
from broker.ports.telling import Delivery, Fate, NamedReceiver
from tests.fakes.store import FakeStore

TAKEN = Delivery(fate=Fate.TAKEN)
FAILED = Delivery(fate=Fate.FAILED, what="status 503")
REFUSED = Delivery(fate=Fate.REFUSED, what="status 400")


class Replica:
    """One replica's sight of a store that several share: turns are its own, the rest is the store's."""

    def __init__(self, store: FakeStore, clock: Clock, turns: dict[str, tuple[object, datetime]]) -> None:
        self._store = store
        self._clock = clock
        self._turns = turns

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def take_turn(self, name: str, *, lasting: timedelta) -> bool:
        now = self._clock.now()
        whose, until = self._turns.get(name, (self, now))
        if whose is not self and until > now:
            return False
        self._turns[name] = (self, now + lasting)
        return True


class FakeReceiver:
    """Implements ports.telling.Receiver: takes everything, unless it has other answers left."""

    def __init__(self, *answers: Delivery) -> None:
        self.answers = deque(answers)
        self.always: Delivery | None = None
        self.refuses: set[str] = set()
        """Ids of findings."""
        self.got: list[Message] = []
        self.taken: list[Message] = []
        self.at_once = self.most_at_once = 0
        self.open = asyncio.Event()
        self.open.set()
        self.closed = False

    async def deliver(self, message: Message) -> Delivery:
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            self.got.append(message)
            await self.open.wait()
            delivery = self._answer(message)
        finally:
            self.at_once -= 1
        if delivery.fate is Fate.TAKEN:
            self.taken.append(message)
        return delivery

    async def close(self) -> None:
        self.closed = True

    def named(
        self,
        name: str,
        kind: ReceiverKind = ReceiverKind.WEBHOOK,
        *,
        told_from: Severity | None = Severity.LOW,
    ) -> NamedReceiver:
        return NamedReceiver(
            name=name, kind=kind, receiver=self, timeout=timedelta(seconds=5), told_from=told_from
        )

    def _answer(self, message: Message) -> Delivery:
        if any(finding in message.body for finding in self.refuses):
            return REFUSED
        if self.answers:
            return self.answers.popleft()
        return self.always or TAKEN


class Watched:
    """Implements ports.telling.TellingWatched."""

    def __init__(self) -> None:
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.counts: dict[ReceiverKind, int] = {}

    def attempted(self, kind: ReceiverKind, outcome: str) -> None:
        self.outcomes[kind.value, outcome] += 1

    def waiting(self, counts: Mapping[ReceiverKind, int]) -> None:
        self.counts = dict(counts)
