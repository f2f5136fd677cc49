"""Security event tokens (RFC 8417) with CAEP's events, signed with ES256 and pushed as RFC 8935 says.

What always holds: a token says that something has ended, and is made only of a finding whose answer has taken effect; one event a
token; `jti` is the message's id, the same at each attempt.
"""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from broker.adapters.signals.posting import BadReceiverFileError, Poster
from broker.config.telling import SetSettings
from broker.domain.messages import Message, MessageKind
from broker.ports.system import Clock
from broker.ports.telling import Delivery, Fate
from broker.usecases.finding_words import finding_in

SESSION_REVOKED: Final = "https://schemas.openid.net/secevent/caep/event-type/session-revoked"
CREDENTIAL_CHANGE: Final = "https://schemas.openid.net/secevent/caep/event-type/credential-change"
VERIFICATION: Final = "https://schemas.openid.net/secevent/ssf/event-type/verification"
CREDENTIAL_TYPE: Final = "tasklease-lease"

_COORDINATE: Final = 32
_CODES: Final = {
    "invalid_request", "invalid_key", "invalid_issuer", "invalid_audience", "authentication_failed", "access_denied",
}  # fmt: skip
"""RFC 8935, section 2.4."""


class SigningKey:
    """Signs tokens."""

    def __init__(self, settings: SetSettings) -> None:
        """Read the key.

        Raises:
            BadReceiverFileError: there is none of the curve P-256.
        """
        self._key = _key_of(settings.key_file)
        numbers = self._key.public_key().public_numbers()
        self.public = {"crv": "P-256", "kty": "EC", "x": _coordinate(numbers.x), "y": _coordinate(numbers.y)}
        thumbprint = hashlib.sha256(json.dumps(self.public, sort_keys=True, separators=(",", ":")).encode())
        self.key_id = settings.key_id or _text(thumbprint.digest())

    @property
    def jwk(self) -> dict[str, str]:
        """The public half, as a receiver needs it."""
        return {**self.public, "alg": "ES256", "use": "sig", "kid": self.key_id}

    def signed(self, claims: dict[str, Any]) -> bytes:
        """The token."""
        headers = {"kid": self.key_id, "typ": "secevent+jwt"}
        return jwt.encode(claims, self._key, algorithm="ES256", headers=headers).encode()


class EventTokens:
    """Implements ports.telling.Receiver."""

    def __init__(self, settings: SetSettings, clock: Clock) -> None:
        """Check the settings' files.

        Raises:
            BadReceiverFileError: one cannot be used.
        """
        self._key = SigningKey(settings)
        self._issuer, self._audience = settings.issuer, settings.audience
        self._poster = Poster(settings, clock)

    async def deliver(self, message: Message) -> Delivery:
        """See ports.telling."""
        token = self._key.signed(claims_of(message, issuer=self._issuer, audience=self._audience))
        headers = {"Content-Type": "application/secevent+jwt", "Accept": "application/json"}
        answered = await self._poster.post(token, headers)
        code = _code_in(answered.body)
        if answered.status == 400 and code:  # what is wrong with us, not with this token
            return Delivery(fate=Fate.FAILED, what=f"status 400: {code}")
        return answered.delivery

    async def close(self) -> None:
        """See ports.telling."""
        await self._poster.close()


def claims_of(message: Message, *, issuer: str, audience: str) -> dict[str, Any]:
    """The claims of its token."""
    finding = finding_in(message)
    ended_at = finding.get("answered_at") or finding["found_at"]
    about = {
        "event_timestamp": int(datetime.fromisoformat(ended_at).timestamp()),
        "initiating_entity": "policy",
        "reason_admin": {"en": f"{finding['detector']}: {finding['rule']}; {finding['answer']}"},
    }
    match message.kind:
        case MessageKind.SESSION_REVOKED:
            event = {SESSION_REVOKED: about}
        case MessageKind.CREDENTIAL_CHANGE:
            event = {
                CREDENTIAL_CHANGE: {**about, "credential_type": CREDENTIAL_TYPE, "change_type": "revoke"}
            }
        case _:
            event = {VERIFICATION: {"state": message.message_id}}
    return {
        "iss": issuer,
        "aud": audience,
        "iat": int(message.created_at.timestamp()),
        "jti": message.message_id,
        "txn": finding["id"],
        "sub_id": _subject(finding),
        "events": event,
    }


def _subject(finding: dict[str, Any]) -> dict[str, Any]:
    """The instance, and the task unless all of the instance's ended (RFC 9493, and the profile's complex subjects)."""
    instance = {"format": "uri", "uri": finding["instance"]}
    if not finding["task"] or finding["answer"] == "quarantine":
        return instance
    return {
        "format": "complex",
        "application": instance,
        "session": {"format": "opaque", "id": finding["task"]},
    }


def _code_in(body: bytes) -> str:
    """The error's code, if it is one of the standard's: nothing else of an answer is repeated."""
    try:
        code = json.loads(body).get("err")
    except (ValueError, AttributeError, RecursionError):
        return ""
    return code if isinstance(code, str) and code in _CODES else ""


def _key_of(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}"
        raise BadReceiverFileError(message) from error
    except Exception:  # noqa: BLE001 - the library's text may repeat the file
        message = f"{path} must hold a private key in PEM, without a password"
        raise BadReceiverFileError(message) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
        message = f"{path} must hold a key of the curve P-256"
        raise BadReceiverFileError(message)
    return key


def _coordinate(number: int) -> str:
    return _text(number.to_bytes(_COORDINATE))


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
