"""Messages in memory, whose turn it is to deliver them, and receivers that answer as a test tells them to."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from broker.domain import changes as c
from broker.domain.findings import Severity
from broker.domain.messages import Message, ReceiverKind
from broker.ports.system import Clock
from broker.ports.telling import Delivery, Fate, NamedReceiver
from tests.fakes.store import FakeStore

TAKEN = Delivery(fate=Fate.TAKEN)
FAILED = Delivery(fate=Fate.FAILED, what="status 503")
REFUSED = Delivery(fate=Fate.REFUSED, what="status 400")


class Outbox:
    """What replicas share."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.messages: dict[str, Message] = {}
        self.turns: dict[str, tuple[object, datetime]] = {}


class OutboxStore(FakeStore):
    """One replica's store, with messages; the rest is FakeStore's."""

    def __init__(self, outbox: Outbox) -> None:
        super().__init__()
        self.outbox = outbox

    async def commit(self, changes: Sequence[c.Change]) -> None:
        await super().commit([one for one in changes if not self._is_ours(one)])
        for change in changes:
            self._apply(change)

    async def message_counts(self) -> Mapping[str, int]:
        self._check()
        return Counter(one.receiver for one in self.outbox.messages.values())

    async def messages_to(self, receiver: str, limit: int) -> tuple[Message, ...]:
        self._check()
        mine = [one for one in self.outbox.messages.values() if one.receiver == receiver]
        return tuple(sorted(mine, key=lambda one: (one.created_at, one.message_id))[:limit])

    async def take_turn(self, name: str, *, lasting: timedelta) -> bool:
        self._check()
        now = self.outbox.clock.now()
        whose, until = self.outbox.turns.get(name, (self, now))
        if whose is not self and until > now:
            return False
        self.outbox.turns[name] = (self, now + lasting)
        return True

    @staticmethod
    def _is_ours(change: c.Change) -> bool:
        return isinstance(change, c.AddMessage | c.PostponeMessage | c.RemoveMessage)

    def _apply(self, change: c.Change) -> None:
        messages = self.outbox.messages
        match change:
            case c.AddMessage(message=message):
                messages[message.message_id] = message
            case c.PostponeMessage(message_id=message_id, next_attempt_at=at) if message_id in messages:
                before = messages[message_id]
                messages[message_id] = replace(before, next_attempt_at=at, attempts=before.attempts + 1)
            case c.RemoveMessage(message_id=message_id):
                messages.pop(message_id, None)
            case _:
                pass


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
