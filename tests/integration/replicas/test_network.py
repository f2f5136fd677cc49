"""One replica on another host, and the cable between them pulled: it can do nothing, and nobody waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import pytest

from broker.api.v1 import operators_pb2
from broker.client import Svid
from broker.demo.callers import Caller
from broker.devstack.broker_process import Surroundings
from broker.devstack.stack import DevStack
from tests.integration.replicas.network import Network, network
from tests.integration.replicas.test_replicas import MUST_BE_REFUSED_WITHIN
from tests.threats.test_anomalies import Session
from tests.threats.world import World, until, wants_heartbeats

ANSWER = "  - {detectors: [identity-misuse], do: quarantine}\n"
"""No default: here it is known that each instance calls from one place."""


@pytest.fixture(scope="module")
def _stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[DevStack, Network]]:
    with network() as hosts:
        around = Surroundings(far=hosts.far)
        stack = DevStack(tmp_path_factory.mktemp("apart") / "dev", say=print, around=around)
        try:
            stack.up(with_broker=False, replicas=2)
            wants_heartbeats(stack, "3s")
            (catalog,) = stack.broker.catalog.iterdir()
            catalog.write_text(catalog.read_text().rstrip() + "\n" + ANSWER)
            hosts.open_doors([stack.postgres.port, int(stack.vault.address.rpartition(":")[2])])
            stack.up()
            yield stack, hosts
        finally:
            stack.down(purge=True)


@dataclass(frozen=True, slots=True)
class Apart:
    """The world, whose second replica is on another host."""

    world: World
    network: Network

    def calling(self, svid: Svid) -> AbstractContextManager[Caller]:
        """Call the replica on the other host."""
        return self.world.calling(svid, replica=2)

    def ready(self) -> bool:
        """Whether the replica on the other host says that it is ready (by a Unix socket, which no cable concerns)."""
        return self.world.stack.brokers[1].healthy()


@pytest.fixture
def apart(_stack: tuple[DevStack, Network], tmp_path: Path) -> Apart:
    stack, hosts = _stack
    return Apart(World(stack, tmp_path), hosts)


class Busy:
    """Declares, acquires and completes at a replica without a pause, whatever comes of it."""

    def __init__(self, apart: Apart) -> None:
        self._apart = apart
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self.rounds = 0

    def __enter__(self) -> Self:
        self._thread.start()
        until(lambda: self.rounds > 3, "at work")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        world = self._apart.world
        svid = world.svid()
        while not self._stop.is_set():
            with self._apart.calling(svid) as caller:
                declared = world.try_declare(caller)
                if declared.ok:
                    task_id = declared.message.task.task_id
                    world.try_acquire(caller, task_id)
                    world.complete(caller, task_id, timeout=5)
                    self.rounds += 1


def test_nobody_waits_for_a_replica_that_is_cut_off_in_the_middle_of_its_work(apart: Apart) -> None:
    world, svid = apart.world, apart.world.svid()
    with Busy(apart), Busy(apart), world.calling(svid) as caller:
        for _ in range(3):
            with apart.network.cut():
                began = time.monotonic()
                task_id = world.declare(caller)
                credential = world.acquire(caller, task_id)
                assert world.complete(caller, task_id).ok
                assert not world.lets_in(credential)
                assert time.monotonic() - began < MUST_BE_REFUSED_WITHIN
                time.sleep(2)
            until(apart.ready, "ready again")
    until(lambda: not world.users(), "nothing is left")
    until(lambda: not world.rows("SELECT 1 FROM tasks WHERE state <> 'ended'"), "ended")
    assert world.rows("SELECT count(*) FROM leases WHERE state NOT IN ('revoked', 'void')") == [(0,)]
    world.verify_trail()


def test_what_was_declared_at_a_replica_that_is_cut_off_is_ended_by_the_other(apart: Apart) -> None:
    world, svid = apart.world, apart.world.svid()
    with apart.calling(svid) as caller:
        task_id = world.declare(caller)
        held = [world.acquire(caller, task_id) for _ in range(3)]
        assert all(world.lets_in(credential) for credential in held)
    with apart.network.cut():
        until(lambda: not any(world.lets_in(credential) for credential in held), "refused")
        world.until_ended(task_id)
        until(lambda: not apart.ready(), "it says that it can do nothing")
    until(apart.ready, "ready again")
    with apart.calling(svid) as caller:
        assert world.try_acquire(caller, task_id).reason == "TASK_NOT_ACTIVE"
        again = world.declare(caller)
        assert world.lets_in(world.acquire(caller, again))
        assert world.complete(caller, again).ok


def test_a_quarantine_that_a_replica_could_not_hear_of_holds_there_when_it_is_back(apart: Apart) -> None:
    world, svid = apart.world, apart.world.svid()
    with apart.calling(svid) as caller:
        assert caller.knock().ok
    with apart.network.cut(), world.calling(world.svid(path="operator")) as operator:
        target = {"instance": svid.spiffe_id}
        assert operator.call("Quarantine", operators_pb2.QuarantineRequest(target=target, reason="x")).ok
    until(apart.ready, "ready again")
    with apart.calling(svid) as caller:
        until(lambda: caller.knock().reason == "INSTANCE_QUARANTINED", "refused")
        assert not world.try_declare(caller).ok


def is_quarantined(caller: Caller) -> bool:
    return caller.knock().reason == "INSTANCE_QUARANTINED"


def test_an_svid_that_is_used_in_two_places_is_refused_in_both(apart: Apart) -> None:
    world = apart.world
    stolen, honest = world.svid(), world.svid()
    with world.calling(stolen) as here, world.calling(honest) as other:
        task_id, others = world.declare(here), world.declare(other)
        session, undisturbed = Session(world, here, task_id), Session(world, other, others)
        assert session.works()
        with world.alive(honest, others), world.alive(stolen, task_id):
            with apart.calling(stolen) as there:
                there.knock()
                until(session.refused, "its session has ended", patience=5)
                for caller in (here, there):
                    until(partial(is_quarantined, caller), "refused", patience=5)
            assert undisturbed.works()
            assert other.knock().ok
        session.close()
        undisturbed.close()
        assert world.complete(other, others).ok
    found = world.rows("SELECT detector, rule, answer FROM findings WHERE instance = ?", stolen.spiffe_id)
    assert found == [("identity-misuse", "two-places", "quarantine")]
    assert world.rows("SELECT 1 FROM findings WHERE instance = ?", honest.spiffe_id) == []
    world.verify_trail()
