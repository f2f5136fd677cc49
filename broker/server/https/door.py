"""An HTTPS door: every request passes `HttpsDoor._admit`, in the order of the gate (server/gate.py).

    1  the broker is not stopping          2  the endpoint is listed (R5)
    3  there is room for the request       4  who makes it is verified, now (R4)
    5  the caller keeps to its rate        6  an operator has a role of the endpoint's

Then the body is read, and all of it has to be done within `_MOST_TIME`. Errors become HTTP statuses here and nowhere
else; what is unforeseen says nothing but its request id (rule R6). What is refused to who is no agent instance is
durable in the audit trail before it is answered, as at the gate.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

from aiohttp import web

from broker.domain.errors import (
    BrokerError,
    CallDeadlineExceededError,
    LimitReachedError,
    OperatorRoleMissingError,
    OperatorUnknownError,
    OverloadedError,
    RpcUnknownError,
    ShuttingDownError,
    UnavailableError,
)
from broker.domain.identifiers import RequestId
from broker.domain.operators import Operators
from broker.domain.peer import VerifiedIdentity, VerifiedOperator, VerifiedPeer
from broker.domain.spiffe import names_an_agent
from broker.ports.identity import PeerVerifier
from broker.ports.observing import Kind, NoObserver, Observer
from broker.ports.system import Clock, Ids
from broker.server.https import answers, reading
from broker.server.https.answers import UnacceptableError
from broker.server.https.connections import Connections
from broker.server.https.endpoints import Body, Endpoint, Visit
from broker.server.rate_limit import RateLimit
from broker.server.serving import CannotListenError
from broker.server.where import where
from broker.usecases.record_refusal import RecordRefusal

logger = logging.getLogger(__name__)

_FULL: Final = "the broker has as many requests under way as it takes"
_FULL_FOR: Final = timedelta(seconds=0.2)
_KEPT_FOR_OPERATORS: Final = 32
"""Room that agent instances cannot fill."""
_MOST_TIME: Final = timedelta(seconds=30)

Shown = Callable[[object], tuple[bytes | None, Sequence[bytes]]]
"""What the peer of a TLS connection showed: its leaf and the intermediates, PEM each."""


class HttpsDoor:
    """See the module."""

    def __init__(  # noqa: PLR0913 - what one request asks
        self,
        *,
        endpoints: Sequence[Endpoint],
        verifier: PeerVerifier,
        shown: Shown,
        operators: Operators,
        record_refusal: RecordRefusal,
        rate_limit: RateLimit,
        max_concurrent_requests: int,
        max_body_bytes: int,
        stopping: asyncio.Event,
        clock: Clock,
        ids: Ids,
        observer: Observer | None = None,
    ) -> None:
        self._paths: dict[str, dict[str, Endpoint]] = {}
        for endpoint in endpoints:
            self._paths.setdefault(endpoint.path, {})[endpoint.method] = endpoint
        self._verifier = verifier
        self._shown = shown
        self._operators = operators
        self._record_refusal = record_refusal
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
        echo = reading.echo_of(request) or request_id
        try:
            if self._stopping.is_set():
                raise ShuttingDownError
            endpoint = self._listed(request)
        except (BrokerError, UnacceptableError) as error:
            return answers.refusal(error, request_id, echo=echo)
        with self._observer.watch(Kind.RPC, endpoint.name, carrier=reading.carrier_of(request)) as outcome:
            limit = asyncio.timeout(_MOST_TIME.total_seconds())
            try:
                async with limit:
                    found = await self._admit(endpoint, request, request_id)
            except Exception as error:  # noqa: BLE001 - the one place where errors become statuses
                shown = CallDeadlineExceededError() if limit.expired() else error
                outcome.value = _reason(shown)
                return _to_response(shown, endpoint, request_id, echo)
        return answers.answer(found, request_id=echo)

    def _listed(self, request: web.BaseRequest) -> Endpoint:
        methods = self._paths.get(request.raw_path.partition("?")[0])
        if methods is None:
            text = "no such endpoint"
            raise RpcUnknownError(text)
        endpoint = methods.get(request.method)
        if endpoint is None:
            allowed = ", ".join(methods)
            raise UnacceptableError(405, f"{allowed} alone", allow=allowed)
        return endpoint

    async def _admit(self, endpoint: Endpoint, request: web.BaseRequest, request_id: RequestId) -> Body:
        with self._room():
            connection = request.transport.get_extra_info("ssl_object") if request.transport else None
            leaf, intermediates = self._shown(connection)
            identity = self._verifier.identify(leaf, intermediates)
            if names_an_agent(identity.spiffe_id):
                if self._under_way > self._most:
                    raise OverloadedError(_FULL, retry_after=_FULL_FOR)
                peer = self._verifier.verify(leaf, intermediates)
                self._rate_limit.take(peer.spiffe_id, endpoint.cost, self._clock.now())
                return await self._serve(peer, endpoint, request, request_id, identity)
            self._rate_limit.take(identity.spiffe_id, endpoint.cost, self._clock.now())
            try:
                operator = self._operator(identity, endpoint)
            except BrokerError as error:
                await self._record(error, identity, endpoint, {}, request_id)
                raise
            return await self._serve(operator, endpoint, request, request_id, identity)

    @contextmanager
    def _room(self) -> Iterator[None]:
        if self._under_way >= self._most + _KEPT_FOR_OPERATORS:
            raise OverloadedError(_FULL, retry_after=_FULL_FOR)
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    def _operator(self, identity: VerifiedIdentity, endpoint: Endpoint) -> VerifiedOperator:
        roles = self._operators.roles_of(identity.spiffe_id)
        if not roles:
            raise OperatorUnknownError
        if roles.isdisjoint(endpoint.roles):
            raise OperatorRoleMissingError(sorted(role.value for role in endpoint.roles))
        return VerifiedOperator(spiffe_id=identity.spiffe_id, roles=roles, svid_sha256=identity.svid_sha256)

    async def _serve(
        self,
        who: VerifiedPeer | VerifiedOperator,
        endpoint: Endpoint,
        request: web.BaseRequest,
        request_id: RequestId,
        identity: VerifiedIdentity,
    ) -> Body:
        body: Mapping[str, object] = {}

        async def record(error: Exception) -> None:
            if isinstance(who, VerifiedOperator):
                await self._record(error, identity, endpoint, body, request_id)

        try:
            origin = reading.origin_of(request)
            if endpoint.method == "POST":
                body = await reading.read_body(request, self._max_body_bytes)
            visit = Visit(
                who=who,
                request_id=request_id,
                time_left=_MOST_TIME,
                cost=endpoint.cost,
                origin=origin,
                record_refusal=record,
            )
            return await endpoint.serve(visit, body)
        except Exception as error:
            await record(error)
            raise

    async def _record(
        self,
        error: Exception,
        identity: VerifiedIdentity,
        endpoint: Endpoint,
        body: Body,
        request_id: RequestId,
    ) -> None:
        """Record what is refused to who is no agent instance; not what was not looked at for want of room or store.

        Raises:
            StoreUnavailableError: it is not durable, and that is what is answered then.
        """
        if not isinstance(error, LimitReachedError | UnavailableError):
            await self._record_refusal(
                identity,
                endpoint.path,
                _reason(error),
                request=endpoint.outline(body),
                request_id=request_id,
            )


def _reason(error: Exception) -> str:
    if isinstance(error, UnacceptableError):
        return error.error.reason
    return error.reason if isinstance(error, BrokerError) else BrokerError.reason


def _to_response(error: Exception, endpoint: Endpoint, request_id: RequestId, echo: str) -> web.Response:
    if isinstance(error, BrokerError | UnacceptableError):
        logger.info("%s refused: %s (%s)", endpoint.path, _reason(error), request_id)
        return answers.refusal(error, request_id, echo=echo)
    # The exception's own text could hold anything: only its type and place are logged.
    logger.error("%s failed: %s (%s)", endpoint.path, where(error), request_id)
    return answers.internal(request_id, echo=echo)
