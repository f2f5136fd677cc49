"""The door for JWT-SVIDs, and streams that end with the SVID, by whatever door their caller came."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any, get_args

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2

from broker.api.v1 import tasks_pb2
from broker.config.settings import JwtMethod
from broker.server import gate as gate_module
from broker.server.rpc_table import FOR_INSTANCES, RPCS, CallerKind
from tests.fakes.samples import OWNER
from tests.unit.server.conftest import Serve
from tests.unit.server.served import CREDENTIALS, HEALTH, REFLECTION, TASKS, Limits, Refusal, Served
from tests.unit.spire.tokens import jwt_bundle, key_for

LISTED = frozenset({TASKS + "ListTasks", TASKS + "AttachTask", TASKS + "DeclareTask"})


@pytest_asyncio.fixture
async def door(serve: Serve) -> AsyncIterator[Served]:
    yield await serve(Limits(token_methods=LISTED))


async def ask(
    served: Served, *authorization: str, method: str = TASKS + "ListTasks", channel: Any = None
) -> Refusal | None:
    """How a call without a certificate is refused; None when it is answered."""
    metadata = [("authorization", value) for value in authorization]
    channel = channel or served.connect_without_certificate()
    try:
        await channel.unary_unary(method)(b"", timeout=10, metadata=metadata)
    except grpc.RpcError as error:
        return Refusal.of(error)
    return None


def reason(refusal: Refusal | None) -> str:
    return "" if refusal is None else refusal.reason


async def test_one_bearer_token_is_enough_where_tokens_are_taken(door: Served) -> None:
    assert await ask(door, f"Bearer {door.token()}") is None
    assert await ask(door, f"bearer {door.token()}") is None  # RFC 7235: the scheme has no case


@pytest.mark.parametrize(
    ("authorization", "expected"),
    [
        ([], "SVID_MISSING"),
        (["Bearer {0}", "Bearer {0}"], "SVID_INVALID"),
        (["Bearer {0}", "Basic eA=="], "SVID_INVALID"),
        (["Bearer {0}, Bearer {0}"], "SVID_INVALID"),
        (["Basic {0}"], "SVID_INVALID"),
        (["Bearer{0}"], "SVID_INVALID"),
        (["Bearer  {0}"], "SVID_INVALID"),
        (["{0}"], "SVID_INVALID"),
        ([""], "SVID_INVALID"),
    ],
)
async def test_anything_but_one_bearer_token_is_refused(
    door: Served, authorization: Sequence[str], expected: str
) -> None:
    token = door.token()
    refusal = await ask(door, *(value.format(token) for value in authorization))
    assert refusal is not None
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAUTHENTICATED, expected)
    assert token not in refusal.text


async def test_an_rpc_that_is_not_listed_is_refused_before_the_token_is_looked_at(door: Served) -> None:
    for method in set(RPCS) - LISTED - {REFLECTION, HEALTH + "Watch"}:
        # Operators are known by a certificate alone.
        expected = "SVID_MISSING" if RPCS[method].caller is CallerKind.OPERATOR else "RPC_UNKNOWN"
        assert reason(await ask(door, method=method)) == expected, method
        assert reason(await ask(door, f"Bearer {door.token()}", method=method)) == expected, method
    stream = door.connect_without_certificate().unary_stream(HEALTH + "Watch")(b"", timeout=10)
    with pytest.raises(grpc.RpcError) as caught:
        await stream.read()
    assert Refusal.of(caught.value).reason == "RPC_UNKNOWN"


async def test_what_is_for_others_than_instances_is_refused_even_when_it_is_listed(
    door: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = f"Bearer {door.token()}"
    assert await ask(door, token) is None
    monkeypatch.setattr(gate_module, "FOR_INSTANCES", frozenset())
    assert reason(await ask(door, token)) == "RPC_UNKNOWN"


def test_what_may_be_listed_is_what_instances_may_call() -> None:
    listed = {f"/broker.api.v1.{method}" for method in get_args(JwtMethod)}
    instances = {
        name
        for name, rule in RPCS.items()
        if rule.caller in FOR_INSTANCES and name.startswith((TASKS, CREDENTIALS))
    }
    assert listed == instances


async def test_where_tokens_are_not_taken_there_is_no_door(served: Served) -> None:
    refusal = await ask(served, f"Bearer {served.token()}")
    assert refusal is not None
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "")


async def test_beside_a_certificate_no_header_counts(door: Served) -> None:
    # An answer, although the header is no token at all.
    assert await ask(door, "Bearer x", channel=door.channel) is None
    assert await ask(door, f"Bearer {door.token()}", "x", channel=door.channel) is None
    # And what the token's door does not list, the certificate's does.
    assert reason(
        await ask(door, f"Bearer {door.token()}", method=TASKS + "GetTask", channel=door.channel)
    ) == ("FIELD_INVALID")


# Streams -----------------------------------------------------------------------------------------------------


async def end_of(stream: Any) -> Refusal:
    async with asyncio.timeout(20):
        try:
            while await stream.read() is not grpc.aio.EOF:
                pass
        except grpc.RpcError as error:
            return Refusal.of(error)
    message = "the stream ended well"
    raise AssertionError(message)


async def attached(served: Served, *authorization: str) -> Any:
    request = tasks_pb2.AttachTaskRequest(task_id=await served.declared())
    channel = served.connect_without_certificate() if authorization else served.channel
    metadata = [("authorization", value) for value in authorization]
    stream = channel.unary_stream(TASKS + "AttachTask")(
        request.SerializeToString(), timeout=30, metadata=metadata
    )
    assert await stream.read()
    return stream


async def watching(served: Served) -> Any:
    stream = served.stream(HEALTH + "Watch", health_pb2.HealthCheckRequest(), timeout=30)
    assert await stream.read()
    return stream


async def reflecting(served: Served) -> Any:
    from grpc_reflection.v1alpha import reflection_pb2

    stream = served.channel.stream_stream(REFLECTION)(timeout=30)
    await stream.write(reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString())
    assert await stream.read()
    return stream


@pytest.mark.parametrize("open_stream", [attached, watching, reflecting])
async def test_an_idle_stream_ends_when_its_certificate_does(door: Served, open_stream: Any) -> None:
    stream = await open_stream(door)
    door.clock.advance(hours=1, minutes=1)  # the certificate was made a little after the clock was set
    assert (await end_of(stream)).reason == "SVID_EXPIRED"
    await eventually_idle(door)


@pytest.mark.parametrize("open_stream", [attached, watching, reflecting])
async def test_an_idle_stream_ends_with_the_quarantine_of_its_caller(door: Served, open_stream: Any) -> None:
    stream = await open_stream(door)
    await quarantine(door)
    assert (await end_of(stream)).reason == "INSTANCE_QUARANTINED"
    await eventually_idle(door)


async def test_an_idle_stream_ends_when_its_token_does(door: Served) -> None:
    stream = await attached(door, f"Bearer {door.token(lives=timedelta(seconds=30))}")
    door.clock.advance(seconds=31)
    assert (await end_of(stream)).reason == "SVID_EXPIRED"
    await eventually_idle(door)


async def test_an_idle_stream_ends_when_the_key_of_its_token_leaves_the_bundle(door: Served) -> None:
    stream = await attached(door, f"Bearer {door.token()}")
    (trust_domain,) = door.keys
    door.keys[trust_domain] = jwt_bundle(other=key_for("ES384"))
    assert (await end_of(stream)).reason == "SVID_INVALID"
    await eventually_idle(door)


async def test_a_stream_whose_caller_is_still_welcome_goes_on(door: Served) -> None:
    stream = await attached(door, f"Bearer {door.token(lives=timedelta(minutes=5))}")
    door.clock.advance(minutes=4)
    waiting = asyncio.ensure_future(stream.read())
    done, _pending = await asyncio.wait({waiting}, timeout=2.5)
    for read in done:  # a sign of life, and no end
        assert read.result() is not grpc.aio.EOF
    stream.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await eventually_idle(door)


async def eventually_idle(served: Served) -> None:
    """Nothing is left of the call."""
    async with asyncio.timeout(10):
        while served.gate._under_way:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


async def quarantine(served: Served) -> None:
    verifier = served.gate._verifier._admission  # type: ignore[attr-defined]
    verifier._quarantine = Holds()


class Holds:
    def holds(self, spiffe_id: object) -> bool:
        return spiffe_id == OWNER
