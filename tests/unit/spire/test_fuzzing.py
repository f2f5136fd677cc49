"""Whatever bytes come, the parser and both verifiers answer with an identity or with an error of our tree.

A few seconds in every run, always with the same inputs; `make fuzz` takes other ones, for as long as it is told
(FUZZ_SECONDS a property, 60 unless said).
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.domain.errors import BrokerError
from broker.domain.spiffe import InvalidSpiffeIdError, SpiffeId
from tests.unit.client.authority import TRUST_DOMAIN
from tests.unit.spire import test_jwt_verifier, test_verifier
from tests.unit.spire.certificates import AGENT, Authority, bundle_of, uri
from tests.unit.spire.tokens import ALGORITHMS, AUDIENCE, CLAIMS, encoded, jwt_bundle, token

SECONDS: Final = float(os.environ.get("FUZZ_SECONDS", "0"))
ROOT: Final = Authority()
INTERMEDIATE: Final = Authority(name="intermediate", signer=ROOT)
LEAF: Final = INTERMEDIATE.leaf(uri(AGENT))
BUNDLE: Final = bundle_of(ROOT)
KEYS: Final = jwt_bundle()
TOKENS: Final = tuple(token(algorithm) for algorithm in ALGORITHMS)
LONGEST_ANSWER: Final = 1.0  # seconds; what is bounded in size takes milliseconds

Test = Callable[..., None]


def fuzzing(*, examples: int) -> Callable[[Test], Test]:
    """So many examples in every run; with FUZZ_SECONDS, new ones for that long."""

    def decorate(test: Test) -> Test:
        if not SECONDS:
            return settings(
                max_examples=examples, derandomize=True, database=None, deadline=None,
                suppress_health_check=list(HealthCheck),
            )(test)  # fmt: skip
        once = settings(
            max_examples=1000, deadline=None, database=None, suppress_health_check=list(HealthCheck)
        )(test)

        def for_long() -> None:
            end = time.monotonic() + SECONDS
            while time.monotonic() < end:
                once()

        return for_long

    return decorate


def mutated(original: bytes) -> st.SearchStrategy[bytes]:
    """A few places of it changed, cut out, doubled or filled with something else."""
    place = st.integers(0, len(original))
    change = st.tuples(place, place, st.binary(max_size=12) | st.just(original[:200]))

    def apply(changes: list[tuple[int, int, bytes]]) -> bytes:
        found = original
        for begin, end, new in changes:
            first, last = sorted((begin, min(end, begin + 16)))
            found = found[:first] + new + found[last:]
        return found

    return st.lists(change, min_size=1, max_size=4).map(apply)


def pem(der: bytes) -> bytes:
    body = base64.encodebytes(der)
    return b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n"


def der(of: bytes) -> bytes:
    return x509.load_pem_x509_certificate(of).public_bytes(Encoding.DER)


def quickly(call: Callable[[], object]) -> object:
    """What the call returns, or None when it refuses; anything else that it raises is a failure."""
    began = time.perf_counter()
    found = None
    with suppress(BrokerError):
        found = call()
    assert time.perf_counter() - began < LONGEST_ANSWER
    return found


def a_json() -> st.SearchStrategy[Any]:
    simple = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    return st.recursive(
        simple,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    )


# SPIFFE IDs --------------------------------------------------------------------------------------------------

PIECES: Final = st.sampled_from(
    ["spiffe://", "spiffe:", "SPIFFE://", "example.test", "/", "//", ".", "..", "%2F", "%", "?", "#", "@", ":", "a", "Z",
     "é", "\u0430", "\0", "\n", " ", "\ud800", "a" * 256, "x" * 2048]
)  # fmt: skip


@fuzzing(examples=100)
@given(
    st.text()
    | st.lists(PIECES, max_size=8).map("".join)
    | st.lists(PIECES, max_size=6).map(lambda p: "spiffe://" + "".join(p))
)
def test_a_spiffe_id_is_parsed_to_the_letter_or_refused(text: str) -> None:
    try:
        spiffe_id = SpiffeId.parse(text)
    except InvalidSpiffeIdError:
        return
    assert str(spiffe_id) == text
    assert SpiffeId.parse(str(spiffe_id)) == spiffe_id
    assert text.isascii()
    assert len(text) <= 2048
    assert not set(text) & set("%?#@\\ \n\0~")
    assert text == "spiffe://" + spiffe_id.trust_domain + spiffe_id.path
    assert spiffe_id.trust_domain == spiffe_id.trust_domain.lower()
    assert "" not in spiffe_id.path.split("/")[1:]


# X.509-SVIDs -------------------------------------------------------------------------------------------------


def x509_verify(leaf: bytes, intermediates: list[bytes]) -> object:
    world = test_verifier.World(bundles={TRUST_DOMAIN: BUNDLE})
    return quickly(lambda: world.verifier.verify(leaf, intermediates))


def test_what_is_mutated_below_is_good_before() -> None:
    assert x509_verify(LEAF, [INTERMEDIATE.pem]) is not None
    for text in TOKENS:
        assert jwt_verify(text) is not None


@fuzzing(examples=250)
@given(mutated(der(LEAF)))
def test_a_certificate_with_other_content_is_nobodys(content: bytes) -> None:
    found = x509_verify(pem(content), [INTERMEDIATE.pem])
    assert found is None or content.startswith(der(LEAF))


@fuzzing(examples=120)
@given(mutated(LEAF))
def test_a_certificate_with_another_armour_is_the_same_or_nobodys(content: bytes) -> None:
    found = x509_verify(content, [INTERMEDIATE.pem])
    assert found is None or str(getattr(found, "spiffe_id", "")) == AGENT


@fuzzing(examples=120)
@given(mutated(der(INTERMEDIATE.pem)))
def test_a_chain_with_another_content_is_no_chain(content: bytes) -> None:
    found = x509_verify(LEAF, [pem(content)])
    assert found is None or content.startswith(der(INTERMEDIATE.pem))


@fuzzing(examples=120)
@given(st.binary(max_size=400), st.lists(st.binary(max_size=400), max_size=10))
def test_bytes_are_nobody(leaf: bytes, intermediates: list[bytes]) -> None:
    assert x509_verify(leaf, intermediates) is None


@fuzzing(examples=120)
@given(
    st.text(st.characters(max_codepoint=127), max_size=60).map(lambda end: f"spiffe://{TRUST_DOMAIN}{end}")
)
def test_a_signed_name_is_taken_to_the_letter_or_refused(name: str) -> None:
    found = x509_verify(INTERMEDIATE.leaf(uri(name)), [INTERMEDIATE.pem])
    assert found is None or str(getattr(found, "spiffe_id", "")) == name


# JWT-SVIDs ---------------------------------------------------------------------------------------------------


def jwt_verify(text: str) -> object:
    world = test_jwt_verifier.World(bundles={TRUST_DOMAIN: KEYS})
    return quickly(lambda: world.verifier.verify(text))


@fuzzing(examples=200)
@given(st.sampled_from(TOKENS).flatmap(lambda text: mutated(text.encode())))
def test_a_token_that_was_changed_is_nobodys(content: bytes) -> None:
    text = content.decode(errors="replace")
    assert jwt_verify(text) is None or text in TOKENS


@fuzzing(examples=100)
@given(st.text(max_size=100) | st.lists(st.text("AZaz09-_.=", max_size=20), max_size=6).map(".".join))
def test_text_is_nobody(text: str) -> None:
    assert jwt_verify(text) is None


@fuzzing(examples=100)
@given(
    st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "jwk", "b64"]), a_json()),
    st.sampled_from(ALGORITHMS),
)
def test_a_header_of_anything_is_refused_or_the_one_that_there_is(
    header: dict[str, Any], algorithm: str
) -> None:
    if jwt_verify(token(algorithm, header=header)) is not None:
        assert header.get("alg", algorithm) == algorithm
        assert header.get("kid", algorithm) == algorithm
        assert not header.keys() - {"alg", "kid", "typ"}


@fuzzing(examples=100)
@given(st.dictionaries(st.sampled_from(["sub", "aud", "exp", "nbf", "iat", "iss", "jti"]), a_json()))
def test_signed_claims_of_anything_are_refused_or_say_what_they_must(claims: dict[str, Any]) -> None:
    if jwt_verify(token(claims=claims)) is not None:
        said = {**CLAIMS, **claims}
        assert said["sub"] == AGENT
        assert said["aud"] in (AUDIENCE, [AUDIENCE])
        assert not isinstance(said["exp"], bool)


@fuzzing(examples=120)
@given(st.binary(max_size=200) | a_json().map(lambda value: json.dumps(value).encode()))
def test_signed_bytes_are_nobody(content: bytes) -> None:
    assert jwt_verify(token(claims=content)) is None
    assert jwt_verify(f"{encoded(content)}.{encoded(content)}.{encoded(content)}") is None
