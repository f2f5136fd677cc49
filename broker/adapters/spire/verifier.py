"""Verifies who is calling, per call (rule R4). Implements ports.identity.PeerVerifier.

The TLS layer proves that the peer holds the key of *some* certificate that chains to *some* trust domain that we
know. Who it is, is decided here:

    1  bounds on what was sent            2  one leaf with exactly one URI SAN, a SPIFFE ID with a path
    3  the bundle of the leaf's own trust domain, and no other
    4  valid at this moment               5  chain, key usage and constraints (cryptography's path validation)
    6  not a CA, no right to sign certificates or CRLs        7  names an agent instance        8  not quarantined

Steps 1 to 3, 5 and 6 depend on the certificates and the bundle alone, so their result is kept under a digest of
both; a bundle that changes has another digest. Steps 4 and 8 depend on the moment and are done at every call.
Nothing but errors of our tree leaves: whatever is unforeseen is SvidInvalidError (rule R5).
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from broker.adapters.spire.identity import TrustBundle
from broker.domain.errors import (
    AgentClassUnknownError,
    BrokerError,
    InstanceQuarantinedError,
    SvidExpiredError,
    SvidInvalidError,
    SvidMissingError,
    TrustDomainUnknownError,
)
from broker.domain.peer import VerifiedIdentity, VerifiedPeer
from broker.domain.spiffe import AgentIdentity, InvalidSpiffeIdError, SpiffeId
from broker.ports.identity import Quarantine
from broker.ports.system import Clock

logger = logging.getLogger(__name__)

_MOST_PEM_BYTES: Final = 16_384
_MOST_INTERMEDIATES: Final = 8
_MOST_KEPT: Final = 10_000
Key = TypeVar("Key")
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Checked:
    """What steps 1 to 3, 5 and 6 found; when it may be used is checked at each call."""

    spiffe_id: SpiffeId
    identity: AgentIdentity | None
    not_before: datetime
    not_after: datetime
    leaf_sha256: str


class SvidVerifier:
    """See the module."""

    def __init__(
        self, *, bundle_of: Callable[[str], TrustBundle | None], quarantine: Quarantine, clock: Clock
    ) -> None:
        self._bundle_of = bundle_of
        self._quarantine = quarantine
        self._clock = clock
        self._names: OrderedDict[bytes, SpiffeId] = OrderedDict()
        self._checked: OrderedDict[tuple[bytes, str], _Checked] = OrderedDict()

    def verify(self, leaf_pem: bytes | None, intermediates_pem: Sequence[bytes]) -> VerifiedPeer:
        """See ports.identity.PeerVerifier."""
        checked = self._valid_now(leaf_pem, intermediates_pem)
        if checked.identity is None:
            text = "the SPIFFE ID does not name an agent instance (/agent/<class>/<instance>)"
            raise AgentClassUnknownError(text)
        if self._quarantine.holds(checked.spiffe_id):
            raise InstanceQuarantinedError
        return VerifiedPeer(
            spiffe_id=checked.spiffe_id,
            agent_class=checked.identity.agent_class,
            instance=checked.identity.instance,
            svid_expires_at=checked.not_after,
            leaf_sha256=checked.leaf_sha256,
        )

    def identify(self, leaf_pem: bytes | None, intermediates_pem: Sequence[bytes]) -> VerifiedIdentity:
        """See ports.identity.PeerVerifier: steps 1 to 6, for callers that need not be agent instances."""
        checked = self._valid_now(leaf_pem, intermediates_pem)
        return VerifiedIdentity(
            spiffe_id=checked.spiffe_id, svid_expires_at=checked.not_after, svid_sha256=checked.leaf_sha256
        )

    def _valid_now(self, leaf_pem: bytes | None, intermediates_pem: Sequence[bytes]) -> _Checked:
        if not leaf_pem:
            text = "show an X.509-SVID: connect with mTLS"
            raise SvidMissingError(text)
        try:
            return self._verify(leaf_pem, intermediates_pem)
        except BrokerError:
            raise
        except Exception as error:
            logger.error("verifying an SVID failed: %s", type(error).__name__)
            text = "the certificate is not an X.509-SVID"
            raise SvidInvalidError(text) from error

    def _verify(self, leaf_pem: bytes, intermediates_pem: Sequence[bytes]) -> _Checked:
        if (
            len(leaf_pem) > _MOST_PEM_BYTES
            or len(intermediates_pem) > _MOST_INTERMEDIATES
            or any(len(pem) > _MOST_PEM_BYTES for pem in intermediates_pem)
        ):
            text = "the certificate chain is too large"
            raise SvidInvalidError(text)
        digest = _digest(leaf_pem, intermediates_pem)
        now = self._clock.now()
        leaf: x509.Certificate | None = None
        spiffe_id = self._names.get(digest)
        if spiffe_id is None:
            leaf = x509.load_pem_x509_certificate(leaf_pem)
            spiffe_id = _spiffe_id_of(leaf)
        bundle = self._bundle_of(spiffe_id.trust_domain)
        if bundle is None:
            text = f"the broker holds no bundle for trust domain {spiffe_id.trust_domain}"
            raise TrustDomainUnknownError(text)
        checked = self._checked.get((digest, bundle.digest))
        if checked is None:
            leaf = leaf or x509.load_pem_x509_certificate(leaf_pem)
            checked = _check(leaf, intermediates_pem, spiffe_id, bundle)
            _keep(self._names, digest, spiffe_id)
            _keep(self._checked, (digest, bundle.digest), checked)
        if not checked.not_before <= now < checked.not_after:
            text = "the SVID is not valid at this moment: connect again with a newer one"
            raise SvidExpiredError(text)
        return checked


def _check(
    leaf: x509.Certificate, intermediates_pem: Sequence[bytes], spiffe_id: SpiffeId, bundle: TrustBundle
) -> _Checked:
    """Everything that does not depend on the moment. Chain validation is done at a time when the leaf was valid:
    whether it still is, is asked at each call, so that an expired SVID is told from one that never was good."""
    _refuse_signing_rights(leaf)
    intermediates = [x509.load_pem_x509_certificate(pem) for pem in intermediates_pem]
    verifier = (
        PolicyBuilder()
        .store(Store(list(bundle.authorities)))
        .time(leaf.not_valid_after_utc)
        .build_client_verifier()
    )
    try:
        chain = verifier.verify(leaf, intermediates).chain
    except (VerificationError, UnsupportedAlgorithm) as error:
        text = "the SVID is not signed by its trust domain's authority"
        raise SvidInvalidError(text) from error
    return _Checked(
        spiffe_id=spiffe_id,
        identity=AgentIdentity.of(spiffe_id),
        # The chain was good when the leaf ends; it begins to be when the youngest of its certificates does.
        not_before=max(certificate.not_valid_before_utc for certificate in chain),
        not_after=leaf.not_valid_after_utc,
        leaf_sha256=hashlib.sha256(leaf.public_bytes(Encoding.DER)).hexdigest(),
    )


def _spiffe_id_of(leaf: x509.Certificate) -> SpiffeId:
    """X509-SVID 2: exactly one URI SAN, which is the SPIFFE ID; a leaf's has a path (4.1)."""
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound as error:
        text = "the certificate has no SAN: not an X.509-SVID"
        raise SvidInvalidError(text) from error
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        text = "an X.509-SVID has exactly one URI SAN"
        raise SvidInvalidError(text)
    try:
        spiffe_id = SpiffeId.parse(uris[0])
    except InvalidSpiffeIdError as error:
        text = f"the URI SAN is not a SPIFFE ID: {error}"
        raise SvidInvalidError(text) from error
    if not spiffe_id.path:
        text = "the SPIFFE ID of a leaf has a path"
        raise SvidInvalidError(text)
    return spiffe_id


def _refuse_signing_rights(leaf: x509.Certificate) -> None:
    """X509-SVID 4.2 and 4.3: a leaf is no CA, has digitalSignature, and neither keyCertSign nor cRLSign."""
    text = "the certificate is not a leaf SVID: it may sign certificates, or may not sign at all"
    for extension in leaf.extensions:
        match extension.value:
            case x509.BasicConstraints(ca=True):
                raise SvidInvalidError(text)
            case x509.KeyUsage() as usage if (
                usage.key_cert_sign or usage.crl_sign or not usage.digital_signature
            ):
                raise SvidInvalidError(text)
            case _:
                pass
    if not any(isinstance(extension.value, x509.KeyUsage) for extension in leaf.extensions):
        raise SvidInvalidError(text)


def _digest(leaf_pem: bytes, intermediates_pem: Sequence[bytes]) -> bytes:
    digest = hashlib.sha256(leaf_pem)
    for pem in intermediates_pem:
        digest.update(b"\0")
        digest.update(pem)
    return digest.digest()


def _keep(cache: OrderedDict[Key, Value], key: Key, value: Value) -> None:
    cache[key] = value
    if len(cache) > _MOST_KEPT:
        cache.popitem(last=False)
