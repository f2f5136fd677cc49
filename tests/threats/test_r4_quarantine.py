"""R4: from a quarantined instance nothing more is accepted, and nothing that it held works any more."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import psycopg
import pytest

from broker.api.v1 import operators_pb2, tasks_pb2
from broker.client import Svid
from broker.demo.callers import Answer, Caller, attempt
from tests.threats.world import CLASS, World, until

TRUST_DOMAIN = "dev.tasklease.test"
Target = dict[str, str]


@contextmanager
def operating(world: World) -> Iterator[Caller]:
    with world.calling(world.svid(path="operator")) as caller:
        yield caller


def quarantine(world: World, target: Target) -> operators_pb2.QuarantineResponse:
    request = operators_pb2.QuarantineRequest(target=target, reason="it does strange things")
    with operating(world) as operator:
        answer = operator.call("Quarantine", request, timeout=30)
    assert answer.ok, answer
    message: operators_pb2.QuarantineResponse = answer.message
    return message


def release(world: World, target: Target) -> Answer:
    request = operators_pb2.ReleaseRequest(target=target, reason="the test is over")
    with operating(world) as operator:
        return operator.call("Release", request, timeout=30)


@pytest.fixture(autouse=True)
def nothing_stays_quarantined(world: World) -> Iterator[None]:
    yield
    with operating(world) as operator:
        left = operator.call("ListQuarantines", operators_pb2.ListQuarantinesRequest(page_size=200))
    for one in left.message.quarantines:
        kind = one.target.WhichOneof("target")
        assert release(world, {kind: getattr(one.target, kind)}).ok


def targets(svid: Svid) -> dict[str, Target]:
    return {
        "instance": {"instance": svid.spiffe_id},
        "class": {"agent_class": CLASS},
        "trust domain": {"trust_domain": TRUST_DOMAIN},
    }


def refused(answer: Answer) -> bool:
    return (answer.code.name, answer.reason) == ("PERMISSION_DENIED", "INSTANCE_QUARANTINED")


def session_is_gone(session: psycopg.Connection[Any]) -> bool:
    try:
        session.execute("SELECT 1")
    except psycopg.OperationalError:
        return True
    return False


@pytest.mark.parametrize("kind", ["instance", "class", "trust domain"])
def test_its_credential_and_its_open_session_are_dead_when_the_operator_has_the_answer(
    world: World, kind: str
) -> None:
    svid = world.svid()
    with world.calling(svid) as caller:
        task_id = world.declare(caller)
        credential = world.acquire(caller, task_id)
        dsn = world.stack.postgres.dsn(credential.secret["username"], credential.secret["password"])
        with psycopg.connect(dsn, autocommit=True) as session:
            session.execute("SELECT 1")
            answer = quarantine(world, targets(svid)[kind])
            assert (answer.tasks_found, answer.quarantine.unfinished_tasks) == (1, 0)
            assert session_is_gone(session)
        assert not world.lets_in(credential)
        assert refused(caller.knock())
    assert world.kinds(task_id)[-1] == "task.ended"
    (row,) = world.rows("SELECT end_cause, end_reason FROM tasks WHERE task_id = ?", task_id)
    assert row == ("quarantined", "it does strange things")


def test_the_call_right_after_is_refused_on_the_open_connection_and_others_go_on(world: World) -> None:
    svid = world.svid()
    with world.calling(svid) as caller, world.calling() as other, operating(world) as operator:
        for _ in range(20):
            assert caller.knock().ok
            target = {"instance": svid.spiffe_id}
            assert operator.call(
                "Quarantine", operators_pb2.QuarantineRequest(target=target, reason="again")
            ).ok
            assert refused(caller.knock()), "it has to be the very next call"
            assert other.knock().ok
            assert operator.call(
                "Release", operators_pb2.ReleaseRequest(target=target, reason="and again")
            ).ok


def test_an_attached_stream_ends_at_once_and_attaching_again_is_refused(world: World) -> None:
    svid = world.svid()
    with world.calling(svid) as caller:
        task_id = world.declare(caller)
        stream = caller.stream("AttachTask", tasks_pb2.AttachTaskRequest(task_id=task_id), timeout=30)
        next(stream)
        began = time.monotonic()
        quarantine(world, {"instance": svid.spiffe_id})
        with pytest.raises(grpc.RpcError) as ended:
            list(stream)
        assert time.monotonic() - began < 5
        assert ended.value.code() is grpc.StatusCode.PERMISSION_DENIED
        again = tasks_pb2.AttachTaskRequest(task_id=task_id)
        assert refused(attempt(lambda: next(caller.stream("AttachTask", again))))


def test_another_svid_or_another_connection_of_the_same_instance_helps_nothing(world: World) -> None:
    name = f"i-{secrets.token_hex(4)}"
    svid = world.svid(name)
    with world.calling(svid) as caller:
        task_id = world.declare(caller)
    quarantine(world, {"instance": svid.spiffe_id})
    newer = world.svid(name)
    assert newer.chain != svid.chain
    for shown in (svid, newer):
        with world.calling(shown) as caller:
            assert refused(caller.knock())
            assert refused(world.try_declare(caller))
            assert refused(world.try_acquire(caller, task_id))
            assert refused(caller.call("Heartbeat", tasks_pb2.HeartbeatRequest(task_id=task_id)))
            assert refused(world.complete(caller, task_id))


def test_a_new_instance_of_a_quarantined_class_is_refused_too(world: World) -> None:
    quarantine(world, {"agent_class": CLASS})
    with world.calling() as caller:
        assert refused(world.try_declare(caller))
    quarantine(world, {"trust_domain": TRUST_DOMAIN})
    with world.calling(world.svid(path="agent/another-bot")) as caller:
        assert refused(caller.knock())


def test_who_is_released_from_one_of_two_quarantines_stays_out(world: World) -> None:
    svid = world.svid()
    quarantine(world, {"instance": svid.spiffe_id})
    quarantine(world, {"agent_class": CLASS})
    answer = release(world, {"instance": svid.spiffe_id})
    assert [one.target.agent_class for one in answer.message.still_standing] == [CLASS]
    with world.calling(svid) as caller:
        assert refused(caller.knock())
        assert release(world, {"agent_class": CLASS}).ok
        assert caller.knock().ok
        credential = world.acquire(caller, world.declare(caller))
        assert world.lets_in(credential)


@pytest.mark.parametrize("how", ["stop_part", "kill_part"])
def test_it_survives_restarts(world: World, how: str) -> None:
    svid = world.svid()
    quarantine(world, {"instance": svid.spiffe_id})
    stop: Callable[[str], None] = getattr(world.stack, how)
    stop("broker")
    world.stack.broker.start()
    with world.calling(svid) as caller, world.calling() as other:
        assert refused(caller.knock())
        assert other.knock().ok


def test_with_vault_down_it_is_out_at_once_and_the_operator_is_told_what_is_left(world: World) -> None:
    svid = world.svid()
    with world.calling(svid) as caller:
        task_id = world.declare(caller)
        credential = world.acquire(caller, task_id)
        world.stack.stop_part("vault")
        answer = quarantine(world, {"instance": svid.spiffe_id})
        assert answer.quarantine.unfinished_tasks == 1
        assert refused(caller.knock())
    world.stack.up()
    until(lambda: not world.lets_in(credential), "revoked")
    world.until_ended(task_id)


def test_a_storm_of_calls_gets_nothing_out_after_the_answer(world: World) -> None:
    """An agent that acquires as fast as it can while it is quarantined: whatever it got is dead, and stays dead."""
    import threading

    svid = world.svid()
    got: list[Any] = []
    stop = threading.Event()
    with world.calling(svid) as caller:
        task_id = world.declare(caller)

        def storm() -> None:
            while not stop.is_set():
                answer = world.try_acquire(caller, task_id)
                if answer.ok:
                    got.append(answer.message)

        threads = [threading.Thread(target=storm) for _ in range(4)]
        for thread in threads:
            thread.start()
        until(lambda: bool(got), "something was handed out")
        quarantine(world, {"instance": svid.spiffe_id})
        before = len(got)
        until(lambda: refused(caller.knock()), "refused")
        stop.set()
        for thread in threads:
            thread.join()
    world.until_ended(task_id)
    assert len(got) <= before + len(threads)  # answers that were on their way
    assert not any(world.lets_in(one) for one in got)
    assert world.users() == set()
