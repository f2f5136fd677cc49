"""Starting and stopping, health and reflection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from broker.api.v1 import tasks_pb2
from broker.domain.identifiers import TaskId
from broker.server.rpc_table import RPCS
from tests.unit.server.served import (
    HEALTH,
    REFLECTION,
    TASKS,
    Authority,
    Channel,
    Limits,
    Refusal,
    Served,
    a_declaration,
)
from tests.unit.server.test_gate import eventually, refused, several

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
STOPS_AT_ONCE = timedelta(seconds=0.2)
SERVICES = (
    "",
    "broker.api.v1.TaskService",
    "broker.api.v1.CredentialService",
    "broker.api.v1.QuarantineService",
    "broker.api.v1.InstanceService",
    "broker.api.v1.LeaseService",
    "broker.api.v1.SignalService",
    "broker.api.v1.ToolService",
    "broker.api.v1.AnomalyService",
)


async def health(served: Served, service: str = "") -> Any:
    request = health_pb2.HealthCheckRequest(service=service)
    return health_pb2.HealthCheckResponse.FromString(await served.call(HEALTH + "Check", request)).status


async def next_health(stream: Any) -> Any:
    return health_pb2.HealthCheckResponse.FromString(await stream.read()).status


async def rest(stream: Any) -> AsyncIterator[bytes]:
    while (answer := await stream.read()) is not grpc.aio.EOF:
        yield answer


# Stopping ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", RPCS)
async def test_a_stopping_broker_refuses_what_is_new(served: Served, method: str) -> None:
    before = await served.state()
    served.gate.stopping.set()
    refusal = await refused(served, method, b"")
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
    assert refusal.retry_after is not None
    assert await served.state() == before


async def test_a_call_under_way_is_finished(served: Served) -> None:
    with served.issuer.holding("open_task") as hold:
        call = asyncio.ensure_future(served.declared())
        await hold.entered.wait()
        stop = asyncio.ensure_future(served.stop())
        await served.gate.stopping.wait()
        assert not stop.done()
    task_id = await call
    await stop
    task = await served.store.task(TaskId(task_id))
    assert task is not None
    assert task.state == "active"


@pytest.mark.parametrize("method", [TASKS + "AttachTask", HEALTH + "Watch"])
async def test_a_stream_is_told_and_does_not_hold_the_stop_up(served: Served, method: str) -> None:
    task_id = await served.declared()
    stream = served.stream(method, tasks_pb2.AttachTaskRequest(task_id=task_id if "Attach" in method else ""))
    assert await stream.read()
    async with asyncio.timeout(2.5):  # half of the grace
        await served.stop()
    with pytest.raises(grpc.RpcError) as caught:
        _ = [answer async for answer in rest(stream)]
    assert Refusal.of(caught.value).reason == "SHUTTING_DOWN"


async def test_what_is_not_done_within_the_grace_is_given_up_loudly(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    task_id = await served.declared()
    with served.issuer.holding("issue") as hold:
        call = asyncio.ensure_future(served.acquired(task_id))
        await hold.entered.wait()
        await served.server.stop(grace=STOPS_AT_ONCE, drains=[served.broker.acquire.drain])
        with pytest.raises(grpc.RpcError):
            await call
    assert "stopping before everything under way was done" in caplog.text


# Health -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", SERVICES)
async def test_health_follows_readiness(served: Served, service: str) -> None:
    assert await health(served, service) == SERVING
    await served.server.ready(ready=False)
    assert await health(served, service) == NOT_SERVING


async def test_health_of_all_services_can_be_listed(served: Served) -> None:
    await served.server.ready(ready=False)
    answer = health_pb2.HealthListResponse.FromString(await served.call(HEALTH + "List", b""))
    assert {name: found.status for name, found in answer.statuses.items()} == dict.fromkeys(
        SERVICES, NOT_SERVING
    )


async def test_a_server_that_has_just_started_is_not_ready(folder: Path, authority: Authority) -> None:
    served = Served(folder, authority, Limits())
    await served.server.start()
    assert await health(served) == NOT_SERVING
    await served.close()


async def test_a_watcher_of_health_sees_every_change(served: Served) -> None:
    stream = served.stream(HEALTH + "Watch", health_pb2.HealthCheckRequest())
    assert await next_health(stream) == SERVING
    await served.server.ready(ready=False)
    assert await next_health(stream) == NOT_SERVING
    await served.server.ready(ready=True)
    assert await next_health(stream) == SERVING
    stream.cancel()
    await eventually(lambda: served.gate._under_way == 0)


async def test_health_of_an_unknown_service_is_not_found_and_no_failure_of_ours(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    request = health_pb2.HealthCheckRequest(service="no.such.Service")
    refusal = await served.refused(HEALTH + "Check", request)
    assert refusal.code is grpc.StatusCode.NOT_FOUND
    stream = served.stream(HEALTH + "Watch", request)
    assert await next_health(stream) == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    stream.cancel()
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_the_door_for_probes_needs_no_certificate_and_knows_health_alone(served: Served) -> None:
    channel: Channel
    async with grpc.aio.insecure_channel(served.health_address) as channel:
        answer = await channel.unary_unary(HEALTH + "Check")(b"", timeout=10)
        assert health_pb2.HealthCheckResponse.FromString(answer).status == SERVING
        for method in set(RPCS) - {name for name in RPCS if name.startswith(HEALTH)}:
            with pytest.raises(grpc.RpcError) as caught:
                await channel.unary_unary(method)(a_declaration().SerializeToString(), timeout=10)
            assert Refusal.of(caught.value).code is grpc.StatusCode.UNIMPLEMENTED
    assert await served.store.audit_head() is None


async def test_the_agents_door_is_closed_to_who_shows_no_certificate(served: Served) -> None:
    authority = served.authority
    for credentials in (grpc.ssl_channel_credentials(authority.pem), None):
        channel: Channel = (
            grpc.aio.insecure_channel(served.address)
            if credentials is None
            else grpc.aio.secure_channel(
                served.address, credentials, options=[("grpc.ssl_target_name_override", "tasklease-broker")]
            )
        )
        async with channel:
            with pytest.raises(grpc.RpcError) as caught:
                await channel.unary_unary(HEALTH + "Check")(b"", timeout=10)
            assert Refusal.of(caught.value).code is grpc.StatusCode.UNAVAILABLE


# Reflection -------------------------------------------------------------------------------------------------


async def test_reflection_gives_the_files_of_the_services(served: Served) -> None:
    questions = [
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=name).SerializeToString()
        for name in (*SERVICES[1:], "no.such.Service")
    ]
    call = served.channel.stream_stream(REFLECTION)(several(*questions), timeout=10)
    *found, missing = [reflection_pb2.ServerReflectionResponse.FromString(answer) async for answer in call]
    names = [
        service.name
        for answer in found
        for file in answer.file_descriptor_response.file_descriptor_proto
        for service in descriptor_pb2.FileDescriptorProto.FromString(file).service
    ]
    assert {"TaskService", "CredentialService"} <= set(names)
    assert missing.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


async def test_a_message_that_is_none_in_the_middle_of_a_stream_ends_it_clearly(served: Served) -> None:
    question = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
    call = served.channel.stream_stream(REFLECTION)(several(question, b"\xff", question), timeout=10)
    assert await call.read()
    with pytest.raises(grpc.RpcError) as caught:
        await call.read()
    assert Refusal.of(caught.value).fields.keys() == {"(request)"}
