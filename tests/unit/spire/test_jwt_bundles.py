"""The keys of each trust domain, from a Workload API that does as it is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from broker.adapters.spire import supervising
from broker.adapters.spire.identity import NoIdentityError
from broker.adapters.spire.jwt_bundles import JwtBundles
from tests.unit.client.authority import TRUST_DOMAIN
from tests.unit.client.conftest import eventually
from tests.unit.spire.conftest import SpireAgent
from tests.unit.spire.tokens import Key, jwt_bundle, key_for

SOON = timedelta(seconds=8)
OURS, OTHER = f"spiffe://{TRUST_DOMAIN}", "spiffe://other.test"


def jwks(*algorithms: str, **changed: Any) -> bytes:
    """The keys of those algorithms under their names, as SPIRE writes them."""
    keys = [{**jwk(key_for(algorithm)), "kid": algorithm, **changed} for algorithm in algorithms]
    return json.dumps({"keys": keys}).encode()


def jwk(key: Key) -> dict[str, Any]:
    match key:
        case ec.EllipticCurvePrivateKey():
            return ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
        case rsa.RSAPrivateKey():
            return RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        case _:
            raise AssertionError


@pytest.fixture
def bundles(agent: SpireAgent, monkeypatch: pytest.MonkeyPatch) -> Iterator[JwtBundles]:
    monkeypatch.setattr(supervising, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(supervising, "LONGEST_PAUSE", 0.5)
    monkeypatch.setattr(supervising, "CHECK_EVERY", 0.05)
    bundles = JwtBundles(endpoint_socket=agent.address)
    yield bundles
    bundles.close()
    assert not bundles._source.thread.is_alive()


async def test_each_trust_domain_has_its_own_keys(agent: SpireAgent, bundles: JwtBundles) -> None:
    agent.jwt_bundles.put({OURS: jwks("ES256", "RS256"), OTHER: jwks("ES384")})
    await bundles.start(patience=SOON)
    own, other = bundles.bundle(TRUST_DOMAIN), bundles.bundle("other.test")
    assert own is not None
    assert other is not None
    assert own.digest == jwt_bundle(ES256=key_for("ES256"), RS256=key_for("RS256")).digest
    assert other.keys.keys() == {"ES384"}
    assert bundles.bundle("nobody.test") is None


async def test_a_trust_domain_that_is_no_longer_federated_has_no_keys(
    agent: SpireAgent, bundles: JwtBundles
) -> None:
    agent.jwt_bundles.put({OURS: jwks("ES256"), OTHER: jwks("ES384")})
    await bundles.start(patience=SOON)
    agent.jwt_bundles.put({OURS: jwks("ES256")})
    await eventually(lambda: bundles.bundle("other.test") is None)
    assert bundles.bundle(TRUST_DOMAIN) is not None


async def test_a_rotated_key_is_another_bundle(agent: SpireAgent, bundles: JwtBundles) -> None:
    agent.jwt_bundles.put({OURS: jwks("ES256")})
    await bundles.start(patience=SOON)
    old = bundles.bundle(TRUST_DOMAIN)
    agent.jwt_bundles.put({OURS: jwks("ES384", kid="ES256")})
    await eventually(lambda: bundles.bundle(TRUST_DOMAIN) != old)
    new = bundles.bundle(TRUST_DOMAIN)
    assert old is not None
    assert new is not None
    assert new.keys.keys() == old.keys.keys()
    assert new.digest != old.digest


async def test_a_source_that_died_is_replaced_and_what_was_known_stays_meanwhile(
    agent: SpireAgent, bundles: JwtBundles
) -> None:
    agent.jwt_bundles.put({OURS: jwks("ES256")})
    await bundles.start(patience=SOON)
    agent.jwt_bundles.put(None)
    await eventually(lambda: agent.jwt_streams > 1)
    agent.jwt_bundles.put({OURS: jwks("ES384")})
    assert bundles.bundle(TRUST_DOMAIN) is not None
    await eventually(lambda: "ES384" in getattr(bundles.bundle(TRUST_DOMAIN), "keys", {}))


@pytest.mark.parametrize("broken", [b"{", b'{"keys": [{}]}', jwks("ES256", kid="")])
async def test_a_bundle_that_cannot_be_read_changes_nothing(
    agent: SpireAgent, bundles: JwtBundles, broken: bytes
) -> None:
    agent.jwt_bundles.put({OURS: jwks("ES256")})
    await bundles.start(patience=SOON)
    agent.jwt_bundles.put({OURS: broken})
    await eventually(lambda: agent.jwt_streams > 1)  # the source was given up, and asked for again
    agent.jwt_bundles.put({OURS: jwks("ES384")})
    assert bundles.bundle(TRUST_DOMAIN) is not None
    await eventually(lambda: "ES384" in getattr(bundles.bundle(TRUST_DOMAIN), "keys", {}))


async def test_without_bundles_it_is_said(folder: Path) -> None:
    bundles = JwtBundles(endpoint_socket=f"unix://{folder}/none.sock")
    with pytest.raises(NoIdentityError, match="no JWT bundles from"):
        await bundles.start(patience=timedelta(seconds=0.3))
    bundles.close()
