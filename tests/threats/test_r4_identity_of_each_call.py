"""R4: identity comes from the verified peer of this connection, at each call."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from broker.api.v1 import tasks_pb2, tasks_pb2_grpc
from broker.client import Svid
from broker.demo.callers import svid_of
from broker.devstack.processes import Processes
from broker.devstack.spire import SERVER, Spire
from broker.devstack.state import State
from tests.threats.world import CLASS, World, until

SHORT = timedelta(seconds=4)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spire]:
    """Another SPIRE server that calls its trust domain by the same name."""
    from broker.devstack.stack import DevStack

    folder = tmp_path_factory.mktemp("foreign")
    state = State(folder / "state")
    state.make()
    processes = Processes(state.run)
    spire = Spire(state, processes, DevStack(folder / "unused").find_parts())
    try:
        spire.start_server()
        yield spire
    finally:
        processes.stop(SERVER)


def test_no_svid_is_refused(world: World) -> None:
    from broker.demo.callers import calling

    with calling(world.stack.broker.address, authorities=world.svid().authorities) as caller:
        assert caller.knock().code is grpc.StatusCode.UNAVAILABLE


def test_an_authority_of_the_same_name_is_a_stranger(world: World, foreign: Spire, tmp_path: Path) -> None:
    good = world.svid()
    files = foreign.mint(good.spiffe_id, ttl=timedelta(minutes=5), folder=tmp_path / "foreign")
    bad = svid_of(files, good.spiffe_id)
    with world.calling(good) as caller:
        assert caller.knock().ok
    with world.calling(bad, authorities=good.authorities) as caller:
        assert caller.knock().code is grpc.StatusCode.UNAVAILABLE


def test_a_foreign_leaf_behind_our_own_chain_is_a_stranger(
    world: World, foreign: Spire, tmp_path: Path
) -> None:
    good = world.svid()
    files = foreign.mint(good.spiffe_id, ttl=timedelta(minutes=5), folder=tmp_path / "foreign")
    bad = svid_of(files, good.spiffe_id)
    mixed = Svid(
        spiffe_id=bad.spiffe_id, chain=bad.chain + good.chain, key=bad.key, authorities=good.authorities
    )
    with world.calling(mixed) as caller:
        assert not caller.knock().ok


def test_an_svid_that_expires_is_refused_on_the_connection_that_is_open(world: World) -> None:
    svid = world.svid(ttl=SHORT)
    with world.calling(svid) as caller:
        assert caller.knock().ok
        until(lambda: not caller.knock().ok, "refused", patience=10)
        answer = caller.knock()
        assert (answer.code.name, answer.reason) == ("UNAUTHENTICATED", "SVID_EXPIRED")
    with world.calling(svid) as late:
        assert not late.knock().ok


def test_a_stream_ends_when_its_svid_does_and_keeps_nothing_alive(world: World) -> None:
    svid = world.svid(ttl=SHORT)
    expires = time.monotonic() + SHORT.total_seconds()
    with world.calling(svid) as caller:
        task_id = world.declare(caller)
        credential = world.acquire(caller, task_id)
    credentials = grpc.ssl_channel_credentials(svid.authorities, svid.key, svid.chain)
    options = [("grpc.ssl_target_name_override", "tasklease-broker")]
    with grpc.secure_channel(world.stack.broker.address, credentials, options) as channel:
        stub = tasks_pb2_grpc.TaskServiceStub(channel)  # type: ignore[no-untyped-call]
        stream = stub.AttachTask(tasks_pb2.AttachTaskRequest(task_id=task_id), timeout=30)
        with pytest.raises(grpc.RpcError) as ended:
            list(stream)
        assert time.monotonic() < expires + 3, "still attached with an expired SVID"
    assert ended.value.code() is grpc.StatusCode.UNAUTHENTICATED
    until(lambda: not world.lets_in(credential), "revoked")


def test_a_quarantine_that_another_replica_wrote_is_kept_on_the_connection_that_is_open(world: World) -> None:
    svid = world.svid()
    with world.calling(svid) as caller, world.calling() as other:
        task_id = world.declare(caller)
        credential = world.acquire(caller, task_id)
        with closing(sqlite3.connect(world.store, timeout=10)) as store:
            store.execute(
                "INSERT INTO quarantines (kind, name, since, imposed_by, reason) "
                "VALUES ('instance', ?, 0, 'spiffe://dev.tasklease.test/operator/elsewhere', 'test')",
                [svid.spiffe_id],
            )
            store.commit()
        until(lambda: not caller.knock().ok, "refused", patience=5)
        assert caller.knock().reason == "INSTANCE_QUARANTINED"
        assert other.knock().ok
        until(lambda: not world.lets_in(credential), "revoked")


@pytest.mark.parametrize("path", ["tasklease", "agent", "agent/invoice-bot/one"])
def test_an_id_that_names_no_instance_is_refused(world: World, path: str) -> None:
    with world.calling(world.svid("broker", path=path)) as caller:
        assert caller.knock().reason == "AGENT_CLASS_UNKNOWN"


def test_what_a_message_or_metadata_says_of_the_caller_is_nothing(world: World) -> None:
    victim, thief = world.svid(), world.svid()
    with world.calling(victim) as caller:
        task_id = world.declare(caller)
    credentials = grpc.ssl_channel_credentials(thief.authorities, thief.key, thief.chain)
    options = [("grpc.ssl_target_name_override", "tasklease-broker")]
    names = ("spiffe-id", "x-spiffe-id", "authorization", "x-forwarded-client-cert", "x-forwarded-for")
    with grpc.secure_channel(world.stack.broker.address, credentials, options) as channel:
        stub = tasks_pb2_grpc.TaskServiceStub(channel)  # type: ignore[no-untyped-call]
        with pytest.raises(grpc.RpcError) as refused:
            stub.GetTask(
                tasks_pb2.GetTaskRequest(task_id=task_id),
                metadata=[(name, victim.spiffe_id) for name in names],
                timeout=5,
            )
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


def test_another_instance_of_the_same_class_is_another_caller(world: World) -> None:
    first, second = world.svid("one"), world.svid("two")
    assert first.spiffe_id.rpartition("/")[0].endswith(CLASS)
    with world.calling(first) as caller:
        task_id = world.declare(caller)
    with world.calling(second) as caller:
        answer = caller.call("ListTasks", tasks_pb2.ListTasksRequest())
        assert task_id not in [task.task_id for task in answer.message.tasks]
