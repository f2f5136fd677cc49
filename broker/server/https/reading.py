"""Requests, read within bounds: one JSON object that two readers cannot understand differently."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from aiohttp import web

from broker.domain.errors import FieldInvalidError, FieldViolation
from broker.server.https.answers import UnacceptableError
from broker.server.https.endpoints import Body
from broker.server.tool_wire import arguments_of

_FOR_A_BODY: Final = timedelta(seconds=10)
_LONGEST_TRACE: Final = 512
_PRINTABLE: Final = re.compile(r"[\x21-\x7e]{1,128}")
_HOST: Final = re.compile(r"(\[[0-9a-fA-F:]{2,45}\]|[A-Za-z0-9._-]{1,253})(:[0-9]{1,5})?")


async def read_body(request: web.BaseRequest, most: int) -> Body:
    """The body of a POST.

    Raises:
        UnacceptableError: too large, too slow, or said to be something else than JSON.
        FieldInvalidError: no JSON object, a name that stands twice, a number that JSON does not have, too deep.
    """
    return _object(await read_bytes(request, most, of="application/json"))


async def read_bytes(request: web.BaseRequest, most: int, *, of: str) -> bytes:
    """The body of a POST, as it was sent.

    Raises:
        UnacceptableError: too large, too slow, or said to be something else than the content type `of`.
    """
    if request.content_type != of or (request.charset or "utf-8").lower() != "utf-8":
        raise UnacceptableError(415, f"Content-Type: {of}, in UTF-8")
    if "Content-Encoding" in request.headers:
        raise UnacceptableError(415, "no Content-Encoding: send the body as it is")
    too_large = UnacceptableError(413, f"at most {most} bytes")
    if (request.content_length or 0) > most:
        raise too_large
    read = bytearray()
    limit = asyncio.timeout(_FOR_A_BODY.total_seconds())
    try:
        async with limit:
            async for piece in request.content.iter_any():
                read += piece
                if len(read) > most:
                    raise too_large
    except TimeoutError:
        if not limit.expired():
            raise
        raise UnacceptableError(408, f"the whole body within {_FOR_A_BODY.seconds} s") from None
    except (web.RequestPayloadError, ConnectionError):
        raise UnacceptableError(400, "a whole body") from None
    return bytes(read)


def echo_of(request: web.BaseRequest) -> str:
    """The caller's own name for the request, where it can be said again; else empty."""
    given = request.headers.get("X-Request-ID", "")
    return given if _PRINTABLE.fullmatch(given) else ""


def carrier_of(request: web.BaseRequest) -> Mapping[str, str]:
    """What says which trace a request belongs to; the rest of its headers is nobody's business."""
    return {
        name: request.headers[name]
        for name in ("traceparent", "tracestate")
        if len(request.headers.get(name, "x" * (_LONGEST_TRACE + 1))) <= _LONGEST_TRACE
    }


def origin_of(request: web.BaseRequest) -> str:
    """The `Host` that was asked for.

    Raises:
        UnacceptableError: there is not exactly one, or it is no host.
    """
    given = request.headers.getall("Host", [])
    if len(given) != 1 or not _HOST.fullmatch(given[0]):
        raise UnacceptableError(400, "one Host: a name or an address, and perhaps a port")
    return given[0]


def _object(read: bytes) -> Body:
    try:
        return arguments_of(read.decode())
    except UnicodeDecodeError:
        remedy = "give text in UTF-8"
    except ValueError as error:
        remedy = f"give {error}"
    raise FieldInvalidError([FieldViolation(field="(request)", remedy=remedy)])
