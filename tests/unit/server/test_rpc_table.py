"""The one table of RPCs against what the running server really registers."""

from __future__ import annotations

from annotated_types import Ge
from google.protobuf import descriptor_pool
from grpc_reflection.v1alpha import reflection_pb2

from broker.config.settings import Limits
from broker.domain.audit import AuditKind
from broker.server.rpc_table import RPCS
from tests.unit.server.served import REFLECTION, Served

KINDS = {value for name, value in vars(AuditKind).items() if name.isupper()}


async def registered(served: Served) -> list[str]:
    """The services, as the server itself tells."""
    ask = reflection_pb2.ServerReflectionRequest(list_services="*").SerializeToString()
    answers = served.channel.stream_stream(REFLECTION)(iter([ask]), timeout=10)
    (answer,) = [reflection_pb2.ServerReflectionResponse.FromString(answer) async for answer in answers]
    return [service.name for service in answer.list_services_response.service]


async def test_every_rpc_of_every_registered_service_is_listed_and_nothing_else(served: Served) -> None:
    pool = descriptor_pool.Default()
    names = await registered(served)
    assert "broker.api.v1.TaskService" in names
    methods = {f"/{name}/{method.name}" for name in names for method in pool.FindServiceByName(name).methods}
    assert set(RPCS) == methods


async def test_no_listed_rpc_has_a_shape_that_the_gate_does_not_know(served: Served) -> None:
    pool = descriptor_pool.Default()
    for name in await registered(served):
        for method in pool.FindServiceByName(name).methods:
            assert method.server_streaming or not method.client_streaming, method.full_name


def test_every_call_costs_something_and_names_kinds_of_audit_events_that_exist() -> None:
    for method, rule in RPCS.items():
        assert rule.cost >= 1, method
        assert set(rule.audited) <= KINDS, method


def test_what_changes_something_is_audited() -> None:
    reads = {
        "GetTask",
        "ListTasks",
        "ListTools",
        "Heartbeat",
        "AttachTask",
        "Check",
        "Watch",
        "List",
        "ServerReflectionInfo",
    }
    unaudited = {method.rpartition("/")[2] for method, rule in RPCS.items() if not rule.audited}
    assert unaudited == reads


def test_no_allowance_is_too_small_for_the_dearest_call() -> None:
    (least,) = (bound.ge for bound in Limits.model_fields["burst"].metadata if isinstance(bound, Ge))
    assert least == max(rule.cost for rule in RPCS.values())
