"""The agent's identity: an X.509-SVID and its own trust domain's bundle, kept current."""

# ruff: noqa: N818

from __future__ import annotations

import asyncio
import logging
import os
import threading
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from spiffe import X509Source

logger = logging.getLogger(__name__)


class NoIdentity(Exception):
    """SPIRE gives this process no SVID; the message says what to check."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Svid:
    """An X.509-SVID with its key and the authorities of its own trust domain, all PEM."""

    spiffe_id: str
    chain: bytes
    key: bytes = field(repr=False)
    authorities: bytes

    @property
    def trust_domain(self) -> str:
        """The trust domain's name."""
        return urlsplit(self.spiffe_id).netloc


class Identity(Protocol):
    """Where the SDK takes its SVID from. `version` grows when there is another."""

    @property
    def version(self) -> int: ...

    def svid(self) -> Svid: ...

    async def start(self, patience: timedelta) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticIdentity:
    """An SVID that somebody else obtained, and that does not change."""

    value: Svid
    version: int = 1

    def svid(self) -> Svid:
        """The SVID."""
        return self.value

    async def start(self, patience: timedelta) -> None:
        """There is nothing to wait for."""

    def close(self) -> None:
        """There is nothing to close."""


class WorkloadApiIdentity:
    """The SVID of this process from SPIRE's Workload API. A source that dies is replaced, with backoff."""

    def __init__(self, socket: str | None = None) -> None:
        self._socket = socket or os.environ.get("SPIFFE_ENDPOINT_SOCKET", "")
        self._svid: Svid | None = None
        self._version = 0
        self._trouble = "the Workload API has not answered"
        self._ready = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name="tasklease-identity", daemon=True)

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
            NoIdentity: none came in time.
        """
        if not self._socket:
            message = "SPIFFE_ENDPOINT_SOCKET is not set: name SPIRE's Workload API, as in unix:///run/spire/agent.sock"
            raise NoIdentity(message)
        self._thread.start()
        if not await asyncio.to_thread(self._ready.wait, patience.total_seconds()):
            self._stop.set()
            message = (
                f"no SVID from {self._socket} after {patience.total_seconds():.0f} s ({self._trouble}): is the SPIRE "
                "agent running, and is this process registered as an agent instance?"
            )
            raise NoIdentity(message)

    def close(self) -> None:
        """Stop following."""
        self._stop.set()

    def _supervise(self) -> None:
        pause = 0.2
        while not self._stop.is_set():
            try:
                with X509Source(socket_path=self._socket, timeout_in_seconds=5) as source:
                    changed = threading.Event()
                    source.subscribe_for_updates(changed.set)
                    self._take(source)
                    pause = 0.2
                    while not self._stop.is_set() and not source.is_closed():
                        if changed.wait(0.5):
                            changed.clear()
                            self._take(source)
            except Exception as error:  # noqa: BLE001 - whatever it was, another source is opened
                self._trouble = str(error) or type(error).__name__
                logger.debug("the X.509 source ended: %s", self._trouble)
            self._stop.wait(pause)
            pause = min(pause * 2, 5.0)

    def _take(self, source: X509Source) -> None:
        context = source.get_x509_context()
        svid = context.default_svid
        bundle = context.x509_bundle_set.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
        authorities = b"".join(
            authority.public_bytes(Encoding.PEM) for authority in (bundle.x509_authorities if bundle else ())
        )
        self._svid = Svid(
            spiffe_id=str(svid.spiffe_id),
            chain=b"".join(certificate.public_bytes(Encoding.PEM) for certificate in svid.cert_chain),
            key=svid.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            authorities=authorities,
        )
        self._version += 1
        self._ready.set()
