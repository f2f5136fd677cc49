"""R2: a crash between any two steps leaves no credential that the broker will not revoke.

The broker kills itself with SIGKILL at each step in turn. After the restart, what PostgreSQL lets in is owned by a
living task; when that ends, nothing is left.
"""

from __future__ import annotations

import re

import pytest

from broker.api.v1 import operators_pb2, tasks_pb2, tools_pb2
from broker.devstack.parts import REPOSITORY
from tests.threats.world import CLASS, World, until

DECLARE = ("declare.token-made", "declare.durable")
ACQUIRE = (
    "acquire.decided",
    "acquire.token-made",
    "acquire.intent-durable",
    "acquire.vault-issued",
    "acquire.issued-durable",
)
AUTHORIZE = ("authorize.durable",)
QUARANTINE = ("quarantine.durable",)
ANOMALY = ("anomaly.found-durable", "anomaly.taken-effect")
END = ("end.durable", "revoke.vault-revoked", "revoke.durable")


def crash(world: World, step: str) -> None:
    """Have the broker crash at that step from here on."""
    world.stack.stop_part("broker")
    world.stack.broker.start(crash_at=step)


def restart_after_crash(world: World) -> None:
    until(lambda: not world.stack.is_running("broker"), "crashed")
    world.stack.broker.start()


def test_every_step_is_crashed_at() -> None:
    source = "".join(file.read_text() for file in (REPOSITORY / "broker/usecases").glob("*.py"))
    assert sorted(set(re.findall(r'reached\("([^"]+)"\)', source))) == sorted(
        DECLARE + ACQUIRE + AUTHORIZE + QUARANTINE + ANOMALY + END
    )


@pytest.mark.parametrize("step", AUTHORIZE)
def test_a_crash_while_authorizing_leaves_one_decision(world: World, step: str) -> None:
    crash(world, step)
    svid = world.svid()
    call = tools_pb2.Call(tool="read-mail", idempotency_key="the-only-one")
    with world.calling(svid) as caller:
        answer = world.try_declare(caller, scope=tasks_pb2.Scope(tools=["read-mail"]))
        task_id = answer.message.task.task_id
        request = tools_pb2.AuthorizeActionRequest(task_id=task_id, call=call)
        assert not caller.call("AuthorizeAction", request).ok
    with world.alive(svid, task_id):
        restart_after_crash(world)
        with world.calling(svid) as caller:
            again = caller.call("AuthorizeAction", request)
    assert again.ok, again
    assert (again.message.authorization.allowed, again.message.authorization.position) == (True, 1)
    assert world.kinds(task_id).count("action.allowed") == 1


@pytest.mark.parametrize("step", DECLARE)
def test_a_crash_while_declaring_leaves_nothing(world: World, step: str) -> None:
    crash(world, step)
    svid = world.svid()
    with world.calling(svid) as caller:
        assert not world.try_declare(caller).ok
    restart_after_crash(world)
    owner = svid.spiffe_id
    until(
        lambda: all(
            state == "ended" for (state,) in world.rows("SELECT state FROM tasks WHERE owner = ?", owner)
        ),
        "ended by the dead man's switch, if it was declared at all",
    )
    assert world.users() == set()


@pytest.mark.parametrize("step", ACQUIRE)
def test_a_crash_while_acquiring_leaves_only_what_a_live_task_owns(world: World, step: str) -> None:
    crash(world, step)
    svid = world.svid()
    with world.calling(svid) as caller:
        task_id = world.declare(caller)
        assert not world.try_acquire(caller, task_id).ok
    assert len(world.users()) == (step in {"acquire.vault-issued", "acquire.issued-durable"})
    with world.alive(svid, task_id):
        restart_after_crash(world)
        until(
            lambda: len(world.users()) == world.owned_leases() == (step == "acquire.issued-durable"),
            "every credential owned by a live task",
        )
        with world.calling(svid) as caller:
            assert world.lets_in(world.acquire(caller, task_id)), "the task goes on after the crash"
            assert world.complete(caller, task_id).ok
        world.until_ended(task_id)
    assert world.users() == set()
    assert world.rows("SELECT count(*) FROM leases WHERE state NOT IN ('revoked', 'void')") == [(0,)]


@pytest.mark.parametrize("step", END)
def test_a_crash_while_ending_is_made_good_without_the_agent(world: World, step: str) -> None:
    crash(world, step)
    svid = world.svid()
    with world.calling(svid) as caller:
        task_id = world.declare(caller)
        held = [world.acquire(caller, task_id) for _ in range(3)]
        assert all(world.lets_in(credential) for credential in held)
        assert not world.complete(caller, task_id).ok
    restart_after_crash(world)
    world.until_ended(task_id)
    assert not any(world.lets_in(credential) for credential in held)
    assert world.users() == set()


@pytest.mark.parametrize("target", ["instance", "agent_class", "trust_domain"])
def test_a_crash_between_a_quarantine_and_what_it_ends_is_made_good(world: World, target: str) -> None:
    (step,) = QUARANTINE
    crash(world, step)
    svid = world.svid()
    names = {"instance": svid.spiffe_id, "agent_class": CLASS, "trust_domain": "dev.tasklease.test"}
    concerned = {target: names[target]}
    request = operators_pb2.QuarantineRequest(target=concerned, reason="a crash comes")
    with world.calling(svid) as caller, world.calling(world.svid(path="operator")) as operator:
        task_id = world.declare(caller)
        held = [world.acquire(caller, task_id) for _ in range(2)]
        assert not operator.call("Quarantine", request).ok
    assert all(world.lets_in(credential) for credential in held), "nothing was revoked before the crash"
    restart_after_crash(world)
    with world.calling(svid) as caller:
        assert caller.knock().reason == "INSTANCE_QUARANTINED"
    until(lambda: not any(world.lets_in(credential) for credential in held), "revoked")
    world.until_ended(task_id)
    assert world.rows("SELECT end_cause FROM tasks WHERE task_id = ?", task_id) == [("quarantined",)]
    undo = operators_pb2.ReleaseRequest(target=concerned, reason="the crash came")
    with world.calling(world.svid(path="operator")) as operator:
        assert operator.call("Release", undo).ok


@pytest.mark.parametrize("step", ANOMALY)
def test_a_crash_between_a_finding_and_its_answer_is_made_good(world: World, step: str) -> None:
    crash(world, step)
    svid = world.svid()
    with world.calling(svid) as caller:
        task_id = world.declare(caller)
        held = [world.acquire(caller, task_id) for _ in range(2)]
        out_of_reach = tools_pb2.AuthorizeActionRequest(
            task_id=task_id, call=tools_pb2.Call(tool="read-mail")
        )
        for _ in range(20):  # a retry storm; its answer is to end the task
            if world.stack.is_running("broker"):
                caller.call("AuthorizeAction", out_of_reach)
    restart_after_crash(world)
    until(lambda: not any(world.lets_in(credential) for credential in held), "revoked")
    until(lambda: world.kinds(task_id).count("anomaly.answered") == 1, "answered")
    assert world.kinds(task_id).count("anomaly.found") == 1
    assert world.rows("SELECT end_cause FROM tasks WHERE task_id = ?", task_id) == [("anomaly",)]
    assert world.users() == set()


def test_a_doubtful_credential_beside_live_ones_ends_with_them(world: World) -> None:
    crash(world, "acquire.vault-issued:3")
    svid = world.svid()
    with world.calling(svid) as caller:
        task_id = world.declare(caller)
        held = [world.acquire(caller, task_id) for _ in range(2)]
        assert not world.try_acquire(caller, task_id).ok
    assert len(world.users()) == 3
    with world.alive(svid, task_id):
        restart_after_crash(world)
        with world.calling(svid) as caller:
            assert all(world.lets_in(credential) for credential in held), "the live ones are left alone"
            assert world.complete(caller, task_id).ok
        until(lambda: not world.users(), "revoked with the token that it was asked for under")
        assert world.kinds(task_id)[-1] == "task.ended"


def test_a_killed_broker_and_a_dead_agent_leave_nothing(world: World) -> None:
    with world.calling() as caller:
        task_id = world.declare(caller)
        credential = world.acquire(caller, task_id)
    world.stack.kill_part("broker")
    assert world.lets_in(credential)
    world.stack.broker.start()
    until(lambda: not world.lets_in(credential), "revoked")
    world.until_ended(task_id)


def test_the_trail_is_whole_after_a_crash(world: World) -> None:
    crash(world, "acquire.issued-durable")
    with world.calling() as caller:
        assert not world.try_acquire(caller, world.declare(caller)).ok
    restart_after_crash(world)
    world.verify_trail()
