"""Domain types as messages. The only place where both are known."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from broker.api.v1 import credentials_pb2, leases_pb2, operators_pb2, tasks_pb2
from broker.domain.catalog import Destination
from broker.domain.findings import Hold
from broker.domain.lease import Lease, LeaseState
from broker.domain.quarantine import QuarantineTarget, TargetKind
from broker.domain.task import EndCause, Outcome, Task, TaskState
from broker.ports.store import OwnedLease, QuarantineStatus
from broker.usecases.acquire_credential import Acquired
from broker.usecases.reconcile import Finding, FindingKind
from broker.usecases.task_events import EventKind

_LEASE_STATES: Final = {
    LeaseState.INTENDED: credentials_pb2.LEASE_STATE_INTENDED,
    LeaseState.LIVE: credentials_pb2.LEASE_STATE_LIVE,
    LeaseState.REVOKING: credentials_pb2.LEASE_STATE_REVOKING,
    LeaseState.REVOKED: credentials_pb2.LEASE_STATE_REVOKED,
    LeaseState.VOID: credentials_pb2.LEASE_STATE_VOID,
}
_TASK_STATES: Final = {
    TaskState.ACTIVE: tasks_pb2.TASK_STATE_ACTIVE,
    TaskState.ENDING: tasks_pb2.TASK_STATE_ENDING,
    TaskState.ENDED: tasks_pb2.TASK_STATE_ENDED,
}
_CAUSES: Final = {
    EndCause.COMPLETED: tasks_pb2.TASK_END_CAUSE_COMPLETED,
    EndCause.DEADLINE: tasks_pb2.TASK_END_CAUSE_DEADLINE,
    EndCause.HEARTBEAT_LOST: tasks_pb2.TASK_END_CAUSE_HEARTBEAT_LOST,
    EndCause.REVOKED: tasks_pb2.TASK_END_CAUSE_REVOKED,
    EndCause.QUARANTINED: tasks_pb2.TASK_END_CAUSE_QUARANTINED,
    EndCause.INSTANCE_GONE: tasks_pb2.TASK_END_CAUSE_INSTANCE_GONE,
    EndCause.SVID_EXPIRED: tasks_pb2.TASK_END_CAUSE_SVID_EXPIRED,
    EndCause.FINGERPRINT_CHANGED: tasks_pb2.TASK_END_CAUSE_FINGERPRINT_CHANGED,
    EndCause.ANOMALY: tasks_pb2.TASK_END_CAUSE_ANOMALY,
}
_HOLDS: Final = {
    Hold.APPROVAL: tasks_pb2.TASK_HOLD_APPROVAL,
    Hold.FROZEN: tasks_pb2.TASK_HOLD_FROZEN,
}
_OUTCOMES: Final = {
    Outcome.SUCCEEDED: tasks_pb2.TASK_OUTCOME_SUCCEEDED,
    Outcome.FAILED: tasks_pb2.TASK_OUTCOME_FAILED,
    Outcome.CANCELLED: tasks_pb2.TASK_OUTCOME_CANCELLED,
}
_FINDINGS: Final = {
    FindingKind.ORPHAN: leases_pb2.FINDING_KIND_ORPHAN,
    FindingKind.LOST: leases_pb2.FINDING_KIND_LOST,
    FindingKind.STRANDED: leases_pb2.FINDING_KIND_STRANDED,
}
EVENT_KINDS: Final = {
    EventKind.LEASE_RENEWED: tasks_pb2.AttachTaskResponse.KIND_LEASE_RENEWED,
    EventKind.LEASE_REVOKED: tasks_pb2.AttachTaskResponse.KIND_LEASE_REVOKED,
    EventKind.TASK_ENDING: tasks_pb2.AttachTaskResponse.KIND_TASK_ENDING,
    EventKind.TASK_ENDED: tasks_pb2.AttachTaskResponse.KIND_TASK_ENDED,
    EventKind.WARNING: tasks_pb2.AttachTaskResponse.KIND_WARNING,
}


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def timestamp(at: datetime | None) -> Timestamp | None:
    """A time as a message; None stays unset."""
    if at is None:
        return None
    since = at - _EPOCH
    return Timestamp(seconds=since.days * 86_400 + since.seconds, nanos=since.microseconds * 1_000)


def lease_message(lease: Lease) -> credentials_pb2.Lease:
    """A lease, without accessor and Vault lease id: those are the broker's and the auditor's."""
    return credentials_pb2.Lease(
        lease_id=lease.lease_id,
        task_id=lease.task_id,
        role=lease.role,
        state=_LEASE_STATES[lease.state],
        issued_at=timestamp(lease.issued_at),
        expires_at=timestamp(lease.expires_at),
        revoked_at=timestamp(lease.revoked_at),
    )


def lease_record(found: OwnedLease) -> leases_pb2.LeaseRecord:
    """A lease as an operator sees it: with Vault's id of it, which is no secret."""
    lease = found.lease
    return leases_pb2.LeaseRecord(
        lease=lease_message(lease),
        owner=str(found.owner),
        vault_lease_id=lease.vault_lease_id or "",
        revoke_cause=lease.revoke_cause.value if lease.revoke_cause else "",
        intended_at=timestamp(lease.intended_at),
        revoking_since=timestamp(lease.revoking_since),
        attempts=lease.attempts,
        next_attempt_at=timestamp(lease.next_attempt_at),
        max_expires_at=timestamp(lease.max_expires_at),
    )


def finding_message(finding: Finding) -> leases_pb2.Finding:
    """What reconciling found."""
    return leases_pb2.Finding(
        kind=_FINDINGS[finding.kind],
        subject=finding.subject,
        task_id=finding.task_id,
        trouble=finding.trouble,
    )


def task_message(task: Task, leases: Sequence[Lease] = ()) -> tasks_pb2.Task:
    """A task with the leases given."""
    interval = Duration()
    interval.FromTimedelta(task.heartbeat_interval)
    message = tasks_pb2.Task(
        task_id=task.task_id,
        task_type=task.task_type,
        intent=task.intent,
        scope=tasks_pb2.Scope(roles=sorted(task.scope.roles), tools=sorted(task.scope.tools)),
        environment=task.environment,
        state=_TASK_STATES[task.state],
        created_at=timestamp(task.created_at),
        deadline=timestamp(task.deadline),
        heartbeat_due=timestamp(task.heartbeat_due),
        heartbeat_interval=interval,
        ended_at=timestamp(task.ended_at),
        leases=[lease_message(lease) for lease in leases],
    )
    if task.hold is not None:
        message.hold = _HOLDS[task.hold]
    if task.end is not None:
        message.end_cause = _CAUSES[task.end.cause]
        if task.end.outcome is not None:
            message.outcome = _OUTCOMES[task.end.outcome]
    return message


def acquired_message(acquired: Acquired) -> credentials_pb2.AcquireCredentialResponse:
    """The only place where a secret is revealed to its owner."""
    return credentials_pb2.AcquireCredentialResponse(
        lease=lease_message(acquired.lease),
        secret={name: value.reveal() for name, value in acquired.secret.items()},
        destination=_destination_message(acquired.destination),
        warnings=acquired.warnings,
    )


def quarantine_message(status: QuarantineStatus) -> operators_pb2.Quarantine:
    """A quarantine with what is left of it."""
    quarantine = status.quarantine
    return operators_pb2.Quarantine(
        target=_target_message(quarantine.target),
        imposed_by=quarantine.by,
        reason=quarantine.reason,
        since=timestamp(quarantine.since),
        unfinished_tasks=status.unfinished_tasks,
    )


def _target_message(target: QuarantineTarget) -> operators_pb2.QuarantineTarget:
    match target.kind:
        case TargetKind.INSTANCE:
            return operators_pb2.QuarantineTarget(instance=target.name)
        case TargetKind.AGENT_CLASS:
            return operators_pb2.QuarantineTarget(agent_class=target.name)
        case TargetKind.TRUST_DOMAIN:
            return operators_pb2.QuarantineTarget(trust_domain=target.name)


def _destination_message(destination: Destination) -> credentials_pb2.Destination:
    return credentials_pb2.Destination(
        host=destination.host, port=destination.port, scheme=destination.scheme
    )
