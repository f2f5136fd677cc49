"""What use cases ask the store to make durable: changes, applied together or not at all.

A change carries its own precondition, checked in the same transaction, so that a race (a task that is ended while
a credential for it is being made) is lost cleanly and never overwritten. Audit events are changes like any other:
state and its audit record are durable together (rule R1; docs/adr/0003).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from broker.domain.actions import Action, ActionOutcome
from broker.domain.audit import AuditEvent
from broker.domain.findings import Hold, Mark, RecordedFinding
from broker.domain.identifiers import (
    ActionId,
    FindingId,
    LeaseId,
    MessageId,
    TaskId,
    TokenAccessor,
    VaultLeaseId,
)
from broker.domain.lease import Lease, RevokeCause
from broker.domain.messages import Message
from broker.domain.quarantine import Quarantine, QuarantineTarget
from broker.domain.quick import quick
from broker.domain.sightings import Sighting
from broker.domain.spiffe import SpiffeId
from broker.domain.task import Task, TaskEnd


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateTask:
    """A new active task. Precondition: its owner is not quarantined, has fewer than `max_live` tasks that have not
    ended, and has no task under the same idempotency key."""

    task: Task
    max_live: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AddTaskToken:
    """The accessor of a Vault token made for the task. Precondition: the task is active, so that whoever ends it
    sees every token there is."""

    task_id: TaskId
    accessor: TokenAccessor
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TouchTask:
    """A sign of life. Precondition: the task is active."""

    task_id: TaskId
    heartbeat_due: datetime
    svid_due: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DetachTask:
    """The last stream has closed: a sign of life is wanted sooner, never later. Precondition: the task is active."""

    task_id: TaskId
    heartbeat_due: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class EndTask:
    """Active to ending, and every lease that is intended or live to revoking. Precondition: the task is active."""

    task_id: TaskId
    end: TaskEnd


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishTask:
    """Ending to ended. Precondition: the task is ending and every lease of it is final."""

    task_id: TaskId
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateLease:
    """The intent to issue. Precondition: the task is active, not on hold, and its owner not quarantined; it has fewer than
    `max_live` leases that are not final, and none that holds the same idempotency key (`Lease.holds_key`)."""

    lease: Lease
    max_live: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IssueLease:
    """Intended to live. Precondition: the lease is intended, its task active and not on hold, and its owner not
    quarantined."""

    lease_id: LeaseId
    vault_lease_id: VaultLeaseId
    at: datetime
    expires_at: datetime
    renewable: bool
    account: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VoidLease:
    """Intended to void. Precondition: the lease is intended."""

    lease_id: LeaseId
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtendLease:
    """A live lease's new expiry. Precondition: the lease is live."""

    lease_id: LeaseId
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokeLease:
    """Intended or live to revoking. Precondition: the lease is intended or live; or it is revoking without a Vault
    lease id and this change brings one, which is then filled in and nothing else is changed.

    `vault_lease_id` is given when Vault made the lease but it could not be recorded as issued.
    """

    lease_id: LeaseId
    cause: RevokeCause
    at: datetime
    vault_lease_id: VaultLeaseId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PostponeRevocation:
    """A failed attempt. Precondition: the lease is revoking."""

    lease_id: LeaseId
    next_attempt_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmRevoked:
    """Revoking to revoked. Precondition: the lease is revoking."""

    lease_id: LeaseId
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AddQuarantine:
    """A quarantine; where one of the same target stands, that one stays as it is. No precondition."""

    quarantine: Quarantine


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveQuarantine:
    """The end of a quarantine. Precondition: it stands, and no task that it concerns is active any more, so that
    nothing outlives the quarantine that it should have ended."""

    target: QuarantineTarget


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class RecordAction:
    """The next link of a task's chain. Precondition: the task is active, not on hold, and its owner not quarantined, and no
    other link has this position, so that what was decided was decided on the whole chain, or this idempotency key."""

    action: Action


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseAction:
    """How an allowed action went. Precondition: it is one of this task, allowed and open."""

    action_id: ActionId
    task_id: TaskId
    outcome: ActionOutcome
    at: datetime


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Append:
    """An audit record, placed by the store in the order of commit."""

    event: AuditEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordFinding:
    """A finding; the store gives it the next number. Precondition: none with its id is recorded."""

    finding: RecordedFinding


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerFinding:
    """Everything that the answer demanded has taken effect. Precondition: it is recorded, and not answered."""

    finding_id: FindingId
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkFinding:
    """What a person says of it; the last word counts. Precondition: it is recorded."""

    finding_id: FindingId
    mark: Mark
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldTask:
    """The task gets nothing new. A frozen task stays frozen. Precondition: the task is active."""

    task_id: TaskId
    hold: Hold


@dataclass(frozen=True, slots=True, kw_only=True)
class LiftHold:
    """The end of a hold. Precondition: the task is active and held."""

    task_id: TaskId


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveModel:
    """What was learned of task types, in place of what was there. Precondition: the stored version is the one before."""

    version: int
    """1 for the first."""
    data: str
    """JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeeInstance:
    """From where, and with which SVID an instance called. The store keeps the newest of each instance. No precondition."""

    instance: SpiffeId
    sighting: Sighting


@dataclass(frozen=True, slots=True, kw_only=True)
class AddMessage:
    """A message that is to be delivered. No precondition."""

    message: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class PostponeMessage:
    """A failed attempt. No precondition: where it is gone, nothing happens."""

    message_id: MessageId
    next_attempt_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveMessage:
    """It was taken, or is given up. No precondition."""

    message_id: MessageId


Change = (
    CreateTask
    | AddTaskToken
    | TouchTask
    | DetachTask
    | EndTask
    | FinishTask
    | CreateLease
    | IssueLease
    | VoidLease
    | ExtendLease
    | RevokeLease
    | PostponeRevocation
    | ConfirmRevoked
    | AddQuarantine
    | RemoveQuarantine
    | RecordAction
    | CloseAction
    | RecordFinding
    | AnswerFinding
    | MarkFinding
    | HoldTask
    | LiftHold
    | SaveModel
    | SeeInstance
    | AddMessage
    | PostponeMessage
    | RemoveMessage
    | Append
)
