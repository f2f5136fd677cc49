"""Durable state.

One way to write: `commit`, atomic, with each change's precondition checked inside. When `commit` returns, the
changes survive a power cut. Reads see everything that was committed before they began.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, Protocol

from broker.domain.actions import Action
from broker.domain.audit import AuditRecord, ChainHead
from broker.domain.changes import Change
from broker.domain.findings import RecordedFinding, Severity
from broker.domain.identifiers import ActionId, FindingId, LeaseId, TaskId, TokenAccessor
from broker.domain.lease import Lease, LeaseState
from broker.domain.messages import Message
from broker.domain.quarantine import Quarantine, QuarantineTarget
from broker.domain.quick import quick
from broker.domain.sightings import Sighting
from broker.domain.spiffe import SpiffeId
from broker.domain.task import Task, TaskState

CLAIM: Final = timedelta(seconds=3)
"""How long work that a replica took is its own; after that another may take it. By the store's clock."""


class Conflict(StrEnum):
    """Which precondition did not hold."""

    TASK_NOT_ACTIVE = "task-not-active"
    TASK_NOT_ENDING = "task-not-ending"
    TASK_HOLDS_LEASES = "task-holds-leases"
    TASK_LIMIT = "task-limit"
    TASK_KEY_TAKEN = "task-key-taken"
    LEASE_STATE = "lease-state"
    LEASE_LIMIT = "lease-limit"
    LEASE_KEY_TAKEN = "lease-key-taken"
    OWNER_QUARANTINED = "owner-quarantined"
    QUARANTINE_MISSING = "quarantine-missing"
    QUARANTINE_UNFINISHED = "quarantine-unfinished"
    CHAIN_MOVED_ON = "chain-moved-on"
    ACTION_STATE = "action-state"
    TASK_ON_HOLD = "task-on-hold"
    HOLD_MISSING = "hold-missing"
    FINDING_KNOWN = "finding-known"
    FINDING_STATE = "finding-state"
    MODEL_MOVED_ON = "model-moved-on"


class ConflictError(Exception):
    """A precondition did not hold; nothing of the commit was applied."""

    def __init__(self, conflict: Conflict) -> None:
        super().__init__(conflict.value)
        self.conflict = conflict


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPage:
    """One page of tasks, newest first; `next_token` is empty on the last."""

    tasks: tuple[Task, ...]
    next_token: str


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class ActionFacts:
    """A task and what is around it, as far as one decision needs it."""

    task: Task | None
    length: int
    """Of its chain."""
    denied: tuple[Action, ...]
    """Refusals that stick: all of the task, and those of its instance that still hold; newest first, bounded."""
    live_leases: int
    """Leases that are not final."""
    oldest_lease: datetime | None
    """When the oldest of them was issued."""
    holds_key: Lease | None = None
    """The lease that holds the idempotency key that was asked for (`Lease.holds_key`)."""
    under_key: Action | None = None
    """The action under the idempotency key that was asked for."""
    open_anomalies: int = 0
    """Findings about the task that nobody marked as false."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseCounts:
    """How many leases a task has had, and how many of them are not final."""

    ever: int
    unfinished: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineStatus:
    """A quarantine, and how much of what it concerns is left."""

    quarantine: Quarantine
    unfinished_tasks: int
    """Tasks that have not ended: what they hold may still be accepted by a backend (rule R3)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantinePage:
    """One page of quarantines, by kind and name; `next_token` is empty on the last."""

    quarantines: tuple[QuarantineStatus, ...]
    next_token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingFilter:
    """Which findings to look at; what is empty does not narrow."""

    detector: str = ""
    instance: str = ""
    task_id: str = ""
    least: Severity = Severity.LOW
    unmarked: bool = False
    unanswered: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingPage:
    """One page of findings, newest first; `next_token` is empty on the last."""

    findings: tuple[RecordedFinding, ...]
    next_token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    """What was learned, as `SaveModel` wrote it."""

    version: int
    data: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseFilter:
    """Which leases to look at; what is empty does not narrow, but without states only those that are not final."""

    states: frozenset[LeaseState] = frozenset()
    task_id: str = ""
    owner: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnedLease:
    """A lease, and whose task it belongs to."""

    lease: Lease
    owner: SpiffeId


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasePage:
    """One page of leases, oldest first; `next_token` is empty on the last."""

    leases: tuple[OwnedLease, ...]
    next_token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFigures:
    """How much there is of what is not final."""

    tasks: Mapping[TaskState, int]
    leases: Mapping[LeaseState, int]
    oldest_revoking_since: datetime | None
    """Since when the lease that waits longest is to be revoked."""
    unanswered_findings: int = 0
    """Findings whose answer has not taken effect in full."""
    messages: int = 0
    """Messages that are still to be delivered."""


class Store(Protocol):
    """State and audit. Every method can raise StoreUnavailableError."""

    async def commit(self, changes: Sequence[Change]) -> None:
        """Apply all `changes`, in order, or none.

        Raises:
            ConflictError: a precondition did not hold.
            StoreUnavailableError: not durable; nothing was applied.
        """
        ...

    async def task(self, task_id: TaskId) -> Task | None: ...

    async def task_by_key(self, owner: SpiffeId, idempotency_key: str) -> Task | None: ...

    async def tasks_of(
        self, owner: SpiffeId, *, states: AbstractSet[TaskState], page_size: int, page_token: str
    ) -> TaskPage:
        """One page of an owner's tasks; empty `states` means all.

        Raises:
            FieldInvalidError: `page_token` is not one that this store made.
        """
        ...

    async def lease(self, lease_id: LeaseId) -> Lease | None: ...

    async def leases_of(self, task_id: TaskId) -> tuple[Lease, ...]:
        """Return all leases of a task, oldest first."""
        ...

    async def lease_counts(self, task_id: TaskId) -> LeaseCounts:
        """Return how many leases a task has; none for one that does not exist."""
        ...

    async def task_tokens(self, task_id: TaskId) -> tuple[TokenAccessor, ...]: ...

    async def action_facts(
        self, task_id: TaskId, now: datetime, limit: int, *, key: str | None = None
    ) -> ActionFacts:
        """Return what a decision about the task needs; at most `limit` refusals, and what holds `key`."""
        ...

    async def actions_of(self, task_id: TaskId, after: int, limit: int) -> tuple[Action, ...]:
        """Return a task's chain in order, beyond position `after`."""
        ...

    async def action(self, action_id: ActionId) -> Action | None: ...

    async def take_lapsed_tasks(self, now: datetime, limit: int) -> tuple[Task, ...]:
        """Active tasks whose deadline or sign of life is overdue."""
        ...

    async def take_ending_tasks(self, limit: int) -> tuple[Task, ...]:
        """Return tasks that are ending and hold no lease that is not final, or have never held one."""
        ...

    async def take_leases_due_for_renewal(self, before: datetime, limit: int) -> tuple[Lease, ...]:
        """Return live, renewable leases of active tasks that expire before `before` and may still be extended."""
        ...

    async def take_expired_leases(self, now: datetime, limit: int) -> tuple[Lease, ...]:
        """Return live leases whose expiry has passed."""
        ...

    async def take_leases_to_revoke(
        self, now: datetime, limit: int, *, besides: Collection[LeaseId] = ()
    ) -> tuple[Lease, ...]:
        """Return revoking leases whose next attempt is due, longest waiting first, without those in `besides`.

        Not one without a Vault lease id while another that has one, and is not final, stands under the same
        token: it has to wait for that one, and must not take the place of those that can be revoked now.
        """
        ...

    async def take_intended_leases(
        self, before: datetime, limit: int, *, besides: Collection[LeaseId] = ()
    ) -> tuple[Lease, ...]:
        """Return leases that are still intended although they were so before `before`, without those in `besides`.

        A lease is claimed by the replica that commits its intent, or makes it revoking.
        """
        ...

    async def hold(self, leases: Collection[LeaseId]) -> frozenset[LeaseId]:
        """Claim these leases for another `CLAIM`; return those that no other replica has claimed."""
        ...

    async def take_turn(self, name: str, *, lasting: timedelta) -> bool:
        """Whether it is this replica that does what `name` names; no other one does for so long."""
        ...

    async def quarantines(self) -> tuple[Quarantine, ...]:
        """Return every quarantine that stands."""
        ...

    async def quarantine(self, target: QuarantineTarget) -> QuarantineStatus | None:
        """Return the quarantine of exactly this target."""
        ...

    async def quarantine_page(self, *, page_size: int, page_token: str) -> QuarantinePage:
        """One page of the quarantines that stand.

        Raises:
            FieldInvalidError: `page_token` is not one that this store made.
        """
        ...

    async def quarantined_tasks(self, limit: int) -> tuple[Task, ...]:
        """Return active tasks whose owner is quarantined."""
        ...

    async def identity(self) -> str:
        """What tells this store from every other: the same for as long as it exists, and in its copies."""
        ...

    async def lease_page(self, wanted: LeaseFilter, *, page_size: int, page_token: str) -> LeasePage:
        """One page of the leases of everybody.

        Raises:
            FieldInvalidError: `page_token` is not one that this store made.
        """
        ...

    async def task_of_token(self, accessor: TokenAccessor) -> Task | None:
        """The task for which a token was made, as far as it is known here."""
        ...

    async def finding(self, finding_id: FindingId) -> RecordedFinding | None: ...

    async def finding_page(self, wanted: FindingFilter, *, page_size: int, page_token: str) -> FindingPage:
        """One page of findings.

        Raises:
            FieldInvalidError: `page_token` is not one that this store made.
        """
        ...

    async def findings_after(self, number: int, limit: int) -> tuple[RecordedFinding, ...]:
        """Return findings beyond this number, in order."""
        ...

    async def newest_finding(self) -> int:
        """The number of the newest finding; 0 where there is none."""
        ...

    async def unanswered_findings(self, limit: int) -> tuple[RecordedFinding, ...]:
        """Return findings whose answer has not taken effect in full, oldest first."""
        ...

    async def findings_of_task(self, task_id: TaskId, limit: int) -> tuple[RecordedFinding, ...]:
        """Return findings about a task, oldest first."""
        ...

    async def active_owners(self, after: str, limit: int) -> tuple[SpiffeId, ...]:
        """Return the instances that have an active task, by their SPIFFE IDs, beyond `after`."""
        ...

    async def model(self) -> StoredModel | None:
        """What was learned of task types; None where nothing was saved."""
        ...

    async def sightings_of(self, instance: SpiffeId) -> tuple[Sighting, ...]:
        """Return the newest sightings of an instance, oldest first."""
        ...

    async def message_counts(self) -> Mapping[str, int]:
        """Return how many messages wait for each receiver that some wait for."""
        ...

    async def messages_to(self, receiver: str, limit: int) -> tuple[Message, ...]:
        """Return messages to `receiver`, due or not, oldest first. Whose turn it is to deliver them, `take_turn` says."""
        ...

    async def figures(self) -> StoreFigures:
        """Count what is not final; states without any are left out."""
        ...

    async def audit_records(self, after: int, limit: int) -> tuple[AuditRecord, ...]:
        """Return records with a sequence number above `after`, in order."""
        ...

    async def audit_head(self) -> ChainHead | None: ...

    async def close(self) -> None: ...
