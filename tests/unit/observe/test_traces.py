"""What a trace says, and what a caller can make it say."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from broker.adapters.observe.issuer import WatchedIssuer
from broker.adapters.observe.together import Observers
from broker.adapters.observe.traces import Traces
from broker.domain.errors import CredentialBackendUnavailableError
from broker.domain.identifiers import TaskId, VaultLeaseId
from broker.ports.observing import Kind
from tests.fakes.issuer import FakeIssuer
from tests.fakes.samples import a_role
from tests.unit.usecases.wiring import TIMEOUT

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


class Traced:
    def __init__(self, sample: float = 1.0) -> None:
        self._exporter = InMemorySpanExporter()
        self._traces = Traces(self._exporter, service="test", sample=sample)
        self.observers = Observers(self._traces)

    def spans(self) -> dict[str, ReadableSpan]:
        self._traces.close()
        return {span.name: span for span in self._exporter.get_finished_spans()}


async def test_an_rpc_and_what_it_asks_of_vault_are_one_trace_of_the_callers() -> None:
    traced = Traced()
    issuer = WatchedIssuer(FakeIssuer(), traced.observers)
    with traced.observers.watch(
        Kind.RPC, "CredentialService/AcquireCredential", carrier={"traceparent": PARENT}
    ):
        await issuer.open_task(TaskId("task-1"), [a_role()], TIMEOUT, timeout=TIMEOUT)
    spans = traced.spans()
    rpc, vault = spans["CredentialService/AcquireCredential"], spans["open_task"]
    assert rpc.context is not None
    assert vault.context is not None
    assert f"{rpc.context.trace_id:032x}" == TRACE
    assert vault.parent is not None
    assert vault.parent.span_id == rpc.context.span_id
    assert dict(vault.attributes or {}) == {"tasklease.task_id": "task-1", "tasklease.outcome": "OK"}


async def test_an_exceptions_text_is_in_no_span() -> None:
    traced, fake = Traced(), FakeIssuer()
    fake.away = True
    with pytest.raises(CredentialBackendUnavailableError):
        await WatchedIssuer(fake, traced.observers).revoke(VaultLeaseId("database/1"), timeout=TIMEOUT)
    planted = RuntimeError("hvs.planted")
    with pytest.raises(RuntimeError), traced.observers.watch(Kind.RPC, "GetTask"):
        raise planted
    for span in traced.spans().values():
        assert "planted" not in span.to_json()
        assert not span.status.is_ok
        assert not span.events


@pytest.mark.parametrize("flag", ["00", "01"])
def test_a_caller_does_not_say_what_is_sampled(flag: str) -> None:
    for sample, number in ((0.0, 0), (1.0, 1)):
        traced = Traced(sample)
        with traced.observers.watch(Kind.RPC, "GetTask", carrier={"traceparent": PARENT[:-2] + flag}):
            pass
        assert len(traced.spans()) == number


@pytest.mark.parametrize("nonsense", ["", "nonsense", "00-0-0-00", "ff" * 200])
def test_nonsense_in_a_callers_trace_begins_a_new_one(nonsense: str) -> None:
    traced = Traced()
    with traced.observers.watch(Kind.RPC, "GetTask", carrier={"traceparent": nonsense}):
        pass
    (span,) = traced.spans().values()
    assert span.parent is None
