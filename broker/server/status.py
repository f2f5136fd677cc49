"""The one table of errors to gRPC status codes, and the details that go with each.

Only texts of the BrokerError tree leave; anything else is INTERNAL with the request id and nothing more.
"""

from __future__ import annotations

from typing import Final

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from broker.domain import errors
from broker.domain.identifiers import RequestId

DOMAIN: Final = "tasklease.broker"

CODES: Final[tuple[tuple[type[errors.BrokerError], int], ...]] = (
    (errors.UnauthenticatedError, code_pb2.UNAUTHENTICATED),
    (errors.DeniedError, code_pb2.PERMISSION_DENIED),
    (errors.NotFoundError, code_pb2.NOT_FOUND),
    (errors.FieldInvalidError, code_pb2.INVALID_ARGUMENT),
    (errors.IdempotencyKeyReusedError, code_pb2.ALREADY_EXISTS),
    (errors.IdempotentResultGoneError, code_pb2.ABORTED),
    (errors.TaskNotActiveError, code_pb2.FAILED_PRECONDITION),
    (errors.LeaseNotLiveError, code_pb2.FAILED_PRECONDITION),
    (errors.LeaseNotRenewableError, code_pb2.FAILED_PRECONDITION),
    (errors.LimitReachedError, code_pb2.RESOURCE_EXHAUSTED),
    (errors.UnavailableError, code_pb2.UNAVAILABLE),
    (errors.CallDeadlineExceededError, code_pb2.DEADLINE_EXCEEDED),
    (errors.RpcUnknownError, code_pb2.UNIMPLEMENTED),
)


def code_of(error: errors.BrokerError) -> int:
    """The status code of `error`: the first line of the table that fits."""
    return next((code for kind, code in CODES if isinstance(error, kind)), code_pb2.INTERNAL)


def status_of(error: errors.BrokerError, request_id: RequestId) -> grpc.Status:
    """`error` as a status with its details."""
    metadata = {"request_id": request_id, **error.metadata}
    if error.denial_class is not None:
        metadata.setdefault("denial_class", error.denial_class.value)
    details = [_any(error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata))]
    if error.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromTimedelta(error.retry_after)
        details.append(_any(error_details_pb2.RetryInfo(retry_delay=delay)))
    if isinstance(error, errors.FieldInvalidError):
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=violation.field, description=violation.remedy)
            for violation in error.violations
        ]
        details.append(_any(error_details_pb2.BadRequest(field_violations=violations)))
    return rpc_status.to_status(status_pb2.Status(code=code_of(error), message=error.text, details=details))


def internal(request_id: RequestId) -> grpc.Status:
    """Something unforeseen: nothing of it is said."""
    info = error_details_pb2.ErrorInfo(reason="INTERNAL", domain=DOMAIN, metadata={"request_id": request_id})
    return rpc_status.to_status(
        status_pb2.Status(
            code=code_pb2.INTERNAL, message=f"internal error, request {request_id}", details=[_any(info)]
        )
    )


def _any(
    message: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo | error_details_pb2.BadRequest,
) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
