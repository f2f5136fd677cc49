"""An issuer's public keys, in a JWKS file that may change while the broker runs.

All or nothing: a file that cannot be used is refused with a loud error, and the keys before it stay. What always holds: no key
is taken that is private, secret or too short, or that is not for signatures.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

from cryptography.hazmat.primitives.asymmetric import rsa
from jwt import PyJWK
from jwt.exceptions import PyJWTError

from broker.config.reading import ConfigError, Problem, fingerprint

logger = logging.getLogger(__name__)

ALGORITHMS: Final[Mapping[str, tuple[str, str]]] = {
    "RS256": ("RSA", ""),
    "PS256": ("RSA", ""),
    "ES256": ("EC", "P-256"),
    "EdDSA": ("OKP", "Ed25519"),
}
"""What is taken: each with the kind of key and the curve that it needs."""

_MOST_BYTES: Final = 1 << 18
_MOST_KEYS: Final = 64
_LONGEST_ID: Final = 256
_LEAST_RSA_BITS: Final = 2048
_SECRET: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


class JwksFile:
    """See the module."""

    def __init__(self, path: Path) -> None:
        """Read it for the first time.

        Raises:
            ConfigError: it cannot be used.
        """
        self._path = path
        self._seen = self._fingerprint()
        self._keys = _load(path)

    def key(self, key_id: str, algorithm: str) -> PyJWK | None:
        """The key of that id, for that algorithm of `ALGORITHMS`."""
        return self._keys.get((key_id, algorithm))

    async def reload_if_changed(self) -> bool:
        """Take up a changed file; True when other keys count now."""
        seen = await asyncio.to_thread(self._fingerprint)
        if seen == self._seen:
            return False
        self._seen = seen
        try:
            self._keys = await asyncio.to_thread(_load, self._path)
        except ConfigError as error:
            logger.error("the changed keys are REFUSED, those before them stay:\n%s", error)
            return False
        logger.warning("keys changed: %s", self._path)
        return True

    def _fingerprint(self) -> str:
        return fingerprint(lambda: [self._path], ConfigError)


def _load(path: Path) -> Mapping[tuple[str, str], PyJWK]:
    try:
        return _keys_of(_read(path))
    except ValueError as error:
        # Not `from error`: beneath it is what a parser says, and that may hold what is there.
        raise ConfigError([Problem(file=str(path), line=0, field="", what=str(error))]) from None


def _read(path: Path) -> list[object]:
    try:
        content = path.read_bytes()
    except OSError as error:
        _refuse(f"cannot be read: {error.strerror}")
    if len(content) > _MOST_BYTES:
        _refuse(f"larger than {_MOST_BYTES // 1024} KiB: keep the keys that are used")
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        _refuse("is no JSON")
    keys = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(keys, list) or not 0 < len(keys) <= _MOST_KEYS:
        _refuse(f"give a JWKS: an object with `keys`, a list of 1 to {_MOST_KEYS} of them")
    return keys


def _keys_of(found: list[object]) -> Mapping[tuple[str, str], PyJWK]:
    taken: dict[tuple[str, str], PyJWK] = {}
    ids: set[str] = set()
    for number, one in enumerate(found):
        if not isinstance(one, dict):
            _refuse(f"keys.{number}: is no object")
        if _SECRET & one.keys() or one.get("kty") == "oct":
            _refuse(
                f"keys.{number}: is private or secret: keep the public part alone, and give this key up for lost"
            )
        key_id = one.get("kid")
        if not isinstance(key_id, str) or not 0 < len(key_id) <= _LONGEST_ID or key_id in ids:
            _refuse(f"keys.{number}: give it a kid of its own, of 1 to {_LONGEST_ID} characters")
        ids.add(key_id)
        for algorithm in _algorithms_of(one):
            taken[key_id, algorithm] = _key(one, algorithm, number)
    if not taken:
        _refuse(f"has no key for signatures by {', '.join(ALGORITHMS)}")
    return taken


def _key(one: dict[str, Any], algorithm: str, number: int) -> PyJWK:
    try:
        key = PyJWK(one, algorithm)
    except PyJWTError:
        _refuse(f"keys.{number}: is no key for {algorithm}")
    if isinstance(key.key, rsa.RSAPublicKey) and key.key.key_size < _LEAST_RSA_BITS:
        _refuse(f"keys.{number}: give an RSA key of {_LEAST_RSA_BITS} bits or more")
    return key


def _refuse(what: str) -> NoReturn:
    raise ValueError(what) from None


def _algorithms_of(one: Mapping[str, Any]) -> list[str]:
    """What the key is for; nothing where it is for something else, as keys of an issuer may be."""
    if one.get("use", "sig") != "sig" or "verify" not in one.get("key_ops", ["verify"]):
        return []
    return [
        name
        for name, (kind, curve) in ALGORITHMS.items()
        if one.get("kty") == kind and one.get("crv", "") == curve and one.get("alg", name) == name
    ]
