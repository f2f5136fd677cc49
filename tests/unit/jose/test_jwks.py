"""Issuers' keys in files: what is taken, what is refused, and what a change does."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from broker.adapters.jose.jwks import JwksFile
from broker.config.reading import ConfigError
from tests.unit.jose.sets import ALGORITHMS, jwk, set_key, write_jwks
from tests.unit.spire.tokens import ABSENT, rsa_key

P384 = ec.generate_private_key(ec.SECP384R1())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jwks.json"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_key_is_for_the_algorithm_that_it_names_and_for_no_other(path: Path, algorithm: str) -> None:
    keys = JwksFile(write_jwks(path))
    for other in ALGORITHMS:
        assert (keys.key(algorithm, other) is not None) == (other == algorithm)


def test_a_key_that_names_no_algorithm_is_for_those_that_it_fits(path: Path) -> None:
    keys = JwksFile(write_jwks(path, jwk("RS256", alg=ABSENT), jwk("ES256", alg=ABSENT, use=ABSENT)))
    assert keys.key("RS256", "RS256") is not None
    assert keys.key("RS256", "PS256") is not None
    assert keys.key("RS256", "ES256") is None
    assert keys.key("ES256", "ES256") is not None


@pytest.mark.parametrize(
    "other",
    [
        jwk("RS256", use="enc"),
        jwk("RS256", alg="RSA-OAEP"),
        jwk("RS256", alg="RS512"),
        jwk("ES256", P384, alg="ES384"),
        jwk("RS256", key_ops=["encrypt"]),
        {"kty": "new", "kid": "x"},
    ],
)
def test_a_key_for_something_else_is_left_alone(path: Path, other: dict[str, Any]) -> None:
    keys = JwksFile(write_jwks(path, jwk("EdDSA"), {**other, "kid": "other"}))
    assert keys.key("EdDSA", "EdDSA") is not None
    assert all(keys.key("other", algorithm) is None for algorithm in ALGORITHMS)


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "no JSON": (lambda: None, "is no JSON"),
    "a list": (list, "give a JWKS"),
    "no keys": (lambda: {"keys": []}, "give a JWKS"),
    "too many": (lambda: {"keys": [jwk("EdDSA", kid=str(n)) for n in range(65)]}, "give a JWKS"),
    "a key that is none": (lambda: {"keys": ["x"]}, "keys.0: is no object"),
    "a private key": (
        lambda: {"keys": [ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()), as_dict=True)]},
        "keys.0: is private or secret",
    ),
    "a secret": (lambda: {"keys": [{"kty": "oct", "kid": "x", "k": "AAAA"}]}, "keys.0: is private or secret"),
    "no kid": (lambda: {"keys": [jwk("EdDSA", kid=ABSENT)]}, "keys.0: give it a kid"),
    "a kid twice": (lambda: {"keys": [jwk("EdDSA"), jwk("ES256", kid="EdDSA")]}, "keys.1: give it a kid of its own"),
    "a short RSA key": (lambda: {"keys": [jwk("RS256", rsa_key(1024))]}, "keys.0: give an RSA key of 2048"),
    "half a key": (lambda: {"keys": [jwk("ES256", x=ABSENT)]}, "keys.0: is no key for ES256"),
    "nothing for signatures": (lambda: {"keys": [jwk("RS256", use="enc")]}, "has no key for signatures"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_said_with_its_place_and_without_its_content(path: Path, case: str) -> None:
    make, words = REFUSED[case]
    content = make()
    path.write_text("{" if content is None else json.dumps(content))
    with pytest.raises(ConfigError, match=words) as caught:
        JwksFile(path)
    assert str(path) in str(caught.value)
    assert "AAAA" not in str(caught.value)


def test_a_file_that_is_not_there_or_too_large_is_refused(path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        JwksFile(path)
    path.write_text(" " * (1 << 18) + "{}")
    with pytest.raises(ConfigError, match="larger than 256 KiB"):
        JwksFile(path)


async def test_a_changed_file_is_taken_up_and_keys_that_left_count_no_more(path: Path) -> None:
    keys = JwksFile(write_jwks(path, jwk("ES256")))
    assert not await keys.reload_if_changed()
    write_jwks(path, jwk("EdDSA"))
    assert await keys.reload_if_changed()
    assert keys.key("ES256", "ES256") is None
    assert keys.key("EdDSA", "EdDSA") is not None


async def test_a_change_that_cannot_be_used_is_loud_and_leaves_the_keys_before(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = JwksFile(write_jwks(path, jwk("ES256")))
    write_jwks(path, {})
    assert not await keys.reload_if_changed()
    assert keys.key("ES256", "ES256") is not None
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert not await keys.reload_if_changed()
    assert len(caplog.records) == 1, "said once"


def test_the_keys_are_the_ones_of_the_file(path: Path) -> None:
    found = JwksFile(write_jwks(path)).key("EdDSA", "EdDSA")
    assert found is not None
    raw = set_key("EdDSA").public_key().public_bytes_raw()  # type: ignore[union-attr]
    assert base64.urlsafe_b64decode(jwk("EdDSA")["x"] + "=") == raw
