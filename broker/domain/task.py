"""Tasks and their state machine.

    active ──end──▶ ending ──finish──▶ ended

What always holds: a transition not drawn above raises `IllegalTransitionError`; `ending` never goes back; the
scope is fixed at declaration (rule R8); `ended` means that the task holds nothing a backend accepts (R3).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from broker.domain.errors import IllegalTransitionError
from broker.domain.findings import Hold
from broker.domain.identifiers import TaskId
from broker.domain.spiffe import SpiffeId

GRACE_INTERVALS: Final = 3
"""A task lives this many heartbeat intervals after its last sign of life."""

STREAM_GRACE: Final = 1.5
"""And this many after its last attached stream has closed: time for another one, or for a heartbeat."""

LONGEST_SVID_GRACE: Final = timedelta(seconds=30)
"""A task lives one heartbeat interval, and at most this, after the SVID of its last sign of life has expired: SPIRE gives
a new one long before, but the stream on the old one's connection ends with it."""


class TaskState(StrEnum):
    """Where a task is in its life."""

    ACTIVE = "active"
    ENDING = "ending"
    ENDED = "ended"


class EndCause(StrEnum):
    """Why a task ended."""

    COMPLETED = "completed"
    DEADLINE = "deadline"
    HEARTBEAT_LOST = "heartbeat-lost"
    REVOKED = "revoked"
    QUARANTINED = "quarantined"
    INSTANCE_GONE = "instance-gone"
    SVID_EXPIRED = "svid-expired"
    FINGERPRINT_CHANGED = "fingerprint-changed"
    ANOMALY = "anomaly"


class Outcome(StrEnum):
    """How the agent says that its task went."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEnd:
    """Why and how a task ended; `reason` is the agent's or operator's words, bounded."""

    cause: EndCause
    at: datetime
    outcome: Outcome | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a task may use; never grows."""

    roles: frozenset[str]
    tools: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A unit of work that an instance declared."""

    task_id: TaskId
    owner: SpiffeId
    agent_class: str
    task_type: str
    intent: str
    scope: Scope
    environment: str
    created_at: datetime
    deadline: datetime
    heartbeat_interval: timedelta
    heartbeat_due: datetime
    """By when the next sign of life is wanted; never after `svid_due`."""
    fingerprint: bytes = b""
    idempotency_key: str | None = None
    request_digest: str = ""
    state: TaskState = TaskState.ACTIVE
    end: TaskEnd | None = None
    ended_at: datetime | None = None
    svid_due: datetime | None = None
    """By when a sign of life with a newer SVID than that of the last one is wanted."""
    hold: Hold | None = None
    """Why it gets nothing new for now."""

    def ending(self, end: TaskEnd) -> Task:
        """Active to ending.

        Raises:
            IllegalTransitionError: the task is not active.
        """
        if self.state is not TaskState.ACTIVE:
            raise IllegalTransitionError(self.task_id, self.state, TaskState.ENDING)
        return replace(self, state=TaskState.ENDING, end=end)

    def finished(self, at: datetime) -> Task:
        """Ending to ended; the caller has seen every lease refused.

        Raises:
            IllegalTransitionError: the task is not ending.
        """
        if self.state is not TaskState.ENDING:
            raise IllegalTransitionError(self.task_id, self.state, TaskState.ENDED)
        return replace(self, state=TaskState.ENDED, ended_at=at)

    def lapsed(self, now: datetime) -> EndCause | None:
        """Why an active task must end now, if it must."""
        if self.state is not TaskState.ACTIVE:
            return None
        if now >= self.deadline:
            return EndCause.DEADLINE
        if now >= self.heartbeat_due:
            by_svid = self.svid_due is not None and self.svid_due <= self.heartbeat_due
            return EndCause.SVID_EXPIRED if by_svid else EndCause.HEARTBEAT_LOST
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class SignOfLife:
    """What follows from one: by when the next is wanted, and by when one with a newer SVID."""

    heartbeat_due: datetime
    svid_due: datetime

    @classmethod
    def given(cls, *, at: datetime, interval: timedelta, svid_expires_at: datetime) -> SignOfLife:
        """A sign of life at `at`, by a caller whose SVID expires then."""
        svid_due = svid_expires_at + min(interval, LONGEST_SVID_GRACE)
        return cls(heartbeat_due=min(at + interval * GRACE_INTERVALS, svid_due), svid_due=svid_due)
