"""Who calls need not be an agent instance; everything else is verified as for one (rule R4)."""

from __future__ import annotations

from datetime import timedelta

import pytest

from broker.adapters.spire.verifier import SvidVerifier
from broker.domain.errors import (
    AgentClassUnknownError,
    InstanceQuarantinedError,
    SvidExpiredError,
    SvidInvalidError,
    SvidMissingError,
    TrustDomainUnknownError,
)
from broker.domain.spiffe import SpiffeId
from tests.fakes.system import FakeClock
from tests.unit.client.authority import TRUST_DOMAIN
from tests.unit.spire.certificates import AFTER, AGENT, Authority, bundle_of, uri

ANN = f"spiffe://{TRUST_DOMAIN}/operator/ann"
AUTHORITY, FOREIGN = Authority(), Authority()


class Everybody:
    """Implements ports.identity.Quarantine: holds whoever is asked about."""

    def holds(self, spiffe_id: SpiffeId) -> bool:
        return bool(spiffe_id.path)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def verifier(clock: FakeClock) -> SvidVerifier:
    bundles = {TRUST_DOMAIN: bundle_of(AUTHORITY)}
    return SvidVerifier(bundle_of=bundles.get, quarantine=Everybody(), clock=clock)


@pytest.mark.parametrize("name", [ANN, AGENT])
def test_whoever_has_a_good_svid_is_identified_quarantined_or_not(verifier: SvidVerifier, name: str) -> None:
    identity = verifier.identify(AUTHORITY.leaf(uri(name)), [])
    assert str(identity.spiffe_id) == name
    assert identity.svid_expires_at == AFTER


def test_who_was_identified_is_not_for_that_an_agent(verifier: SvidVerifier) -> None:
    for name, error in ((ANN, AgentClassUnknownError), (AGENT, InstanceQuarantinedError)):
        leaf = AUTHORITY.leaf(uri(name))
        verifier.identify(leaf, [])
        with pytest.raises(error):
            verifier.verify(leaf, [])


def test_who_has_none_or_a_bad_one_is_nobody(verifier: SvidVerifier) -> None:
    with pytest.raises(SvidMissingError):
        verifier.identify(None, [])
    for leaf in (FOREIGN.leaf(uri(ANN)), AUTHORITY.leaf(), AUTHORITY.leaf(uri(ANN), ca=True), b"nonsense"):
        with pytest.raises(SvidInvalidError):
            verifier.identify(leaf, [])
    with pytest.raises(TrustDomainUnknownError):
        verifier.identify(AUTHORITY.leaf(uri("spiffe://elsewhere.test/operator/ann")), [])


def test_an_svid_that_has_expired_is_refused_although_it_was_seen_before(
    verifier: SvidVerifier, clock: FakeClock
) -> None:
    leaf = AUTHORITY.leaf(uri(ANN))
    verifier.identify(leaf, [])
    clock.advance(seconds=(AFTER - clock.now()) / timedelta(seconds=1))
    with pytest.raises(SvidExpiredError):
        verifier.identify(leaf, [])
