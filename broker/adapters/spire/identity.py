"""The broker's own SVIDs and the trust bundles, from SPIRE's Workload API through the `spiffe` package.

The source is supervised for as long as the broker lives (supervising.py). What always holds: readers get the newest
that was ever received, without waiting.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from spiffe import SpiffeId as PackageSpiffeId
from spiffe import WorkloadApiClient, X509Source, X509Svid

from broker.adapters.spire import supervising
from broker.adapters.spire.supervising import Supervised
from broker.domain.secret import Secret
from broker.domain.spiffe import SpiffeId

logger = logging.getLogger(__name__)

_JWT_TIMEOUT: Final = 5.0


class NoIdentityError(Exception):
    """SPIRE gives this process no SVID, or not the one it should have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnSvid:
    """The broker's X.509-SVID."""

    spiffe_id: SpiffeId
    chain_pem: bytes
    key_pem: Secret
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustBundle:
    """One trust domain's authorities; `digest` tells one set from another."""

    trust_domain: str
    authorities: tuple[x509.Certificate, ...]
    digest: str

    @property
    def pem(self) -> bytes:
        """All authorities, PEM after PEM."""
        return b"".join(authority.public_bytes(Encoding.PEM) for authority in self.authorities)


class WorkloadIdentity:
    """See the module. `start` before use, `close` after."""

    def __init__(self, *, endpoint_socket: str, expected_id: SpiffeId) -> None:
        self._socket = endpoint_socket
        self._expected_id = expected_id
        self._svid: OwnSvid | None = None
        self._bundles: Mapping[str, TrustBundle] = {}
        self._version = 0
        self._source = Supervised(
            "workload-identity",
            lambda: X509Source(
                socket_path=endpoint_socket,
                timeout_in_seconds=supervising.LONGEST_PAUSE,
                svid_picker=self._own_among,
            ),
            self._take,
        )

    async def start(self, *, patience: timedelta) -> None:
        """Open the source and wait for the first SVID.

        Raises:
            NoIdentityError: there was none in time, or it is somebody else's.
        """
        if not await self._source.start(patience=patience):
            message = (
                f"no X.509-SVID from {self._socket} after {patience.total_seconds():.0f} s: {self._source.trouble}. "
                "Is the SPIRE agent running, and does an entry with this process's selectors exist?"
            )
            raise NoIdentityError(message)
        svid = self.svid
        if svid.spiffe_id != self._expected_id:
            message = f"SPIRE says that this process is {svid.spiffe_id}, the configuration says {self._expected_id}"
            raise NoIdentityError(message)

    @property
    def svid(self) -> OwnSvid:
        """The newest own SVID.

        Raises:
            NoIdentityError: there was never one.
        """
        if self._svid is None:
            raise NoIdentityError(self._source.trouble)
        return self._svid

    @property
    def version(self) -> int:
        """Grows with each update of SVID or bundles."""
        return self._version

    def bundle(self, trust_domain: str) -> TrustBundle | None:
        """The trust domain's own authorities; None when there are none here."""
        return self._bundles.get(trust_domain)

    def all_roots_pem(self) -> bytes:
        """Every authority of every trust domain. For the TLS layer alone: it proves possession, not identity."""
        return b"".join(bundle.pem for bundle in self._bundles.values())

    @property
    def svid_expires_at(self) -> datetime | None:
        """Of the own SVID; None before there was one."""
        return None if self._svid is None else self._svid.expires_at

    def healthy(self, now: datetime) -> bool:
        """Whether the own SVID is valid."""
        return self._svid is not None and now < self._svid.expires_at

    async def fetch_jwt_svid(self, audience: str) -> Secret:
        """Fetch the broker's JWT-SVID for `audience`.

        Raises:
            NoIdentityError: SPIRE gives none.
        """
        return await asyncio.to_thread(self._fetch_jwt_svid, audience)

    def close(self) -> None:
        """Stop the source."""
        self._source.close()

    def _fetch_jwt_svid(self, audience: str) -> Secret:
        try:
            subject = PackageSpiffeId(str(self._expected_id))
            # Without a time limit, an agent that hangs would hang every log-in to Vault.
            with WorkloadApiClient(socket_path=self._socket, default_timeout=_JWT_TIMEOUT) as client:
                return Secret(client.fetch_jwt_svid(audience={audience}, subject=subject).token)
        except Exception as error:  # the package lets KeyError and others through
            message = f"no JWT-SVID for {audience}: {type(error).__name__}"
            raise NoIdentityError(message) from error

    def _own_among(self, svids: Sequence[X509Svid]) -> X509Svid:
        """The broker's own, where several entries match this process; `start` refuses any other."""
        return next((svid for svid in svids if str(svid.spiffe_id) == str(self._expected_id)), svids[0])

    def _take(self, source: X509Source) -> None:
        context = source.get_x509_context()
        svid = context.default_svid
        if self._svid is not None and str(svid.spiffe_id) != str(self._expected_id):
            message = f"SPIRE says now that this process is {svid.spiffe_id}"
            raise NoIdentityError(message)
        chain = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in svid.cert_chain)
        key = svid.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        bundles = {}
        for bundle in context.x509_bundle_set.bundles:
            authorities = tuple(sorted(bundle.x509_authorities, key=_der))
            digest = hashlib.sha256(b"".join(map(_der, authorities))).hexdigest()
            name = bundle.trust_domain.name
            bundles[name] = TrustBundle(trust_domain=name, authorities=authorities, digest=digest)
        self._bundles = bundles
        self._svid = OwnSvid(
            spiffe_id=SpiffeId.parse(str(svid.spiffe_id)),
            chain_pem=chain,
            key_pem=Secret(key.decode()),
            expires_at=svid.leaf.not_valid_after_utc.astimezone(UTC),
        )
        self._version += 1
        logger.info("X.509-SVID valid until %s, %d bundles", self._svid.expires_at.isoformat(), len(bundles))


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)
