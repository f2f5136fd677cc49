"""Verifies who is calling by a JWT-SVID, per call (rule R4). Implements ports.identity.TokenVerifier.

A token is shown, not held: whoever has it is taken for its subject until it expires. So it is refused unless
everything about it is as it should be:

    1  bounds; three parts in strict base64url (sections 1, 5.1)
    2  a header of `alg`, `kid` and `typ` alone: an algorithm of the standard's list, a key id (2.1 to 2.3)
    3  a subject that is a SPIFFE ID with a path (3.1), one audience, which is this broker (3.2), an expiry (3.3)
    4  the bundle of the subject's own trust domain, and no other; its key of that id, which fits the algorithm
    5  the signature (4)
    6  valid at this moment, and not for longer than is taken here
    7  names an agent instance             8  not quarantined

Sections are those of the JWT-SVID standard. Stricter than it: a key id must be there; a token for several
audiences is refused, since each of them could show it here (7.2); and no clock is given any leeway.
The key is chosen by the bundle and never by the token; `none` and HMAC are not in the list, so a public key is never
taken for a secret. What is kept between calls, and what never: admitting.py.
Nothing but errors of our tree leaves: whatever is unforeseen is SvidInvalidError (rule R5). No text of ours repeats
anything of a token (rule R6).
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Final, NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from broker.adapters.spire.admitting import Admission, Checked
from broker.adapters.spire.jwt_bundles import JwtBundle
from broker.domain.errors import BrokerError, SvidInvalidError
from broker.domain.peer import SvidKind, VerifiedPeer
from broker.domain.spiffe import InvalidSpiffeIdError, SpiffeId
from broker.ports.identity import Quarantine
from broker.ports.system import Clock

logger = logging.getLogger(__name__)

_MOST_TOKEN_CHARACTERS: Final = 8_192
_LEAST_RSA_BITS: Final = 2048  # RFC 7518, 3.3
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]+")
_HEADERS: Final = {"alg", "kid", "typ"}
_LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)
_FOR_EVER: Final = datetime.max.replace(tzinfo=UTC)

_PKCS1: Final = padding.PKCS1v15()


@dataclass(frozen=True, slots=True)
class _Rsa:
    """RS* and PS*."""

    digest: hashes.HashAlgorithm
    pss: bool

    def check(self, key: object, signature: bytes, signed: bytes) -> bool:
        if not isinstance(key, rsa.RSAPublicKey) or key.key_size < _LEAST_RSA_BITS:
            return False
        how = padding.PSS(padding.MGF1(self.digest), self.digest.digest_size) if self.pss else _PKCS1
        try:
            key.verify(signature, signed, how, self.digest)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class _Ecdsa:
    """ES*: the curve belongs to the algorithm, and the signature is two numbers of the curve's size."""

    digest: hashes.HashAlgorithm
    curve: type[ec.EllipticCurve]

    def check(self, key: object, signature: bytes, signed: bytes) -> bool:
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, self.curve):
            return False
        size = (key.curve.key_size + 7) // 8
        if len(signature) != 2 * size:
            return False
        r, s = int.from_bytes(signature[:size]), int.from_bytes(signature[size:])
        try:
            key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(self.digest))
        except InvalidSignature:
            return False
        return True


_ALGORITHMS: Final[Mapping[str, _Rsa | _Ecdsa]] = MappingProxyType(
    {
        "RS256": _Rsa(hashes.SHA256(), pss=False),
        "RS384": _Rsa(hashes.SHA384(), pss=False),
        "RS512": _Rsa(hashes.SHA512(), pss=False),
        "PS256": _Rsa(hashes.SHA256(), pss=True),
        "PS384": _Rsa(hashes.SHA384(), pss=True),
        "PS512": _Rsa(hashes.SHA512(), pss=True),
        "ES256": _Ecdsa(hashes.SHA256(), ec.SECP256R1),
        "ES384": _Ecdsa(hashes.SHA384(), ec.SECP384R1),
        "ES512": _Ecdsa(hashes.SHA512(), ec.SECP521R1),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unverified:
    """What a token says of itself. Nothing of it is true before its signature was checked."""

    algorithm: _Rsa | _Ecdsa
    key_id: str
    spiffe_id: SpiffeId
    not_before: datetime
    expires: datetime
    signed: bytes
    signature: bytes


class JwtSvidVerifier:
    """See the module."""

    def __init__(
        self,
        *,
        audience: str,
        max_validity: timedelta,
        bundle_of: Callable[[str], JwtBundle | None],
        quarantine: Quarantine,
        clock: Clock,
    ) -> None:
        self._audience = audience
        self._max_validity = max_validity
        self._admission = Admission(SvidKind.JWT, bundle_of=bundle_of, quarantine=quarantine, clock=clock)

    def verify(self, token: str) -> VerifiedPeer:
        """See ports.identity.TokenVerifier."""
        try:
            if len(token) > _MOST_TOKEN_CHARACTERS:
                _refuse("is too large")
            return self._admission.admit(
                hashlib.sha256(token.encode()).digest(),
                lambda: self._read(token),
                lambda said: said.spiffe_id,
                lambda said, _spiffe_id, bundle, now: self._check(said, bundle, now),
            )
        except BrokerError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it was, it is a refusal
            logger.error("verifying a JWT-SVID failed: %s", type(error).__name__)
            text = "the token is not a JWT-SVID"
            # Not `from error`: what a parser says may hold a part of the token.
            raise SvidInvalidError(text) from None

    def forget(self) -> None:
        """Verify everybody from the beginning; for measurements."""
        self._admission.forget()

    def _check(self, said: _Unverified, bundle: JwtBundle, now: datetime) -> Checked:
        key = bundle.keys.get(said.key_id)
        if key is None or not said.algorithm.check(key, said.signature, said.signed):
            _refuse("is not signed by its trust domain's authority")
        if said.expires - now > self._max_validity:
            _refuse("is valid for longer than is taken here")
        return Checked(
            spiffe_id=said.spiffe_id,
            svid_sha256=hashlib.sha256(said.signed).hexdigest(),
            valid_from=said.not_before,
            valid_until=said.expires,
            signed_from=_LONG_AGO,
            signed_until=_FOR_EVER,
        )

    def _read(self, token: str) -> _Unverified:
        parts = token.split(".")
        if len(parts) != 3:
            _refuse("does not have three parts")
        header, claims = (_object(_decoded(part)) for part in parts[:2])
        if not header.keys() <= _HEADERS:
            _refuse("has a header that is not alg, kid or typ (JWT-SVID 2)")
        algorithm, key_id = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in _ALGORITHMS:
            _refuse("has an algorithm that is not of the standard's list (JWT-SVID 2.1)")
        if not isinstance(key_id, str) or not key_id:
            _refuse("names no key (JWT-SVID 2.2)")
        if "typ" in header and header["typ"] not in {"JWT", "JOSE"}:
            _refuse("is of another type (JWT-SVID 2.3)")
        self._refuse_another_audience(claims)
        if "iat" in claims:
            _moment(claims["iat"])
        return _Unverified(
            algorithm=_ALGORITHMS[algorithm],
            key_id=key_id,
            spiffe_id=_subject(claims),
            not_before=_moment(claims["nbf"]) if "nbf" in claims else _LONG_AGO,
            expires=_moment(claims.get("exp")),
            signed=f"{parts[0]}.{parts[1]}".encode(),
            signature=_decoded(parts[2]),
        )

    def _refuse_another_audience(self, claims: Mapping[str, object]) -> None:
        """RFC 7519, 4.1.3: one text, or a list of them."""
        audience = claims.get("aud")
        named = audience if isinstance(audience, list) else [audience]
        if named != [self._audience]:
            _refuse("is not for this broker alone (JWT-SVID 3.2)")


def _subject(claims: Mapping[str, object]) -> SpiffeId:
    subject = claims.get("sub")
    if not isinstance(subject, str):
        _refuse("has no subject (JWT-SVID 3.1)")
    try:
        spiffe_id = SpiffeId.parse(subject)
    except InvalidSpiffeIdError:
        _refuse("has a subject that is not a SPIFFE ID (JWT-SVID 3.1)")
    if not spiffe_id.path:
        _refuse("has a trust domain for a subject, not a workload (JWT-SVID 3.1)")
    return spiffe_id


def _moment(value: object) -> datetime:
    """RFC 7519, section 2: a number of seconds since 1970."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        _refuse("has a time that is missing or is not a number of seconds (JWT-SVID 3.3)")
    try:
        return datetime.fromtimestamp(value, UTC)
    except (OverflowError, ValueError, OSError):
        _refuse("has a time that is out of all bounds (JWT-SVID 3.3)")


def _decoded(part: str) -> bytes:
    """RFC 7515, section 2: base64url without padding; one spelling for each content."""
    if not _BASE64URL.fullmatch(part) or len(part) % 4 == 1:
        _refuse("is not base64url (JWT-SVID 5.1)")
    content = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    if base64.urlsafe_b64encode(content).rstrip(b"=") != part.encode():
        _refuse("is not base64url (JWT-SVID 5.1)")
    return content


def _object(content: bytes) -> Mapping[str, object]:
    try:
        found = json.loads(content.decode(), object_pairs_hook=_once_each, parse_constant=_no_constant)
    except (ValueError, RecursionError):  # not `from`: the parser's text holds the content
        _refuse("has a part that is not JSON, or says something twice")
    if not isinstance(found, dict):
        _refuse("has a part that is not a JSON object")
    return found


def _once_each(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def _no_constant(_name: str) -> NoReturn:
    """JSON has no NaN and no Infinity."""
    raise ValueError


def _refuse(why: str) -> NoReturn:
    text = f"the JWT-SVID {why}"
    raise SvidInvalidError(text) from None
