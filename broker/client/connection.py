"""The way to the broker: an mTLS channel that follows the agent's SVID, and calls over it.

What always holds: each new channel is opened only after `check_broker` has seen the broker at the address; a channel
that has lost its connection is not used again, but another one is opened; one that is replaced (for a newer SVID) stays open until its calls are done; every call has a deadline.
Left to others: what is called (`session`, `task`), where the SVID comes from (`identity`).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from enum import Enum, auto
from typing import Any, Final, TypeVar

import grpc

from broker.api.v1 import (
    credentials_pb2,
    credentials_pb2_grpc,
    tasks_pb2,
    tasks_pb2_grpc,
    tools_pb2,
    tools_pb2_grpc,
)
from broker.client.errors import BrokerError, NotConnected, Unavailable, from_rpc
from broker.client.identity import Identity, Svid
from broker.client.server_identity import DNS_NAME, NOT_THE_BROKER, check_broker

logger = logging.getLogger(__name__)

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 2.0
_CHECK_TIMEOUT: Final = 5.0
_CLOSE_GRACE: Final = 1.0
_SVID_PAUSE: Final = 1.0
_REPEATED: Final = frozenset({"RATE_LIMITED", "OVERLOADED", "SVID_EXPIRED"})
"""Refusals that waiting helps against, besides everything UNAVAILABLE."""
_ANOTHER_CHANNEL: Final = frozenset({"SHUTTING_DOWN", "SVID_EXPIRED"})

_OPTIONS: Final = (
    ("grpc.ssl_target_name_override", DNS_NAME),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_retries", 0),  # we repeat calls ourselves, and know which
)
Request = TypeVar("Request")
Response = TypeVar("Response")
Unary = grpc.aio.UnaryUnaryMultiCallable
Stream = grpc.aio.UnaryStreamMultiCallable


class Line:
    """One channel, made with one version of the SVID, and the broker's calls on it."""

    def __init__(self, channel: grpc.aio.Channel, version: int, address: str) -> None:
        self.channel = channel
        self.address = address
        self.version = version
        self.users = 0
        self.retired = asyncio.Event()
        self.connected = False
        """Whether an answer has come over it."""
        # The generated classes carry no types: they are given here, once.
        tasks = tasks_pb2_grpc.TaskServiceStub(channel)  # type: ignore[no-untyped-call]
        credentials = credentials_pb2_grpc.CredentialServiceStub(channel)  # type: ignore[no-untyped-call]
        self.declare: Unary[tasks_pb2.DeclareTaskRequest, tasks_pb2.DeclareTaskResponse] = tasks.DeclareTask
        self.get: Unary[tasks_pb2.GetTaskRequest, tasks_pb2.GetTaskResponse] = tasks.GetTask
        self.list: Unary[tasks_pb2.ListTasksRequest, tasks_pb2.ListTasksResponse] = tasks.ListTasks
        self.heartbeat: Unary[tasks_pb2.HeartbeatRequest, tasks_pb2.HeartbeatResponse] = tasks.Heartbeat
        self.attach: Stream[tasks_pb2.AttachTaskRequest, tasks_pb2.AttachTaskResponse] = tasks.AttachTask
        self.complete: Unary[tasks_pb2.CompleteTaskRequest, tasks_pb2.CompleteTaskResponse] = (
            tasks.CompleteTask
        )
        self.acquire: Unary[
            credentials_pb2.AcquireCredentialRequest, credentials_pb2.AcquireCredentialResponse
        ] = credentials.AcquireCredential
        self.renew: Unary[credentials_pb2.RenewCredentialRequest, credentials_pb2.RenewCredentialResponse] = (
            credentials.RenewCredential
        )
        self.release: Unary[
            credentials_pb2.ReleaseCredentialRequest, credentials_pb2.ReleaseCredentialResponse
        ] = credentials.ReleaseCredential

        tools = tools_pb2_grpc.ToolServiceStub(channel)  # type: ignore[no-untyped-call]
        self.list_tools: Unary[tools_pb2.ListToolsRequest, tools_pb2.ListToolsResponse] = tools.ListTools
        self.authorize: Unary[tools_pb2.AuthorizeActionRequest, tools_pb2.AuthorizeActionResponse] = (
            tools.AuthorizeAction
        )
        self.authorize_all: Unary[tools_pb2.AuthorizeActionsRequest, tools_pb2.AuthorizeActionsResponse] = (
            tools.AuthorizeActions
        )
        self.report: Unary[tools_pb2.ReportOutcomeRequest, tools_pb2.ReportOutcomeResponse] = (
            tools.ReportOutcome
        )

    def lost_connection(self) -> bool:
        """Whether it was connected and is no longer."""
        return self.connected and self.channel.get_state() is not grpc.ChannelConnectivity.READY


class StreamEnd(Enum):
    """Why following a stream came to an end without an error."""

    OVER = auto()
    """The broker ended it."""
    MOVED = auto()
    """Its channel was replaced by one with a newer SVID: follow again, at once."""
    SILENT = auto()
    """Nothing came for too long."""


class Connection:
    """See the module."""

    def __init__(self, *, address: str, identity: Identity, broker_id: str | None) -> None:
        self._address = address
        self._addresses = [one.strip() for one in address.split(",")]
        random.shuffle(self._addresses)  # so that agents spread over the replicas
        self._identity = identity
        self._broker_id = broker_id
        self._line: Line | None = None
        self._lock = asyncio.Lock()
        self._work: set[asyncio.Task[None]] = set()
        self._closed = False

    async def open(self, patience: timedelta) -> None:
        """Find the broker, and follow the SVID from here on.

        Raises:
            NotConnected: nobody answers for as long as `patience`, or it is not the broker.
        """

        async def nothing(_line: Line, _left: float) -> None:
            return None

        await self._repeat(nothing, patience)
        self._start(self._follow_svid())

    async def call(
        self,
        method: Callable[[Line], Unary[Request, Response]],
        request: Request,
        *,
        within: timedelta,
    ) -> Response:
        """Make one call. What waiting helps against is tried again, with backoff, until `within` has passed: every
        call of the wire may be repeated, by its idempotency key or by its nature.

        Raises:
            BrokerError: what the broker answered, or that it could not be reached.
        """

        async def once(line: Line, left: float) -> Response:
            try:
                answer = await method(line)(request, timeout=left)
            except grpc.aio.AioRpcError as error:
                raise self._failure(line, error) from None
            line.connected = True
            return answer

        return await self._repeat(once, within)

    async def follow(
        self,
        method: Callable[[Line], Stream[Request, Response]],
        request: Request,
        take: Callable[[Response], None],
        *,
        silence: timedelta,
    ) -> StreamEnd:
        """Open a stream and hand over its messages, until it ends in one of the ways of `StreamEnd`.

        Raises:
            BrokerError: it ended with an error.
        """
        line = self._usable() or await self._newest()
        line.users += 1
        call = method(line)(request)
        retired = asyncio.ensure_future(line.retired.wait())
        read: asyncio.Future[Response | object] | None = None
        try:
            while True:
                read = asyncio.ensure_future(call.read())
                await asyncio.wait(
                    {read, retired}, timeout=silence.total_seconds(), return_when=asyncio.FIRST_COMPLETED
                )
                if not read.done():
                    return StreamEnd.MOVED if retired.done() else StreamEnd.SILENT
                message = read.result()
                if message is grpc.aio.EOF:
                    return StreamEnd.OVER
                line.connected = True
                take(message)  # type: ignore[arg-type]  # a Response: the one other thing was EOF
        except grpc.aio.AioRpcError as error:
            raise self._failure(line, error) from None
        finally:
            retired.cancel()
            call.cancel()
            if read is not None and not read.done():
                read.cancel()
                await asyncio.gather(read, return_exceptions=True)
            self._leave(line)

    async def close(self) -> None:
        """Close every channel."""
        self._closed = True
        line, self._line = self._line, None
        for work in list(self._work):
            work.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        if line is not None:
            await line.channel.close(_CLOSE_GRACE)

    async def _repeat(
        self, once: Callable[[Line, float], Awaitable[Response]], within: timedelta
    ) -> Response:
        loop = asyncio.get_running_loop()
        end = loop.time() + within.total_seconds()
        pause = _FIRST_PAUSE
        while True:
            try:
                line = await self._line_before(end)
                line.users += 1
                try:
                    return await once(line, max(end - loop.time(), 0.001))
                finally:
                    self._leave(line)
            except BrokerError as error:
                failure = error
            if not _worth_repeating(failure):
                raise failure
            wait = max(pause * random.uniform(0.5, 1.0), _seconds(failure.retry_after))  # noqa: S311 - jitter
            if loop.time() + wait >= end:
                raise failure
            logger.debug("trying again in %.2f s: %s", wait, failure)
            await asyncio.sleep(wait)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _line_before(self, end: float) -> Line:
        """The line in use, of whatever SVID: `_follow_svid` replaces it. A new one where there is none."""
        if (line := self._usable()) is not None:
            return line
        try:
            async with asyncio.timeout_at(end):
                return await self._newest()
        except TimeoutError:
            message = f"nobody answers at {self._address}"
            raise NotConnected(message) from None

    def _usable(self) -> Line | None:
        """The line in use, unless it lost its connection: gRPC would make another one, to whoever answers by now."""
        line = self._line
        if line is not None and line.lost_connection():
            self._retire(line)
            return None
        return line

    async def _newest(self) -> Line:
        """A line with the newest SVID, opened if there is none."""
        if self._closed:
            message = "the connection to the broker is closed: its block was left"
            raise NotConnected(message, reason=NOT_THE_BROKER)
        async with self._lock:
            version = self._identity.version
            old = self._line
            if old is not None and old.version == version:
                return old
            svid = self._identity.svid()
            expected = self._broker_id or f"spiffe://{svid.trust_domain}/tasklease/broker"
            address = await self._answering(svid, expected)
            line = self._line = Line(_channel(address, svid), version, address)
            if old is not None:
                self._retire(old)
            return line

    async def _answering(self, svid: Svid, expected: str) -> str:
        """The first address at which the broker answers, beginning with the one after where it did not."""
        failure = NotConnected("there is no address")
        for _ in self._addresses:
            address = self._addresses[0]
            try:
                async with asyncio.timeout(_CHECK_TIMEOUT / len(self._addresses)):
                    await check_broker(address, svid, expected)
            except TimeoutError:
                failure = NotConnected(f"nobody answers at {address}")
            except NotConnected as error:
                if error.reason == NOT_THE_BROKER:
                    raise
                failure = error
            else:
                return address
            self._addresses.append(self._addresses.pop(0))
        raise failure

    async def _follow_svid(self) -> None:
        """Open a new line as soon as there is a new SVID, rather than with the next call."""
        while True:
            line = self._line
            version = line.version if line is not None else self._identity.version
            await self._identity.changed(version)
            try:
                await self._newest()
            except BrokerError as error:
                logger.info("no channel with the new SVID yet: %s", error)
                await asyncio.sleep(_SVID_PAUSE)

    def _failure(self, line: Line, error: grpc.aio.AioRpcError) -> BrokerError:
        failure = from_rpc(error)
        if isinstance(failure, Unavailable) and not failure.reason:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                return Unavailable(f"the broker at {line.address} did not answer in time")
            # No answer of the broker but a broken connection: the next one is checked anew.
            self._retire(line)
            self._another_address(line)
            return Unavailable(f"the connection to the broker at {line.address} broke: {failure}")
        if failure.reason in _ANOTHER_CHANNEL:
            self._retire(line)
            self._another_address(line)
        return failure

    def _another_address(self, line: Line) -> None:
        """Begin with the next one where there are several: this one may answer the check, and nothing else."""
        if self._addresses[0] == line.address:
            self._addresses.append(self._addresses.pop(0))

    def _retire(self, line: Line) -> None:
        if self._line is line:
            self._line = None
        if not line.retired.is_set():
            line.retired.set()
            self._close_unused(line)

    def _leave(self, line: Line) -> None:
        line.users -= 1
        self._close_unused(line)

    def _close_unused(self, line: Line) -> None:
        if line.retired.is_set() and line.users == 0 and not self._closed:
            self._start(line.channel.close(_CLOSE_GRACE))

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        work = asyncio.create_task(coroutine)
        self._work.add(work)
        work.add_done_callback(self._work.discard)


def _channel(address: str, svid: Svid) -> grpc.aio.Channel:
    credentials = grpc.ssl_channel_credentials(svid.authorities, svid.key, svid.chain)
    return grpc.aio.secure_channel(address, credentials, options=list(_OPTIONS))


def _worth_repeating(error: BrokerError) -> bool:
    if isinstance(error, NotConnected):
        return error.reason != NOT_THE_BROKER
    if isinstance(error, Unavailable):
        return error.reason != "CALL_DEADLINE_EXCEEDED"
    return error.reason in _REPEATED


def _seconds(duration: timedelta | None) -> float:
    return 0.0 if duration is None else duration.total_seconds()
