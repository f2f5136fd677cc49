"""Take what somebody outside reports of an agent instance, and have it answered as a finding.

    S1  who it is about is an instance of a class that the reporter may speak of; task and actions are that instance's
    S2  what is known already is answered as the first time, and changes nothing
    S3  the reporter keeps to its budget
    S4  the signal is durable, with who reported it and what they said
    S5  the finding and its answer are durable; what the answer demands goes on in the background

A crash after S4 leaves a signal without a finding: the reporter has no answer, and sends it again.
The reporter's word is never taken for more than it is: severity has a cap (domain/signals.py), and nothing is ever lifted,
released or allowed by it. A quarantined instance can be reported like any other: that is evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from broker.domain.audit import AuditEvent, AuditKind
from broker.domain.changes import Append
from broker.domain.errors import (
    ActionNotFoundError,
    AgentClassUnknownError,
    IdempotencyKeyReusedError,
    StoreUnavailableError,
    TaskNotFoundError,
)
from broker.domain.findings import Found, RecordedFinding
from broker.domain.signals import ReporterBounds, Signal, says_the_same
from broker.domain.spiffe import AgentIdentity
from broker.ports.policy import CatalogSource
from broker.ports.store import Store
from broker.ports.system import Clock
from broker.usecases.signal_budget import SignalBudget


class AnswersFindings(Protocol):
    """What records a finding and has it answered."""

    async def __call__(self, found: Found, *, request_id: str = "") -> RecordedFinding:
        """Return it as recorded; the same again returns what is recorded.

        Raises:
            StoreUnavailableError: nothing is recorded.
        """
        ...


class ReportSignal:
    """See the module."""

    def __init__(
        self,
        *,
        store: Store,
        catalogs: CatalogSource,
        answer_findings: AnswersFindings,
        bounds_of: Callable[[str], ReporterBounds],
        clock: Clock,
    ) -> None:
        """`bounds_of` knows every reporter that a door lets in."""
        self._store = store
        self._catalogs = catalogs
        self._answer_findings = answer_findings
        self._bounds_of = bounds_of
        self._clock = clock
        self._budget = SignalBudget()

    async def __call__(
        self, signal: Signal, *, shown: Mapping[str, object], request_id: str
    ) -> RecordedFinding:
        """Record and answer it. `shown` is how the reporter was verified, for the audit record.

        Raises:
            AgentClassUnknownError, TaskNotFoundError, ActionNotFoundError: it is about nobody that the reporter may speak of.
            IdempotencyKeyReusedError: the same event's id stands for something else.
            RateLimitedError: the reporter has reported too much.
            StoreUnavailableError: not all of it is durable; to be sent again.
        """
        bounds, now = self._bounds_of(signal.reporter), self._clock.now()
        await self._look_at_subject(signal, bounds)  # S1
        found = signal.as_found(bounds, now)
        known = await self._store.finding(found.finding_id)  # S2
        if known is None:
            self._budget.take(signal.reporter, bounds.per_minute, now)  # S3
            try:
                await self._store.commit([Append(event=self._event(signal, found, shown, request_id))])  # S4
                known = await self._answer_findings(found, request_id=request_id)  # S5
            except StoreUnavailableError:
                self._budget.give_back(signal.reporter, bounds.per_minute)
                raise
        if not says_the_same(known.found, found):
            raise IdempotencyKeyReusedError
        return known

    async def _look_at_subject(self, signal: Signal, bounds: ReporterBounds) -> None:
        identity = AgentIdentity.of(signal.instance)
        listed = identity is not None and (
            self._catalogs.current().agent_class(signal.instance.trust_domain, identity.agent_class)
        )
        if (
            identity is None
            or not listed
            or (bounds.agent_classes and identity.agent_class not in bounds.agent_classes)
        ):
            text = "the subject is no instance of an agent class that this reporter may speak of"
            raise AgentClassUnknownError(text)
        if signal.task_id is not None:
            task = await self._store.task(signal.task_id)
            if task is None or task.owner != signal.instance:
                raise TaskNotFoundError
        for action_id in signal.evidence:
            action = await self._store.action(action_id)
            if (
                action is None
                or action.owner != signal.instance
                or signal.task_id not in {None, action.task_id}
            ):
                raise ActionNotFoundError

    def _event(
        self, signal: Signal, found: Found, shown: Mapping[str, object], request_id: str
    ) -> AuditEvent:
        return AuditEvent(
            kind=AuditKind.SIGNAL_RECEIVED,
            at=self._clock.now(),
            actor=signal.reporter,
            task_id=signal.task_id or "",
            request_id=request_id,
            facts={
                "finding": found.finding_id,
                "event": signal.event_id,
                "kind": signal.kind.value,
                "instance": str(signal.instance),
                "severity": signal.severity.value,
                "counted_as": found.severity.value,
                "confidence": signal.confidence,
                "happened": signal.happened,
                "happened_at": signal.at.isoformat(),
                "evidence": list(signal.evidence),
                **shown,
            },
        )
