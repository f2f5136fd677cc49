"""Two brokers are as good as one: any serves any call, what one does the other knows, and one that dies is missed by nobody."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from broker.api.v1 import credentials_pb2, operators_pb2, tasks_pb2
from tests.integration.client.test_real_stack import AGENT, agent
from tests.threats.test_r2_crashes import ACQUIRE, END
from tests.threats.world import World, until

Kind = tasks_pb2.AttachTaskResponse
MUST_BE_REFUSED_WITHIN = 5.0
"""Seconds after a replica is gone: what the project promises, and not a measurement."""


def seconds_until(true: Callable[[], bool], what: str, since: float) -> float:
    until(true, what)
    return time.monotonic() - since


# Any serves any call -------------------------------------------------------------------------------------------


def test_a_task_that_was_declared_at_one_is_worked_on_and_ended_at_the_other(world: World) -> None:
    svid = world.svid()
    with world.calling(svid) as one, world.calling(svid, replica=2) as other:
        task_id = world.declare(one)
        held = [world.acquire(caller, task_id) for caller in (other, one, other)]
        assert all(world.lets_in(credential) for credential in held)
        assert other.call("Heartbeat", tasks_pb2.HeartbeatRequest(task_id=task_id)).ok
        assert world.task(other, task_id).state == tasks_pb2.TASK_STATE_ACTIVE
        released = credentials_pb2.ReleaseCredentialRequest(lease_id=held[0].lease.lease_id)
        assert one.call("ReleaseCredential", released).ok
        assert not world.lets_in(held[0])
        renewed = credentials_pb2.RenewCredentialRequest(lease_id=held[1].lease.lease_id)
        assert other.call("RenewCredential", renewed).ok
        assert world.complete(other, task_id).ok
        assert world.task(one, task_id).state == tasks_pb2.TASK_STATE_ENDED
        assert not any(world.lets_in(credential) for credential in held)
        assert world.try_acquire(one, task_id).reason == "TASK_NOT_ACTIVE"
    world.verify_trail()


def test_the_same_declaration_at_both_makes_one_task(world: World) -> None:
    svid = world.svid()
    with world.calling(svid) as one, world.calling(svid, replica=2) as other:
        answers = [
            world.try_declare(caller, idempotency_key="the-same-key-twice") for caller in (one, other, one)
        ]
    assert len({answer.message.task.task_id for answer in answers}) == 1


def test_who_is_attached_at_one_hears_what_the_other_did(world: World) -> None:
    svid = world.svid()
    heard: list[int] = []
    with world.calling(svid) as one, world.calling(svid, replica=2) as other:
        task_id = world.declare(one)
        credential = world.acquire(one, task_id)
        stream = one.stream("AttachTask", tasks_pb2.AttachTaskRequest(task_id=task_id), timeout=30)
        assert next(stream).kind == Kind.KIND_ATTACHED
        reading = threading.Thread(target=lambda: heard.extend(message.kind for message in stream))
        reading.start()
        renewed = credentials_pb2.RenewCredentialRequest(lease_id=credential.lease.lease_id)
        assert other.call("RenewCredential", renewed).ok
        assert world.complete(other, task_id).ok
        reading.join(10)
        assert not reading.is_alive(), "the stream ends with the task"
    said = [kind for kind in heard if kind != Kind.KIND_KEEPALIVE]
    assert said == [
        Kind.KIND_LEASE_RENEWED,
        Kind.KIND_TASK_ENDING,
        Kind.KIND_LEASE_REVOKED,
        Kind.KIND_TASK_ENDED,
    ]


def test_a_quarantine_at_one_is_held_at_the_other(world: World) -> None:
    svid = world.svid()
    target = {"instance": svid.spiffe_id}
    with world.calling(svid, replica=2) as agent, world.calling(world.svid(path="operator")) as operator:
        task_id = world.declare(agent)
        credential = world.acquire(agent, task_id)
        answer = operator.call("Quarantine", operators_pb2.QuarantineRequest(target=target, reason="x"))
        assert answer.ok
        # The other replica is told, and may be the one that ends the task: the answer waits for it, but not for ever.
        assert answer.message.quarantine.unfinished_tasks or not world.lets_in(credential)
        until(lambda: not world.lets_in(credential), "refused", patience=MUST_BE_REFUSED_WITHIN)
        # Told, not found out: the round that looks for itself comes once a second.
        until(lambda: agent.knock().reason == "INSTANCE_QUARANTINED", "refused", patience=0.9)
        assert operator.call("Release", operators_pb2.ReleaseRequest(target=target, reason="x")).ok
        until(lambda: agent.knock().ok, "welcome again")


# One of them dies ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", END)
def test_one_that_is_killed_while_it_ends_a_task_is_taken_over_from(world: World, step: str) -> None:
    world.stack.stop_part("broker")
    world.stack.broker.start(crash_at=step)
    svid = world.svid()
    with world.calling(svid) as caller:
        task_id = world.declare(caller)
        held = [world.acquire(caller, task_id) for _ in range(3)]
        assert not world.complete(caller, task_id).ok
    gone = time.monotonic()
    took = seconds_until(lambda: not any(world.lets_in(one) for one in held), "refused", gone)
    assert took < MUST_BE_REFUSED_WITHIN
    world.until_ended(task_id)
    assert not world.stack.is_running("broker"), "the other one did it"
    assert world.users() == set()
    assert world.rows("SELECT count(*) FROM leases WHERE state NOT IN ('revoked', 'void')") == [(0,)]
    world.verify_trail()


@pytest.mark.parametrize("step", ACQUIRE)
def test_one_that_is_killed_while_it_issues_leaves_only_what_a_live_task_owns(
    world: World, step: str
) -> None:
    world.stack.stop_part("broker")
    world.stack.broker.start(crash_at=step)
    svid = world.svid()
    with world.calling(svid) as caller:
        task_id = world.declare(caller)
        with world.alive(svid, task_id, replica=2):
            assert not world.try_acquire(caller, task_id).ok
            until(
                lambda: len(world.users()) == world.owned_leases() == (step == "acquire.issued-durable"),
                "every credential owned by a live task",
            )
            with world.calling(svid, replica=2) as other:
                assert world.lets_in(world.acquire(other, task_id)), "the task goes on"
                assert world.complete(other, task_id).ok
    assert not world.stack.is_running("broker"), "the other one did it"
    until(lambda: not world.users(), "nothing is left")
    world.verify_trail()


def test_an_agent_goes_on_with_the_other_and_its_task_lives(world: World) -> None:
    with agent(world.stack, [*AGENT, "outlive"]) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for part in ("broker", "broker-2"):
            world.stack.kill_part(part)
            time.sleep(4)  # more than a heartbeat
            process.stdin.write("go on\n")
            process.stdin.flush()
            assert process.stdout.readline() == "orders 250\n"
            world.stack.start_part(part)
        assert len(world.users()) == 2
        assert world.rows("SELECT state FROM tasks WHERE state <> 'ended'") == [("active",)]
        process.communicate(timeout=30)
        assert process.returncode == 0
    assert world.users() == set()


def test_a_dead_agent_is_noticed_by_whoever_is_left(world: World) -> None:
    with world.calling(replica=2) as caller:
        task_id = world.declare(caller)
        credential = world.acquire(caller, task_id)
    world.stack.kill_part("broker-2")
    until(lambda: not world.lets_in(credential), "refused, by the dead man's switch")
    world.until_ended(task_id)


def test_work_that_a_dead_backend_holds_up_is_done_by_one_of_them_when_it_is_back(world: World) -> None:
    with world.calling() as caller:
        task_id = world.declare(caller)
        held = [world.acquire(caller, task_id) for _ in range(10)]
        world.stack.stop_part("vault")
        assert world.complete(caller, task_id, timeout=20).ok, "ending, and says so"
        world.stack.kill_part("broker")
    world.stack.start_part("vault")
    until(lambda: not any(world.lets_in(one) for one in held), "refused")
    world.until_ended(task_id)
    world.verify_trail()


def test_each_lease_is_revoked_once_when_many_tasks_lapse_at_once(world: World) -> None:
    """The claims: neither replica does what the other does, as far as Vault can tell."""
    leases = set()
    for number in range(6):
        with world.calling(replica=1 + number % 2) as caller:
            task_id = world.declare(caller)
            leases |= {world.acquire(caller, task_id).lease.lease_id for _ in range(5)}
    until(lambda: not world.users(), "all lapsed, all revoked")
    until(lambda: not world.rows("SELECT 1 FROM tasks WHERE state <> 'ended'"), "ended")
    records = world.rows("SELECT lease_id FROM audit_records WHERE kind = 'lease.revoked'")
    assert sorted(lease_id for (lease_id,) in records if lease_id in leases) == sorted(leases)
    attempts = world.rows("SELECT lease_id, attempts FROM leases")
    assert {tried for lease_id, tried in attempts if lease_id in leases} == {0}, "no attempt failed"
