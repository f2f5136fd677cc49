"""Findings: that something is not right with an instance or a task, who says so, what was answered, and what people said of it.

What always holds: a finding has an id that follows from what was found, so that whoever finds the same again finds it recorded;
its words hold no argument's value; an answer is chosen once, when the finding is recorded, and only ever carried out again.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from broker.domain.identifiers import ActionId, FindingId, TaskId
from broker.domain.spiffe import SpiffeId

SIGNAL: Final = "signal"
"""Stands as the detector of a finding that somebody else reported."""


class Severity(StrEnum):
    """How bad it is if it is what it looks like."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0 for the least."""
        return list(Severity).index(self)


class Answer(StrEnum):
    """What is done because of a finding; each does no less than those before it."""

    NOTE = "note"
    """Record it."""
    WARN = "warn"
    """Tell the agent as well."""
    APPROVE = "approve"
    """Hold the task: its next step waits for a person."""
    FREEZE = "freeze"
    """Hold the task: it gets nothing new; what it holds is left to it."""
    END_TASK = "end-task"
    """End the task, and revoke what it holds."""
    QUARANTINE = "quarantine"
    """Quarantine the instance, which ends all of its tasks."""

    @property
    def rank(self) -> int:
        """0 for the least."""
        return list(Answer).index(self)


class Hold(StrEnum):
    """Why a task gets nothing new for now."""

    APPROVAL = "approval"
    """Its next step waits for a person."""
    FROZEN = "frozen"


class Mark(StrEnum):
    """What a person said of a finding."""

    NONE = ""
    FALSE = "false"
    CONFIRMED = "confirmed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was found, before it is recorded."""

    detector: str
    """A detector's name, or `SIGNAL`."""
    rule: str
    severity: Severity
    confidence: float
    """0 to 1: how sure whoever found it is that no honest work looks so."""
    instance: SpiffeId
    task_id: TaskId | None
    at: datetime
    """When it happened."""
    evidence: tuple[ActionId, ...] = ()
    expected: str = ""
    happened: str = ""
    source: str = ""
    """Who reported it: a SPIFFE ID or an issuer; empty for the broker's own detectors."""
    key: str = ""
    """What tells it from others like it where the rest does not: the id of a reported event."""

    @property
    def finding_id(self) -> FindingId:
        """The same for the same; of what was reported, for the same event of the same reporter, whatever is said of it."""
        parts: tuple[str, ...] = (
            self.detector,
            self.rule,
            str(self.instance),
            self.task_id or "",
            self.at.astimezone(UTC).isoformat(timespec="microseconds"),
            self.source,
            self.key,
            *self.evidence[-1:],
        )
        if self.detector == SIGNAL and self.key:
            parts = (SIGNAL, self.source, self.key)
        return FindingId("finding-" + hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32])


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedFinding:
    """A finding with what was answered."""

    finding_id: FindingId
    found: Found
    found_at: datetime
    """When it was recorded."""
    answer: Answer
    answered_at: datetime | None = None
    """When everything that the answer demanded had taken effect."""
    mark: Mark = Mark.NONE
    marked_by: str = ""
    number: int = 0
    """Its place among all findings, in the order of commit; the store gives it."""
