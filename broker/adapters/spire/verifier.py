"""Verifies who is calling by the connection's X.509-SVID, per call (rule R4). Implements ports.identity.PeerVerifier.

The TLS layer proves that the peer holds the key of *some* certificate that chains to *some* trust domain that we
know. Who it is, is decided here:

    1  bounds on what was sent            2  one leaf with exactly one URI SAN, a SPIFFE ID with a path
    3  the bundle of the leaf's own trust domain, and no other
    4  a leaf by its extensions: not a CA, a critical key usage that signs, but no certificates or CRLs
    5  the chain (cryptography's path validation), whose signing certificates name no workload
    6  valid at this moment               7  names an agent instance        8  not quarantined

Sections in comments are those of the X509-SVID standard. What is kept between calls, and what never: admitting.py.
Nothing but errors of our tree leaves: whatever is unforeseen is SvidInvalidError (rule R5).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from broker.adapters.spire.admitting import Admission, Checked
from broker.adapters.spire.identity import TrustBundle
from broker.domain.errors import BrokerError, SvidInvalidError, SvidMissingError
from broker.domain.peer import SvidKind, VerifiedIdentity, VerifiedPeer
from broker.domain.spiffe import InvalidSpiffeIdError, SpiffeId
from broker.ports.identity import Quarantine
from broker.ports.system import Clock

logger = logging.getLogger(__name__)

_MOST_PEM_BYTES: Final = 16_384
_MOST_INTERMEDIATES: Final = 8
_NO_LEAF: Final = "the certificate is not a leaf X.509-SVID"
_BOTH_SIDES: Final = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}

# What cryptography demands by default, less two things that the standard leaves open and that are looked at here:
# an extended key usage MAY be critical (4.4), and a SAN may be so whether or not there is a subject (3.1).
# URI name constraints (4.2) are not supported by cryptography: a chain that has one is refused.
_POLICY: Final = PolicyBuilder().extension_policies(
    ca_policy=ExtensionPolicy.webpki_defaults_ca(),
    ee_policy=ExtensionPolicy.webpki_defaults_ee()
    .may_be_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, None)
    .require_present(x509.SubjectAlternativeName, Criticality.AGNOSTIC, None),
)

Extension = TypeVar("Extension", bound=x509.ExtensionType)
Answer = TypeVar("Answer")
_Read = Callable[[], x509.Certificate]
_Name = Callable[[x509.Certificate], SpiffeId]
_Check = Callable[[x509.Certificate, SpiffeId, TrustBundle, datetime], Checked]


class SvidVerifier:
    """See the module."""

    def __init__(
        self, *, bundle_of: Callable[[str], TrustBundle | None], quarantine: Quarantine, clock: Clock
    ) -> None:
        self._admission = Admission(SvidKind.X509, bundle_of=bundle_of, quarantine=quarantine, clock=clock)

    def verify(self, leaf_pem: bytes | None, intermediates_pem: Sequence[bytes]) -> VerifiedPeer:
        """See ports.identity.PeerVerifier."""
        return _answer(leaf_pem, intermediates_pem, self._admission.admit)

    def identify(self, leaf_pem: bytes | None, intermediates_pem: Sequence[bytes]) -> VerifiedIdentity:
        """See ports.identity.PeerVerifier: whoever it is, agent instance or not."""
        checked = _answer(leaf_pem, intermediates_pem, self._admission.identify)
        return VerifiedIdentity(
            spiffe_id=checked.spiffe_id, svid_expires_at=checked.valid_until, svid_sha256=checked.svid_sha256
        )

    def forget(self) -> None:
        """Verify everybody from the beginning; for measurements."""
        self._admission.forget()


def _answer(
    leaf_pem: bytes | None,
    intermediates_pem: Sequence[bytes],
    ask: Callable[[bytes, _Read, _Name, _Check], Answer],
) -> Answer:
    if not leaf_pem:
        text = "show an X.509-SVID: connect with mTLS"
        raise SvidMissingError(text)
    try:
        _refuse_what_is_too_large(leaf_pem, intermediates_pem)
        return ask(
            _digest(leaf_pem, intermediates_pem),
            lambda: x509.load_pem_x509_certificate(leaf_pem),
            _spiffe_id_of,
            lambda leaf, spiffe_id, bundle, now: _check(leaf, intermediates_pem, spiffe_id, bundle, now),
        )
    except BrokerError:
        raise
    except Exception as error:
        logger.error("verifying an X.509-SVID failed: %s", type(error).__name__)
        raise SvidInvalidError(_NO_LEAF) from error


def _refuse_what_is_too_large(leaf_pem: bytes, intermediates_pem: Sequence[bytes]) -> None:
    if (
        len(leaf_pem) > _MOST_PEM_BYTES
        or len(intermediates_pem) > _MOST_INTERMEDIATES
        or any(len(pem) > _MOST_PEM_BYTES for pem in intermediates_pem)
    ):
        text = "the certificate chain is too large"
        raise SvidInvalidError(text)


def _check(
    leaf: x509.Certificate,
    intermediates_pem: Sequence[bytes],
    spiffe_id: SpiffeId,
    bundle: TrustBundle,
    now: datetime,
) -> Checked:
    _refuse_what_is_no_leaf(leaf)
    valid_from, valid_until = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    # An SVID that is not valid now is still told from one that never was good: by a moment when it was valid.
    moment = now if valid_from <= now < valid_until else valid_until
    intermediates = [x509.load_pem_x509_certificate(pem) for pem in intermediates_pem]
    verifier = _POLICY.store(Store(list(bundle.authorities))).time(moment).build_client_verifier()
    try:
        chain = verifier.verify(leaf, intermediates).chain
    except (VerificationError, UnsupportedAlgorithm) as error:
        text = "the SVID is not signed by its trust domain's authority"
        raise SvidInvalidError(text) from error
    signers = chain[1:]
    if not signers:
        text = "the SVID stands for itself: an authority signs it"
        raise SvidInvalidError(text)
    for signer in signers:
        _refuse_a_workload_that_signs(signer)
    return Checked(
        spiffe_id=spiffe_id,
        svid_sha256=hashlib.sha256(leaf.public_bytes(Encoding.DER)).hexdigest(),
        valid_from=valid_from,
        valid_until=valid_until,
        signed_from=max(signer.not_valid_before_utc for signer in signers),
        signed_until=min(signer.not_valid_after_utc for signer in signers),
    )


def _spiffe_id_of(leaf: x509.Certificate) -> SpiffeId:
    """Exactly one URI SAN (section 2), which is a SPIFFE ID with a path (3.1, 5.2)."""
    names = _extension(leaf, x509.SubjectAlternativeName)
    uris = [] if names is None else names.value.get_values_for_type(x509.UniformResourceIdentifier)
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


def _refuse_what_is_no_leaf(leaf: x509.Certificate) -> None:
    names = _extension(leaf, x509.SubjectAlternativeName)
    if not leaf.subject.rdns and names is not None and not names.critical:
        text = f"{_NO_LEAF}: it has no subject, and its SAN is not critical"  # 3.1
        raise SvidInvalidError(text)
    constraints = _extension(leaf, x509.BasicConstraints)
    if constraints is not None and constraints.value.ca:
        text = f"{_NO_LEAF}: it is a CA"  # 4.1, 5.2
        raise SvidInvalidError(text)
    usage = _extension(leaf, x509.KeyUsage)
    if usage is None or not usage.critical or not usage.value.digital_signature:
        text = f"{_NO_LEAF}: it has no critical key usage with digitalSignature"  # 4.3
        raise SvidInvalidError(text)
    if usage.value.key_cert_sign or usage.value.crl_sign:
        text = f"{_NO_LEAF}: it may sign certificates or revocation lists"  # 4.3, 5.2
        raise SvidInvalidError(text)
    extended = _extension(leaf, x509.ExtendedKeyUsage)
    if extended is not None and not set(extended.value) >= _BOTH_SIDES:
        text = f"{_NO_LEAF}: its extended key usage is not for servers and clients both"  # 4.4
        raise SvidInvalidError(text)


def _refuse_a_workload_that_signs(signer: x509.Certificate) -> None:
    """A signing certificate need not be an SVID; one that is has no path (3.2) and a critical key usage (4.3)."""
    names = _extension(signer, x509.SubjectAlternativeName)
    uris = [] if names is None else names.value.get_values_for_type(x509.UniformResourceIdentifier)
    if not any(uri.lower().startswith("spiffe:") for uri in uris):
        return
    text = "a signing certificate of the chain is not an X.509-SVID of an authority"
    try:
        (uri,) = uris
        path = SpiffeId.parse(uri).path
    except ValueError as error:
        raise SvidInvalidError(text) from error
    usage = _extension(signer, x509.KeyUsage)
    if path or usage is None or not usage.critical:
        raise SvidInvalidError(text)


def _extension(certificate: x509.Certificate, kind: type[Extension]) -> x509.Extension[Extension] | None:
    try:
        return certificate.extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None


def _digest(leaf_pem: bytes, intermediates_pem: Sequence[bytes]) -> bytes:
    # Each call comes by here: quicker than SHA-256 where OpenSSL is asked for that.
    digest = hashlib.blake2b(digest_size=32)
    for pem in (leaf_pem, *intermediates_pem):
        digest.update(len(pem).to_bytes(4))
        digest.update(pem)
    return digest.digest()
