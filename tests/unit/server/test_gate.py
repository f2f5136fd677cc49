"""What a call meets before and around its handler, over real connections."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import grpc
import pytest

from broker.api.v1 import credentials_pb2, tasks_pb2
from broker.domain.errors import CallDeadlineExceededError
from broker.domain.identifiers import RequestId
from broker.server import gate as gate_module
from broker.server.gate import admitted
from broker.server.rpc_table import RPCS
from tests.fakes.samples import OTHER, OWNER
from tests.unit.server.conftest import Serve
from tests.unit.server.served import (
    ANOMALIES,
    CREDENTIALS,
    HEALTH,
    REFLECTION,
    TASKS,
    Limits,
    Refusal,
    Served,
    a_declaration,
    an_acquisition,
)

STREAMS = {TASKS + "AttachTask", HEALTH + "Watch", REFLECTION, ANOMALIES + "WatchFindings"}
PLANTED = "hvs.planted-vault-token"


async def eventually(what: Callable[[], bool]) -> None:
    """Wait until something is so of which nobody tells."""
    async with asyncio.timeout(10):
        while not what():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.01)


async def several(*messages: bytes) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


async def refused(served: Served, method: str, request: bytes) -> Refusal:
    """How a call of whatever shape is refused."""
    if method == REFLECTION:
        call = served.channel.stream_stream(method)(several(request), timeout=10)
    elif method in STREAMS:
        call = served.stream(method, request)
    else:
        return await served.refused(method, request)
    try:
        await call.read()
    except grpc.RpcError as error:
        return Refusal.of(error)
    message = f"{method} was answered"
    raise AssertionError(message)


# What is listed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    [
        TASKS + "DeleteTask",
        TASKS + "declareTask",
        TASKS,
        "/broker.api.v2.TaskService/GetTask",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.channelz.v1.Channelz/GetServers",
        "/",
        "/x",
        "/" + "x" * 5000,
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
async def test_an_unknown_rpc_is_refused(served: Served, method: str, *, streaming: bool) -> None:
    call: Any = (
        served.channel.stream_stream(method)(several(b"x"), timeout=10).read()
        if streaming
        else served.call(method, b"x")
    )
    with pytest.raises(grpc.RpcError) as caught:
        await call
    refusal = Refusal.of(caught.value)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNIMPLEMENTED, "RPC_UNKNOWN")
    assert refusal.metadata["request_id"]


@pytest.mark.parametrize("method", RPCS)
async def test_an_rpc_that_is_registered_but_not_listed_is_refused(
    served: Served, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(gate_module, "RPCS", {name: rule for name, rule in RPCS.items() if name != method})
    assert (await refused(served, method, b"")).reason == "RPC_UNKNOWN"


# What is no message -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", RPCS)
async def test_bytes_that_are_no_message_are_a_clear_refusal(served: Served, method: str) -> None:
    refusal = await refused(served, method, b"\xff\xff\xff\xff")
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")
    assert refusal.fields == {"(request)": "these bytes are not a message of this RPC"}


async def test_a_string_that_is_not_utf_8_is_a_clear_refusal(served: Served) -> None:
    refusal = await served.refused(TASKS + "GetTask", b"\x0a\x02\xc3\x28")
    assert refusal.reason == "FIELD_INVALID"


async def test_a_message_that_is_too_large_is_refused_and_the_next_call_is_served(serve: Serve) -> None:
    served = await serve(Limits(max_message_bytes=4096))
    before = await served.state()
    refusal = await served.refused(TASKS + "DeclareTask", a_declaration(intent="x" * 5000))
    assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await served.state() == before
    assert await served.declared()


async def test_metadata_that_is_too_large_is_refused_and_the_next_call_is_served(served: Served) -> None:
    call = served.channel.unary_unary(TASKS + "DeclareTask")(
        a_declaration().SerializeToString(), metadata=[("x-large", "x" * 100_000)], timeout=10
    )
    with pytest.raises(grpc.RpcError) as caught:
        await call
    assert Refusal.of(caught.value).code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await served.store.audit_head() is None
    assert await served.declared()


# How much ---------------------------------------------------------------------------------------------------


async def test_an_instance_beyond_its_rate_is_told_when_to_come_again(serve: Serve) -> None:
    served = await serve(Limits(rate=2, burst=8))  # a declaration costs 4
    await served.declared()
    await served.declared()
    before = await served.state()
    refusal = await served.refused(TASKS + "DeclareTask", a_declaration())
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
    assert refusal.retry_after == timedelta(seconds=2)
    assert await served.state() == before
    served.clock.advance(seconds=2)
    await served.declared()


async def test_one_instances_rate_is_not_anothers(serve: Serve) -> None:
    served = await serve(Limits(rate=0.001, burst=4))
    await served.declared()
    assert (await served.refused(TASKS + "DeclareTask", a_declaration())).reason == "RATE_LIMITED"
    await served.call(
        TASKS + "DeclareTask", a_declaration(), channel=served.connect(served.authority.svid(OTHER))
    )


async def test_a_second_connection_does_not_bring_a_second_rate(serve: Serve) -> None:
    served = await serve(Limits(rate=0.001, burst=4))
    await served.declared()
    refusal = await served.refused(
        TASKS + "DeclareTask", a_declaration(), channel=served.connect(served.authority.svid())
    )
    assert refusal.reason == "RATE_LIMITED"


async def test_calls_beyond_the_limit_under_way_are_refused_and_room_comes_back(serve: Serve) -> None:
    served = await serve(Limits(max_concurrent_calls=1))
    with served.issuer.holding("open_task") as hold:
        first = asyncio.ensure_future(served.declared())
        await hold.entered.wait()
        refusal = await served.refused(TASKS + "DeclareTask", a_declaration())
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        assert refusal.retry_after is not None
    assert await first
    assert await served.declared()


@pytest.mark.parametrize("method", [TASKS + "AttachTask", HEALTH + "Watch"])
async def test_a_stream_takes_room_until_its_caller_leaves(serve: Serve, method: str) -> None:
    served = await serve(Limits(max_concurrent_calls=1))
    task_id = await served.declared()
    request = tasks_pb2.AttachTaskRequest(task_id=task_id if "Attach" in method else "")
    stream = served.stream(method, request)
    assert await stream.read()
    assert (await served.refused(TASKS + "DeclareTask", a_declaration())).reason == "OVERLOADED"
    stream.cancel()
    await eventually(lambda: served.gate._under_way == 0)
    assert await served.declared()


@pytest.mark.parametrize("method", RPCS)
async def test_a_refused_call_gives_its_room_back(serve: Serve, method: str) -> None:
    served = await serve(Limits(max_concurrent_calls=1))
    for _ in range(3):
        assert (await refused(served, method, b"\xff")).reason == "FIELD_INVALID"
    assert served.gate._under_way == served.gate._operators_under_way == 0


# How long ---------------------------------------------------------------------------------------------------


async def test_a_callers_deadline_is_passed_on_to_the_backend(served: Served) -> None:
    lease_id = (await served.acquired(await served.declared())).lease.lease_id
    request = credentials_pb2.RenewCredentialRequest(lease_id=lease_id)
    for patience in (2, None, 100):
        await served.call(CREDENTIALS + "RenewCredential", request, timeout=patience)
    short, none, long = [call.timeout for call in served.issuer.calls if call.operation == "renew"]
    assert timedelta(seconds=1) < short < timedelta(seconds=2.1)
    assert none == long == timedelta(seconds=5)


async def test_completing_answers_before_the_callers_deadline_when_the_backend_does_not(
    served: Served,
) -> None:
    task_id = await served.declared()
    await served.acquired(task_id)
    request = tasks_pb2.CompleteTaskRequest(task_id=task_id, outcome=tasks_pb2.TASK_OUTCOME_SUCCEEDED)
    with served.issuer.holding("revoke"):
        answer = await served.call(TASKS + "CompleteTask", request, timeout=1)
    task = tasks_pb2.CompleteTaskResponse.FromString(answer).task
    assert task.state == tasks_pb2.TASK_STATE_ENDING
    assert [lease.state for lease in task.leases] == [credentials_pb2.LEASE_STATE_REVOKING]


async def test_a_caller_that_leaves_gives_its_room_back_and_may_ask_again(serve: Serve) -> None:
    served = await serve(Limits(max_concurrent_calls=1))
    task_id = await served.declared()
    with served.issuer.holding("issue") as hold:
        call = served.channel.unary_unary(CREDENTIALS + "AcquireCredential")(
            an_acquisition(task_id).SerializeToString(), timeout=10
        )
        await hold.entered.wait()
        call.cancel()
        await eventually(lambda: served.gate._under_way == 0)
    assert (await served.acquired(task_id)).secret["password"]
    assert served.issuer.count("issue") == 1


class Late:
    """The context of a call whose time is up."""

    def __init__(self, leaf: bytes) -> None:
        self._leaf = leaf

    def auth_context(self) -> Mapping[str, Sequence[bytes]]:
        return {"x509_pem_cert": [self._leaf]}

    def time_remaining(self) -> float:
        return 0.0


async def test_a_call_whose_deadline_has_passed_is_not_begun(served: Served) -> None:
    context: Any = Late(served.authority.svid().chain)
    with (
        pytest.raises(CallDeadlineExceededError),
        served.gate.admit(TASKS + "GetTask", context, RequestId("req-late")),
    ):
        pytest.fail("it was begun")
    assert served.gate._under_way == 0


class From(Late):
    """The context of a call from somewhere."""

    def __init__(self, leaf: bytes, peer: str) -> None:
        super().__init__(leaf)
        self._peer = peer

    def peer(self) -> str:
        return self._peer

    def time_remaining(self) -> float:
        return 5.0


async def test_from_where_an_instance_calls_is_told_and_known_to_what_it_calls(served: Served) -> None:
    seen: list[tuple[str, str]] = []
    served.gate._see = lambda peer, address: seen.append((str(peer.spiffe_id), address))
    leaf = served.authority.svid().chain
    context: Any = From(leaf, "ipv4:10.0.0.7:50412")
    with served.gate.admit(TASKS + "GetTask", context, RequestId("req-1")):
        assert admitted().caller.address == "10.0.0.7"
    assert seen == [(str(OWNER), "10.0.0.7")]


# What is unforeseen -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        (TASKS + "GetTask", tasks_pb2.GetTaskRequest(task_id="task-1")),
        (TASKS + "AttachTask", tasks_pb2.AttachTaskRequest(task_id="task-1")),
    ],
)
async def test_the_unforeseen_says_nothing_but_its_request_id(
    served: Served,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    method: str,
    request_: Any,
) -> None:
    async def fail(_task_id: str) -> None:
        raise RuntimeError(PLANTED)

    monkeypatch.setattr(served.store, "task", fail)
    caplog.set_level(logging.DEBUG)
    refusal = await refused(served, method, request_.SerializeToString())
    request_id = refusal.metadata["request_id"]
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert refusal.text == f"internal error, request {request_id}"
    assert dict(refusal.metadata) == {"request_id": request_id}
    logged = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.name for record in logged] == ["broker.server.gate"]
    (line,) = [record.getMessage() for record in logged]
    assert request_id in line
    assert re.search(r"RuntimeError at .*fail:\d+", line)
    assert PLANTED not in caplog.text + repr(refusal)


async def test_request_ids_are_each_calls_own(served: Served) -> None:
    refusals = [await served.refused(TASKS + "GetTask", b"") for _ in range(3)]
    assert len({refusal.metadata["request_id"] for refusal in refusals}) == 3
