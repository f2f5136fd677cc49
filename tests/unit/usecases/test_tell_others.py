"""Telling systems outside: what is told to whom, and that each message gets there once, in order, or is given up aloud."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, cast

import pytest

from broker.domain.audit import AuditEvent, AuditKind
from broker.domain.changes import AddMessage
from broker.domain.errors import StoreUnavailableError
from broker.domain.findings import SIGNAL, Answer, Mark, RecordedFinding, Severity
from broker.domain.identifiers import MessageId
from broker.domain.messages import Message, ReceiverKind
from broker.ports.store import Store
from broker.ports.telling import Delivery, Fate, NamedReceiver
from broker.usecases.tell_others import (
    GIVE_UP,
    LONGEST_ASKED,
    LONGEST_PAUSE,
    MOST_REFUSALS,
    MOST_WAITING,
    TellOthers,
)
from broker.usecases.telling_quota import AT_ONCE, MOST_INSTANCES, TellingQuota
from tests.fakes.outbox import FAILED, FakeReceiver, Replica, Watched
from tests.fakes.samples import BROKER, a_finding
from tests.fakes.store import FakeStore
from tests.fakes.system import NOON, CountingIds, FakeClock

LATER = NOON + timedelta(seconds=1)
ANSWERED: dict[str, Any] = {"answered_at": LATER}


class World:
    """Replicas over one store."""

    def __init__(self, *receivers: NamedReceiver) -> None:
        self.clock = FakeClock()
        self.turns: dict[str, tuple[object, datetime]] = {}
        self.receivers = {one.name: one for one in receivers}
        self.watched = Watched()
        self.ids = CountingIds()
        self.store = FakeStore()
        self.telling = self.replica()

    @property
    def waiting(self) -> dict[MessageId, Message]:
        return self.store._state.findings.messages

    def replica(self) -> TellOthers:
        return TellOthers(
            store=cast("Store", Replica(self.store, self.clock, self.turns)),
            receivers=self.receivers,
            clock=self.clock,
            ids=self.ids,
            actor=BROKER,
            watched=self.watched,
        )

    def messages(self, finding: RecordedFinding, *receivers: str) -> list[Message]:
        changes = self.telling.messages_for(finding, receivers)
        return [change.message for change in changes if isinstance(change, AddMessage)]

    def marked(self, finding: RecordedFinding) -> list[Message]:
        changes = self.telling.messages_of_mark(finding, ())
        return [change.message for change in changes if isinstance(change, AddMessage)]

    async def tell(self, finding: RecordedFinding, *receivers: str) -> None:
        await self.store.commit(self.telling.messages_for(finding, receivers))

    async def rounds(self, most: int = 40) -> None:
        """Rounds, each when something can be due."""
        for _ in range(most):
            await self.telling.deliver()
            self.clock.advance(seconds=30)

    async def given_up(self) -> list[AuditEvent]:
        records = await self.store.audit_records(0, 100)
        return [one.event for one in records if one.event.kind == AuditKind.SIGNAL_UNDELIVERED]


def kinds(messages: list[Message]) -> list[tuple[str, str]]:
    return [(one.receiver, one.kind) for one in messages]


# Who is told of what ----------------------------------------------------------------------------------------


def test_the_rule_s_receivers_are_told_and_those_whose_severity_is_reached() -> None:
    one = FakeReceiver()
    world = World(
        one.named("named", told_from=None),
        one.named("high", told_from=Severity.HIGH),
        one.named("critical", told_from=Severity.CRITICAL),
        one.named("both", told_from=Severity.LOW),
    )
    told = world.messages(a_finding(), "named", "both")
    assert kinds(told) == [("named", "finding"), ("high", "finding"), ("both", "finding")]
    assert len({one.message_id for one in told}) == 3


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({}, "finding"),
        ({"answered_at": NOON, "answer": Answer.NOTE}, "finding"),
        ({"answered_at": NOON}, "answered"),
        (ANSWERED, "answered"),
        ({**ANSWERED, "mark": Mark.CONFIRMED}, "answered"),
        ({"mark": Mark.CONFIRMED}, "finding"),
    ],
)
def test_what_is_new_of_a_finding_is_what_is_told(changed: dict[str, Any], kind: str) -> None:
    (told,) = World(FakeReceiver().named("soc")).messages(a_finding(**changed))
    assert told.kind == kind


def test_a_mark_is_told_to_those_who_were_told_of_the_finding_and_ends_nothing_again() -> None:
    world = World(FakeReceiver().named("soc"), FakeReceiver().named("idp", ReceiverKind.SET))
    assert kinds(world.marked(a_finding(**ANSWERED, mark=Mark.FALSE))) == [("soc", "marked")]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, []),
        ({**ANSWERED, "answer": Answer.FREEZE}, []),
        ({"answer": Answer.QUARANTINE}, []),
        (ANSWERED, ["session-revoked", "credential-change"]),
        ({**ANSWERED, "answer": Answer.QUARANTINE}, ["session-revoked", "credential-change"]),
        ({**ANSWERED, "mark": Mark.CONFIRMED}, ["session-revoked", "credential-change"]),
        (
            {**ANSWERED, "detector": SIGNAL, "source": "spiffe://example.test/edr"},
            ["session-revoked", "credential-change"],
        ),
        ({**ANSWERED, "detector": SIGNAL, "source": "https://idp.test"}, []),
    ],
)
def test_tokens_are_told_only_of_what_has_ended(changed: dict[str, Any], told: list[str]) -> None:
    world = World(FakeReceiver().named("idp", ReceiverKind.SET))
    assert [one.kind for one in world.messages(a_finding(**changed))] == told


def test_a_receiver_that_nobody_knows_does_not_keep_the_others_from_being_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert kinds(World(FakeReceiver().named("soc")).messages(a_finding(), "gone")) == [("soc", "finding")]
    assert "receivers that no setting names are not told: gone" in caplog.text


def test_nothing_that_somebody_else_wrote_leaves() -> None:
    world = World(FakeReceiver().named("soc"))
    reported = a_finding(
        detector=SIGNAL, rule="ignore all\nprevious", expected="PLANTED", happened="PLANTED", source="https://edr.test"
    )  # fmt: skip
    (message,) = world.messages(reported)
    finding = json.loads(message.body)["finding"]
    assert (finding["rule"], finding["expected"], finding["happened"]) == ("", "", "")
    assert finding["source"] == "https://edr.test"
    assert "PLANTED" not in message.body
    assert "marked_by" not in finding


def test_an_instance_that_floods_is_cut_short_but_what_is_bad_gets_through() -> None:
    world = World(FakeReceiver().named("soc"))
    small = [a_finding(n, severity=Severity.MEDIUM) for n in range(AT_ONCE + 5)]
    assert sum(len(world.messages(one)) for one in small) == AT_ONCE
    assert world.watched.outcomes["webhook", "left-out"] == 5
    assert len(world.messages(a_finding(severity=Severity.CRITICAL))) == 1
    assert len(world.marked(replace(small[-1], mark=Mark.FALSE))) == 1
    world.clock.advance(seconds=30)
    assert sum(len(world.messages(one)) for one in small) == 3


def test_what_has_ended_is_told_to_those_who_act_on_it_however_many_there_are() -> None:
    world = World(FakeReceiver().named("soc"), FakeReceiver().named("idp", ReceiverKind.SET))
    ended = a_finding(severity=Severity.MEDIUM, **ANSWERED)
    for _ in range(AT_ONCE):
        world.messages(ended)
    assert [one.receiver for one in world.messages(ended)] == ["idp", "idp"]


def test_a_quota_forgets_whom_nothing_was_told_of_for_long() -> None:
    quota = TellingQuota(FakeClock())
    assert [quota.grants("flooding") for _ in range(AT_ONCE + 1)] == [True] * AT_ONCE + [False]
    for number in range(MOST_INSTANCES):
        quota.grants(f"other-{number}")
    assert len(quota._left) == MOST_INSTANCES


async def test_a_queue_that_is_full_takes_only_what_is_bad() -> None:
    receiver = FakeReceiver(FAILED)
    world = World(receiver.named("soc"))
    await world.tell(a_finding())
    (message,) = world.waiting.values()
    for number in range(MOST_WAITING):
        other = replace(message, message_id=MessageId(f"m{number}"))
        world.waiting[other.message_id] = other
    await world.telling.deliver()
    assert world.messages(a_finding(severity=Severity.MEDIUM)) == []
    assert len(world.messages(a_finding(severity=Severity.HIGH))) == 1
    assert world.watched.outcomes["webhook", "left-out"] == 1
    await world.telling.close()


# How it gets there ------------------------------------------------------------------------------------------


async def test_what_is_taken_is_gone_and_counted() -> None:
    receiver = FakeReceiver()
    world = World(receiver.named("soc"))
    await world.tell(a_finding())
    assert await world.telling.deliver() == 1
    assert world.watched.counts == {ReceiverKind.WEBHOOK: 1}
    assert await world.telling.deliver() == 0
    assert len(receiver.got) == 1
    assert not world.waiting
    assert world.watched.outcomes == {("webhook", "taken"): 1}
    assert world.watched.counts == {ReceiverKind.WEBHOOK: 0}


async def test_a_receiver_that_fails_is_left_alone_for_longer_each_time_and_never_for_long() -> None:
    receiver = FakeReceiver()
    receiver.always = FAILED
    world = World(receiver.named("soc"))
    await world.tell(a_finding())
    attempts: list[float] = []
    for second in range(1800):
        before = len(receiver.got)
        await world.telling.deliver()
        if len(receiver.got) > before:
            attempts.append(second)
        world.clock.advance(seconds=1)
    pauses = [later - earlier for earlier, later in itertools.pairwise(attempts)]
    assert pauses[:6] == sorted(pauses[:6])
    assert pauses[0] <= 2
    assert max(pauses) <= LONGEST_PAUSE.total_seconds()
    assert len(attempts) > 12
    receiver.always = None
    world.clock.advance(seconds=300)
    await world.telling.deliver()
    assert not world.waiting


@pytest.mark.parametrize(
    ("asked", "waited"), [(timedelta(minutes=20), timedelta(minutes=20)), (timedelta(days=9), LONGEST_ASKED)]
)
async def test_a_receiver_that_asks_for_time_gets_it_within_reason(
    asked: timedelta, waited: timedelta
) -> None:
    receiver = FakeReceiver(Delivery(fate=Fate.FAILED, what="status 429", retry_after=asked))
    world = World(receiver.named("soc"))
    await world.tell(a_finding())
    await world.telling.deliver()
    world.clock.advance(seconds=waited.total_seconds() - 1)
    assert await world.telling.deliver() == 0
    assert len(receiver.got) == 1
    world.clock.advance(seconds=1)
    assert await world.telling.deliver() == 1


async def test_after_a_restart_what_was_not_taken_is_sent_again_with_the_same_id() -> None:
    receiver = FakeReceiver(FAILED)
    world = World(receiver.named("soc"))
    await world.tell(a_finding())
    await world.telling.deliver()
    world.clock.advance(seconds=30)
    assert await world.replica().deliver() == 1
    assert receiver.got[0].message_id == receiver.got[1].message_id


async def test_what_was_taken_but_could_not_be_recorded_is_sent_again_with_the_same_id(
    caplog: pytest.LogCaptureFixture,
) -> None:
    receiver = FakeReceiver()
    world = World(receiver.named("soc"))
    await world.tell(a_finding())

    def fails(_changes: object) -> None:
        raise StoreUnavailableError

    world.store.commit = fails  # type: ignore[assignment, method-assign]
    assert await world.telling.deliver() == 0
    assert "telling soc failed: STORE_UNAVAILABLE" in caplog.text
    del world.store.commit
    assert await world.telling.deliver() == 1
    assert receiver.got[0].message_id == receiver.got[1].message_id


async def test_a_slow_receiver_holds_nobody_else_up() -> None:
    slow, quick = FakeReceiver(), FakeReceiver()
    slow.open.clear()
    world = World(slow.named("slow"), quick.named("quick"))
    for number in range(3):
        await world.tell(a_finding(number))
    await world.telling.deliver()
    assert len(quick.taken) == 3
    await world.tell(a_finding(9))
    await world.telling.deliver()
    assert len(quick.taken) == 4
    assert slow.most_at_once == 3, "the round does not begin again what is still under way"
    slow.open.set()
    await world.rounds(3)
    assert len(slow.taken) == 4


async def test_a_receiver_gets_so_many_at_once_and_no_more() -> None:
    receiver = FakeReceiver()
    receiver.open.clear()
    world = World(receiver.named("soc"))
    for number in range(12):
        await world.tell(a_finding(number))
    await world.telling.deliver()
    assert receiver.most_at_once == 4
    receiver.open.set()
    await world.rounds(3)
    assert len(receiver.taken) == 12
    assert receiver.most_at_once == 4


async def test_messages_of_one_finding_arrive_in_order_even_when_the_first_is_not_taken() -> None:
    receiver = FakeReceiver(FAILED)
    world = World(receiver.named("soc"))
    await world.tell(a_finding())
    await world.telling.deliver()
    world.clock.advance(seconds=0.1)
    await world.tell(a_finding(**ANSWERED))
    world.clock.advance(seconds=0.1)
    marked = a_finding(**ANSWERED, mark=Mark.FALSE)
    await world.store.commit(world.telling.messages_of_mark(marked, ()))
    world.telling = world.replica()  # which has not seen the receiver fail
    await world.rounds(2)
    assert [one.kind for one in receiver.taken] == ["finding", "answered", "marked"]


async def test_a_message_that_is_refused_holds_up_no_other_finding_and_is_given_up() -> None:
    receiver = FakeReceiver()
    world = World(receiver.named("soc"))
    bad, good = a_finding(1), a_finding(2)
    receiver.refuses = {bad.finding_id}
    await world.tell(bad)
    await world.tell(good)
    await world.telling.deliver()
    assert [good.finding_id in one.body for one in receiver.taken] == [True]
    await world.rounds()
    assert len(receiver.got) == MOST_REFUSALS + 1
    (event,) = await world.given_up()
    assert event.task_id == bad.found.task_id
    assert event.facts == {
        "message": f"message-{1:026}",
        "receiver": "soc",
        "told": "finding",
        "finding": bad.finding_id,
        "attempts": MOST_REFUSALS,
        "why": "status 400",
    }
    assert world.watched.outcomes["webhook", "given-up"] == 1


async def test_what_nobody_takes_for_a_day_is_given_up_and_that_is_in_the_trail() -> None:
    receiver = FakeReceiver()
    receiver.always = FAILED
    world = World(receiver.named("soc"))
    await world.tell(a_finding())
    world.clock.advance(seconds=GIVE_UP.total_seconds() - 1)
    await world.telling.deliver()
    assert not await world.given_up()
    world.clock.advance(minutes=5)
    await world.telling.deliver()
    (event,) = await world.given_up()
    assert (event.facts["why"], event.facts["receiver"], event.actor) == ("status 503", "soc", str(BROKER))
    assert not world.waiting


async def test_what_waits_for_a_receiver_of_other_settings_is_left_for_a_day() -> None:
    world = World(FakeReceiver().named("soc"))
    await world.tell(a_finding())
    world.receivers.clear()
    await world.telling.deliver()
    assert len(world.waiting) == 1
    world.clock.advance(hours=25)
    await world.telling.deliver()
    assert not world.waiting
    (event,) = await world.given_up()
    assert event.facts["why"] == "no setting names this receiver"


async def test_of_two_replicas_one_delivers_and_the_other_takes_over_when_it_is_gone() -> None:
    receiver = FakeReceiver()
    world = World(receiver.named("soc"))
    other = world.replica()
    receiver.open.clear()
    await world.tell(a_finding())
    await world.telling.deliver()
    assert await other.deliver() == 0
    assert len(receiver.got) == 1
    await world.telling.close()  # it never learns whether the message was taken
    receiver.open.set()
    world.clock.advance(seconds=21)
    assert await other.deliver() == 1
    assert len({one.message_id for one in receiver.got}) == 1


async def test_a_replica_begins_nothing_that_could_outlast_its_turn() -> None:
    receiver = FakeReceiver()
    world = World(receiver.named("soc"))
    for number in range(6):
        await world.tell(a_finding(number))
    receiver.open.clear()
    await world.telling.deliver()
    world.clock.advance(seconds=16)
    receiver.open.set()
    await world.telling.deliver()
    assert len(receiver.got) == 4
    await world.telling.deliver()
    assert len(receiver.got) == 6


async def test_closing_closes_the_receivers() -> None:
    receiver = FakeReceiver()
    world = World(receiver.named("soc"))
    receiver.open.clear()
    await world.tell(a_finding())
    await world.telling.deliver()
    await world.telling.close()
    assert receiver.closed
    assert len(world.waiting) == 1
