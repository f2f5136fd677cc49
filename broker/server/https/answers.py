"""The one table of errors to HTTP statuses, and their bodies.

Only texts of the BrokerError tree leave; anything else is 500 with the request id and nothing more.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Final

from aiohttp import web

from broker.domain import errors
from broker.domain.identifiers import RequestId

_STATUSES: Final[tuple[tuple[type[errors.BrokerError], int], ...]] = (
    (errors.UnauthenticatedError, 401),
    (errors.DeniedError, 403),
    (errors.NotFoundError, 404),
    (errors.RpcUnknownError, 404),
    (errors.FieldInvalidError, 400),
    (errors.IdempotencyKeyReusedError, 409),
    (errors.IdempotentResultGoneError, 409),
    (errors.TaskNotActiveError, 409),
    (errors.LeaseNotLiveError, 409),
    (errors.LeaseNotRenewableError, 409),
    (errors.LimitReachedError, 429),
    (errors.UnavailableError, 503),
    (errors.CallDeadlineExceededError, 504),
)
_SERVER: Final = "tasklease"


class UnacceptableError(Exception):
    """A request that HTTP has a status of its own for: its form, before anything in it was looked at."""

    def __init__(self, status: int, remedy: str, *, allow: str = "") -> None:
        super().__init__(remedy)
        self.status = status
        self.error = errors.FieldInvalidError([errors.FieldViolation(field="(request)", remedy=remedy)])
        self.allow = allow


def status_of(error: errors.BrokerError) -> int:
    """The status of `error`: the first line of the table that fits."""
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)


def as_body(error: errors.BrokerError) -> dict[str, object]:
    """`error` as plain data: the same that gRPC's details say."""
    body: dict[str, object] = {
        "status": status_of(error),
        "reason": error.reason,
        "message": error.text,
        **error.metadata,
    }
    if error.denial_class is not None:
        body.setdefault("denial_class", error.denial_class.value)
    if isinstance(error, errors.FieldInvalidError):
        body["fields"] = [{"field": one.field, "remedy": one.remedy} for one in error.violations]
    if error.retry_after is not None:
        body["retry_after"] = error.retry_after.total_seconds()
    return body


def answer(body: Mapping[str, object], *, request_id: str) -> web.Response:
    """What was asked for."""
    return _response(200, body, request_id)


def told(status: int, body: Mapping[str, object] | None, *, request_id: str) -> web.Response:
    """An answer that has a status and a form of its own; without a body none is sent."""
    if body is not None:
        response = _response(status, body, request_id)
        response.headers["Content-Language"] = "en"
        return response
    headers = {"Cache-Control": "no-store", "Server": _SERVER, "X-Request-ID": request_id}
    return web.Response(status=status, headers=headers)


def refusal(
    error: errors.BrokerError | UnacceptableError, request_id: RequestId, *, echo: str
) -> web.Response:
    """`error`, with the broker's own id of the request beside the caller's."""
    if isinstance(error, UnacceptableError):
        body = {**as_body(error.error), "status": error.status}
        response = _response(error.status, {"error": {**body, "request_id": request_id}}, echo)
        if error.allow:
            response.headers["Allow"] = error.allow
        response.force_close()  # whatever else it sent is not read
        return response
    response = _response(status_of(error), {"error": {**as_body(error), "request_id": request_id}}, echo)
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after.total_seconds())))
    return response


def internal(request_id: RequestId, *, echo: str) -> web.Response:
    """Something unforeseen: nothing of it is said."""
    error = {
        "status": 500,
        "reason": errors.BrokerError.reason,
        "message": f"internal error, request {request_id}",
        "request_id": request_id,
    }
    return _response(500, {"error": error}, echo)


def malformed(status: int) -> web.Response:
    """What was sent is no HTTP request: answered before there is an id of it, and the connection ends."""
    remedy = "an HTTP/1.1 request, with headers of at most 8 KiB each"
    error = errors.FieldInvalidError([errors.FieldViolation(field="(request)", remedy=remedy)])
    response = _response(status, {"error": {**as_body(error), "status": status}}, "")
    response.force_close()
    return response


def _response(status: int, body: Mapping[str, object], request_id: str) -> web.Response:
    headers = {"Cache-Control": "no-store", "Server": _SERVER}
    if request_id:
        headers["X-Request-ID"] = request_id
    return web.Response(
        status=status, text=json.dumps(body), content_type="application/json", headers=headers
    )
