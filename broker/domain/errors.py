"""The one tree of errors that the broker answers with.

Each leaf has a `reason` (the name in the wire's ErrorReason enum), a text that is safe to show to the caller, and
safe metadata. Adapters turn what their products raise into these at their boundary, so no driver's text travels
further (rule R6). server.status maps the tree to gRPC codes, in one table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import ClassVar


class DenialClass(StrEnum):
    """What a denial means to the agent: stop, ask, or wait."""

    STRUCTURAL = "structural"
    """Never: no retry and no other way to the same effect will be allowed."""
    GRANTABLE = "grantable"
    """Not as things are: a person could allow it."""
    TRANSIENT = "transient"
    """Not now: the same request may be allowed later."""


class IllegalTransitionError(RuntimeError):
    """A state machine was asked for a transition that it does not have. A defect, or a lost race."""

    def __init__(self, subject: str, state: StrEnum, wanted: StrEnum) -> None:
        super().__init__(f"{subject}: no transition from {state.value} to {wanted.value}")


class BrokerError(Exception):
    """Root of everything the broker refuses or fails with on purpose."""

    reason: ClassVar[str] = "INTERNAL"
    denial_class: ClassVar[DenialClass | None] = None

    def __init__(
        self,
        text: str,
        *,
        metadata: Mapping[str, str] | None = None,
        retry_after: timedelta | None = None,
    ) -> None:
        super().__init__(text)
        self.text = text
        self.metadata: Mapping[str, str] = dict(metadata or {})
        self.retry_after = retry_after


# Who is calling --------------------------------------------------------------------------------------------


class UnauthenticatedError(BrokerError):
    """The peer did not show that it is somebody."""


class SvidMissingError(UnauthenticatedError):
    """No X.509-SVID on the connection, and no JWT-SVID where one is taken instead."""

    reason = "SVID_MISSING"


class SvidInvalidError(UnauthenticatedError):
    """Not a valid SVID of its own trust domain."""

    reason = "SVID_INVALID"


class SvidExpiredError(UnauthenticatedError):
    """The SVID is not valid at this moment."""

    reason = "SVID_EXPIRED"


class TrustDomainUnknownError(UnauthenticatedError):
    """No bundle for the SVID's trust domain, or no agent class of it in the catalog."""

    reason = "TRUST_DOMAIN_UNKNOWN"


# What they may do ------------------------------------------------------------------------------------------


class DeniedError(BrokerError):
    """A known caller that may not. Always has a denial class."""

    denial_class = DenialClass.STRUCTURAL


class InstanceQuarantinedError(DeniedError):
    """Nothing more is accepted from this instance."""

    reason = "INSTANCE_QUARANTINED"
    denial_class = DenialClass.GRANTABLE

    def __init__(self, text: str = "the instance is quarantined: only an operator can release it") -> None:
        super().__init__(text)


class AgentClassUnknownError(DeniedError):
    """The SPIFFE ID names no agent instance, or one of an unlisted class."""

    reason = "AGENT_CLASS_UNKNOWN"


class TaskTypeNotAllowedError(DeniedError):
    """Not a task type that the agent class may declare (or not one at all: never told apart)."""

    reason = "TASK_TYPE_NOT_ALLOWED"


class EnvironmentNotAllowedError(DeniedError):
    """Not the task type's environment."""

    reason = "ENVIRONMENT_NOT_ALLOWED"


class RoleNotAllowedError(DeniedError):
    """Not a role of the task type, or not of the declared scope."""

    reason = "ROLE_NOT_ALLOWED"


class ToolNotAllowedError(DeniedError):
    """Not a tool of the task type, or not of the declared scope."""

    reason = "TOOL_NOT_ALLOWED"


class EffectDeniedError(DeniedError):
    """What it would do was denied before: to this task, or to this instance a short while ago (rule R9)."""

    reason = "EFFECT_DENIED"


class StepNotAllowedError(DeniedError):
    """The task type's chain has no place for this step, now or for good."""

    reason = "STEP_NOT_ALLOWED"
    denial_class = DenialClass.TRANSIENT


class FingerprintChangedError(DeniedError):
    """Model, prompt or tool schemas are not those of the declaration: the task ends."""

    reason = "FINGERPRINT_CHANGED"


class TaskOnHoldError(DeniedError):
    """The task's next step waits for a person, because of a finding."""

    reason = "TASK_ON_HOLD"
    denial_class = DenialClass.GRANTABLE

    def __init__(
        self, text: str = "because of what was found, the task waits for a person before its next step"
    ) -> None:
        super().__init__(text)


class TaskFrozenError(TaskOnHoldError):
    """The task gets nothing new, because of a finding; only an operator can lift that."""

    denial_class = DenialClass.STRUCTURAL

    def __init__(self) -> None:
        super().__init__(
            "because of what was found, the task is frozen and gets nothing new: do not try again"
        )


class PolicyDeniedError(DeniedError):
    """A policy forbids it, or the engine could not decide."""

    reason = "POLICY_DENIED"
    denial_class = DenialClass.GRANTABLE


class OperatorUnknownError(DeniedError):
    """The RPC is for operators, and the caller is none."""

    reason = "OPERATOR_UNKNOWN"

    def __init__(self) -> None:
        super().__init__(
            "this is for operators, and the broker's settings name no operator of this SPIFFE ID"
        )


class OperatorRoleMissingError(DeniedError):
    """An operator without a role that the RPC takes."""

    reason = "OPERATOR_ROLE_MISSING"
    denial_class = DenialClass.GRANTABLE

    def __init__(self, roles: Sequence[str]) -> None:
        super().__init__(f"this takes an operator with the role {' or '.join(roles)}")


# What they ask about ---------------------------------------------------------------------------------------


class NotFoundError(BrokerError):
    """No such thing, or not the caller's: the same words for both (rule R7)."""


class TaskNotFoundError(NotFoundError):
    """No such task for this caller."""

    reason = "TASK_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("no such task")


class LeaseNotFoundError(NotFoundError):
    """No such lease for this caller."""

    reason = "LEASE_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("no such lease")


class ActionNotFoundError(NotFoundError):
    """No such action, or not one of the caller's task."""

    reason = "ACTION_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("no such action")


class FindingNotFoundError(NotFoundError):
    """No such finding."""

    reason = "FINDING_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("no such finding")


class HoldNotFoundError(NotFoundError):
    """Nothing holds the task."""

    reason = "HOLD_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("no such hold")


class QuarantineNotFoundError(NotFoundError):
    """No quarantine stands against this target."""

    reason = "QUARANTINE_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("no such quarantine")


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldViolation:
    """One field that is not acceptable: its path in the request, and what to do about it."""

    field: str
    remedy: str


class FieldInvalidError(BrokerError):
    """One or more fields of the request are not acceptable."""

    reason = "FIELD_INVALID"

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        super().__init__("; ".join(f"{v.field}: {v.remedy}" for v in violations))
        self.violations = tuple(violations)


class IdempotencyKeyReusedError(BrokerError):
    """The key was used before with another body."""

    reason = "IDEMPOTENCY_KEY_REUSED"

    def __init__(self) -> None:
        super().__init__(
            "idempotency_key was used before with another request: use a new key for a new request"
        )


class IdempotentResultGoneError(BrokerError):
    """The first answer cannot be given again, because a secret is never stored."""

    reason = "IDEMPOTENT_RESULT_GONE"

    def __init__(self, lease_id: str) -> None:
        super().__init__(
            "the credential of this idempotency_key was handed out before and is not kept: "
            "release the lease and acquire again with a new key",
            metadata={"lease_id": lease_id},
        )


class TaskNotActiveError(BrokerError):
    """The task is ending or has ended."""

    reason = "TASK_NOT_ACTIVE"

    def __init__(self) -> None:
        super().__init__("the task is ending or has ended: declare a new one")


class LeaseNotLiveError(BrokerError):
    """The lease is being revoked or is revoked."""

    reason = "LEASE_NOT_LIVE"

    def __init__(self) -> None:
        super().__init__("the lease is not live: acquire a new credential")


class LeaseNotRenewableError(BrokerError):
    """The lease cannot be renewed, or not any further."""

    reason = "LEASE_NOT_RENEWABLE"

    def __init__(self) -> None:
        super().__init__("the lease cannot be renewed further: acquire a new credential")


# How much --------------------------------------------------------------------------------------------------


class LimitReachedError(BrokerError):
    """As much as is allowed."""


class TaskLimitReachedError(LimitReachedError):
    """As many live tasks as the agent class allows."""

    reason = "TASK_LIMIT_REACHED"

    def __init__(self, limit: int) -> None:
        super().__init__(f"the instance has {limit} live tasks, as many as allowed: complete one first")


class LeaseLimitReachedError(LimitReachedError):
    """As many live leases as the task type allows."""

    reason = "LEASE_LIMIT_REACHED"

    def __init__(self, limit: int) -> None:
        super().__init__(f"the task has {limit} live leases, as many as allowed: release one first")


class ActionLimitReachedError(LimitReachedError):
    """The task's chain is as long as its type allows, or has as many denials as anybody gets."""

    reason = "ACTION_LIMIT_REACHED"

    def __init__(self, text: str) -> None:
        super().__init__(f"{text}: complete the task and declare another one")


class RateLimitedError(LimitReachedError):
    """Too many calls from this instance."""

    reason = "RATE_LIMITED"


class OverloadedError(LimitReachedError):
    """As many calls under way as the broker takes."""

    reason = "OVERLOADED"


# What does not work just now -------------------------------------------------------------------------------


class UnavailableError(BrokerError):
    """Try again later; nothing was handed out."""


class StoreUnavailableError(UnavailableError):
    """State or audit cannot be written or read (rule R1: then nothing is issued)."""

    reason = "STORE_UNAVAILABLE"

    def __init__(self) -> None:
        super().__init__("the store is not available", retry_after=timedelta(seconds=1))


class CredentialBackendUnavailableError(UnavailableError):
    """Vault does not answer, or not with what was asked for."""

    reason = "CREDENTIAL_BACKEND_UNAVAILABLE"

    def __init__(self) -> None:
        super().__init__("the credential backend is not available", retry_after=timedelta(seconds=1))


class ShuttingDownError(UnavailableError):
    """This broker is stopping."""

    reason = "SHUTTING_DOWN"

    def __init__(self) -> None:
        super().__init__("the broker is stopping", retry_after=timedelta(seconds=1))


class CallDeadlineExceededError(BrokerError):
    """The caller's deadline passed first."""

    reason = "CALL_DEADLINE_EXCEEDED"

    def __init__(self) -> None:
        super().__init__("the deadline of the call passed")


class RpcUnknownError(BrokerError):
    """No such RPC, or not one that is listed (rule R5)."""

    reason = "RPC_UNKNOWN"

    def __init__(self, text: str = "no such RPC") -> None:
        super().__init__(text)
