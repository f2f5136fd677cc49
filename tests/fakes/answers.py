"""Findings that are recorded in a store, with the answer of the default rules; nothing is done about them."""

from __future__ import annotations

from broker.domain.answers import Answers
from broker.domain.audit import AuditEvent, AuditKind
from broker.domain.changes import Append, RecordFinding
from broker.domain.errors import StoreUnavailableError
from broker.domain.findings import Found, RecordedFinding
from broker.domain.identifiers import FindingId
from broker.ports.store import Store
from tests.fakes.samples import BROKER
from tests.fakes.system import FakeClock


class FakeAnswers:
    """Implements usecases.report_signal.AnswersFindings. While `down`, nothing is recorded."""

    def __init__(self, store: Store, clock: FakeClock) -> None:
        self.recorded: dict[FindingId, RecordedFinding] = {}
        self.asked: list[Found] = []
        self.requests: list[str] = []
        self.down = False
        self._store = store
        self._clock = clock

    async def __call__(self, found: Found, *, request_id: str = "") -> RecordedFinding:
        self.asked.append(found)
        self.requests.append(request_id)
        if self.down:
            raise StoreUnavailableError
        chosen = Answers().to(found, agent_class="invoice-bot", task_type="")
        finding = RecordedFinding(
            finding_id=found.finding_id, found=found, found_at=self._clock.now(), answer=chosen.answer
        )
        event = AuditEvent(
            kind=AuditKind.ANOMALY_FOUND,
            at=self._clock.now(),
            actor=str(BROKER),
            task_id=found.task_id or "",
            request_id=request_id,
            facts={"finding": found.finding_id},
        )
        await self._store.commit([RecordFinding(finding=finding), Append(event=event)])
        recorded = await self._store.finding(found.finding_id)
        assert recorded is not None
        self.recorded[found.finding_id] = recorded
        return recorded
