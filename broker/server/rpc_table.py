"""Every RPC that this server answers: who may call it, and what it costs.

A method that is not listed is refused (rule R5); a test compares this table with the service descriptors, so a
new RPC cannot be forgotten here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from broker.domain.operators import OperatorRole


class CallerKind(StrEnum):
    """Who may call."""

    INSTANCE = "instance"
    """Any verified agent instance."""
    OWNER = "owner"
    """The instance that owns the task or lease; anybody else gets NOT_FOUND."""
    OPERATOR = "operator"
    """An operator of the settings with one of the line's roles; never an agent instance."""


FOR_INSTANCES: Final = frozenset({CallerKind.INSTANCE, CallerKind.OWNER})
"""Whose RPCs a JWT-SVID may be listed for: whoever else is added to the callers, not by a token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RpcRule:
    """One line of the table."""

    caller: CallerKind
    action: str
    """The policy action that is decided, or `-` where owning is enough."""
    cost: int
    """How much of the instance's rate limit one call takes."""
    audited: tuple[str, ...]
    """Audit kinds that the call can write."""
    roles: frozenset[OperatorRole] = frozenset()
    """For operators: one of these is needed."""


_TASKS: Final = "/broker.api.v1.TaskService/"
_CREDENTIALS: Final = "/broker.api.v1.CredentialService/"
_TOOLS: Final = "/broker.api.v1.ToolService/"
_ACTIONS: Final = ("action.allowed", "action.denied", "task.ending", "lease.revoked", "task.ended")
_QUARANTINES: Final = "/broker.api.v1.QuarantineService/"
_INSTANCES: Final = "/broker.api.v1.InstanceService/"
_ANOMALIES: Final = "/broker.api.v1.AnomalyService/"
_LEASES: Final = "/broker.api.v1.LeaseService/"
_SIGNALS: Final = "/broker.api.v1.SignalService/"
_LOOKING: Final = frozenset({OperatorRole.VIEWER, OperatorRole.OPERATOR})
_ACTING: Final = frozenset({OperatorRole.OPERATOR})
_REGISTERING: Final = frozenset({OperatorRole.REGISTRAR})
_SIGNALLING: Final = frozenset({OperatorRole.SIGNALLER})

RPCS: Final[Mapping[str, RpcRule]] = MappingProxyType(
    {
        _TASKS + "DeclareTask": RpcRule(
            caller=CallerKind.INSTANCE, action="declare", cost=4, audited=("task.declared", "task.denied")
        ),
        _TASKS + "GetTask": RpcRule(caller=CallerKind.OWNER, action="-", cost=1, audited=()),
        _TASKS + "ListTasks": RpcRule(caller=CallerKind.OWNER, action="-", cost=2, audited=()),
        _TASKS + "Heartbeat": RpcRule(caller=CallerKind.OWNER, action="-", cost=1, audited=()),
        _TASKS + "AttachTask": RpcRule(caller=CallerKind.OWNER, action="-", cost=2, audited=()),
        _TASKS + "CompleteTask": RpcRule(
            caller=CallerKind.OWNER,
            action="-",
            cost=1,
            audited=("task.ending", "lease.revoked", "lease.revocation-failed", "task.ended"),
        ),
        _CREDENTIALS + "AcquireCredential": RpcRule(
            caller=CallerKind.OWNER,
            action="acquire",
            cost=4,
            audited=("credential.intended", "credential.denied", "credential.issued", "credential.voided"),
        ),
        _CREDENTIALS + "RenewCredential": RpcRule(
            caller=CallerKind.OWNER, action="-", cost=2, audited=("lease.renewed",)
        ),
        _CREDENTIALS + "ReleaseCredential": RpcRule(
            caller=CallerKind.OWNER,
            action="-",
            cost=1,
            audited=("lease.revoking", "lease.revoked", "lease.revocation-failed"),
        ),
        _TOOLS + "ListTools": RpcRule(caller=CallerKind.OWNER, action="-", cost=2, audited=()),
        _TOOLS + "AuthorizeAction": RpcRule(caller=CallerKind.OWNER, action="call", cost=1, audited=_ACTIONS),
        _TOOLS + "AuthorizeActions": RpcRule(
            caller=CallerKind.OWNER, action="call", cost=8, audited=_ACTIONS
        ),
        _TOOLS + "ReportOutcome": RpcRule(
            caller=CallerKind.OWNER, action="-", cost=1, audited=("action.closed",)
        ),
        # Each attempt is audited, an agent's as well: as dear as a declaration.
        _QUARANTINES + "Quarantine": RpcRule(
            caller=CallerKind.OPERATOR,
            action="-",
            cost=4,
            audited=("quarantine.imposed", "operator.refused", "task.ending", "lease.revoked", "task.ended"),
            roles=_ACTING,
        ),
        _QUARANTINES + "Release": RpcRule(
            caller=CallerKind.OPERATOR,
            action="-",
            cost=4,
            audited=("quarantine.released", "operator.refused", "task.ending"),
            roles=_ACTING,
        ),
        _QUARANTINES + "ListQuarantines": RpcRule(
            caller=CallerKind.OPERATOR,
            action="-",
            cost=4,
            audited=("quarantine.listed", "operator.refused"),
            roles=_LOOKING,
        ),
        _LEASES + "ListLeases": RpcRule(
            caller=CallerKind.OPERATOR,
            action="-",
            cost=4,
            audited=("lease.listed", "operator.refused"),
            roles=_LOOKING,
        ),
        _LEASES + "GetLease": RpcRule(
            caller=CallerKind.OPERATOR,
            action="-",
            cost=4,
            audited=("lease.listed", "operator.refused"),
            roles=_LOOKING,
        ),
        _LEASES + "RevokeLease": RpcRule(
            caller=CallerKind.OPERATOR,
            action="-",
            cost=4,
            audited=("lease.revoking", "lease.revoked", "lease.revocation-failed", "operator.refused"),
            roles=_ACTING,
        ),
        _LEASES + "Reconcile": RpcRule(
            caller=CallerKind.OPERATOR,
            action="-",
            cost=4,
            audited=("lease.reconciled", "lease.revoking", "orphan.revoked", "operator.refused"),
            roles=_ACTING,
        ),
        _ANOMALIES + "ListFindings": RpcRule(
            caller=CallerKind.OPERATOR,
            action="-",
            cost=4,
            audited=("anomaly.listed", "operator.refused"),
            roles=_LOOKING,
        ),
        _ANOMALIES + "GetFinding": RpcRule(
            caller=CallerKind.OPERATOR,
            action="-",
            cost=4,
            audited=("anomaly.listed", "operator.refused"),
            roles=_LOOKING,
        ),
        _ANOMALIES + "MarkFinding": RpcRule(
            caller=CallerKind.OPERATOR,
            action="-",
            cost=4,
            audited=("anomaly.marked", "operator.refused"),
            roles=_ACTING,
        ),
        _ANOMALIES + "LiftHold": RpcRule(
            caller=CallerKind.OPERATOR,
            action="-",
            cost=4,
            audited=("hold.lifted", "operator.refused"),
            roles=_ACTING,
        ),
        _ANOMALIES + "WatchFindings": RpcRule(
            caller=CallerKind.OPERATOR,
            action="-",
            cost=4,
            audited=("anomaly.listed", "operator.refused"),
            roles=_LOOKING,
        ),
        _INSTANCES + "ReportEnded": RpcRule(
            caller=CallerKind.OPERATOR,
            action="-",
            cost=4,
            audited=("instance.ended", "operator.refused", "task.ending", "lease.revoked", "task.ended"),
            roles=_REGISTERING,
        ),
        _SIGNALS + "ReportSignal": RpcRule(
            caller=CallerKind.OPERATOR,
            action="-",
            cost=4,
            audited=(
                "signal.received",
                "anomaly.found",
                "anomaly.answered",
                "operator.refused",
                "quarantine.imposed",
                "task.ending",
                "lease.revoked",
                "task.ended",
            ),
            roles=_SIGNALLING,
        ),
        "/grpc.health.v1.Health/Check": RpcRule(caller=CallerKind.INSTANCE, action="-", cost=1, audited=()),
        "/grpc.health.v1.Health/Watch": RpcRule(caller=CallerKind.INSTANCE, action="-", cost=2, audited=()),
        "/grpc.health.v1.Health/List": RpcRule(caller=CallerKind.INSTANCE, action="-", cost=1, audited=()),
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": RpcRule(
            caller=CallerKind.INSTANCE, action="-", cost=4, audited=()
        ),
    }
)
