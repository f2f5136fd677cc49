"""Security Event Tokens: everything that makes one refused, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.adapters.jose.jwks import JwksFile
from broker.adapters.jose.security_events import IssuerKeys, SetVerifier
from broker.domain.security_events import SetRefusedError
from tests.fakes.system import NOON, FakeClock
from tests.unit.jose.sets import (
    ALGORITHMS,
    AUDIENCE,
    ISSUER,
    SESSION_REVOKED,
    a_set,
    claims,
    jwk,
    write_jwks,
)
from tests.unit.spire.tokens import ABSENT, encoded, public_pem, rsa_key

PLANTED = "planted-4711"
OTHER_ISSUER = "https://other.example.test"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def verifier(tmp_path: Path, clock: FakeClock) -> SetVerifier:
    theirs = write_jwks(tmp_path / "other.json", jwk("EdDSA", kid="theirs"))
    return SetVerifier(
        issuers={
            ISSUER: IssuerKeys(audience=AUDIENCE, keys=JwksFile(write_jwks(tmp_path / "jwks.json"))),
            OTHER_ISSUER: IssuerKeys(audience=AUDIENCE, keys=JwksFile(theirs)),
        },
        clock=clock,
    )


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_token_of_each_algorithm_is_taken(verifier: SetVerifier, algorithm: str) -> None:
    event = verifier.verify(a_set(algorithm))
    assert (event.issuer, event.jti, event.key_id) == (ISSUER, "event-1", algorithm)
    assert event.issued_at == NOON
    assert event.subject == claims()["sub_id"]
    assert set(event.events) == {SESSION_REVOKED}


@pytest.mark.parametrize(
    "token",
    [
        a_set(aud=["https://another.test", AUDIENCE]),
        a_set(header={"typ": "application/secevent+jwt"}),
        a_set(header={"typ": "SECEVENT+JWT"}),
        a_set(toe=int(NOON.timestamp()), txn="x", sub="jane"),
    ],
)
def test_what_may_differ_is_taken(verifier: SetVerifier, token: str) -> None:
    assert verifier.verify(token).jti == "event-1"


def signed_with_hmac() -> str:
    """With the bytes of a public key, as if they were a secret."""
    signed = f"{encoded({'alg': 'HS256', 'kid': 'ES256', 'typ': 'secevent+jwt'})}.{encoded(claims())}"
    mac = hmac.HMAC(public_pem(), hashes.SHA256())
    mac.update(signed.encode())
    return f"{signed}.{encoded(mac.finalize())}"


def unsigned() -> str:
    return f"{encoded({'alg': 'none', 'kid': 'ES256', 'typ': 'secevent+jwt'})}.{encoded(claims())}.AA"


def bent() -> str:
    head, payload, signature = a_set().split(".")
    return f"{head}.{payload}.{('A' if signature[0] != 'A' else 'B') + signature[1:]}"


def with_other_claims() -> str:
    head, _, signature = a_set().split(".")
    return f"{head}.{encoded(claims(jti='event-2'))}.{signature}"


def at(**moved: float) -> int:
    return int((NOON + timedelta(**moved)).timestamp())


REFUSED: dict[str, tuple[Callable[[], str], str]] = {
    "nothing": (lambda: "", "invalid_request"),
    "no JWS": (lambda: PLANTED, "invalid_request"),
    "two parts": (lambda: "e30.e30", "invalid_request"),
    "four parts": (lambda: a_set() + ".e30", "invalid_request"),
    "a line end": (lambda: a_set() + "\n", "invalid_request"),
    "padding": (lambda: a_set() + "=", "invalid_request"),
    "too large": (lambda: a_set(txn="x" * 40_000), "invalid_request"),
    "no signature": (unsigned, "invalid_key"),
    "an empty signature": (lambda: a_set().rpartition(".")[0] + ".", "invalid_request"),
    "HMAC with a public key": (signed_with_hmac, "invalid_key"),
    "a bent signature": (bent, "invalid_key"),
    "other claims": (with_other_claims, "invalid_key"),
    "another's key": (lambda: a_set(key=ec.generate_private_key(ec.SECP256R1())), "invalid_key"),
    "an algorithm that the key is not for": (lambda: a_set("RS256", header={"alg": "PS256"}), "invalid_key"),
    "a key for another algorithm": (lambda: a_set("ES256", header={"kid": "RS256"}), "invalid_key"),
    "RS512": (lambda: a_set("RS512", key=rsa_key(), header={"kid": "RS256"}), "invalid_key"),
    "a key that is not there": (lambda: a_set(header={"kid": PLANTED}), "invalid_key"),
    "no key": (lambda: a_set(header={"kid": ABSENT}), "invalid_key"),
    "a key in the token": (lambda: a_set(header={"jwk": jwk("ES256")}), "invalid_request"),
    "a key elsewhere": (lambda: a_set(header={"jku": "https://evil.test/jwks"}), "invalid_request"),
    "something critical": (lambda: a_set(header={"crit": ["exp"]}), "invalid_request"),
    "no type": (lambda: a_set(header={"typ": ABSENT}), "invalid_request"),
    "an ID token": (lambda: a_set(header={"typ": "JWT"}), "invalid_request"),
    "an access token": (lambda: a_set(header={"typ": "at+jwt"}), "invalid_request"),
    "no issuer": (lambda: a_set(iss=ABSENT), "invalid_issuer"),
    "an issuer that is none": (lambda: a_set(iss=[ISSUER]), "invalid_issuer"),
    "an unknown issuer": (lambda: a_set(iss="https://evil.test"), "invalid_issuer"),
    "nearly the issuer": (lambda: a_set(iss=ISSUER + "/"), "invalid_issuer"),
    "another issuer's key": (lambda: a_set(iss=OTHER_ISSUER), "invalid_key"),
    "another issuer's name for the same key": (
        lambda: a_set("EdDSA", header={"kid": "theirs"}), "invalid_key",
    ),
    "no audience": (lambda: a_set(aud=ABSENT), "invalid_audience"),
    "another audience": (lambda: a_set(aud="https://another.test"), "invalid_audience"),
    "an audience that holds ours": (lambda: a_set(aud=AUDIENCE + "/x"), "invalid_audience"),
    "no time": (lambda: a_set(iat=ABSENT), "invalid_request"),
    "a time that is a text": (lambda: a_set(iat="now"), "invalid_request"),
    "a time that is true": (lambda: a_set(iat=True), "invalid_request"),
    "a time beyond all": (lambda: a_set(iat=1e300), "invalid_request"),
    "a time that is a day ago": (lambda: a_set(iat=at(days=-1, seconds=-1)), "invalid_request"),
    "a time to come": (lambda: a_set(iat=at(seconds=62)), "invalid_request"),
    "an expiry": (lambda: a_set(exp=at(hours=1)), "invalid_request"),
    "no jti": (lambda: a_set(jti=ABSENT), "invalid_request"),
    "an empty jti": (lambda: a_set(jti=""), "invalid_request"),
    "a jti with a line end": (lambda: a_set(jti="a\nb"), "invalid_request"),
    "an endless jti": (lambda: a_set(jti="x" * 256), "invalid_request"),
    "no events": (lambda: a_set(events=ABSENT), "invalid_request"),
    "an empty event list": (lambda: a_set(events={}), "invalid_request"),
    "events that are a list": (lambda: a_set(events=[SESSION_REVOKED]), "invalid_request"),
    "too many events": (lambda: a_set(events={f"urn:x:{n}": {} for n in range(17)}), "invalid_request"),
    "an event that is none": (lambda: a_set(events={SESSION_REVOKED: True}), "invalid_request"),
    "claims twice": (lambda: a_set(payload=b'{"iss": "a", "iss": "b"}'), "invalid_request"),
    "claims that are no JSON": (lambda: a_set(payload=PLANTED.encode()), "invalid_request"),
    "claims that are a list": (lambda: a_set(payload=b"[]"), "invalid_request"),
    "claims without an end": (lambda: a_set(payload=b"[" * 20_000), "invalid_request"),
    "a number that JSON has not": (lambda: a_set(payload=b'{"iat": NaN}'), "invalid_request"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_anything_else_is_refused_with_a_registered_code(verifier: SetVerifier, case: str) -> None:
    make, fault = REFUSED[case]
    with pytest.raises(SetRefusedError) as caught:
        verifier.verify(make())
    assert caught.value.fault.value == fault
    assert PLANTED not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_token_is_good_for_a_day_and_no_longer(verifier: SetVerifier, clock: FakeClock) -> None:
    token = a_set()
    clock.advance(hours=24)
    assert verifier.verify(token).jti == "event-1"
    clock.advance(seconds=1)
    with pytest.raises(SetRefusedError, match="more than a day ago"):
        verifier.verify(token)


async def test_a_key_that_left_the_file_signs_nothing_more(tmp_path: Path, clock: FakeClock) -> None:
    file = JwksFile(write_jwks(tmp_path / "jwks.json", jwk("ES256"), jwk("EdDSA")))
    verifier = SetVerifier(issuers={ISSUER: IssuerKeys(audience=AUDIENCE, keys=file)}, clock=clock)
    assert verifier.verify(a_set()).jti == "event-1"
    write_jwks(tmp_path / "jwks.json", jwk("EdDSA"))
    await file.reload_if_changed()
    with pytest.raises(SetRefusedError, match="names no key"):
        verifier.verify(a_set())


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.text(),
        st.from_regex(r"[A-Za-z0-9_-]{0,40}\.[A-Za-z0-9_-]{0,80}\.[A-Za-z0-9_-]{0,40}", fullmatch=True),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        ).map(lambda found: a_set("EdDSA", payload=json.dumps(found).encode())),
        st.dictionaries(st.sampled_from(sorted(claims())), st.none() | st.integers() | st.text()).map(
            lambda changed: a_set("EdDSA", payload=json.dumps(claims() | changed | {"events": 1}).encode())
        ),
    )
)
def test_whatever_is_sent_is_refused_and_nothing_else_is_raised(verifier: SetVerifier, token: str) -> None:
    with pytest.raises(SetRefusedError):
        verifier.verify(token)
