"""Security Event Tokens as they should be, and as they should not be; keys of issuers, in files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from broker.domain.security_events import EVENTS
from tests.fakes.samples import OWNER
from tests.fakes.system import NOON
from tests.unit.spire.tokens import ABSENT, Key, encoded, key_for, signature

ISSUER: Final = "https://idp.example.test"
AUDIENCE: Final = "https://tasklease.example.test/events"
ALGORITHMS: Final = ("RS256", "PS256", "ES256", "EdDSA")
SESSION_REVOKED: Final = EVENTS["session-revoked"]


@cache
def set_key(algorithm: str) -> Key:
    """The issuer's key for that algorithm."""
    return ed25519.Ed25519PrivateKey.generate() if algorithm == "EdDSA" else key_for(algorithm)


def jwk(algorithm: str, key: Key | None = None, **changed: Any) -> dict[str, Any]:
    """The public half, as an issuer publishes it."""
    public = (key or set_key(algorithm)).public_key()
    match public:
        case rsa.RSAPublicKey():
            found = RSAAlgorithm.to_jwk(public, as_dict=True)
        case ec.EllipticCurvePublicKey():
            found = ECAlgorithm.to_jwk(public, as_dict=True)
        case _:
            found = OKPAlgorithm.to_jwk(public, as_dict=True)
    good = {**found, "kid": algorithm, "alg": algorithm, "use": "sig"}
    good.pop("key_ops", None)
    return {name: value for name, value in {**good, **changed}.items() if value is not ABSENT}


def write_jwks(path: Path, *keys: Mapping[str, Any]) -> Path:
    """A JWKS file; with a key of each algorithm unless others are given."""
    path.write_text(json.dumps({"keys": list(keys) or [jwk(name) for name in ALGORITHMS]}))
    return path


def claims(**changed: Any) -> dict[str, Any]:
    """A revoked session of the usual instance."""
    good = {
        "iss": ISSUER,
        "jti": "event-1",
        "iat": int(NOON.timestamp()),
        "aud": AUDIENCE,
        "sub_id": {"format": "uri", "uri": str(OWNER)},
        "events": {SESSION_REVOKED: {"reason_admin": {"de": "abgemeldet", "en": "logged out by an admin"}}},
    }
    return {name: value for name, value in {**good, **changed}.items() if value is not ABSENT}


def a_set(
    algorithm: str = "ES256",
    *,
    key: Key | None = None,
    header: Mapping[str, Any] | None = None,
    payload: bytes | None = None,
    **changed: Any,
) -> str:
    """Signed; `changed` replaces claims, `payload` all of them, `header` parts of the header."""
    good = {"alg": algorithm, "kid": algorithm, "typ": "secevent+jwt", **(header or {})}
    head = {name: value for name, value in good.items() if value is not ABSENT}
    signed = f"{encoded(head)}.{encoded(claims(**changed) if payload is None else payload)}"
    return f"{signed}.{encoded(signature(algorithm, key or set_key(algorithm), signed.encode()))}"
