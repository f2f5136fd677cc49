"""The gate that every call passes, in one function: `Gate.admit`.

An interceptor that wraps each handler of the server. Requests are parsed inside, so that bytes which are no
message are a clear refusal; errors become statuses here and nowhere else; what is unforeseen says nothing but its
request id (rule R6). Identity is verified for each call anew (rule R4), and again and again while a stream is open.

Who calls is what the connection's certificate says. Only where a connection has none, which mTLS does not let
through, and only where JWT-SVIDs are taken at all, it is what the one `authorization` says. No header counts beside
a certificate.

Agents and operators are told apart by the line of the RPC table, never by what the caller says: an RPC for operators
takes no agent instance, and one for agents no operator. Operators have room of their own, so that agents which fill
the broker cannot keep out who would quarantine them. What is refused to somebody who wanted to operate is durable in
the audit trail before it is answered.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, cast

import grpc
from google.protobuf import json_format
from google.protobuf.message import DecodeError

from broker.domain.errors import (
    BrokerError,
    CallDeadlineExceededError,
    FieldInvalidError,
    FieldViolation,
    LimitReachedError,
    OperatorRoleMissingError,
    OperatorUnknownError,
    OverloadedError,
    RpcUnknownError,
    ShuttingDownError,
    SvidInvalidError,
    SvidMissingError,
    UnauthenticatedError,
    UnavailableError,
)
from broker.domain.identifiers import RequestId
from broker.domain.operators import OperatorRole, Operators
from broker.domain.peer import VerifiedIdentity, VerifiedOperator, VerifiedPeer
from broker.domain.quick import quick
from broker.ports.identity import PeerVerifier, TokenVerifier
from broker.ports.observing import Kind, NoObserver, Observer
from broker.ports.system import Clock, Ids
from broker.server.peer_address import address_of
from broker.server.rate_limit import RateLimit
from broker.server.rpc_table import FOR_INSTANCES, RPCS, CallerKind, RpcRule
from broker.server.status import internal, status_of
from broker.server.where import where
from broker.usecases.caller import Caller, OperatorCaller
from broker.usecases.record_refusal import RecordRefusal

logger = logging.getLogger(__name__)

_Context = grpc.aio.ServicerContext[Any, Any]
_FULL: Final = "the broker has as many calls under way as it takes"
_FULL_FOR: Final = timedelta(seconds=0.2)
_Handler = Any
"""A grpc.RpcMethodHandler of an asyncio server; the published types know only the synchronous one."""

_LEAST_TIME_LEFT: Final = timedelta(milliseconds=1)
_MOST_OPERATORS_CALLS: Final = 32
"""Calls of operators under way at once, beside those of everybody else."""
_VERIFY_STREAMS_EVERY: Final = timedelta(seconds=1)
_BEARER: Final = "bearer "
_LONGEST_TRACE: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtDoor:
    """What a caller without a certificate may do, with a JWT-SVID."""

    verifier: TokenVerifier
    methods: frozenset[str]
    """Full names of RPCs; any other is refused before the token is looked at."""


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """What the gate knows of the call that a handler serves."""

    caller: Caller
    verify_again: Callable[[], None]
    """Raises when the caller's SVID is no longer acceptable; for streams."""


_current: ContextVar[Admitted] = ContextVar("admitted")
_operating: ContextVar[OperatorCaller] = ContextVar("operating")
_verify_again: ContextVar[Callable[[], None]] = ContextVar("verify_again")
"""Raises when an operator could no longer make the call."""


def admitted() -> Admitted:
    """The call that is being served. Only handlers behind the gate may ask."""
    return _current.get()


def admitted_operator() -> OperatorCaller:
    """The operator whose call is served. Only handlers of RPCs for operators may ask."""
    return _operating.get()


def _nobody_sees(_peer: VerifiedPeer, _address: str) -> None:
    """Where nobody watches from where instances call."""


class Gate(grpc.aio.ServerInterceptor):
    """See the module."""

    def __init__(  # noqa: PLR0913 - what one call asks
        self,
        *,
        verifier: PeerVerifier,
        operators: Operators,
        record_refusal: RecordRefusal,
        rate_limit: RateLimit,
        max_concurrent_calls: int,
        clock: Clock,
        ids: Ids,
        jwt_door: JwtDoor | None = None,
        observer: Observer | None = None,
        see: Callable[[VerifiedPeer, str], None] = _nobody_sees,
    ) -> None:
        self._see = see
        self._observer = observer or NoObserver()
        self._verifier = verifier
        self._operators = operators
        self._record_refusal = record_refusal
        self._jwt_door = jwt_door
        self._rate_limit = rate_limit
        self._max_concurrent_calls = max_concurrent_calls
        self._clock = clock
        self._ids = ids
        self._behind: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        """Each served method's handler, behind the gate."""
        self._under_way = 0
        self._operators_under_way = 0
        self.stopping = asyncio.Event()
        self.calls = 0
        """Calls under way that have one answer."""

    def admit(self, method: str, context: _Context, request_id: RequestId) -> AbstractContextManager[None]:
        """Everything that is checked before a handler runs, in this order.

        1. the broker is not stopping          2. the RPC is listed (R5)
        3. there is room for the call          4. the peer is verified, now (R4)
        5. the caller keeps to its rate        6. the caller's deadline has not passed

        From where an instance calls is told after that, and waits for nothing.

        An RPC for operators: 4 comes before 3, because operators have room of their own, and after 5 the operator's
        role is looked at, so that nobody writes more into the audit trail than its rate allows.
        """
        if self.stopping.is_set():
            raise ShuttingDownError
        rule = self._rule(method)
        if rule.caller is CallerKind.OPERATOR:
            return self._admit_operator(rule, context, request_id)
        if self._under_way >= self._max_concurrent_calls:
            raise OverloadedError(_FULL, retry_after=_FULL_FOR)
        self._under_way += 1
        try:
            peer = self._verify(method, rule, context)
            self._rate_limit.take(peer.spiffe_id, rule.cost, self._clock.now())
            time_left = _time_left(context)
            address = address_of(context.peer())
            self._see(peer, address)
            caller = Caller(peer=peer, address=address, request_id=request_id, time_left=time_left)

            def verify_again() -> None:
                self._verify(method, rule, context)

        except BaseException:
            self._under_way -= 1
            raise
        return _Inside(self._left, Admitted(caller=caller, verify_again=verify_again))

    def _left(self) -> None:
        self._under_way -= 1

    @contextmanager
    def _admit_operator(self, rule: RpcRule, context: _Context, request_id: RequestId) -> Iterator[None]:
        identity = self._identify(context)
        roles = self._operators.roles_of(identity.spiffe_id)
        if not roles and self._under_way >= self._max_concurrent_calls:
            raise OverloadedError(_FULL, retry_after=_FULL_FOR)
        if self._operators_under_way >= _MOST_OPERATORS_CALLS:
            raise OverloadedError(_FULL, retry_after=_FULL_FOR)
        self._rate_limit.take(identity.spiffe_id, rule.cost, self._clock.now())
        _demand_role(roles, rule)
        operator = VerifiedOperator(
            spiffe_id=identity.spiffe_id, roles=roles, svid_sha256=identity.svid_sha256
        )
        caller = OperatorCaller(operator=operator, request_id=request_id, time_left=_time_left(context))

        def verify_again() -> None:
            _demand_role(self._operators.roles_of(self._identify(context).spiffe_id), rule)

        self._operators_under_way += 1
        token = _operating.set(caller)
        again = _verify_again.set(verify_again)
        try:
            yield
        finally:
            _verify_again.reset(again)
            _operating.reset(token)
            self._operators_under_way -= 1

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """Put the gate before whatever handler there is; where there is none, a refusal."""
        method = handler_call_details.method
        kept = self._behind.get(method)
        if kept is None:
            handler = await continuation(handler_call_details)
            kept = self._guarded(method, handler)
            if handler is not None:  # what nobody serves could be named by anybody, in any number
                self._behind[method] = kept
        return kept

    def _guarded(self, method: str, handler: _Handler | None) -> grpc.RpcMethodHandler[Any, Any]:
        if handler is None:
            return grpc.unary_unary_rpc_method_handler(self._unknown)
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(
                self._unary(method, handler), response_serializer=handler.response_serializer
            )
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(
                self._stream(method, handler), response_serializer=handler.response_serializer
            )
        if handler.stream_stream is not None:
            return grpc.stream_stream_rpc_method_handler(
                self._both_streams(method, handler),
                response_serializer=handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(self._unknown)

    def _unary(self, method: str, handler: _Handler) -> Callable[..., Awaitable[Any]]:
        name = method.rpartition(".")[2]

        async def behave(request: bytes, context: _Context) -> Any:  # noqa: ANN401 - any message
            request_id = self._ids.request_id()
            carrier = _carrier(context) if self._observer.reads_carriers else None
            with self._observer.watch(Kind.RPC, name, carrier=carrier) as outcome:
                self.calls += 1
                try:
                    with self.admit(method, context, request_id):
                        return await handler.unary_unary(_parse(handler, request), context)
                except grpc.aio.AbortError:  # health's Check has answered with a status of its own
                    raise
                except Exception as error:  # noqa: BLE001 - the one place where errors become statuses
                    shown = await self._record(error, method, handler, request, context, request_id)
                    outcome.value = shown.reason if isinstance(shown, BrokerError) else BrokerError.reason
                    status = _to_status(shown, method, request_id)
                finally:
                    self.calls -= 1
            return await context.abort_with_status(status)

        return behave

    def _stream(self, method: str, handler: _Handler) -> Callable[..., AsyncIterator[Any]]:
        async def behave(request: bytes, context: _Context) -> AsyncIterator[Any]:
            request_id = self._ids.request_id()
            try:
                with self.admit(method, context, request_id):
                    responses = handler.unary_stream(_parse(handler, request), context)
                    async for response in self._while_welcome(responses):
                        yield response
            except Exception as error:  # noqa: BLE001 - the one place where errors become statuses
                shown = await self._record(error, method, handler, request, context, request_id)
                status = _to_status(shown, method, request_id)
            else:
                return
            await context.abort_with_status(status)

        return behave

    def _both_streams(self, method: str, handler: _Handler) -> Callable[..., AsyncIterator[Any]]:
        async def behave(requests: AsyncIterator[bytes], context: _Context) -> AsyncIterator[Any]:
            request_id = self._ids.request_id()
            try:
                with self.admit(method, context, request_id):
                    messages = (_parse(handler, request) async for request in requests)
                    async for response in self._while_welcome(handler.stream_stream(messages, context)):
                        yield response
            except Exception as error:  # noqa: BLE001 - the one place where errors become statuses
                status = _to_status(error, method, request_id)
            else:
                return
            await context.abort_with_status(status)

        return behave

    async def _unknown(self, _request: bytes, context: _Context) -> None:
        await context.abort_with_status(status_of(RpcUnknownError(), self._ids.request_id()))

    async def _record(  # noqa: PLR0913, PLR0917 - what is known of one refused call
        self,
        error: Exception,
        method: str,
        handler: _Handler,
        request: bytes,
        context: _Context,
        request_id: RequestId,
    ) -> Exception:
        """Record what is refused to whoever wanted to operate; return what is answered: the refusal, or why it could
        not be recorded. Not recorded: who did not show who it is, and what was not looked at for want of room."""
        rule = RPCS.get(method)
        if rule is None or rule.caller is not CallerKind.OPERATOR:
            return error
        if isinstance(error, UnauthenticatedError | LimitReachedError | UnavailableError):
            return error
        try:
            await self._record_refusal(
                self._identify(context),
                method,
                error.reason if isinstance(error, BrokerError) else BrokerError.reason,
                request=_readable(handler, request),
                request_id=request_id,
            )
        except BrokerError as failure:
            return failure
        return error

    def _rule(self, method: str) -> RpcRule:
        rule = RPCS.get(method)
        if rule is None:
            raise RpcUnknownError
        return rule

    def _verify(self, method: str, rule: RpcRule, context: _Context) -> VerifiedPeer:
        leaf, intermediates = _shown(context)
        if leaf is None and self._jwt_door is not None:
            return self._verify_token(method, rule, context, self._jwt_door)
        return self._verifier.verify(leaf, intermediates)

    def _identify(self, context: _Context) -> VerifiedIdentity:
        return self._verifier.identify(*_shown(context))

    def _verify_token(self, method: str, rule: RpcRule, context: _Context, door: JwtDoor) -> VerifiedPeer:
        if method not in door.methods or rule.caller not in FOR_INSTANCES:
            text = "not an RPC that may be called here with a JWT-SVID"
            raise RpcUnknownError(text)
        return door.verifier.verify(_bearer_token(context))

    async def _while_welcome(
        self, answers: AsyncIterator[Any] | Coroutine[Any, Any, object]
    ) -> AsyncIterator[Any]:
        """Pass a stream on for as long as its caller could still make the call: asked before each answer, and every
        second where there is none. A coroutine (health's Watch) writes its answers itself, and never ends.

        Raises:
            ShuttingDownError: the broker is stopping.
            BrokerError: the caller is no longer who may call.
        """
        inside = _current.get(None)
        verify_again = _verify_again.get() if inside is None else inside.verify_again
        step: asyncio.Future[Any] | None = None
        stop = asyncio.ensure_future(self.stopping.wait())
        try:
            while True:
                if step is None:
                    step = asyncio.ensure_future(
                        answers if isinstance(answers, Coroutine) else anext(answers)
                    )
                await asyncio.wait(
                    {step, stop},
                    timeout=_VERIFY_STREAMS_EVERY.total_seconds(),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                verify_again()
                if not step.done():
                    if stop.done():
                        raise ShuttingDownError
                    continue
                try:
                    answer = step.result()
                except StopAsyncIteration:
                    return
                if isinstance(answers, Coroutine):
                    return
                step = None
                yield answer
        finally:
            await _give_up(stop, step)
            if isinstance(answers, AsyncGenerator):
                await answers.aclose()


class _Inside:
    """Behind the gate: a call of an instance, from its admission to its answer. Not a generator: each call has one."""

    __slots__ = ("_admitted", "_left", "_token")

    def __init__(self, left: Callable[[], None], admitted: Admitted) -> None:
        self._left = left
        self._admitted = admitted

    def __enter__(self) -> None:
        self._token = _current.set(self._admitted)

    def __exit__(self, *_error: object) -> None:
        _current.reset(self._token)
        self._left()


def _shown(context: _Context) -> tuple[bytes | None, list[bytes]]:
    shown = context.auth_context()
    leaf = next(iter(shown.get("x509_pem_cert", ())), None)
    return leaf, list(shown.get("x509_pem_cert_chain", ()))


def _carrier(context: _Context) -> Mapping[str, str]:
    """What says which trace a call belongs to; the rest of its metadata is nobody's business."""
    metadata = context.invocation_metadata() or ()
    return {
        key: value
        for key, value in metadata
        if key in {"traceparent", "tracestate"} and isinstance(value, str) and len(value) <= _LONGEST_TRACE
    }


def _demand_role(roles: frozenset[OperatorRole], rule: RpcRule) -> None:
    if not roles:
        raise OperatorUnknownError
    if roles.isdisjoint(rule.roles):
        raise OperatorRoleMissingError(sorted(role.value for role in rule.roles))


def _readable(handler: _Handler, request: bytes) -> str:
    """A refused request as JSON, for the audit trail; empty when it is no message."""
    try:
        return json_format.MessageToJson(
            handler.request_deserializer(request), indent=None, ensure_ascii=True
        )
    except Exception:  # noqa: BLE001 - whoever is refused may have sent anything
        return ""


def _parse(handler: _Handler, request: bytes) -> Any:  # noqa: ANN401 - any message
    try:
        return handler.request_deserializer(request)
    except (DecodeError, ValueError) as error:
        violation = FieldViolation(field="(request)", remedy="these bytes are not a message of this RPC")
        raise FieldInvalidError([violation]) from error


def _time_left(context: _Context) -> timedelta | None:
    seconds = cast("float | None", context.time_remaining())
    if seconds is None:
        return None
    try:
        time_left = timedelta(seconds=seconds)
    except OverflowError:  # "no deadline", as some clients say it
        return None
    if time_left < _LEAST_TIME_LEFT:
        raise CallDeadlineExceededError
    return time_left


def _to_status(error: Exception, method: str, request_id: RequestId) -> grpc.Status:
    if isinstance(error, BrokerError):
        logger.info("%s refused: %s (%s)", method, error.reason, request_id)
        return status_of(error, request_id)
    # The exception's own text could hold anything: only its type and place are logged.
    logger.error("%s failed: %s (%s)", method, where(error), request_id)
    return internal(request_id)


def _bearer_token(context: _Context) -> str:
    """JWT-SVID 5.3: one `authorization`, whose scheme is Bearer."""
    found = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
    if not found:
        text = "show a JWT-SVID: authorization: Bearer ..."
        raise SvidMissingError(text)
    (value, *more) = found
    if more or not isinstance(value, str) or value[: len(_BEARER)].lower() != _BEARER:
        text = "show one JWT-SVID: a single authorization: Bearer ..."
        raise SvidInvalidError(text)
    return value[len(_BEARER) :]


async def _give_up(*waits: asyncio.Future[Any] | None) -> None:
    """What a stream waited for is waited for no more; how it ends concerns nobody."""
    pending = [wait for wait in waits if wait is not None]
    for wait in pending:
        wait.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
