"""JWT-SVIDs as they should be, and as they should not be."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import timedelta
from functools import cache
from typing import Any, Final

from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from broker.adapters.spire.jwt_bundles import JwtBundle
from tests.fakes.system import NOON
from tests.unit.client.authority import TRUST_DOMAIN
from tests.unit.spire.certificates import AGENT

AUDIENCE: Final = "tasklease"
CLAIMS: Final = {"sub": AGENT, "aud": [AUDIENCE], "exp": int((NOON + timedelta(minutes=5)).timestamp())}
ABSENT: Final = object()
"""In the place of a value: leave it out."""

HASHES: Final[Mapping[str, hashes.HashAlgorithm]] = {
    "256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512(),
}  # fmt: skip
CURVES: Final[Mapping[str, ec.EllipticCurve]] = {
    "ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1(),
}  # fmt: skip
ALGORITHMS: Final = tuple(f"{family}{size}" for family in ("RS", "PS", "ES") for size in HASHES)

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@cache
def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


@cache
def key_for(algorithm: str) -> Key:
    """The one key of that algorithm in these tests."""
    return ec.generate_private_key(CURVES[algorithm]) if algorithm in CURVES else rsa_key()


def encoded(content: bytes | Mapping[str, Any]) -> str:
    if not isinstance(content, bytes):
        content = json.dumps(content).encode()
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def signature(algorithm: str, key: Key, signed: bytes) -> bytes:
    digest = HASHES.get(algorithm[2:], hashes.SHA256())
    match key:
        case ec.EllipticCurvePrivateKey():
            r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(digest)))
            size = (key.curve.key_size + 7) // 8
            return r.to_bytes(size) + s.to_bytes(size)
        case rsa.RSAPrivateKey():
            how = (
                padding.PSS(padding.MGF1(digest), digest.digest_size)
                if algorithm.startswith("PS")
                else padding.PKCS1v15()
            )
            return key.sign(signed, how, digest)
        case ed25519.Ed25519PrivateKey():
            return key.sign(signed)


def token(
    algorithm: str = "ES256",
    *,
    key: Key | None = None,
    header: Mapping[str, Any] | bytes | None = None,
    claims: Mapping[str, Any] | bytes | None = None,
) -> str:
    """As SPIRE makes it; what `header` and `claims` say takes the place of what is there, bytes of the whole."""
    good_header = {"alg": algorithm, "kid": algorithm, "typ": "JWT"}
    parts = [
        content if isinstance(content, bytes) else _changed(good, content or {})
        for good, content in ((good_header, header), (CLAIMS, claims))
    ]
    signed = ".".join(map(encoded, parts))
    return f"{signed}.{encoded(signature(algorithm, key or key_for(algorithm), signed.encode()))}"


def hmac_token(algorithm: str, secret: bytes) -> str:
    """Signed with the bytes of a public key, as if they were a secret."""
    signed = f"{encoded({'alg': algorithm, 'kid': 'ES256', 'typ': 'JWT'})}.{encoded(CLAIMS)}"
    mac = hmac.HMAC(secret, HASHES[algorithm[2:]])
    mac.update(signed.encode())
    return f"{signed}.{encoded(mac.finalize())}"


def public_pem(algorithm: str = "ES256") -> bytes:
    return key_for(algorithm).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def jwt_bundle(trust_domain: str = TRUST_DOMAIN, **keys: Key) -> JwtBundle:
    """The keys of all algorithms under the algorithm's name, unless others are given."""
    chosen = keys or {algorithm: key_for(algorithm) for algorithm in ALGORITHMS}
    return JwtBundle.of(trust_domain, {key_id: key.public_key() for key_id, key in chosen.items()})


def _changed(good: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**good, **changes}.items() if value is not ABSENT}
