"""From where instances call: told once for each place and SVID, in nobody's way."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest

from broker.anomaly.events import Event
from broker.domain.changes import SeeInstance
from broker.domain.errors import StoreUnavailableError
from broker.usecases.noticing import NothingNoticed
from broker.usecases.see_instances import SeeInstances
from tests.fakes.samples import OTHER, OWNER, a_caller
from tests.fakes.system import FakeClock

PEER = a_caller(OWNER).peer
NEXT_SVID = replace(PEER, svid_sha256="cd" * 32)
ELSEWHERE = a_caller(OTHER).peer


class Outbox:
    """What is committed; away for as long as it is told to be."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self.away = False

    async def commit(self, changes: Any) -> None:
        if self.away:
            raise StoreUnavailableError
        (change,) = changes
        assert isinstance(change, SeeInstance)
        self.seen.append((change.sighting.address, change.sighting.svid_sha256[:2]))


class Noticed(NothingNoticed):
    """Keeps what it is told, in order."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    async def quietly(self, event: Event, *, request_id: str = "") -> None:  # noqa: ARG002
        self.events.append(event)


def a_gate() -> tuple[SeeInstances, Outbox, Noticed]:
    outbox, noticed = Outbox(), Noticed()
    see = SeeInstances(store=outbox, notice=noticed, clock=FakeClock())  # type: ignore[arg-type]
    return see, outbox, noticed


CASES: dict[str, tuple[list[tuple[Any, str]], list[tuple[str, str]]]] = {
    "the same again": ([(PEER, "10.0.0.1")] * 5, [("10.0.0.1", "ab")]),
    "another SVID": (
        [(PEER, "10.0.0.1"), (NEXT_SVID, "10.0.0.1"), (PEER, "10.0.0.1")],
        [("10.0.0.1", "ab"), ("10.0.0.1", "cd")],
    ),
    "another place": (
        [(PEER, "10.0.0.1"), (PEER, "10.0.0.2"), (PEER, "10.0.0.1")],
        [("10.0.0.1", "ab"), ("10.0.0.2", "ab"), ("10.0.0.1", "ab")],
    ),
    "another instance": (
        [(PEER, "10.0.0.1"), (ELSEWHERE, "10.0.0.1")],
        [("10.0.0.1", "ab"), ("10.0.0.1", "ab")],
    ),
    "no address": ([(PEER, "")], []),
}


@pytest.mark.parametrize("case", CASES)
async def test_what_is_like_before_is_told_once(case: str) -> None:
    calls, expected = CASES[case]
    see, outbox, noticed = a_gate()
    for peer, address in calls:
        see(peer, address)
    await see.drain()
    assert outbox.seen == expected
    assert [event.called.address for event in noticed.events if event.called] == [at for at, _ in expected]


async def test_it_is_durable_before_it_is_noticed_and_what_is_not_durable_is_told_again() -> None:
    see, outbox, noticed = a_gate()
    outbox.away = True
    see(PEER, "10.0.0.1")
    await see.drain()
    assert (outbox.seen, noticed.events) == ([], [])
    outbox.away = False
    see(PEER, "10.0.0.1")
    await see.drain()
    assert outbox.seen == [("10.0.0.1", "ab")]


async def test_an_instance_that_was_forgotten_is_seen_anew() -> None:
    see, outbox, _ = a_gate()
    for _ in range(2):
        see(PEER, "10.0.0.1")
        see.forget(OWNER)
    await see.drain()
    assert len(outbox.seen) == 2


async def test_too_much_at_once_costs_the_oldest_with_a_line(caplog: pytest.LogCaptureFixture) -> None:
    see, outbox, _ = a_gate()
    with caplog.at_level(logging.ERROR):
        for number in range(1_003):
            see(PEER, f"10.0.{number // 250}.{number % 250}")
    await see.drain()
    assert (see.dropped, len(outbox.seen)) == (3, 1_000)
    assert outbox.seen[-1] == ("10.0.4.2", "ab"), "the newest stays"
    assert len([one for one in caplog.records if "too much" in one.message]) == 3
