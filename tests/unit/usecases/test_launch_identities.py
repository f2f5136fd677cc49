"""Making and ending identities, with a crash between any two steps, and a registry that fails."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from broker.adapters.node.ledger import SqliteLedger
from broker.domain.launching import SETTLING, UNUSED_FOR, Holder, IdentityState, LaunchClass, LaunchedIdentity
from broker.ports.launching import CannotStartError, Command
from broker.ports.registry import RegistryUnavailableError
from broker.usecases.keep_node import KeepNode
from broker.usecases.launch_identities import PATIENCE, EndIdentities, MakeIdentities
from tests.fakes.registry import FakeRegistry
from tests.fakes.system import FakeClock
from tests.unit.node.samples import DOCKER, ME, OTHER, a_class

COOLED = timedelta(minutes=10) + SETTLING


class Crash(BaseException):
    """This process is killed."""


class FakeMachine:
    """What runs: implements ports.launching.Node, InstanceStarter and SeesServed."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.alive = {ME, OTHER}
        self.running: set[str] = set()
        self.served = True
        self.ended: list[str] = []
        self.crash_when_seen = False

    def is_alive(self, holder: Holder) -> bool:
        return holder in self.alive

    def groups_in_use(self) -> frozenset[int]:
        return frozenset({70000} if self.running else ())

    def command(self, identity: LaunchedIdentity, words: Sequence[str]) -> Command:  # noqa: ARG002
        return Command(words=tuple(words), environment={})

    def end(self, identity: LaunchedIdentity) -> bool:
        self.ended.append(identity.name)
        return identity.name not in self.running

    async def sees(self, _of: LaunchClass, identities: Sequence[LaunchedIdentity]) -> frozenset[str]:
        if self.crash_when_seen:
            raise Crash
        if not self.served:
            self._clock.advance(seconds=20)
            return frozenset()
        return frozenset(one.spiffe_id for one in identities)


class Launching:
    """Everything wired over one ledger and one registry."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.ledger = SqliteLedger(folder)
        self.registry = FakeRegistry()
        self.machine = FakeMachine(self.clock)
        self.reported: list[str] = []
        self._names = iter(f"i{number}" for number in range(100))
        self.make = MakeIdentities(
            ledger=self.ledger,
            registry=self.registry,
            sees_served=self.machine.sees,
            clock=self.clock,
            new_name=lambda: next(self._names),
        )
        self.end = EndIdentities(
            ledger=self.ledger,
            registry=self.registry,
            starter_of=lambda _kind: self.machine,
            report=self._report,
            clock=self.clock,
        )
        self.keep = KeepNode(
            ledger=self.ledger,
            registry=self.registry,
            node=self.machine,
            make=self.make,
            end=self.end,
            starter_of=lambda _kind: self.machine,
            clock=self.clock,
        )

    async def _report(self, identity: LaunchedIdentity) -> None:
        if identity.broker:
            self.reported.append(identity.name)

    async def used(self) -> LaunchedIdentity:
        (one,) = await self.make(a_class(), 1, holder=ME, used=True, broker="broker:1")
        return one

    async def waiting(self, count: int = 1) -> tuple[LaunchedIdentity, ...]:
        return await self.make(a_class(at_most=9), count, holder=OTHER, used=False)

    def states(self) -> list[IdentityState]:
        return [one.state for one in self.ledger.identities()]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Launching]:
    node = Launching(tmp_path / "node")
    yield node
    node.ledger.close()


async def test_one_that_is_used_has_an_entry_for_as_long_as_it_runs(node: Launching) -> None:
    one = await node.used()
    (entry,) = node.registry.entries.values()
    assert (str(entry.spiffe_id), entry.entry_id) == (one.spiffe_id, one.entry_id)
    assert (one.state, one.holder) == (IdentityState.USED, ME)
    (ended,) = await node.end([one])
    assert ended.trouble == ""
    assert node.registry.entries == {}
    assert node.machine.ended == node.reported == [one.name]
    assert node.states() == [IdentityState.COOLING]


async def test_a_number_is_free_when_the_last_svid_has_expired_and_not_before(node: Launching) -> None:
    await node.end([await node.used()])
    node.clock.advance(seconds=COOLED.total_seconds() - 1)
    assert node.keep.cool_down() == 0
    node.clock.advance(seconds=1)
    assert node.keep.cool_down() == 1
    assert node.states() == []


async def test_a_number_that_a_process_still_has_is_not_free(node: Launching) -> None:
    one = await node.used()
    await node.end([one])
    node.clock.advance(seconds=COOLED.total_seconds())
    node.machine.running.add(one.name)
    assert node.keep.cool_down() == 0
    node.machine.running.clear()
    assert node.keep.cool_down() == 1


async def test_while_something_runs_as_it_it_has_not_ended(node: Launching) -> None:
    one = await node.used()
    node.machine.running.add(one.name)
    (ended,) = await node.end([one])
    assert ended.trouble == "something still runs as the instance"
    assert node.registry.entries == {}
    assert node.states() == [IdentityState.RETIRING]
    node.machine.running.clear()
    (ended,) = await node.keep.end_lost()
    assert ended.trouble == ""
    assert node.states() == [IdentityState.COOLING]


async def test_ending_twice_is_harmless(node: Launching) -> None:
    one = await node.used()
    await node.end([one])
    assert await node.end([one]) == []
    cool = node.ledger.identity(one.name)
    assert cool is not None
    assert await node.end([cool]) == []


async def test_a_crash_before_the_registry_is_asked_leaves_what_the_next_one_ends(node: Launching) -> None:
    node.ledger.reserve(a_class(), ["lost"], holder=ME, now=node.clock.now(), used=True)  # L1
    assert await node.keep.end_lost() == []  # whoever makes it is alive
    node.machine.alive.remove(ME)
    (ended,) = await node.keep.end_lost()
    assert (ended.identity.name, ended.trouble) == ("lost", "")
    assert node.states() == [IdentityState.COOLING]


async def test_a_crash_while_the_agent_is_asked_leaves_what_the_next_one_ends(node: Launching) -> None:
    node.machine.crash_when_seen = True
    with pytest.raises(Crash):
        await node.waiting()
    node.machine.alive.remove(OTHER)
    await node.keep.end_lost()
    assert node.registry.entries == {}
    assert node.states() == [IdentityState.COOLING]


async def test_one_whose_holder_died_is_ended_and_others_are_left_alone(node: Launching) -> None:
    one = await node.used()
    (waiting,) = await node.waiting()
    node.machine.alive.remove(ME)
    (ended,) = await node.keep.end_lost()
    assert ended.identity.name == one.name
    found = node.ledger.identity(waiting.name)
    assert found is not None
    assert found.state is IdentityState.READY


async def test_a_registry_that_is_away_delays_an_end_and_does_not_lose_it(node: Launching) -> None:
    one = await node.used()
    node.registry.away = True
    (ended,) = await node.end([one])
    assert ended.trouble == "nobody answers"
    assert node.states() == [IdentityState.RETIRING]
    node.registry.away = False
    await node.keep.end_lost()
    assert node.registry.entries == {}
    assert node.states() == [IdentityState.COOLING]


async def test_an_entry_that_cannot_be_deleted_is_tried_again(node: Launching) -> None:
    one = await node.used()
    node.registry.failing.add(one.entry_id)
    (ended,) = await node.end([one])
    assert ended.trouble == "not now"
    assert node.reported == []
    node.registry.failing.clear()
    await node.keep.end_lost()
    assert node.reported == [one.name]


async def test_what_the_agent_never_serves_comes_to_nothing(node: Launching) -> None:
    node.machine.served = False
    with pytest.raises(CannotStartError, match=f"did not serve it within {PATIENCE.total_seconds():.0f} s"):
        await node.used()
    await node.keep.end_lost()
    assert node.registry.entries == {}


async def test_a_registry_that_refuses_is_told_in_its_words(node: Launching) -> None:
    elsewhere = a_class(id_prefix="spiffe://other.test/agent/bot/")
    with pytest.raises(CannotStartError, match="not of this trust domain"):
        await node.make(elsewhere, 1, holder=ME, used=True)


async def test_a_registry_that_is_away_makes_nothing_and_keeps_nothing(node: Launching) -> None:
    node.registry.away = True
    with pytest.raises(RegistryUnavailableError):
        await node.used()
    node.registry.away = False
    await node.keep.end_lost()
    assert node.states() == [IdentityState.COOLING]


async def test_a_pool_is_filled_to_what_the_class_says_and_no_further(node: Launching) -> None:
    of = a_class(at_most=9, ready=2)
    for _ in range(3):
        pools = await node.keep.fill({"bot": of}, holder=OTHER)
        assert pools.ready == {"bot": 2}
    assert node.states() == [IdentityState.READY] * 2
    await node.keep.trim({"bot": a_class(at_most=9, ready=1)})
    assert sorted(node.states()) == [IdentityState.COOLING, IdentityState.READY]
    await node.keep.trim({})
    assert node.states() == [IdentityState.COOLING] * 2


async def test_one_class_that_cannot_be_filled_keeps_no_other_empty(node: Launching) -> None:
    crate = a_class(DOCKER, name="crate", id_prefix="spiffe://example.test/agent/crate/", ready=1)
    assert (await node.keep.fill({"bot": a_class(ready=9)}, holder=OTHER)).ready == {"bot": 4}
    pools = await node.keep.fill({"bot": a_class(ready=9), "crate": crate}, holder=OTHER)
    assert pools.ready == {"bot": 4, "crate": 1}
    assert list(pools.trouble) == ["bot"]


async def test_a_registry_that_is_away_fails_the_round_and_not_the_next(node: Launching) -> None:
    classes = {"bot": a_class(ready=2)}
    node.registry.away = True
    with pytest.raises(RegistryUnavailableError):
        await node.keep.fill(classes, holder=OTHER)
    node.registry.away = False
    assert (await node.keep.fill(classes, holder=OTHER)).ready == {"bot": 2}


async def test_a_pool_without_numbers_says_so_and_goes_on(node: Launching) -> None:
    pools = await node.keep.fill({"bot": a_class(ready=9)}, holder=OTHER)
    assert pools.ready == {"bot": 4}
    pools = await node.keep.fill({"bot": a_class(ready=9)}, holder=OTHER)
    assert "every group 70000-70003" in pools.trouble["bot"]


async def test_what_waits_and_what_runs_is_renewed_before_it_expires(node: Launching) -> None:
    one = await node.used()
    (waiting,) = await node.waiting()
    classes = {"bot": a_class()}
    assert await node.keep.renew(classes) == 0
    node.clock.advance(seconds=UNUSED_FOR.total_seconds() / 2)
    assert await node.keep.renew(classes) == 1
    assert node.registry.entries[waiting.entry_id].expires_at == node.clock.now() + UNUSED_FOR
    node.clock.advance(minutes=26)
    assert await node.keep.renew(classes, holder=ME) == 1
    entry = node.registry.entries[one.entry_id]
    assert entry.expires_at == node.clock.now() + timedelta(hours=1)


async def test_what_waited_too_long_is_taken_away(node: Launching) -> None:
    await node.waiting()
    node.clock.advance(seconds=UNUSED_FOR.total_seconds())
    await node.keep.end_lost()
    assert node.registry.entries == {}


async def test_one_that_waits_and_whose_entry_somebody_deleted_is_not_handed_out(node: Launching) -> None:
    await node.waiting(2)
    first = next(iter(node.registry.entries))
    del node.registry.entries[first]
    node.clock.advance(seconds=(UNUSED_FOR / 2).total_seconds() + 1)
    assert await node.keep.renew({a_class().name: a_class()}) == 1
    gone = {one.entry_id: one.state for one in node.ledger.identities()}
    assert gone[first] is IdentityState.COOLING
    assert set(gone.values()) == {IdentityState.COOLING, IdentityState.READY}


async def test_what_is_ended_while_it_is_made_is_not_waited_for(node: Launching) -> None:
    node.machine.served = False
    sees = node.machine.sees

    async def ended_meanwhile(of: LaunchClass, identities: Sequence[LaunchedIdentity]) -> frozenset[str]:
        found = await sees(of, identities)
        node.machine.alive = set()  # whoever launches was killed, and the pool sees that
        await node.keep.end_lost()
        return found

    make = MakeIdentities(
        ledger=node.ledger,
        registry=node.registry,
        sees_served=ended_meanwhile,
        clock=node.clock,
        new_name=lambda: "one",
    )
    began = node.clock.now()
    with pytest.raises(CannotStartError, match="it was ended while it was made"):
        await make(a_class(), 1, holder=ME, used=True)
    assert node.clock.now() - began < PATIENCE, "one look, not all of its patience"
    assert node.states() == [IdentityState.COOLING]
