"""Two replicas on one database tell receivers of what either found: each message once, in the order of its finding."""

from __future__ import annotations

import asyncio

from broker.adapters.system.ids import RandomIds
from broker.domain.changes import RecordFinding
from broker.domain.findings import Mark
from broker.usecases.finding_words import finding_in
from broker.usecases.tell_others import TellOthers
from tests.fakes.outbox import FakeReceiver, Watched
from tests.fakes.samples import BROKER, a_finding
from tests.fakes.system import FakeClock
from tests.integration.store.conftest import Database

FINDINGS = 12


async def test_two_replicas_that_tell_at_once_deliver_each_message_once_and_in_order(
    database: Database,
) -> None:
    stores, clock, receiver = [database.open(), database.open()], FakeClock(), FakeReceiver()
    named = {"soc": receiver.named("soc")}
    one, other = (
        TellOthers(
            store=store, receivers=named, clock=clock, ids=RandomIds(), actor=BROKER, watched=Watched()
        )
        for store in stores
    )
    try:
        for number in range(FINDINGS):
            finding = a_finding(number)
            store, telling = (stores[number % 2], (one, other)[number % 2])
            await store.commit([RecordFinding(finding=finding), *telling.messages_for(finding, ())])
        clock.advance(seconds=1)
        for number in range(FINDINGS):
            finding = a_finding(number, answered_at=clock.now())
            await stores[0].commit(one.messages_for(finding, ()))
        clock.advance(seconds=1)
        await stores[1].commit(other.messages_of_mark(a_finding(0, mark=Mark.FALSE), ()))
        for _ in range(3):
            await asyncio.gather(one.deliver(), other.deliver())
            clock.advance(seconds=1)
        assert (await stores[0].figures()).messages == 0
    finally:
        await one.close()
        await other.close()
        for store in stores:
            await store.close()
    assert len(receiver.got) == 2 * FINDINGS + 1
    assert len({one.message_id for one in receiver.got}) == len(receiver.got)
    told: dict[str, list[str]] = {}
    for message in receiver.taken:
        told.setdefault(finding_in(message)["id"], []).append(message.kind)
    assert told.pop(a_finding(0).finding_id) == ["finding", "answered", "marked"]
    assert list(told.values()) == [["finding", "answered"]] * (FINDINGS - 1)
