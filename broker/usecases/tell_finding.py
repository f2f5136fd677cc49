"""The story of a finding, from the audit trail: what its task did, which steps show it, and what was done, with how long it took.

Leaves out what the trail leaves out: arguments of calls are in no story, but for what an effect's resource names.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from broker.anomaly.findings import named
from broker.domain.audit import AuditEvent, AuditKind, AuditRecord
from broker.usecases.recorded_findings import ANSWERED, FOUND, TrailFinding

MOST_STEPS: Final = 60
"""Steps of a story: the newest, and those that are evidence."""

_DECIDED: Final = {
    AuditKind.ACTION_ALLOWED: "call",
    AuditKind.ACTION_DENIED: "call",
    AuditKind.CREDENTIAL_INTENDED: "acquire",
    AuditKind.CREDENTIAL_DENIED: "acquire",
}
_DENIED: Final = {AuditKind.ACTION_DENIED, AuditKind.CREDENTIAL_DENIED}
_DONE: Final = {
    AuditKind.TASK_ENDING: "the task is ending: nothing more is issued",
    AuditKind.LEASE_REVOKING: "a credential is to be revoked",
    AuditKind.LEASE_REVOKED: "a credential is refused",
    AuditKind.TASK_ENDED: "the task has ended: it holds nothing any more",
    AuditKind.QUARANTINE_IMPOSED: "the instance is quarantined",
}
"""What an answer does, in words."""


@dataclass(slots=True, kw_only=True)
class Step:
    """Something that the task did."""

    at: datetime
    what: str
    """`declare reconcile-invoices`, `call 'send-report'`; a name that no catalog could have is not repeated."""
    effect: str = ""
    verdict: str = ""
    """`allowed`, or `denied` with the reason and the class of the denial."""
    outcome: str = ""
    is_evidence: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Something that was done."""

    at: datetime
    what: str
    after: timedelta
    """Since what was found had happened."""


@dataclass(slots=True, kw_only=True)
class Story:
    """All of it."""

    finding: TrailFinding
    steps: list[Step] = field(default_factory=list)
    left_out: int = 0
    """Earlier steps."""
    moments: list[Moment] = field(default_factory=list)


class _Steps:
    """Those of a task, as many as a story has."""

    def __init__(self, finding: TrailFinding) -> None:
        self._finding = finding
        self._evidence: list[tuple[int, Step]] = []
        self._newest: deque[tuple[int, Step]] = deque(maxlen=MOST_STEPS)
        self._by_action: dict[str, Step] = {}
        self._count = 0

    def take(self, event: AuditEvent) -> None:
        """One more record of the task."""
        facts = event.facts
        if event.kind == AuditKind.ACTION_CLOSED:
            step = self._by_action.get(str(facts.get("action", "")))
            if step is not None:
                step.outcome = str(facts.get("outcome", ""))
        elif event.kind == AuditKind.TASK_DECLARED:
            self._add(Step(at=event.at, what=f"declare {facts.get('task_type', '')}"))
        elif event.kind in _DECIDED and event.at <= self._finding.found_at:
            action_id = str(facts.get("action", ""))
            step = _decided(event, is_evidence=action_id in self._finding.evidence)
            self._by_action[action_id] = step
            self._add(step)

    def _add(self, step: Step) -> None:
        self._count += 1
        (self._evidence if step.is_evidence else self._newest).append((self._count, step))

    def told(self) -> tuple[list[Step], int]:
        """In order, and how many earlier ones are left out."""
        kept = sorted([*self._evidence, *self._newest], key=lambda pair: pair[0])
        return [step for _, step in kept], self._count - len(kept)


def tell(finding: TrailFinding, records: Iterable[AuditRecord]) -> Story:
    """Tell it from all records, in order."""
    story, steps = Story(finding=finding), _Steps(finding)
    for record in records:
        event = record.event
        if finding.task_id is not None and event.task_id == finding.task_id:
            steps.take(event)
        what = _what_was_done(event, finding)
        if what and event.at >= finding.at:
            story.moments.append(Moment(at=event.at, what=what, after=event.at - finding.at))
    story.steps, story.left_out = steps.told()
    return story


def _what_was_done(event: AuditEvent, finding: TrailFinding) -> str:
    facts = event.facts
    if event.kind == FOUND and facts.get("finding") == finding.finding_id:
        return "found, and the answer chosen"
    if event.kind == ANSWERED and facts.get("finding") == finding.finding_id:
        return "everything that was demanded has taken effect"
    if event.kind == AuditKind.QUARANTINE_IMPOSED:
        return _DONE[event.kind] if facts.get("name") == finding.instance else ""
    if event.kind in _DONE and finding.task_id is not None and event.task_id == finding.task_id:
        name = facts.get("role") or facts.get("cause") or ""
        return _DONE[event.kind] + (f" ({name})" if name else "")
    return ""


def _decided(event: AuditEvent, *, is_evidence: bool) -> Step:
    facts = event.facts
    verdict = "allowed"
    if event.kind in _DENIED:
        verdict = f"denied ({facts.get('reason', '')}, {facts.get('denial_class', '') or 'no class'})"
    return Step(
        at=event.at,
        what=f"{_DECIDED[event.kind]} {named(str(facts.get('tool') or facts.get('role') or ''))}",
        effect=str(facts.get("effect", "")),
        verdict=verdict,
        is_evidence=is_evidence,
    )
