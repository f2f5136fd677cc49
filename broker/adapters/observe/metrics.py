"""Prometheus metrics, over HTTP at an address of their own. No label has a name that an agent chose.

docs/observability.md lists them; a test compares.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from broker.domain.decision import Decision
from broker.domain.findings import Answer, RecordedFinding
from broker.domain.lease import LeaseState
from broker.domain.messages import ReceiverKind
from broker.domain.task import EndCause, TaskState
from broker.ports.observing import Kind, Outcome
from broker.ports.store import StoreFigures
from broker.usecases.reconcile import FindingKind, Reconciliation
from broker.usecases.task_events import EventKind, TaskEvent

_QUICK: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_UNTIL_ANSWERED: Final = (
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    15,
    60,
    300,
    1800,
    7200,
)
_UNTIL_REVOKED: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 1800, 7200)


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What a round saw."""

    vault: bool
    spire: bool
    store: bool
    svid_expires_at: datetime | None
    ready: bool


class _Watched:
    """A piece of work under way. Not a generator: each call has one, and twice as much for it counts."""

    __slots__ = ("_began", "_metrics", "_outcome", "_what")

    def __init__(self, metrics: PrometheusMetrics, kind: Kind, name: str) -> None:
        self._metrics = metrics
        self._what = (kind, name)
        self._outcome = Outcome()
        self._began = time.perf_counter()

    def __enter__(self) -> Outcome:
        return self._outcome

    def __exit__(self, _kind: object, error: BaseException | None, _where: object) -> None:
        if error is not None:
            self._outcome.raised(error)
        self._metrics.took(*self._what, self._outcome.value, time.perf_counter() - self._began)


class PrometheusMetrics:
    """Implements ports.observing.Observer; the rest is told by rounds and by events."""

    reads_carriers: Final = False

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._work = {
            kind: Histogram(
                f"tasklease_{kind.value}_seconds",
                text,
                [label, "outcome"],
                buckets=_QUICK,
                registry=self.registry,
            )
            for kind, label, text in (
                (Kind.RPC, "method", "Unary calls at the broker."),
                (Kind.VAULT, "operation", "What was asked of Vault."),
            )
        }
        self._revoked = Histogram(
            "tasklease_revoke_seconds",
            "From the moment a lease was to be revoked until the backend refused it.",
            ["cause"],
            buckets=_UNTIL_REVOKED,
            registry=self.registry,
        )
        self._ended = Counter(
            "tasklease_tasks_ending_total", "Tasks that began to end.", ["cause"], registry=self.registry
        )
        self._differed = Counter(
            "tasklease_reconciled_total",
            "What differed between the store and Vault.",
            ["kind"],
            registry=self.registry,
        )
        self._decisions = Counter(
            "tasklease_decisions_total",
            "Decisions: of which action, what was answered, why not, and whether the candidate in the shadow agrees.",
            ["action", "verdict", "reason", "shadow"],
            registry=self.registry,
        )
        self._found = Counter(
            "tasklease_findings_total",
            "Anomalies found: by which detector, how bad, and what is done about them.",
            ["detector", "severity", "answer"],
            registry=self.registry,
        )
        self._answered = Histogram(
            "tasklease_finding_answered_seconds",
            "From the moment a finding was recorded until all that its answer demanded had taken effect.",
            ["answer"],
            buckets=_UNTIL_ANSWERED,
            registry=self.registry,
        )
        for answer in Answer:
            self._answered.labels(answer.value)
        self._counted: dict[tuple[str, str, str, str], Counter] = {}
        self._observed: dict[tuple[Kind, str, str], Histogram] = {}
        """The library looks for its labels in a costlier way."""
        for kind in FindingKind:
            self._differed.labels(kind.value)
        self._tasks = self._gauge("tasklease_tasks", "Tasks that have not ended.", ["state"])
        self._leases = self._gauge("tasklease_leases", "Leases that are not final.", ["state"])
        self._oldest = self._gauge(
            "tasklease_oldest_unrevoked_seconds",
            "For how long the oldest lease that is to be revoked still waits to be refused; 0 where none does.",
        )
        self._queue = self._gauge("tasklease_revocations_under_way", "Revocations begun in this process.")
        self._unanswered = self._gauge(
            "tasklease_findings_unanswered", "Findings whose answer has not taken effect in full."
        )
        self._watches = self._gauge("tasklease_watches", "Instances that are watched here.")
        self._watch_values = self._gauge(
            "tasklease_watch_values", "Values that watches hold: now, and at most.", ["of"]
        )
        self._vault_up = self._gauge("tasklease_vault_up", "1 while the broker is logged in to Vault.")
        self._spire_up = self._gauge("tasklease_spire_up", "1 while the broker has an SVID that is valid.")
        self._store = self._gauge("tasklease_store_writable", "1 while the last write to the store worked.")
        self._svid = self._gauge(
            "tasklease_svid_expires_timestamp_seconds", "When the broker's own SVID expires."
        )
        self._ready = self._gauge("tasklease_ready", "1 while calls are worth making.")
        self._messages = Counter(
            "tasklease_messages_total",
            "Messages to systems outside: what came of each attempt, and what was given up or left out.",
            ["kind", "outcome"],
            registry=self.registry,
        )
        self._waiting = self._gauge(
            "tasklease_messages_waiting", "Messages to systems outside that nobody has taken yet.", ["kind"]
        )
        for cause in EndCause:
            self._ended.labels(cause.value)

    def _gauge(self, name: str, text: str, labels: list[str] | None = None) -> Gauge:
        return Gauge(name, text, labels or [], registry=self.registry)

    def serve(self, address: str) -> tuple[str, int]:
        """Serve /metrics; return where.

        Raises:
            OSError: the address cannot be listened on.
        """
        host, _, port = address.rpartition(":")
        server, _ = start_http_server(int(port), host.strip("[]"), self.registry)
        self._server = server
        return host, server.server_port

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()

    def watch(
        self,
        kind: Kind,
        name: str,
        *,
        task_id: str = "",  # noqa: ARG002
        carrier: Mapping[str, str] | None = None,  # noqa: ARG002
    ) -> AbstractContextManager[Outcome]:
        """See ports.observing."""
        return _Watched(self, kind, name)

    def took(self, kind: Kind, name: str, outcome: str, seconds: float) -> None:
        """Count a piece of work."""
        key = (kind, name, outcome)
        observed = self._observed.get(key)
        if observed is None:
            observed = self._observed[key] = self._work[kind].labels(name, outcome)
        observed.observe(seconds)

    def heard(self, event: TaskEvent) -> None:
        """An event of some task."""
        lease = event.lease
        if event.kind is EventKind.LEASE_REVOKED and lease and lease.revoking_since and lease.revoked_at:
            took = (lease.revoked_at - lease.revoking_since).total_seconds()
            cause = lease.revoke_cause.value if lease.revoke_cause else ""
            self._revoked.labels(cause).observe(max(took, 0.0))
        elif event.kind is EventKind.TASK_ENDING and event.cause is not None:
            self._ended.labels(event.cause.value).inc()

    def decided(self, action: str, decision: Decision) -> None:
        """A decision."""
        shadow = decision.shadow
        agrees = "none" if shadow is None else "agrees" if shadow.verdict is decision.verdict else "differs"
        key = (action, decision.verdict.value, decision.reason, agrees)
        counter = self._counted.get(key)
        if counter is None:
            counter = self._counted[key] = self._decisions.labels(*key)
        counter.inc()

    def found(self, finding: RecordedFinding) -> None:
        """A finding, recorded."""
        found = finding.found
        self._found.labels(found.detector, found.severity.value, finding.answer.value).inc()

    def answered(self, finding: RecordedFinding) -> None:
        """A finding of which everything that its answer demanded has taken effect."""
        if finding.answered_at is not None:
            took = (finding.answered_at - finding.found_at).total_seconds()
            self._answered.labels(finding.answer.value).observe(max(took, 0.0))

    def watching(self, size: int, most: int, watches: int) -> None:
        """How many watches there are, and how many values they hold, and can hold at most."""
        self._watches.set(watches)
        self._watch_values.labels("now").set(size)
        self._watch_values.labels("most").set(most)

    def attempted(self, kind: ReceiverKind, outcome: str) -> None:
        """See ports.telling.TellingWatched."""
        self._messages.labels(kind.value, outcome).inc()

    def waiting(self, counts: Mapping[ReceiverKind, int]) -> None:
        """See ports.telling.TellingWatched."""
        for kind, count in counts.items():
            self._waiting.labels(kind.value).set(count)

    def reconciled(self, found: Reconciliation) -> None:
        """What a comparison of the store with Vault found."""
        for finding in found.findings:
            self._differed.labels(finding.kind.value).inc()

    def figures(self, figures: StoreFigures, now: datetime, *, revocations_under_way: int) -> None:
        """What a round read in the store."""
        for state in TaskState:
            if state is not TaskState.ENDED:
                self._tasks.labels(state.value).set(figures.tasks.get(state, 0))
        for lease_state in LeaseState:
            if not lease_state.is_final:
                self._leases.labels(lease_state.value).set(figures.leases.get(lease_state, 0))
        since = figures.oldest_revoking_since
        self._oldest.set(max((now - since).total_seconds(), 0.0) if since else 0)
        self._queue.set(revocations_under_way)
        self._unanswered.set(figures.unanswered_findings)

    def health(self, health: Health) -> None:
        """What a round saw."""
        self._vault_up.set(health.vault)
        self._spire_up.set(health.spire)
        self._store.set(health.store)
        self._ready.set(health.ready)
        if health.svid_expires_at is not None:
            self._svid.set(health.svid_expires_at.timestamp())
