"""The way to the broker: an mTLS channel that follows the agent's SVID, and calls over it.

Who answers: Python's gRPC compares DNS names and cannot show the server's certificate. So the roots are those of
the agent's own trust domain alone, the name compared is `tasklease-broker`, which SPIRE puts into the broker's
SVIDs and nobody else's; and before each new channel a TLS handshake of our own reads the certificate at that
address and compares its SPIFFE ID. What this leaves open: the handshake is another connection than the channel's,
so against somebody who can switch between the two, the DNS name alone stands.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any, Final, TypeVar

import grpc

from broker.api.v1 import credentials_pb2_grpc, tasks_pb2_grpc
from broker.client.errors import BrokerError, NotConnected, Unavailable, from_rpc
from broker.client.identity import Identity, Svid

logger = logging.getLogger(__name__)

DNS_NAME: Final = "tasklease-broker"
_OLD_CHANNEL_GRACE: Final = 5.0
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 2.0
Request = TypeVar("Request")
Response = TypeVar("Response")


class Stubs:
    """The broker's services on one channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.tasks = tasks_pb2_grpc.TaskServiceStub(channel)  # type: ignore[no-untyped-call]  # generated
        self.credentials = credentials_pb2_grpc.CredentialServiceStub(channel)  # type: ignore[no-untyped-call]


class Connection:
    """See the module."""

    def __init__(self, *, address: str, identity: Identity, broker_id: str | None) -> None:
        self._address = address
        self._identity = identity
        self._broker_id = broker_id
        self._stubs: Stubs | None = None
        self._version = -1
        self._lock = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()

    async def stubs(self) -> Stubs:
        """The services, over a channel for the newest SVID.

        Raises:
            NotConnected: nobody answers, or not the broker.
        """
        if self._stubs is not None and self._version == self._identity.version:
            return self._stubs
        async with self._lock:
            version = self._identity.version
            if self._stubs is None or self._version != version:
                svid = self._identity.svid()
                await self._check_broker(svid)
                old, self._stubs = self._stubs, Stubs(self._open(svid))
                self._version = version
                if old is not None:
                    work = asyncio.create_task(old.channel.close(_OLD_CHANNEL_GRACE))
                    self._closing.add(work)
                    work.add_done_callback(self._closing.discard)
            return self._stubs

    async def call(
        self,
        method: Callable[[Stubs], grpc.aio.UnaryUnaryMultiCallable[Request, Response]],
        request: Request,
        *,
        timeout: timedelta,
    ) -> Response:
        """Make one call; `Unavailable` is tried again, with backoff, until `timeout`. Only for calls that may be
        repeated: every call of the wire may, by its idempotency key or by its nature.

        Raises:
            BrokerError: what the broker answered, or that it could not be reached.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout.total_seconds()
        pause = _FIRST_PAUSE
        while True:
            left = max(end - loop.time(), 0.05)
            try:
                stubs = await self.stubs()
                return await method(stubs)(request, timeout=left)
            except grpc.aio.AioRpcError as error:
                failure = from_rpc(error)
            except NotConnected as error:
                failure = error
            if not _worth_repeating(failure):
                raise failure
            wait = max(pause * random.uniform(0.5, 1.0), _seconds(failure.retry_after))  # noqa: S311 - jitter
            if loop.time() + wait >= end:
                raise failure
            await asyncio.sleep(wait)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def stream(
        self,
        method: Callable[[Stubs], grpc.aio.UnaryStreamMultiCallable[Request, Response]],
        request: Request,
    ) -> AsyncIterator[Response]:
        """Open a stream and pass its messages on.

        Raises:
            BrokerError: it ended with an error.
        """
        stubs = await self.stubs()
        call = method(stubs)(request)
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from None
        finally:
            call.cancel()

    async def close(self) -> None:
        """Close the channel."""
        if self._stubs is not None:
            await self._stubs.channel.close(1.0)
        for work in list(self._closing):
            work.cancel()
        self._identity.close()

    def _open(self, svid: Svid) -> grpc.aio.Channel:
        credentials = grpc.ssl_channel_credentials(svid.authorities, svid.key, svid.chain)
        options: list[tuple[str, Any]] = [
            ("grpc.ssl_target_name_override", DNS_NAME),
            ("grpc.keepalive_time_ms", 20_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2_000),
        ]
        return grpc.aio.secure_channel(self._address, credentials, options=options)

    async def _check_broker(self, svid: Svid) -> None:
        """Read the certificate at the address, and compare its SPIFFE ID (see the module)."""
        expected = self._broker_id or f"spiffe://{svid.trust_domain}/tasklease/broker"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = (
            ssl.TLSVersion.TLSv1_3
        )  # the server speaks first, before it asks for our SVID
        context.load_verify_locations(cadata=svid.authorities.decode())
        context.set_alpn_protocols(["h2"])
        host, _, port = self._address.rpartition(":")
        try:
            async with asyncio.timeout(5):
                _reader, writer = await asyncio.open_connection(
                    host.strip("[]"), int(port), ssl=context, server_hostname=DNS_NAME
                )
        except ssl.SSLCertVerificationError as error:
            message = f"what answers at {self._address} is not a broker of {svid.trust_domain}: {error.verify_message}"
            raise NotConnected(message, reason="NOT_THE_BROKER") from None
        except (OSError, TimeoutError, ValueError) as error:
            message = f"nobody answers at {self._address} ({type(error).__name__})"
            raise NotConnected(message) from None
        certificate = writer.get_extra_info("peercert") or {}
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        names = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]
        if names != [expected]:
            message = f"what answers at {self._address} is {', '.join(names) or 'nobody'}, not {expected}"
            raise NotConnected(message, reason="NOT_THE_BROKER")


def _worth_repeating(error: BrokerError) -> bool:
    if isinstance(error, NotConnected):
        return error.reason != "NOT_THE_BROKER"
    if isinstance(error, Unavailable):
        return error.reason != "CALL_DEADLINE_EXCEEDED"
    return error.reason in {"RATE_LIMITED", "OVERLOADED", "SVID_EXPIRED"}


def _seconds(duration: timedelta | None) -> float:
    return 0.0 if duration is None else duration.total_seconds()
