"""Who is calling is decided from the certificates of this call, by this moment's bundle, clock and quarantine (R4)."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from broker.adapters.spire import admitting as module
from broker.adapters.spire import verifier as verifier_module
from broker.adapters.spire.identity import TrustBundle
from broker.adapters.spire.verifier import SvidVerifier
from broker.domain.errors import (
    AgentClassUnknownError,
    BrokerError,
    InstanceQuarantinedError,
    SvidExpiredError,
    SvidInvalidError,
    SvidMissingError,
    TrustDomainUnknownError,
)
from broker.domain.spiffe import SpiffeId
from tests.fakes.system import NOON, FakeClock
from tests.unit.client.authority import TRUST_DOMAIN
from tests.unit.spire.certificates import AFTER, AGENT, BEFORE, Authority, bundle_of, uri, usage

OTHER = "other.test"
AUTHORITY = Authority()
"""Signs for TRUST_DOMAIN; the verifier has its bundle."""
NEIGHBOUR = Authority(name="neighbour")
"""Signs for OTHER; the verifier has its bundle as well."""
FOREIGN = Authority()
"""Bears the authority's name, and is in no bundle."""


@dataclass
class World:
    """A verifier, and everything that it asks."""

    clock: FakeClock = field(default_factory=FakeClock)
    bundles: dict[str, TrustBundle] = field(
        default_factory=lambda: {
            TRUST_DOMAIN: bundle_of(AUTHORITY),
            OTHER: bundle_of(NEIGHBOUR, trust_domain=OTHER),
        }
    )
    quarantined: set[SpiffeId] = field(default_factory=set)
    verifier: SvidVerifier = field(init=False)

    def __post_init__(self) -> None:
        self.verifier = SvidVerifier(bundle_of=self.bundles.get, quarantine=self, clock=self.clock)

    def holds(self, spiffe_id: SpiffeId) -> bool:
        return spiffe_id in self.quarantined


@pytest.fixture
def world() -> World:
    return World()


def test_an_svid_of_an_instance_names_it(world: World) -> None:
    peer = world.verifier.verify(AUTHORITY.leaf(uri(AGENT)), [])
    assert str(peer.spiffe_id) == AGENT
    assert (peer.agent_class, peer.instance) == ("invoice-bot", "one")
    assert peer.svid_expires_at == AFTER


def test_two_svids_of_one_instance_are_told_apart(world: World) -> None:
    first, second = (world.verifier.verify(AUTHORITY.leaf(uri(AGENT)), []) for _ in range(2))
    assert first.spiffe_id == second.spiffe_id
    assert first.svid_sha256 != second.svid_sha256


def test_a_dns_name_beside_the_spiffe_id_does_no_harm(world: World) -> None:
    leaf = AUTHORITY.leaf(uri(AGENT), x509.DNSName("invoice-bot"))
    assert str(world.verifier.verify(leaf, []).spiffe_id) == AGENT


def test_each_trust_domain_is_verified_with_its_own_bundle(world: World) -> None:
    theirs = f"spiffe://{OTHER}/agent/invoice-bot/one"
    assert str(world.verifier.verify(NEIGHBOUR.leaf(uri(theirs)), []).spiffe_id) == theirs
    with pytest.raises(SvidInvalidError):
        world.verifier.verify(NEIGHBOUR.leaf(uri(AGENT)), [])
    with pytest.raises(SvidInvalidError):
        world.verifier.verify(AUTHORITY.leaf(uri(theirs)), [])


NO_LEAF_SVID = {
    "no name at all": AUTHORITY.leaf(),
    "no URI name": AUTHORITY.leaf(x509.DNSName("invoice-bot")),
    "two URI names": AUTHORITY.leaf(uri(AGENT), uri(f"spiffe://{TRUST_DOMAIN}/agent/invoice-bot/two")),
    "the same URI name twice": AUTHORITY.leaf(uri(AGENT), uri(AGENT)),
    "a SPIFFE ID and a web address": AUTHORITY.leaf(uri(AGENT), uri("https://example.test/")),
    "a CA": AUTHORITY.leaf(uri(AGENT), ca=True),
    "a CA that may sign": AUTHORITY.leaf(
        uri(AGENT), ca=True, key_usage=usage("key_cert_sign", "digital_signature")
    ),
    "no key usage": AUTHORITY.leaf(uri(AGENT), key_usage=None),
    "no right to make digital signatures": AUTHORITY.leaf(uri(AGENT), key_usage=usage("key_agreement")),
    "the right to sign certificates": AUTHORITY.leaf(
        uri(AGENT), key_usage=usage("digital_signature", "key_cert_sign")
    ),
    "the right to sign revocation lists": AUTHORITY.leaf(
        uri(AGENT), key_usage=usage("digital_signature", "crl_sign")
    ),
    "a certificate for servers alone": AUTHORITY.leaf(uri(AGENT), extended=[ExtendedKeyUsageOID.SERVER_AUTH]),
    "the authority's own certificate": AUTHORITY.pem,
    "a foreign authority of the same name": FOREIGN.leaf(uri(AGENT)),
    "a neighbour's authority": NEIGHBOUR.leaf(uri(AGENT)),
    "garbage": b"garbage",
    "a PEM block of garbage": b"-----BEGIN CERTIFICATE-----\nZ2FyYmFnZQ==\n-----END CERTIFICATE-----\n",
    "half a certificate": AUTHORITY.leaf(uri(AGENT))[:300],
    "bytes that are no text": bytes(range(256)),
    "a certificate behind 16 KiB": b"\n" * 16_384 + AUTHORITY.leaf(uri(AGENT)),
}

NO_SPIFFE_ID = {
    "another scheme": "https://example.test/agent/invoice-bot/one",
    "an upper-case scheme": f"SPIFFE://{TRUST_DOMAIN}/agent/invoice-bot/one",
    "no authority": "spiffe:///agent/invoice-bot/one",
    "no path": f"spiffe://{TRUST_DOMAIN}",
    "an empty path": f"spiffe://{TRUST_DOMAIN}/",
    "a slash at the end": f"{AGENT}/",
    "an empty segment": f"spiffe://{TRUST_DOMAIN}/agent//one",
    "a step up": f"spiffe://{TRUST_DOMAIN}/agent/invoice-bot/../one",
    "a user": f"spiffe://user@{TRUST_DOMAIN}/agent/invoice-bot/one",
    "a user and a password": f"spiffe://user:word@{TRUST_DOMAIN}/agent/invoice-bot/one",
    "a port": f"spiffe://{TRUST_DOMAIN}:443/agent/invoice-bot/one",
    "a query": f"{AGENT}?x=1",
    "a fragment": f"{AGENT}#x",
    "a percent sign": f"spiffe://{TRUST_DOMAIN}/agent/invoice-bot/%6Fne",
    "an upper-case trust domain": f"spiffe://{TRUST_DOMAIN.upper()}/agent/invoice-bot/one",
    "a line break at the end": f"{AGENT}\n",
    "a NUL": f"{AGENT}\0",
    "a space": f"{AGENT} ",
    "2049 bytes": AGENT + "x" * (2049 - len(AGENT)),
}


@pytest.mark.parametrize("leaf", NO_LEAF_SVID.values(), ids=NO_LEAF_SVID)
def test_what_is_no_leaf_svid_of_its_trust_domain_is_refused(world: World, leaf: bytes) -> None:
    with pytest.raises(SvidInvalidError):
        world.verifier.verify(leaf, [])


@pytest.mark.parametrize("name", NO_SPIFFE_ID.values(), ids=NO_SPIFFE_ID)
def test_a_name_that_is_no_spiffe_id_is_refused(world: World, name: str) -> None:
    with pytest.raises(SvidInvalidError) as refusal:
        world.verifier.verify(AUTHORITY.leaf(uri(name)), [])
    assert name not in refusal.value.text


def test_a_spiffe_id_may_be_2048_bytes_long(world: World) -> None:
    name = AGENT + "x" * (2048 - len(AGENT))
    assert str(world.verifier.verify(AUTHORITY.leaf(uri(name)), []).spiffe_id) == name


@pytest.mark.parametrize("leaf", [None, b""], ids=["none", "empty"])
def test_without_a_leaf_there_is_nobody(world: World, leaf: bytes | None) -> None:
    with pytest.raises(SvidMissingError):
        world.verifier.verify(leaf, [])


def test_a_trust_domain_without_a_bundle_is_unknown(world: World) -> None:
    with pytest.raises(TrustDomainUnknownError):
        world.verifier.verify(AUTHORITY.leaf(uri("spiffe://unknown.test/agent/invoice-bot/one")), [])


@pytest.mark.parametrize(
    "path", ["/tasklease/broker", "/agent/invoice-bot", "/agent/invoice-bot/one/more", "/agents/a/b"]
)
def test_a_valid_svid_that_names_no_instance_is_refused(world: World, path: str) -> None:
    with pytest.raises(AgentClassUnknownError):
        world.verifier.verify(AUTHORITY.leaf(uri(f"spiffe://{TRUST_DOMAIN}{path}")), [])


def test_an_error_that_nobody_foresaw_is_a_refusal_without_its_text() -> None:
    def broken(_trust_domain: str) -> TrustBundle | None:
        message = "planted"
        raise RuntimeError(message)

    verifier = SvidVerifier(bundle_of=broken, quarantine=World(), clock=FakeClock())
    with pytest.raises(SvidInvalidError) as refusal:
        verifier.verify(AUTHORITY.leaf(uri(AGENT)), [])
    assert "planted" not in refusal.value.text


# Chains ----------------------------------------------------------------------------------------------------


def test_a_chain_through_an_intermediate_is_accepted(world: World) -> None:
    intermediate = Authority(name="intermediate", signer=AUTHORITY)
    peer = world.verifier.verify(intermediate.leaf(uri(AGENT)), [intermediate.pem])
    assert str(peer.spiffe_id) == AGENT


def test_a_chain_whose_intermediate_is_not_shown_is_refused(world: World) -> None:
    intermediate = Authority(name="intermediate", signer=AUTHORITY)
    leaf = intermediate.leaf(uri(AGENT))
    with pytest.raises(SvidInvalidError):
        world.verifier.verify(leaf, [])
    world.verifier.verify(leaf, [intermediate.pem])
    with pytest.raises(SvidInvalidError):  # also after it was seen with its chain
        world.verifier.verify(leaf, [])


def test_an_authority_that_the_peer_brings_along_counts_for_nothing(world: World) -> None:
    with pytest.raises(SvidInvalidError):
        world.verifier.verify(FOREIGN.leaf(uri(AGENT)), [FOREIGN.pem])


def test_a_leaf_cannot_sign_another_one(world: World) -> None:
    instance = Authority(name="instance", signer=AUTHORITY)
    not_a_ca = AUTHORITY.leaf(uri(AGENT))
    with pytest.raises(SvidInvalidError):
        world.verifier.verify(instance.leaf(uri(AGENT)), [not_a_ca])


@pytest.mark.parametrize(
    "intermediates", [[b"garbage"], [AUTHORITY.pem] * 9, [AUTHORITY.pem + b"\n" * 16_384]]
)
def test_intermediates_are_bounded_and_have_to_be_certificates(
    world: World, intermediates: list[bytes]
) -> None:
    with pytest.raises(SvidInvalidError):
        world.verifier.verify(AUTHORITY.leaf(uri(AGENT)), intermediates)


# At each call ----------------------------------------------------------------------------------------------


def test_the_same_bytes_are_refused_before_they_are_valid_accepted_then_and_refused_after(
    world: World,
) -> None:
    leaf = AUTHORITY.leaf(
        uri(AGENT), valid_from=NOON + timedelta(seconds=10), valid_to=NOON + timedelta(seconds=70)
    )
    with pytest.raises(SvidExpiredError):
        world.verifier.verify(leaf, [])
    world.clock.advance(seconds=10)
    world.verifier.verify(leaf, [])
    world.clock.advance(seconds=59)
    world.verifier.verify(leaf, [])
    world.clock.advance(seconds=1)
    for _again in range(2):
        with pytest.raises(SvidExpiredError):
            world.verifier.verify(leaf, [])


def test_an_svid_that_had_expired_when_it_was_first_seen_is_refused(world: World) -> None:
    with pytest.raises(SvidExpiredError):
        world.verifier.verify(AUTHORITY.leaf(uri(AGENT), valid_to=NOON), [])


def test_an_expired_svid_of_a_foreign_authority_is_not_called_expired(world: World) -> None:
    with pytest.raises(SvidInvalidError):
        world.verifier.verify(FOREIGN.leaf(uri(AGENT), valid_to=NOON), [])


def test_an_authority_that_is_not_yet_valid_signs_nothing_yet(world: World) -> None:
    tomorrow = Authority(valid_from=NOON + timedelta(minutes=1))
    world.bundles[TRUST_DOMAIN] = bundle_of(tomorrow)
    leaf = tomorrow.leaf(uri(AGENT))
    with pytest.raises(BrokerError):
        world.verifier.verify(leaf, [])
    world.clock.advance(minutes=1)
    world.verifier.verify(leaf, [])


def test_an_authority_that_expires_before_its_leaf_takes_the_leaf_with_it(world: World) -> None:
    old = Authority(valid_to=NOON + timedelta(minutes=1))
    world.bundles[TRUST_DOMAIN] = bundle_of(old)
    world.clock.advance(minutes=2)
    with pytest.raises(BrokerError):
        world.verifier.verify(old.leaf(uri(AGENT)), [])


def test_an_authority_that_expires_while_its_leaf_is_known_takes_the_leaf_with_it(world: World) -> None:
    old = Authority(valid_to=NOON + timedelta(minutes=1))
    world.bundles[TRUST_DOMAIN] = bundle_of(old)
    leaf = old.leaf(uri(AGENT))
    world.verifier.verify(leaf, [])
    world.clock.advance(minutes=1, seconds=1)
    with pytest.raises(SvidInvalidError):
        world.verifier.verify(leaf, [])


def test_a_chain_is_not_mistaken_for_one_long_leaf(world: World) -> None:
    intermediate = Authority(name="intermediate", signer=AUTHORITY)
    leaf = intermediate.leaf(uri(AGENT))
    world.verifier.verify(leaf, [intermediate.pem])
    with pytest.raises(SvidInvalidError):
        world.verifier.verify(leaf + intermediate.pem, [])


@pytest.mark.parametrize(
    "leaf",
    [
        AUTHORITY.leaf(uri(AGENT), ca=True),
        AUTHORITY.leaf(uri(AGENT), key_usage=usage("digital_signature", "key_cert_sign")),
        AUTHORITY.leaf(uri(AGENT), key_usage=usage("digital_signature", "crl_sign")),
    ],
    ids=["a CA", "keyCertSign", "cRLSign"],
)
def test_what_may_sign_is_refused_by_us_and_not_only_by_path_validation(leaf: bytes) -> None:
    with pytest.raises(SvidInvalidError, match=r"not a leaf X\.509-SVID"):
        verifier_module._refuse_what_is_no_leaf(x509.load_pem_x509_certificate(leaf))


def test_a_replaced_authority_is_refused_at_the_next_call(world: World) -> None:
    old, new = AUTHORITY, Authority()
    leaf = old.leaf(uri(AGENT))
    world.verifier.verify(leaf, [])
    world.bundles[TRUST_DOMAIN] = bundle_of(old, new)  # a rotation: both for a while
    world.verifier.verify(leaf, [])
    world.verifier.verify(new.leaf(uri(AGENT)), [])
    world.bundles[TRUST_DOMAIN] = bundle_of(new)
    with pytest.raises(SvidInvalidError):
        world.verifier.verify(leaf, [])
    world.verifier.verify(new.leaf(uri(AGENT)), [])


def test_a_bundle_that_is_gone_takes_its_trust_domain_along(world: World) -> None:
    leaf = AUTHORITY.leaf(uri(AGENT))
    world.verifier.verify(leaf, [])
    del world.bundles[TRUST_DOMAIN]
    with pytest.raises(TrustDomainUnknownError):
        world.verifier.verify(leaf, [])


def test_an_authority_that_moved_to_another_trust_domain_is_refused_in_its_old_one(world: World) -> None:
    leaf = AUTHORITY.leaf(uri(AGENT))
    world.verifier.verify(leaf, [])
    world.bundles[OTHER] = bundle_of(AUTHORITY, trust_domain=OTHER)
    world.bundles[TRUST_DOMAIN] = bundle_of(NEIGHBOUR)
    with pytest.raises(SvidInvalidError):
        world.verifier.verify(leaf, [])


def test_the_quarantine_is_asked_at_each_call(world: World) -> None:
    leaf = AUTHORITY.leaf(uri(AGENT))
    peer = world.verifier.verify(leaf, [])
    world.quarantined.add(peer.spiffe_id)
    with pytest.raises(InstanceQuarantinedError):
        world.verifier.verify(leaf, [])
    with pytest.raises(InstanceQuarantinedError):  # nor with a newer one
        world.verifier.verify(AUTHORITY.leaf(uri(AGENT)), [])
    world.verifier.verify(AUTHORITY.leaf(uri(f"spiffe://{TRUST_DOMAIN}/agent/invoice-bot/two")), [])
    world.quarantined.clear()
    world.verifier.verify(leaf, [])


def test_nobody_learns_of_a_quarantine_by_a_certificate_that_is_not_good(world: World) -> None:
    world.quarantined.add(SpiffeId.parse(AGENT))
    with pytest.raises(SvidInvalidError):
        world.verifier.verify(FOREIGN.leaf(uri(AGENT)), [])
    with pytest.raises(SvidExpiredError):
        world.verifier.verify(AUTHORITY.leaf(uri(AGENT), valid_from=BEFORE, valid_to=NOON), [])


def test_what_is_remembered_is_bounded_and_forgetting_changes_no_answer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_KEPT", 2)
    leaves = [AUTHORITY.leaf(uri(f"{AGENT}-{number}")) for number in range(4)]
    for _round in range(2):
        for number, leaf in enumerate(leaves):
            assert world.verifier.verify(leaf, []).instance == f"one-{number}"
    assert len(world.verifier._admission._kept) == 2


def test_what_was_refused_is_not_remembered(world: World) -> None:
    for leaf in NO_LEAF_SVID.values():
        with pytest.raises(SvidInvalidError):
            world.verifier.verify(leaf, [])
    assert not world.verifier._admission._kept
