"""The agent's identity: an X.509-SVID and its own trust domain's bundle, kept current.

What always holds: what is read from here was valid when SPIRE gave it; it is only ever replaced by something newer.
When SPIRE's agent goes away the last SVID stays, until the broker refuses it. The Workload API's client blocks, so
it lives on a thread of its own, and everything it brings is handed to the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Protocol
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from spiffe import WorkloadApiClient, X509Source
from spiffe.workloadapi.x509_context import X509Context

from broker.client.errors import NoIdentity

logger = logging.getLogger(__name__)

SOCKET_VARIABLE: Final = "SPIFFE_ENDPOINT_SOCKET"
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 2.0
_SOURCE_TIMEOUT: Final = 5.0
_LOOK: Final = 0.5
"""How often a source is asked whether it has died: it tells nobody by itself (seconds)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Svid:
    """An X.509-SVID with its key and the authorities of its own trust domain, all PEM."""

    spiffe_id: str
    chain: bytes = field(repr=False)
    key: bytes = field(repr=False)
    authorities: bytes = field(repr=False)

    @property
    def trust_domain(self) -> str:
        """The trust domain's name."""
        return urlsplit(self.spiffe_id).netloc


class Identity(Protocol):
    """Where the SDK takes its SVID from. `version` grows when there is another."""

    @property
    def version(self) -> int: ...

    def svid(self) -> Svid: ...

    async def start(self, patience: timedelta) -> None:
        """Wait for the first SVID."""

    async def changed(self, version: int) -> None:
        """Return when `version` is no longer the current one."""

    async def close(self) -> None: ...


class StaticIdentity:
    """An SVID that somebody else obtained, and that does not change."""

    version: Final = 1

    def __init__(self, svid: Svid) -> None:
        self._svid = svid

    def svid(self) -> Svid:
        """The SVID."""
        return self._svid

    async def start(self, patience: timedelta) -> None:
        """There is nothing to wait for."""

    async def changed(self, version: int) -> None:  # noqa: ARG002 - there is one
        """It never does."""
        await asyncio.get_running_loop().create_future()

    async def close(self) -> None:
        """There is nothing to close."""


class WorkloadApiIdentity:
    """The SVID of this process from SPIRE's Workload API. A source that dies is replaced, with backoff.

    Where SPIRE gives this process several SVIDs, the first is taken.
    """

    def __init__(self, socket: str | None = None) -> None:
        self._socket = socket or os.environ.get(SOCKET_VARIABLE, "")
        self._svid: Svid | None = None
        self._version = 0
        self._trouble = "the Workload API has not answered"
        self._news = asyncio.Condition()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def version(self) -> int:
        """Grows with each new SVID or bundle."""
        return self._version

    def svid(self) -> Svid:
        """The newest SVID.

        Raises:
            NoIdentity: there was never one.
        """
        if self._svid is None:
            raise NoIdentity(self._trouble)
        return self._svid

    async def start(self, patience: timedelta) -> None:
        """Wait for the first SVID.

        Raises:
            NoIdentity: none came in time, or it is not known whom to ask.
        """
        if not self._socket:
            message = (
                f"{SOCKET_VARIABLE} is not set: name SPIRE's Workload API, as in unix:///run/spire/agent.sock"
            )
            raise NoIdentity(message)
        loop = asyncio.get_running_loop()
        self._stop.clear()
        self._thread = threading.Thread(
            target=self._supervise, args=(loop,), name="tasklease-identity", daemon=True
        )
        self._thread.start()
        try:
            async with asyncio.timeout(patience.total_seconds()):
                await self.changed(0)
        except TimeoutError:
            self._stop.set()
            message = (
                f"no SVID from {self._socket} after {patience.total_seconds():g} s ({self._trouble}): is SPIRE's agent "
                "running there, and is this process registered as an agent instance?"
            )
            raise NoIdentity(message) from None
        except BaseException:
            self._stop.set()
            raise

    async def changed(self, version: int) -> None:
        """Return when `version` is no longer the current one."""
        async with self._news:
            await self._news.wait_for(lambda: self._version != version)

    async def close(self) -> None:
        """Stop following; the thread ends by itself soon after."""
        self._stop.set()

    async def _publish(self, svid: Svid) -> None:
        async with self._news:
            if svid != self._svid:
                self._svid = svid
                self._version += 1
                self._news.notify_all()

    # From here on: on the thread.

    def _supervise(self, loop: asyncio.AbstractEventLoop) -> None:
        pause = _FIRST_PAUSE
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                # Asked once by itself: only this way the reason for getting nothing can be learnt, and soon.
                with WorkloadApiClient(self._socket, default_timeout=_SOURCE_TIMEOUT) as client:
                    self._hand_over(client.fetch_x509_context(), loop)
                self._follow(loop)
                self._trouble = "the Workload API ended its stream"
            except Exception as error:  # noqa: BLE001 - whatever it was, another source is opened
                self._trouble = str(error) or type(error).__name__
            if time.monotonic() - began > _LONGEST_PAUSE:
                pause = _FIRST_PAUSE  # it worked for a while
            logger.debug("looking for an SVID again in %.1f s: %s", pause, self._trouble)
            self._stop.wait(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _follow(self, loop: asyncio.AbstractEventLoop) -> None:
        """Hand over whatever one source brings, until it dies."""
        changed = threading.Event()
        with X509Source(socket_path=self._socket, timeout_in_seconds=_SOURCE_TIMEOUT) as source:
            source.subscribe_for_updates(changed.set)
            self._hand_over(source.get_x509_context(), loop)
            while not self._stop.is_set() and not source.is_closed():
                if changed.wait(_LOOK):
                    changed.clear()
                    self._hand_over(source.get_x509_context(), loop)

    def _hand_over(self, context: X509Context, loop: asyncio.AbstractEventLoop) -> None:
        svid = context.default_svid
        bundle = context.x509_bundle_set.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
        authorities = sorted(
            authority.public_bytes(Encoding.PEM) for authority in (bundle.x509_authorities if bundle else ())
        )
        found = Svid(
            spiffe_id=str(svid.spiffe_id),
            chain=b"".join(certificate.public_bytes(Encoding.PEM) for certificate in svid.cert_chain),
            key=svid.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            authorities=b"".join(authorities),
        )
        work = self._publish(found)
        try:
            asyncio.run_coroutine_threadsafe(work, loop)
        except RuntimeError:  # the loop is closed: nobody wants to know any more
            work.close()
            self._stop.set()
