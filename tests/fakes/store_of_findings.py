"""What the store in memory keeps of findings, holds, sightings and messages."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from broker.domain import changes as c
from broker.domain.errors import FieldInvalidError, FieldViolation
from broker.domain.findings import Mark, RecordedFinding
from broker.domain.identifiers import FindingId, MessageId, TaskId
from broker.domain.messages import Message
from broker.domain.sightings import MOST_SIGHTINGS, Sighting
from broker.domain.spiffe import SpiffeId
from broker.ports.store import Conflict, ConflictError, FindingFilter, FindingPage, StoredModel

FindingChange = (
    c.RecordFinding
    | c.AnswerFinding
    | c.MarkFinding
    | c.SaveModel
    | c.SeeInstance
    | c.AddMessage
    | c.PostponeMessage
    | c.RemoveMessage
)


@dataclass(slots=True, kw_only=True)
class Findings:
    found: dict[FindingId, RecordedFinding] = field(default_factory=dict)
    model: StoredModel | None = None
    sightings: dict[SpiffeId, tuple[Sighting, ...]] = field(default_factory=dict)
    messages: dict[MessageId, Message] = field(default_factory=dict)

    def copy(self) -> Findings:
        return Findings(
            found=dict(self.found),
            model=self.model,
            sightings=dict(self.sightings),
            messages=dict(self.messages),
        )

    def open_of(self, task_id: TaskId) -> int:
        return sum(one.mark is not Mark.FALSE for one in self.found.values() if one.found.task_id == task_id)

    def apply(self, change: FindingChange) -> None:  # noqa: C901 - one arm a change
        match change:
            case c.RecordFinding(finding=finding):
                if finding.finding_id in self.found:
                    raise ConflictError(Conflict.FINDING_KNOWN)
                self.found[finding.finding_id] = replace(finding, number=len(self.found) + 1)
            case c.AnswerFinding(finding_id=finding_id, at=at):
                known = self._known(finding_id)
                if known.answered_at is not None:
                    raise ConflictError(Conflict.FINDING_STATE)
                self.found[finding_id] = replace(known, answered_at=at)
            case c.MarkFinding(finding_id=finding_id, mark=mark, by=by):
                self.found[finding_id] = replace(self._known(finding_id), mark=mark, marked_by=by)
            case c.SaveModel(version=version, data=data):
                if version != (self.model.version if self.model else 0) + 1:
                    raise ConflictError(Conflict.MODEL_MOVED_ON)
                self.model = StoredModel(version=version, data=data)
            case c.SeeInstance(instance=instance, sighting=sighting):
                kept = (*self.sightings.get(instance, ()), sighting)
                self.sightings[instance] = kept[-MOST_SIGHTINGS:]
            case c.AddMessage(message=message):
                self.messages[message.message_id] = message
            case c.PostponeMessage(message_id=message_id, next_attempt_at=later):
                if message_id in self.messages:
                    old = self.messages[message_id]
                    new = replace(old, attempts=old.attempts + 1, next_attempt_at=later)
                    self.messages[message_id] = new
            case c.RemoveMessage(message_id=message_id):
                self.messages.pop(message_id, None)

    def page(self, wanted: FindingFilter, page_size: int, page_token: str) -> FindingPage:
        if page_token and not page_token.isdecimal():
            raise FieldInvalidError([FieldViolation(field="page_token", remedy="give it back as it was")])
        found = [
            one
            for one in reversed(self.found.values())
            if (not page_token or one.number < int(page_token))
            and wanted.detector in {"", one.found.detector}
            and wanted.instance in {"", str(one.found.instance)}
            and wanted.task_id in {"", one.found.task_id}
            and one.found.severity.rank >= wanted.least.rank
            and not (wanted.unmarked and one.mark is not Mark.NONE)
            and not (wanted.unanswered and one.answered_at is not None)
        ]
        page = tuple(found[:page_size])
        return FindingPage(findings=page, next_token=str(page[-1].number) if len(found) > page_size else "")

    def counts(self) -> dict[str, int]:
        return dict(Counter(one.receiver for one in self.messages.values()))

    def to(self, receiver: str, limit: int) -> tuple[Message, ...]:
        found = [one for one in self.messages.values() if one.receiver == receiver]
        return tuple(sorted(found, key=lambda one: (one.created_at, one.message_id))[:limit])

    def _known(self, finding_id: FindingId) -> RecordedFinding:
        if finding_id not in self.found:
            raise ConflictError(Conflict.FINDING_STATE)
        return self.found[finding_id]
