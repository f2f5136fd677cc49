"""R5: an unknown agent class, task type, role, environment or RPC is a refusal, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest

from broker.api.v1 import tasks_pb2
from broker.devstack import broker_process
from tests.threats.world import ROLE, World, until


def test_an_unknown_agent_class_declares_nothing(world: World) -> None:
    with world.calling(world.svid(path="agent/mystery-bot")) as caller:
        answer = world.try_declare(caller)
    assert (answer.code.name, answer.reason) == ("PERMISSION_DENIED", "AGENT_CLASS_UNKNOWN")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"task_type": "delete-everything"}, "TASK_TYPE_NOT_ALLOWED"),
        ({"environment": "production"}, "ENVIRONMENT_NOT_ALLOWED"),
        ({"scope": tasks_pb2.Scope(roles=["orders-admin"])}, "ROLE_NOT_ALLOWED"),
        ({"scope": tasks_pb2.Scope(roles=[ROLE, "orders-admin"])}, "ROLE_NOT_ALLOWED"),
    ],
)
def test_what_the_catalog_does_not_list_cannot_be_declared(
    world: World, fields: dict[str, Any], reason: str
) -> None:
    svid = world.svid()
    with world.calling(svid) as caller:
        answer = world.try_declare(caller, **fields)
        assert (answer.code.name, answer.reason) == ("PERMISSION_DENIED", reason)
    assert world.rows("SELECT * FROM tasks WHERE owner = ?", svid.spiffe_id) == []


def test_a_role_outside_the_declared_scope_is_not_issued(world: World) -> None:
    with world.calling() as caller:
        answer = world.try_declare(caller, scope=tasks_pb2.Scope())
        task_id = answer.message.task.task_id
        refused = world.try_acquire(caller, task_id)
        assert (refused.code.name, refused.reason) == ("PERMISSION_DENIED", "ROLE_NOT_ALLOWED")
        assert world.kinds(task_id)[-1] == "credential.denied"
    assert world.users() == set()


def test_a_role_that_left_the_catalog_is_not_issued_to_tasks_that_declared_it(world: World) -> None:
    (catalog,) = world.stack.broker.catalog.iterdir()
    before = catalog.read_text()
    log = world.stack.log_files([broker_process.NAME])[0]
    changes = log.read_text().count("catalog changed")
    svid = world.svid()
    with world.calling(svid) as caller:
        task_id = world.declare(caller)
        with world.alive(svid, task_id):
            catalog.write_text(before.replace("orders-readonly", "orders-other"))
            try:
                until(lambda: log.read_text().count("catalog changed") > changes, "taken up")
                answer = world.try_acquire(caller, task_id)
                assert answer.reason == "ROLE_NOT_ALLOWED"
            finally:
                catalog.write_text(before)


@pytest.mark.parametrize(
    "method",
    [
        "/broker.api.v1.TaskService/DeleteEverything",
        "/broker.api.v2.TaskService/DeclareTask",
        "/grpc.channelz.v1.Channelz/GetServers",
        "/",
        "/x",
    ],
)
def test_an_rpc_that_is_not_listed_is_refused(world: World, method: str) -> None:
    svid = world.svid()
    credentials = grpc.ssl_channel_credentials(svid.authorities, svid.key, svid.chain)
    options = [("grpc.ssl_target_name_override", "tasklease-broker")]
    with grpc.secure_channel(world.stack.broker.address, credentials, options) as channel:
        call: Callable[..., bytes] = channel.unary_unary(method)
        with pytest.raises(grpc.RpcError) as refused:
            call(b"", timeout=5)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
