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
_QUARANTINES: Final = "/broker.api.v1.QuarantineService/"
_INSTANCES: Final = "/broker.api.v1.InstanceService/"
_ANOMALIES: Final = "/broker.api.v1.AnomalyService/"
_LEASES: Final = "/broker.api.v1.LeaseService/"
_SIGNALS: Final = "/broker.api.v1.SignalService/"
_LOOKING: Final = frozenset({OperatorRole.VIEWER, OperatorRole.OPERATOR})
_ACTING: Final = frozenset({OperatorRole.OPERATOR})
_REGISTERING: Final = frozenset({OperatorRole.REGISTRAR})
_SIGNALLING: Final = frozenset({OperatorRole.SIGNALLER})

_REVOKED: Final = ("lease.revoking", "lease.revoked", "lease.revocation-failed")
_ENDED: Final = ("task.ending", *_REVOKED, "task.ended")
_FOUND: Final = ("anomaly.found", "anomaly.answered", "quarantine.imposed", *_ENDED)
"""What a step of a task may show, and what comes of it."""


def _of_anybody(cost: int) -> RpcRule:
    return RpcRule(caller=CallerKind.INSTANCE, action="-", cost=cost, audited=())


def _of_owners(cost: int, *audited: str, action: str = "-") -> RpcRule:
    return RpcRule(caller=CallerKind.OWNER, action=action, cost=cost, audited=audited)


def _of_operators(roles: frozenset[OperatorRole], *audited: str) -> RpcRule:
    """Each attempt is audited, an agent's as well: as dear as a declaration."""
    return RpcRule(
        caller=CallerKind.OPERATOR, action="-", cost=4, audited=(*audited, "operator.refused"), roles=roles
    )


RPCS: Final[Mapping[str, RpcRule]] = MappingProxyType(
    {
        _TASKS + "DeclareTask": RpcRule(
            caller=CallerKind.INSTANCE,
            action="declare",
            cost=4,
            audited=("task.declared", "task.denied", *_FOUND),
        ),
        _TASKS + "GetTask": _of_owners(1),
        _TASKS + "ListTasks": _of_owners(2),
        _TASKS + "Heartbeat": _of_owners(1),
        _TASKS + "AttachTask": _of_owners(2),
        _TASKS + "CompleteTask": _of_owners(1, *_FOUND),
        _CREDENTIALS + "AcquireCredential": _of_owners(
            4,
            *("credential.intended", "credential.denied", "credential.issued", "credential.voided"),
            *_FOUND,
            action="acquire",
        ),
        _CREDENTIALS + "RenewCredential": _of_owners(2, "lease.renewed"),
        _CREDENTIALS + "ReleaseCredential": _of_owners(1, *_REVOKED),
        _TOOLS + "ListTools": _of_owners(2),
        _TOOLS + "AuthorizeAction": _of_owners(1, "action.allowed", "action.denied", *_FOUND, action="call"),
        _TOOLS + "AuthorizeActions": _of_owners(8, "action.allowed", "action.denied", *_FOUND, action="call"),
        _TOOLS + "ReportOutcome": _of_owners(1, "action.closed", *_FOUND),
        _QUARANTINES + "Quarantine": _of_operators(_ACTING, "quarantine.imposed", *_ENDED),
        _QUARANTINES + "Release": _of_operators(_ACTING, "quarantine.released", "task.ending"),
        _QUARANTINES + "ListQuarantines": _of_operators(_LOOKING, "quarantine.listed"),
        _LEASES + "ListLeases": _of_operators(_LOOKING, "lease.listed"),
        _LEASES + "GetLease": _of_operators(_LOOKING, "lease.listed"),
        _LEASES + "RevokeLease": _of_operators(_ACTING, *_REVOKED),
        _LEASES + "Reconcile": _of_operators(_ACTING, "lease.reconciled", "lease.revoking", "orphan.revoked"),
        _ANOMALIES + "ListFindings": _of_operators(_LOOKING, "anomaly.listed"),
        _ANOMALIES + "GetFinding": _of_operators(_LOOKING, "anomaly.listed"),
        _ANOMALIES + "MarkFinding": _of_operators(_ACTING, "anomaly.marked"),
        _ANOMALIES + "LiftHold": _of_operators(_ACTING, "hold.lifted"),
        _ANOMALIES + "WatchFindings": _of_operators(_LOOKING, "anomaly.listed"),
        _INSTANCES + "ReportEnded": _of_operators(_REGISTERING, "instance.ended", *_ENDED),
        _SIGNALS + "ReportSignal": _of_operators(_SIGNALLING, "signal.received", *_FOUND),
        "/grpc.health.v1.Health/Check": _of_anybody(1),
        "/grpc.health.v1.Health/Watch": _of_anybody(2),
        "/grpc.health.v1.Health/List": _of_anybody(1),
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": _of_anybody(4),
    }
)
