"""Tell systems outside of findings: `messages_for` and `messages_of_mark` make messages that are committed with what
they tell of, `deliver` is the round.

    T1  the message is durable, with the finding, its answered state or its mark
    T2  a receiver has taken it
    T3  it is gone from the store

What always holds: a crash before T3 delivers it again, with the same id; the messages of one finding reach a receiver in order; no
receiver waits for another one; a message that nobody takes is given up after a day, and that is in the audit trail.

One replica at a time delivers to a receiver. A receiver that fails rests; so does a message that it does not want, while those of
other findings go on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from broker.domain.audit import AuditEvent, AuditKind
from broker.domain.changes import AddMessage, Append, Change, PostponeMessage, RemoveMessage
from broker.domain.errors import BrokerError
from broker.domain.findings import SIGNAL, Answer, Found, RecordedFinding, Severity
from broker.domain.identifiers import MessageId
from broker.domain.messages import Message, MessageKind, ReceiverKind
from broker.domain.spiffe import SpiffeId
from broker.ports.store import Store
from broker.ports.system import Clock, Ids
from broker.ports.telling import Delivery, Fate, NamedReceiver, TellingWatched
from broker.usecases.finding_words import body_of, finding_in
from broker.usecases.telling_quota import TellingQuota

logger = logging.getLogger(__name__)

GIVE_UP: Final = timedelta(hours=24)
"""After so long nobody tries any more."""
MOST_REFUSALS: Final = 8
"""Attempts with a message that its receiver refuses."""
LONGEST_PAUSE: Final = timedelta(minutes=5)
LONGEST_ASKED: Final = timedelta(hours=1)
"""What a receiver that asks for time is given at most."""
MOST_WAITING: Final = 10_000
"""Messages to one receiver: beyond that only what is bad is added."""

_FIRST_PAUSE: Final = timedelta(seconds=1)
_MOST_DOUBLINGS: Final = 12
_TURN: Final = timedelta(seconds=20)
_BATCH: Final = 100
_AT_ONCE: Final = 4
"""Of one receiver."""
_ROUND_PATIENCE: Final = 1.0
"""Seconds of the process's own time."""

_BAD: Final = {Severity.HIGH, Severity.CRITICAL}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rest:
    """A receiver that failed: it is left alone for a while."""

    failures: int
    until: datetime


class TellOthers:
    """See the module."""

    def __init__(  # noqa: PLR0913 - the ports of a round
        self,
        *,
        store: Store,
        receivers: Mapping[str, NamedReceiver],
        clock: Clock,
        ids: Ids,
        actor: SpiffeId,
        watched: TellingWatched,
    ) -> None:
        self._store = store
        self._receivers = receivers
        self._clock = clock
        self._ids = ids
        self._actor = actor
        self._watched = watched
        self._quota = TellingQuota(clock)
        self._counts: Mapping[str, int] = {}
        self._rests: dict[str, _Rest] = {}
        self._working: dict[str, asyncio.Task[int]] = {}

    def messages_for(self, finding: RecordedFinding, receivers: Sequence[str]) -> Sequence[Change]:
        """What to commit together with the finding, or with its answered state (T1).

        Args:
            finding: as it will be recorded.
            receivers: those that the rule names which chose its answer.
        """
        return self._messages(finding, receivers, kind_of(finding))

    def messages_of_mark(self, finding: RecordedFinding, receivers: Sequence[str]) -> Sequence[Change]:
        """What to commit together with a person's mark, which `finding` has already."""
        return self._messages(finding, receivers, MessageKind.MARKED)

    def _messages(
        self, finding: RecordedFinding, receivers: Sequence[str], kind: MessageKind
    ) -> Sequence[Change]:
        severity, now = finding.found.severity, self._clock.now()
        told = [one for one in self._receivers.values() if _is_told(one, severity, receivers)]
        if unknown := set(receivers) - self._receivers.keys():  # a catalog that names some is refused before
            logger.error("receivers that no setting names are not told: %s", ", ".join(sorted(unknown)))
        if not told:
            return []
        can_wait = severity not in _BAD and kind is not MessageKind.MARKED
        is_flood = can_wait and not self._quota.grants(str(finding.found.instance))
        body, changes = body_of(finding), []
        for one in told:
            is_full = can_wait and self._counts.get(one.name, 0) >= MOST_WAITING
            if (
                is_flood or is_full
            ) and one.kind is not ReceiverKind.SET:  # those hear only of what has ended
                self._watched.attempted(one.kind, "left-out")
                continue
            for what in _said_to(one.kind, kind, finding):
                message = Message(
                    message_id=self._ids.message_id(),
                    receiver=one.name,
                    kind=what.value,
                    body=body,
                    created_at=now,
                    next_attempt_at=now,
                )
                changes.append(AddMessage(message=message))
        return changes

    async def deliver(self) -> int:
        """One round: begin to deliver wherever something waits; return how many were taken within it.

        Waits only so long: a slow receiver goes on by itself, and the next round begins with the others.
        """
        self._counts = counts = await self._store.message_counts()
        self._note(counts)
        now = self._clock.now()
        for name in counts:
            rest = self._rests.get(name)
            if name in self._working or (rest is not None and now < rest.until):
                continue
            known = self._receivers.get(name)
            work = self._serve(known) if known is not None else self._let_go(name)
            self._working[name] = asyncio.create_task(work, name=f"tell {name}")
        if not self._working:
            return 0
        await asyncio.wait(self._working.values(), timeout=_ROUND_PATIENCE)
        done = [name for name, work in self._working.items() if work.done()]
        return sum(self._done(name, self._working.pop(name)) for name in done)

    async def close(self) -> None:
        """Stop, and let go of every receiver. What was not taken waits in the store."""
        for work in self._working.values():
            work.cancel()
        await asyncio.gather(*self._working.values(), return_exceptions=True)
        for one in self._receivers.values():
            await one.receiver.close()

    def _done(self, name: str, work: asyncio.Task[int]) -> int:
        if work.cancelled():
            return 0
        error = work.exception()
        if error is None:
            return work.result()
        what = error.reason if isinstance(error, BrokerError) else type(error).__name__
        logger.error("telling %s failed: %s", name, what)
        return 0

    def _note(self, counts: Mapping[str, int]) -> None:
        waiting = dict.fromkeys((one.kind for one in self._receivers.values()), 0)
        for name, count in counts.items():
            if name in self._receivers:
                waiting[self._receivers[name].kind] += count
        self._watched.waiting(waiting)

    async def _let_go(self, name: str) -> int:
        """What waits for a receiver of other settings: another replica may still have those."""
        now = self._clock.now()
        for message in await self._store.messages_to(name, _BATCH):
            if now - message.created_at >= GIVE_UP:
                await self._give_up(message, None, "no setting names this receiver")
        self._rests[name] = _Rest(failures=0, until=now + LONGEST_PAUSE)
        return 0

    async def _serve(self, known: NamedReceiver) -> int:
        """Deliver what is due to one receiver, the messages of each finding in order."""
        began = self._clock.now()
        if not await self._store.take_turn(f"tell {known.name}", lasting=_TURN):
            return 0
        lanes: dict[str, list[Message]] = {}
        for message in await self._store.messages_to(known.name, _BATCH):
            about = str(finding_in(message).get("id", "")) or message.message_id
            lanes.setdefault(about, []).append(message)
        serving = _Serving(known=known, until=began + _TURN - known.timeout)
        slots = asyncio.Semaphore(_AT_ONCE)
        try:
            async with asyncio.TaskGroup() as group:
                for lane in lanes.values():
                    group.create_task(self._lane(serving, lane, slots))
        except* BrokerError as errors:
            raise errors.exceptions[0] from None
        return serving.taken

    async def _lane(self, serving: _Serving, messages: Sequence[Message], slots: asyncio.Semaphore) -> None:
        async with slots:
            for message in messages:
                now = self._clock.now()
                if serving.has_failed or now >= serving.until or message.next_attempt_at > now:
                    return
                if not await self._attempt(serving, message):
                    return

    async def _attempt(self, serving: _Serving, message: Message) -> bool:
        """Whether the next one about the same finding may follow."""
        known = serving.known
        delivery = await known.receiver.deliver(message)  # T2
        self._watched.attempted(known.kind, delivery.fate.value)
        if delivery.fate is Fate.TAKEN:
            serving.taken += 1
            self._rests.pop(known.name, None)
            await self._store.commit([RemoveMessage(message_id=message.message_id)])  # T3
            return True
        if delivery.fate is Fate.FAILED and not serving.has_failed:
            serving.has_failed = True
            self._rest(known.name, delivery)
        attempts, now = message.attempts + 1, self._clock.now()
        logger.warning(
            "receiver %s did not take message %s, attempt %d: %s",
            known.name, message.message_id, attempts, delivery.what,
        )  # fmt: skip
        unwanted = delivery.fate is Fate.REFUSED and attempts >= MOST_REFUSALS
        if unwanted or now - message.created_at >= GIVE_UP:
            await self._give_up(message, known.kind, delivery.what)
            return True
        pause = self._pause(message.attempts, delivery.retry_after)
        await self._store.commit(
            [PostponeMessage(message_id=message.message_id, next_attempt_at=now + pause)]
        )
        return False

    async def _give_up(self, message: Message, kind: ReceiverKind | None, why: str) -> None:
        finding = finding_in(message)
        event = AuditEvent(
            kind=AuditKind.SIGNAL_UNDELIVERED,
            at=self._clock.now(),
            actor=str(self._actor),
            task_id=str(finding.get("task", "")),
            facts={
                "message": message.message_id,
                "receiver": message.receiver,
                "told": message.kind,
                "finding": str(finding.get("id", "")),
                "attempts": message.attempts + (kind is not None),
                "why": why,
            },
        )
        await self._store.commit([RemoveMessage(message_id=message.message_id), Append(event=event)])
        logger.error("message %s to %s is given up: %s", message.message_id, message.receiver, why)
        if kind is not None:
            self._watched.attempted(kind, "given-up")

    def _rest(self, name: str, delivery: Delivery) -> None:
        before = self._rests.get(name)
        failures = before.failures if before else 0
        until = self._clock.now() + self._pause(failures, delivery.retry_after)
        self._rests[name] = _Rest(failures=failures + 1, until=until)

    def _pause(self, failures: int, asked: timedelta | None) -> timedelta:
        """Twice as long each time, with jitter downwards; never shorter than what was asked for, within reason."""
        longest = min(_FIRST_PAUSE * 2.0 ** min(failures, _MOST_DOUBLINGS), LONGEST_PAUSE)
        pause = longest * (0.5 + self._ids.fraction() / 2)
        return max(pause, min(asked or timedelta(), LONGEST_ASKED))


@dataclass(slots=True, kw_only=True)
class _Serving:
    """One turn of one receiver."""

    known: NamedReceiver
    until: datetime
    """Nothing is begun after that: another replica's turn may come."""
    taken: int = 0
    has_failed: bool = False


def kind_of(finding: RecordedFinding) -> MessageKind:
    """What is new of it. What is answered as it is recorded is told once."""
    if finding.answered_at is None:
        return MessageKind.FINDING
    takes_time = finding.answer.rank >= Answer.END_TASK.rank
    return (
        MessageKind.ANSWERED if takes_time or finding.answered_at > finding.found_at else MessageKind.FINDING
    )


def _is_told(known: NamedReceiver, severity: Severity, receivers: Sequence[str]) -> bool:
    reached = known.told_from is not None and severity.rank >= known.told_from.rank
    return reached or known.name in receivers


def _said_to(to: ReceiverKind, kind: MessageKind, finding: RecordedFinding) -> tuple[MessageKind, ...]:
    """What a receiver of that kind hears: one that takes SETs only of what has taken effect, an event a token."""
    if to is not ReceiverKind.SET:
        return (kind,)
    has_ended = finding.answered_at is not None and finding.answer.rank >= Answer.END_TASK.rank
    if not has_ended or kind is MessageKind.MARKED or _is_of_a_token(finding):
        return ()
    return (MessageKind.SESSION_REVOKED, MessageKind.CREDENTIAL_CHANGE)


def _is_of_a_token(finding: RecordedFinding) -> bool:
    """Whether it was itself told by a security event token: two that tell each other of what the other told would never stop."""
    found = finding.found
    return found.detector == SIGNAL and not found.source.startswith("spiffe://")


def a_test_message(receiver: str, broker: SpiffeId, now: datetime, message_id: MessageId) -> Message:
    """A message that says that it is a test, of a finding that there is not."""
    found = Found(
        detector=SIGNAL, rule="test", severity=Severity.LOW, confidence=0.0, instance=broker, task_id=None, at=now
    )  # fmt: skip
    finding = RecordedFinding(finding_id=found.finding_id, found=found, found_at=now, answer=Answer.NOTE)
    return Message(
        message_id=message_id,
        receiver=receiver,
        kind=MessageKind.TEST.value,
        body=body_of(finding),
        created_at=now,
        next_attempt_at=now,
    )
