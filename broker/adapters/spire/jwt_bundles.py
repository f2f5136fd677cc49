"""The keys by which each trust domain signs its JWT-SVIDs, from SPIRE's Workload API.

What always holds: a key belongs to exactly one trust domain, and is found by that trust domain's name and its own
id together. Readers get the newest that was ever received, without waiting.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType

from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from spiffe import JwtSource

from broker.adapters.spire import supervising
from broker.adapters.spire.identity import NoIdentityError
from broker.adapters.spire.supervising import Supervised

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtBundle:
    """One trust domain's keys by their ids; `digest` tells one set from another."""

    trust_domain: str
    keys: Mapping[str, PublicKeyTypes]
    digest: str

    @classmethod
    def of(cls, trust_domain: str, keys: Mapping[str, PublicKeyTypes]) -> JwtBundle:
        """Make one, with its digest."""
        digest = hashlib.sha256()
        for key_id, key in sorted(keys.items()):
            for part in (
                key_id.encode(),
                key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            ):
                digest.update(len(part).to_bytes(4))
                digest.update(part)
        return cls(trust_domain=trust_domain, keys=MappingProxyType(dict(keys)), digest=digest.hexdigest())


class JwtBundles:
    """See the module. `start` before use, `close` after."""

    def __init__(self, *, endpoint_socket: str) -> None:
        self._socket = endpoint_socket
        self._bundles: Mapping[str, JwtBundle] = {}
        self._source = Supervised(
            "jwt-bundles",
            lambda: JwtSource(socket_path=endpoint_socket, timeout_in_seconds=supervising.LONGEST_PAUSE),
            self._take,
        )

    async def start(self, *, patience: timedelta) -> None:
        """Open the source and wait for the first bundles.

        Raises:
            NoIdentityError: there were none in time.
        """
        if not await self._source.start(patience=patience):
            message = f"no JWT bundles from {self._socket}: {self._source.trouble}"
            raise NoIdentityError(message)

    def bundle(self, trust_domain: str) -> JwtBundle | None:
        """The trust domain's own keys; None when there are none here."""
        return self._bundles.get(trust_domain)

    def close(self) -> None:
        """Stop the source."""
        self._source.close()

    def _take(self, source: JwtSource) -> None:
        self._bundles = {
            bundle.trust_domain.name: JwtBundle.of(bundle.trust_domain.name, bundle.jwt_authorities)
            for bundle in source.bundles
        }
        logger.info("JWT bundles of %d trust domains", len(self._bundles))
