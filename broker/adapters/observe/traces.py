"""OpenTelemetry traces, sent by OTLP over gRPC. A span says an RPC or what was asked of Vault, the task, and the outcome."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from broker.ports.observing import OK, Kind, Outcome

_KINDS: Final = {Kind.RPC: SpanKind.SERVER, Kind.VAULT: SpanKind.CLIENT}


class Traces:
    """Implements ports.observing.Observer."""

    reads_carriers: Final = True

    def __init__(self, exporter: SpanExporter, *, service: str, sample: float) -> None:
        # A caller's own decision is not asked for: an agent could switch itself off, or the broker's sampling on.
        sampler = TraceIdRatioBased(sample)
        self._provider = TracerProvider(
            sampler=ParentBased(
                root=sampler, remote_parent_sampled=sampler, remote_parent_not_sampled=sampler
            ),
            resource=Resource.create({"service.name": "tasklease-broker", "service.instance.id": service}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("tasklease")
        self._propagator = TraceContextTextMapPropagator()

    @classmethod
    def to(cls, endpoint: str, *, service: str, sample: float) -> Traces:
        """Send them to a collector: `http://HOST:PORT`, or `https://` with the system's authorities."""
        exporter = OTLPSpanExporter(endpoint=endpoint, insecure=endpoint.startswith("http://"), timeout=5)
        return cls(exporter, service=service, sample=sample)

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()

    @contextmanager
    def watch(
        self, kind: Kind, name: str, *, task_id: str = "", carrier: Mapping[str, str] | None = None
    ) -> Iterator[Outcome]:
        """See ports.observing."""
        outcome = Outcome()
        context = self._propagator.extract(carrier) if carrier else None
        attributes = {"tasklease.task_id": task_id} if task_id else {}
        with self._tracer.start_as_current_span(
            name,
            context=context,
            kind=_KINDS[kind],
            attributes=attributes,
            record_exception=False,  # its text could be anything
            set_status_on_exception=False,
        ) as span:
            try:
                yield outcome
            except BaseException as error:
                outcome.raised(error)
                raise
            finally:
                span.set_attribute("tasklease.outcome", outcome.value)
                if outcome.value != OK:
                    span.set_status(Status(StatusCode.ERROR))
