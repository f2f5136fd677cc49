"""Findings that are recorded and answered in memory, by the default rules."""

from __future__ import annotations

from typing import Any

from broker.domain.answers import Answers
from broker.domain.errors import StoreUnavailableError
from broker.domain.findings import Found, RecordedFinding
from broker.domain.identifiers import FindingId
from tests.fakes.system import FakeClock


class FakeAnswers:
    """Implements usecases.report_signal.AnswersFindings. While `down`, nothing is recorded."""

    def __init__(self, clock: FakeClock) -> None:
        self.recorded: dict[FindingId, RecordedFinding] = {}
        self.asked: list[Found] = []
        self.requests: list[str] = []
        self.down = False
        self._clock = clock

    async def __call__(self, found: Found, *, request_id: str = "") -> RecordedFinding:
        self.asked.append(found)
        self.requests.append(request_id)
        if self.down:
            raise StoreUnavailableError
        chosen = Answers().to(found, agent_class="invoice-bot", task_type="")
        return self.recorded.setdefault(
            found.finding_id,
            RecordedFinding(
                finding_id=found.finding_id,
                found=found,
                found_at=self._clock.now(),
                answer=chosen.answer,
                number=len(self.recorded) + 1,
            ),
        )

    def read_by(self, store: Any) -> None:
        """Let `store` say what is recorded here."""

        async def finding(finding_id: FindingId) -> RecordedFinding | None:
            return self.recorded.get(finding_id)

        store.finding = finding
