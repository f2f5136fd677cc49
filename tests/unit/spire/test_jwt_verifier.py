"""Who is calling by a token is decided by this moment's bundle, clock and quarantine, at each call (R4)."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from broker.adapters.spire import admitting as module
from broker.adapters.spire.jwt_bundles import JwtBundle
from broker.adapters.spire.jwt_verifier import JwtSvidVerifier
from broker.domain.errors import (
    InstanceQuarantinedError,
    SvidExpiredError,
    SvidInvalidError,
    TrustDomainUnknownError,
)
from broker.domain.spiffe import SpiffeId
from tests.fakes.system import NOON, FakeClock
from tests.unit.client.authority import TRUST_DOMAIN
from tests.unit.spire.certificates import AGENT
from tests.unit.spire.tokens import ABSENT, AUDIENCE, jwt_bundle, key_for, token


@dataclass
class World:
    """A verifier, and everything that it asks."""

    clock: FakeClock = field(default_factory=FakeClock)
    bundles: dict[str, JwtBundle] = field(default_factory=lambda: {TRUST_DOMAIN: jwt_bundle()})
    quarantined: set[SpiffeId] = field(default_factory=set)
    max_validity: timedelta = timedelta(minutes=10)
    verifier: JwtSvidVerifier = field(init=False)

    def __post_init__(self) -> None:
        self.verifier = JwtSvidVerifier(
            audience=AUDIENCE,
            max_validity=self.max_validity,
            bundle_of=self.bundles.get,
            quarantine=self,
            clock=self.clock,
        )

    def holds(self, spiffe_id: SpiffeId) -> bool:
        return spiffe_id in self.quarantined


@pytest.fixture
def world() -> World:
    return World()


def test_a_token_of_an_instance_names_it_until_it_expires(world: World) -> None:
    peer = world.verifier.verify(token())
    assert (str(peer.spiffe_id), peer.agent_class, peer.instance) == (AGENT, "invoice-bot", "one")
    assert peer.svid_expires_at == NOON + timedelta(minutes=5)
    assert peer.as_facts()["verified_by"] == "jwt-svid"


def test_the_same_token_is_refused_once_it_has_expired(world: World) -> None:
    text = token()
    world.verifier.verify(text)
    world.clock.advance(minutes=4, seconds=59)
    world.verifier.verify(text)
    world.clock.advance(seconds=1)
    for _again in range(2):
        with pytest.raises(SvidExpiredError):
            world.verifier.verify(text)
    assert not world.verifier._admission._kept


def test_the_same_token_is_refused_before_it_is_valid_and_taken_then(world: World) -> None:
    text = token(claims={"nbf": NOON.timestamp() + 10})
    with pytest.raises(SvidExpiredError):
        world.verifier.verify(text)
    world.clock.advance(seconds=10)
    world.verifier.verify(text)


def test_a_key_that_left_the_bundle_is_refused_at_the_next_call(world: World) -> None:
    text = token()
    world.verifier.verify(text)
    world.bundles[TRUST_DOMAIN] = jwt_bundle(other=key_for("ES384"))
    with pytest.raises(SvidInvalidError):
        world.verifier.verify(text)
    world.bundles[TRUST_DOMAIN] = jwt_bundle(other=key_for("ES384"), ES256=key_for("ES256"))
    world.verifier.verify(text)


def test_a_key_that_changed_under_its_id_is_another_key(world: World) -> None:
    text = token()
    world.verifier.verify(text)
    world.bundles[TRUST_DOMAIN] = jwt_bundle(ES256=key_for("RS256"))
    with pytest.raises(SvidInvalidError):
        world.verifier.verify(text)


def test_a_bundle_that_is_gone_takes_its_trust_domain_along(world: World) -> None:
    text = token()
    world.verifier.verify(text)
    del world.bundles[TRUST_DOMAIN]
    with pytest.raises(TrustDomainUnknownError):
        world.verifier.verify(text)


def test_the_quarantine_is_asked_at_each_call_and_only_of_who_is_verified(world: World) -> None:
    text = token()
    peer = world.verifier.verify(text)
    world.quarantined.add(peer.spiffe_id)
    with pytest.raises(InstanceQuarantinedError):
        world.verifier.verify(text)
    with pytest.raises(SvidInvalidError):
        world.verifier.verify(token(header={"kid": "ES384"}))
    world.quarantined.clear()
    world.verifier.verify(text)


def test_an_expired_token_of_nobody_is_not_called_expired(world: World) -> None:
    with pytest.raises(SvidInvalidError):
        world.verifier.verify(token(claims={"exp": 1}, header={"kid": "ES384"}))


def test_a_token_for_a_time_to_come_is_not_kept_from_being_too_long(world: World) -> None:
    with pytest.raises(SvidInvalidError):
        world.verifier.verify(token(claims={"nbf": NOON.timestamp() + 3600, "exp": NOON.timestamp() + 3700}))


def test_what_is_remembered_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_KEPT", 2)
    tokens = [token(claims={"sub": f"{AGENT}-{number}"}) for number in range(4)]
    for _round in range(2):
        for number, text in enumerate(tokens):
            assert world.verifier.verify(text).instance == f"one-{number}"
    assert len(world.verifier._admission._kept) == 2


def test_an_error_that_nobody_foresaw_is_a_refusal_and_nothing_of_the_token_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    text = token()

    def broken(_trust_domain: str) -> JwtBundle | None:
        raise RuntimeError(text)

    verifier = JwtSvidVerifier(
        audience=AUDIENCE,
        max_validity=timedelta(minutes=10),
        bundle_of=broken,
        quarantine=World(),
        clock=FakeClock(),
    )
    with caplog.at_level(logging.DEBUG), pytest.raises(SvidInvalidError) as refusal:
        verifier.verify(text)
    assert refusal.value.__cause__ is None
    assert text not in str(refusal.value)
    assert text not in caplog.text


def test_the_digest_of_a_token_is_not_one_of_what_makes_it_work(world: World) -> None:
    """RSA PKCS #1 signs the same way each time, ECDSA does not: two tokens, one content, one digest."""
    first, second = token(), token()
    assert first != second
    assert world.verifier.verify(first).svid_sha256 == world.verifier.verify(second).svid_sha256


def test_a_key_without_an_id_is_found_by_nobody(world: World) -> None:
    world.bundles[TRUST_DOMAIN] = JwtBundle.of(TRUST_DOMAIN, {"": key_for("ES256").public_key()})
    with pytest.raises(SvidInvalidError):
        world.verifier.verify(token(header={"kid": ""}))


def test_bundles_that_differ_have_digests_that_differ() -> None:
    one, two = key_for("ES256"), key_for("ES384")
    digests = [
        jwt_bundle(a=one).digest,
        jwt_bundle(a=two).digest,
        jwt_bundle(b=one).digest,
        jwt_bundle(a=one, b=two).digest,
        jwt_bundle(a=two, b=one).digest,
    ]
    assert len(set(digests)) == len(digests)
    assert jwt_bundle(a=one, b=two).digest == jwt_bundle(b=two, a=one).digest


def test_a_missing_claim_is_named_by_its_clause(world: World) -> None:
    with pytest.raises(SvidInvalidError, match=r"JWT-SVID 3\.3"):
        world.verifier.verify(token(claims={"exp": ABSENT}))
