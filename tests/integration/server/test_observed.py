"""What operators see of a broker among its real parts: scraped and traced as they would."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from broker.devstack.vault import NAME as VAULT
from tests.threats.world import World, until


def scraped(world: World) -> dict[tuple[str, str], float]:
    """Sample and its labels' values, in one word, to its value."""
    with urllib.request.urlopen(f"http://{world.stack.broker.metrics_address}/metrics") as answer:
        text = answer.read().decode()
    return {
        (sample.name, " ".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_follow_a_credential_from_issue_to_refusal(world: World) -> None:
    with world.calling() as caller:
        task_id = world.declare(caller)
        world.acquire(caller, task_id)
        until(lambda: scraped(world)["tasklease_leases", "live"] >= 1, "the lease is counted")
        assert scraped(world)["tasklease_tasks", "active"] >= 1
        before = scraped(world).get(("tasklease_revoke_seconds_count", "task-ended"), 0)
        assert world.complete(caller, task_id).ok
        assert world.try_acquire(caller, task_id).reason == "TASK_NOT_ACTIVE"
    found = scraped(world)
    assert found["tasklease_revoke_seconds_count", "task-ended"] == before + 1
    method = "CredentialService/AcquireCredential"
    assert found["tasklease_rpc_seconds_count", f"{method} OK"] >= 1
    assert found["tasklease_rpc_seconds_count", f"{method} TASK_NOT_ACTIVE"] >= 1
    assert found["tasklease_vault_seconds_count", "issue OK"] >= 1
    assert (
        found["tasklease_ready", ""]
        == found["tasklease_vault_up", ""]
        == found["tasklease_spire_up", ""]
        == 1
    )
    assert found["tasklease_svid_expires_timestamp_seconds", ""] > time.time()
    with urllib.request.urlopen(f"http://{world.stack.broker.metrics_address}/metrics") as answer:
        text = answer.read().decode()
    assert task_id not in text
    assert "spiffe://" not in text


def test_what_vault_holds_up_is_seen_to_grow_old(world: World) -> None:
    with world.calling() as caller:
        task_id = world.declare(caller)
        credential = world.acquire(caller, task_id)
        world.stack.stop_part(VAULT)
        world.complete(caller, task_id)
        until(lambda: scraped(world)["tasklease_vault_up", ""] == 0, "Vault is seen to be away")
        until(lambda: scraped(world)["tasklease_oldest_unrevoked_seconds", ""] > 2, "it grows old")
        assert scraped(world)["tasklease_leases", "revoking"] == 1
        assert scraped(world)["tasklease_ready", ""] == 1, "heartbeats and completions are worth making"
    world.stack.start_part(VAULT)
    until(lambda: not world.lets_in(credential), "refused")
    until(lambda: scraped(world)["tasklease_oldest_unrevoked_seconds", ""] == 0, "nothing is left")
    until(lambda: scraped(world)["tasklease_vault_up", ""] == 1, "Vault is back")


def test_a_store_that_cannot_be_written_is_not_ready_and_is_again_by_itself(world: World) -> None:
    with world.store_unavailable(), world.calling() as caller:
        assert world.try_declare(caller).reason == "STORE_UNAVAILABLE"
        until(lambda: scraped(world)["tasklease_store_writable", ""] == 0, "it is seen")
        until(lambda: scraped(world)["tasklease_ready", ""] == 0, "it says so")
        assert not world.stack.broker.healthy()
    until(lambda: scraped(world)["tasklease_ready", ""] == 1, "it is ready again, and nobody called")
    assert world.stack.broker.healthy()


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes traces as a collector does."""

    def __init__(self) -> None:
        self.spans: list[Any] = []

    def Export(self, request: Any, _context: Any) -> Any:  # noqa: N802 - the wire's name
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture
def collector(world: World) -> Iterator[Collector]:
    """A collector, and the broker set up to send everything there."""
    taking = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(taking, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    broker = world.stack.broker
    before = broker.config_file.read_text()
    world.stack.stop_part("broker")
    broker.config_file.write_text(f'{before}tracing: {{endpoint: "http://127.0.0.1:{port}", sample: 1.0}}\n')
    broker.launch()
    until(broker.healthy, "ready")
    yield taking
    world.stack.stop_part("broker")
    broker.config_file.write_text(before)
    world.stack.start_part("broker")
    server.stop(None).wait()


def test_a_trace_goes_from_the_rpc_to_vault_with_the_tasks_id(world: World, collector: Collector) -> None:
    with world.calling() as caller:
        task_id = world.declare(caller)
        world.acquire(caller, task_id)
        assert world.complete(caller, task_id).ok
    wanted = {"CredentialService/AcquireCredential", "TaskService/CompleteTask", "issue", "revoke"}
    until(lambda: wanted <= {span.name for span in collector.spans}, "the spans arrive")
    (rpc,) = [span for span in collector.spans if span.name == "CredentialService/AcquireCredential"]
    (issue,) = [span for span in collector.spans if span.name == "issue"]
    assert issue.parent_span_id == rpc.span_id
    assert issue.trace_id == rpc.trace_id
    attributes = {one.key: one.value.string_value for one in issue.attributes}
    assert attributes == {"tasklease.task_id": task_id, "tasklease.outcome": "OK"}
