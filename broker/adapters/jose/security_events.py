"""Verifies Security Event Tokens (RFC 8417). Implements ports.signals.SecurityEventVerifier.

A token is refused unless everything about it is as it should be:

    1  bounds; a compact JWS, in three parts
    2  a header of `alg`, `kid` and `typ` alone: an algorithm of the list, a key's id, `typ` is `secevent+jwt`
    3  an issuer that the settings name
    4  its key of that id, which is for that algorithm            5  the signature
    6  this broker among its audience                             7  `iat` within the last day, and not to come
    8  `jti` and `events` in their form; no `exp`

Which key counts is said by the issuer's file, never by the token; `none` and HMAC are not in the list. `typ` keeps what the same
issuer signed for another purpose (an ID token) from being taken for an event. No text of ours repeats anything of a token.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

from jwt.api_jws import PyJWS
from jwt.exceptions import PyJWTError

from broker.adapters.jose.jwks import ALGORITHMS, JwksFile
from broker.domain.security_events import SecurityEvent, SetFault, SetRefusedError
from broker.domain.signals import CLOCKS_DIFFER, OLDEST
from broker.ports.system import Clock

logger = logging.getLogger(__name__)

_MOST_CHARACTERS: Final = 32_768
_MOST_EVENTS: Final = 16
_LONGEST_URI: Final = 512
_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_HEADERS: Final = {"alg", "kid", "typ"}
_TYPES: Final = {"secevent+jwt", "application/secevent+jwt"}
_JTI: Final = re.compile(r"[\x21-\x7e]{1,255}")


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerKeys:
    """By what an issuer is known."""

    audience: str
    keys: JwksFile


class SetVerifier:
    """See the module."""

    def __init__(self, *, issuers: Mapping[str, IssuerKeys], clock: Clock) -> None:
        self._issuers = issuers
        self._clock = clock
        self._jws = PyJWS(algorithms=list(ALGORITHMS))

    def verify(self, token: str) -> SecurityEvent:
        """See ports.signals.SecurityEventVerifier."""
        try:
            return self._verify(token)
        except SetRefusedError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it was, it is a refusal
            logger.error("verifying a token failed: %s", type(error).__name__)
            # Not `from error`: what a parser says may hold a part of the token.
            _refuse("is no Security Event Token")

    def _verify(self, token: str) -> SecurityEvent:
        if len(token) > _MOST_CHARACTERS or not _COMPACT.fullmatch(token):
            _refuse("is no compact JWS, or too large")
        try:
            said = self._jws.decode_complete(token, options={"verify_signature": False})
        except PyJWTError:
            _refuse("is no compact JWS")
        algorithm, key_id = _header(said["header"])
        claims = _object(said["payload"])
        issuer = claims.get("iss")
        known = self._issuers.get(issuer) if isinstance(issuer, str) else None
        if known is None or not isinstance(issuer, str):
            _refuse("has an issuer that is not known here", SetFault.INVALID_ISSUER)
        key = known.keys.key(key_id, algorithm)
        if key is None:
            _refuse("names no key of its issuer for that algorithm", SetFault.INVALID_KEY)
        try:
            self._jws.decode_complete(token, key, algorithms=[algorithm])
        except PyJWTError:
            _refuse("is not signed by that key", SetFault.INVALID_KEY)
        audience = claims.get("aud")
        if known.audience not in (audience if isinstance(audience, list) else [audience]):
            _refuse("is not for this broker", SetFault.INVALID_AUDIENCE)
        return self._read(issuer, key_id, claims)

    def _read(self, issuer: str, key_id: str, claims: Mapping[str, Any]) -> SecurityEvent:
        issued_at, now = _moment(claims.get("iat")), self._clock.now()
        if not now - OLDEST <= issued_at <= now + CLOCKS_DIFFER:
            _refuse("was issued more than a day ago, or is yet to be")
        if "exp" in claims:
            _refuse("has an exp: an event does not expire (RFC 8417, 2.2)")
        jti, events = claims.get("jti"), claims.get("events")
        if not isinstance(jti, str) or not _JTI.fullmatch(jti):
            _refuse("has no jti of 1 to 255 printable characters")
        if not isinstance(events, dict) or not 0 < len(events) <= _MOST_EVENTS:
            _refuse(f"has no events, or more than {_MOST_EVENTS}")
        for uri, payload in events.items():
            if len(uri) > _LONGEST_URI or not isinstance(payload, dict):
                _refuse("has an event that is no object under a URI")
        return SecurityEvent(
            issuer=issuer,
            jti=jti,
            key_id=key_id,
            issued_at=issued_at,
            happened_at=claims.get("toe"),
            subject=claims.get("sub_id"),
            events=events,
        )


def _header(header: Mapping[str, Any]) -> tuple[str, str]:
    if not header.keys() <= _HEADERS:
        _refuse("has a header that is not alg, kid or typ")
    kind, algorithm, key_id = header.get("typ"), header.get("alg"), header.get("kid")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        _refuse("is of another type than secevent+jwt (RFC 8417, 2.3)")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        _refuse(f"is not signed by one of {', '.join(ALGORITHMS)}", SetFault.INVALID_KEY)
    if not isinstance(key_id, str):
        _refuse("names no key: give a kid", SetFault.INVALID_KEY)
    return algorithm, key_id


def _object(content: bytes) -> Mapping[str, Any]:
    """Claims that two readers cannot understand differently."""
    try:
        found = json.loads(content.decode(), object_pairs_hook=_once_each, parse_constant=_no_constant)
    except (ValueError, RecursionError):  # not `from`: the parser's text holds the content
        _refuse("has claims that are no JSON, or say something twice")
    if not isinstance(found, dict):
        _refuse("has claims that are no object")
    return found


def _once_each(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def _no_constant(_name: str) -> NoReturn:
    """JSON has no NaN and no Infinity."""
    raise ValueError


def _moment(value: object) -> datetime:
    if isinstance(value, bool) or not isinstance(value, int | float):
        _refuse("has an iat that is no number of seconds")
    try:
        return datetime.fromtimestamp(value, UTC)
    except (OverflowError, ValueError, OSError):
        _refuse("has an iat that is out of all bounds")


def _refuse(why: str, fault: SetFault = SetFault.INVALID_REQUEST) -> NoReturn:
    raise SetRefusedError(fault, f"the token {why}") from None
