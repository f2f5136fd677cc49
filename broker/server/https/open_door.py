"""An HTTPS door for who shows no certificate: what is sent has to speak for itself.

    1  the broker is not stopping          2  the endpoint is listed (R5)
    3  there is room for the request       4  its address keeps to its rate
    5  the body is read, within bounds     6  what it is for looks at what signed it

Nobody is anybody here (R4): no header and no certificate counts, and no endpoint is given any of them. Room and rate are this
door's own, so that strangers take nothing from instances and operators. What is unforeseen says nothing but its request id (R6).
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from aiohttp import web

from broker.domain.errors import (
    BrokerError,
    CallDeadlineExceededError,
    OverloadedError,
    RpcUnknownError,
    ShuttingDownError,
)
from broker.domain.identifiers import RequestId
from broker.ports.observing import Kind, NoObserver, Observer
from broker.ports.system import Clock, Ids
from broker.server.https import answers, reading
from broker.server.https.answers import UnacceptableError
from broker.server.https.connections import Connections
from broker.server.rate_limit import RateLimit
from broker.server.serving import CannotListenError
from broker.server.where import where

logger = logging.getLogger(__name__)

_FULL: Final = "the broker has as many requests under way as it takes"
_FULL_FOR: Final = timedelta(seconds=1)
_MOST_TIME: Final = timedelta(seconds=30)
_OF_ONE_SITE: Final = 64
"""Bits of an IPv6 address by which senders are told apart: the rest is theirs to choose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What is answered: a status, and a body where there is something to say."""

    status: int
    body: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenEndpoint:
    """What stands behind the door: one path, for POST."""

    path: str
    name: str
    """For metrics and traces."""
    content_type: str
    cost: int
    serve: Callable[[bytes, RequestId], Awaitable[Told]]


class OpenDoor:
    """See the module."""

    def __init__(  # noqa: PLR0913 - what one request asks
        self,
        *,
        endpoint: OpenEndpoint,
        rate_limit: RateLimit,
        max_concurrent_requests: int,
        max_body_bytes: int,
        stopping: asyncio.Event,
        clock: Clock,
        ids: Ids,
        observer: Observer | None = None,
    ) -> None:
        """`rate_limit` is this door's alone."""
        self._endpoint = endpoint
        self._rate_limit = rate_limit
        self._most = max_concurrent_requests
        self._max_body_bytes = max_body_bytes
        self._stopping = stopping
        self._clock = clock
        self._ids = ids
        self._observer = observer or NoObserver()
        self._under_way = 0
        self._connections = Connections(self._handle)

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._connections.port

    async def start(self, setting: str, address: str, tls: ssl.SSLContext) -> None:
        """Accept connections.

        Raises:
            CannotListenError: not at that address; names the setting.
        """
        try:
            await self._connections.listen(address, tls)
        except OSError as error:
            message = f"{setting}: {address} cannot be listened on: is the port taken, or the address another machine's?"
            raise CannotListenError(message) from error

    async def stop(self, grace: timedelta) -> None:
        """Accept nothing more; requests under way get `grace`."""
        await self._connections.close(grace)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        request_id = self._ids.request_id()
        try:
            if self._stopping.is_set():
                raise ShuttingDownError
            self._look_up(request)
        except (BrokerError, UnacceptableError) as error:
            return answers.refusal(error, request_id, echo=request_id)
        with self._observer.watch(Kind.RPC, self._endpoint.name) as outcome:
            limit = asyncio.timeout(_MOST_TIME.total_seconds())
            try:
                async with limit:
                    told = await self._admit(request, request_id)
            except Exception as error:  # noqa: BLE001 - the one place where errors become statuses
                shown = CallDeadlineExceededError() if limit.expired() else error
                outcome.value = (
                    shown.error.reason
                    if isinstance(shown, UnacceptableError)
                    else getattr(shown, "reason", BrokerError.reason)
                )
                return self._refusal(shown, request_id)
            if told.body is not None:
                outcome.value = "FIELD_INVALID"
        return answers.told(told.status, told.body, request_id=request_id)

    def _look_up(self, request: web.BaseRequest) -> None:
        if request.raw_path != self._endpoint.path:
            text = "no such endpoint"
            raise RpcUnknownError(text)
        if request.method != "POST":
            raise UnacceptableError(405, "POST alone", allow="POST")

    async def _admit(self, request: web.BaseRequest, request_id: RequestId) -> Told:
        if self._under_way >= self._most:
            raise OverloadedError(_FULL, retry_after=_FULL_FOR)
        self._under_way += 1
        try:
            self._rate_limit.take(_site(request.remote), self._endpoint.cost, self._clock.now())
            body = await reading.read_bytes(request, self._max_body_bytes, of=self._endpoint.content_type)
            return await self._endpoint.serve(body, request_id)
        finally:
            self._under_way -= 1

    def _refusal(self, error: Exception, request_id: RequestId) -> web.Response:
        if isinstance(error, BrokerError | UnacceptableError):
            reason = error.error.reason if isinstance(error, UnacceptableError) else error.reason
            logger.info("%s refused: %s (%s)", self._endpoint.path, reason, request_id)
            return answers.refusal(error, request_id, echo=request_id)
        # The exception's own text could hold anything: only its type and place are logged.
        logger.error("%s failed: %s (%s)", self._endpoint.path, where(error), request_id)
        return answers.internal(request_id, echo=request_id)


def _site(remote: str | None) -> str:
    """Who shares a rate: an address, or the network of one of IPv6; everybody on a socket of Unix's."""
    try:
        address = ipaddress.ip_address(remote or "")
    except ValueError:
        return ""
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network((address, _OF_ONE_SITE), strict=False))
