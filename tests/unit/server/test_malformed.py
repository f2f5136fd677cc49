"""Requests of any kind, at every RPC there is: none is a failure of ours, none is left without an answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.domain.audit import ChainHead, verify_chain
from broker.server.rpc_table import RPCS
from tests.unit.server.conftest import Serve
from tests.unit.server.messages import bytes_like
from tests.unit.server.served import HEALTH, Limits, Refusal, Served
from tests.unit.server.test_gate import eventually

PATIENCE = 10
MOST_BYTES = 4096
MANY = settings(
    max_examples=120,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
"""What may be answered to a caller who has an SVID and asks for something foolish. Not INTERNAL, not UNKNOWN; not
DEADLINE_EXCEEDED, which is a call without an answer; and not UNAVAILABLE, because nothing is away."""


def descriptor_of(rpc: str) -> MethodDescriptor:
    service, _, name = rpc.removeprefix("/").partition("/")
    return descriptor_pool.Default().FindServiceByName(service).methods_by_name[name]


async def answer(served: Served, rpc: str, requests: list[bytes]) -> Refusal | None:
    """How the call was refused; None when it was answered. Of an endless stream the first answer is enough."""
    method = descriptor_of(rpc)
    call: Any
    try:
        if method.client_streaming:
            # In step: a client that still writes when the server has ended the stream makes an error of its own.
            call = served.channel.stream_stream(rpc)(timeout=PATIENCE)
            for request in requests:
                await call.write(request)
                assert await call.read()
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
        elif method.server_streaming:
            call = served.stream(rpc, requests[0], timeout=PATIENCE)
            assert await call.read() is not grpc.aio.EOF
            call.cancel()
        else:
            await served.call(rpc, requests[0], timeout=PATIENCE)
    except grpc.RpcError as error:
        return Refusal.of(error)
    return None


@pytest_asyncio.fixture
async def whole(serve: Serve) -> AsyncIterator[Served]:
    """A server with a task and a credential, that is still whole after all the examples."""
    served = await serve(Limits(max_message_bytes=MOST_BYTES))
    await served.acquired(await served.declared())
    yield served
    assert await served.declared()
    records = await served.store.audit_records(0, 100_000)
    assert isinstance(verify_chain(records), ChainHead)
    await eventually(lambda: served.gate._under_way == 0)


@pytest.mark.parametrize("rpc", RPCS)
@MANY
@given(data=st.data())
async def test_any_request_is_answered_or_refused(whole: Served, rpc: str, data: st.DataObject) -> None:
    method = descriptor_of(rpc)
    least, most = (0, 4) if method.client_streaming else (1, 1)
    requests = data.draw(st.lists(bytes_like(method.input_type), min_size=least, max_size=most))
    refusal = await answer(whole, rpc, requests)
    if refusal is None:
        return
    assert refusal.code in REFUSALS, refusal
    too_large = any(len(request) > MOST_BYTES for request in requests)
    if not too_large and not rpc.startswith(HEALTH):  # those two are gRPC's own answers
        assert refusal.reason, refusal
        assert refusal.metadata["request_id"], refusal
