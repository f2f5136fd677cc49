"""What can go wrong, as types. Made from google.rpc.ErrorInfo; the reasons are those of the wire's ErrorReason.

What always holds: an unknown reason is treated like its status code; texts of the broker are passed on, texts of
exceptions that left a task's body never are.
"""

# ruff: noqa: N818 - `except Denied` reads better than `except DeniedError`

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Final

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from grpc_status import rpc_status

_DOMAIN: Final = "tasklease.broker"


class DenialClass(StrEnum):
    """What a denial means: stop, ask a person, or wait."""

    STRUCTURAL = "structural"
    GRANTABLE = "grantable"
    TRANSIENT = "transient"


class BrokerError(Exception):
    """Anything that the broker, or the way to it, answers instead of what was asked for."""

    def __init__(
        self,
        text: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_after: timedelta | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(text)
        self.reason = reason
        """Name of the wire's ErrorReason, without its prefix; empty when the broker did not say one."""
        self.metadata: Mapping[str, str] = dict(metadata or {})
        self.retry_after = retry_after
        """How long to wait before it is worth trying again; None when the broker did not say."""
        self.fields: Mapping[str, str] = dict(fields or {})
        """For InvalidRequest: each field with what to do about it."""

    @property
    def request_id(self) -> str:
        """What to tell the operators; empty when the broker was not reached."""
        return self.metadata.get("request_id", "")

    @property
    def denial_class(self) -> DenialClass | None:
        """What a denial means; None for anything else."""
        value = self.metadata.get("denial_class")
        return DenialClass(value) if value in set(DenialClass) else None

    def __str__(self) -> str:
        text = super().__str__()
        if self.fields:
            text += ": " + "; ".join(f"{field}: {remedy}" for field, remedy in self.fields.items())
        reason = f" [{self.reason}]" if self.reason else ""
        request = f" (request {self.request_id})" if self.request_id else ""
        return f"{text}{reason}{request}"


class NoIdentity(BrokerError):
    """SPIRE gives this process no SVID; the message says what to check."""


class NotConnected(BrokerError):
    """There is no way to the broker: no address, nobody there, or not the broker that answers."""


class Unauthenticated(BrokerError):
    """The broker does not accept this process's SVID."""


class Denied(BrokerError):
    """Not allowed; `denial_class` says whether to stop, to ask, or to wait."""


class TaskOnHold(Denied):
    """Because of what was found, the task gets nothing new. `denial_class` GRANTABLE: its next step waits for a person;
    STRUCTURAL: it is frozen, do not try again."""


class NotFound(BrokerError):
    """No such task or lease, or not this instance's."""


class InvalidRequest(BrokerError):
    """A field is not acceptable; `fields` says which and why."""


class TaskEnded(BrokerError):
    """The task is ending or has ended; nothing more can be acquired for it."""

    @property
    def cause(self) -> str:
        """COMPLETED, DEADLINE, HEARTBEAT_LOST, REVOKED, QUARANTINED, INSTANCE_GONE, SVID_EXPIRED,
        FINGERPRINT_CHANGED or ANOMALY; empty when it is not known."""
        return self.metadata.get("end_cause", "")


class LeaseNotActive(BrokerError):
    """The credential is revoked, or cannot be extended any further."""


class LimitReached(BrokerError):
    """As many tasks, credentials or calls as allowed."""


class IdempotencyConflict(BrokerError):
    """An idempotency key was used for something else, or its answer cannot be given again."""


class Unavailable(BrokerError):
    """The broker, or what stands behind it, is not to be had just now. Nothing was handed out."""


_BY_CODE: Final[Mapping[grpc.StatusCode, type[BrokerError]]] = {
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: Denied,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.RESOURCE_EXHAUSTED: LimitReached,
    grpc.StatusCode.ALREADY_EXISTS: IdempotencyConflict,
    grpc.StatusCode.ABORTED: IdempotencyConflict,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: Unavailable,
}
_BY_REASON: Final[Mapping[str, type[BrokerError]]] = {
    "TASK_NOT_ACTIVE": TaskEnded,
    "TASK_ON_HOLD": TaskOnHold,
    "LEASE_NOT_LIVE": LeaseNotActive,
    "LEASE_NOT_RENEWABLE": LeaseNotActive,
}


def from_rpc(error: grpc.aio.AioRpcError) -> BrokerError:
    """The typed error for a failed call."""
    code = error.code()
    reason = ""
    metadata: dict[str, str] = {}
    fields: dict[str, str] = {}
    retry_after = None
    try:
        status = rpc_status.from_call(error)  # type: ignore[arg-type]  # has the three methods that are used
        details = list(status.details) if status is not None else []
        for detail in details:
            info = error_details_pb2.ErrorInfo()
            retry = error_details_pb2.RetryInfo()
            request = error_details_pb2.BadRequest()
            if detail.Unpack(info):
                if info.domain == _DOMAIN:
                    reason, metadata = info.reason, dict(info.metadata)
            elif detail.Unpack(retry):
                retry_after = retry.retry_delay.ToTimedelta()
            elif detail.Unpack(request):
                fields = {violation.field: violation.description for violation in request.field_violations}
    except (ValueError, DecodeError):
        reason = reason or ""  # details that are not this call's, or no details: the code must do
    kind = _BY_REASON.get(reason) or _BY_CODE.get(code, BrokerError)
    return kind(
        error.details() or code.name.lower().replace("_", " "),
        reason=reason,
        metadata=metadata,
        retry_after=retry_after,
        fields=fields,
    )
