"""X509-SVID: which certificates are an SVID of a caller."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from broker.adapters.spire.identity import TrustBundle
from broker.domain.errors import BrokerError, SvidExpiredError, SvidInvalidError
from broker.domain.peer import SvidKind
from tests.fakes.system import NOON
from tests.unit.client.authority import TRUST_DOMAIN
from tests.unit.spire.certificates import AGENT, BEFORE, BOTH_SIDES, Authority, bundle_of, uri, usage
from tests.unit.spire.test_verifier import World

ROOT: Final = Authority()
SVID_ROOT: Final = Authority(name="svid", names=[uri(f"spiffe://{TRUST_DOMAIN}")])
INTERMEDIATE: Final = Authority(name="intermediate", signer=ROOT)
SHORT_ROOT: Final = Authority(name="short", path_length=0)
STRANGER: Final = Authority()


def below(name: str, **how: object) -> Authority:
    """A signing certificate that the root signed."""
    return Authority(name=name, signer=ROOT, **how)  # type: ignore[arg-type]  # whatever a case asks for


CHAINED_SVID: Final = below("chained", names=[uri(f"spiffe://{TRUST_DOMAIN}")])
ELSEWHERE: Final = below("elsewhere", names=[uri("spiffe://other.test")])
Case = tuple[bytes, list[Authority], Authority]


def shown(authority: Authority = ROOT, leaf: bytes | None = None, *chain: Authority) -> Case:
    """A leaf, the signing certificates that are shown with it, and the bundle's authority."""
    return leaf if leaf is not None else authority.leaf(uri(AGENT)), list(chain), ROOT if chain else authority


VALID: Final[dict[tuple[str, str], Case]] = {
    ("X509-SVID 2", "one URI SAN"): shown(),
    ("X509-SVID 2", "DNS names, addresses and mail beside it"): shown(
        leaf=ROOT.leaf(
            uri(AGENT), x509.DNSName("a.test"), x509.DNSName("b.test"), x509.RFC822Name("a@b.test")
        )
    ),
    ("X509-SVID 3.1", "no subject, and a critical SAN"): shown(leaf=ROOT.leaf(uri(AGENT))),
    ("X509-SVID 3.1", "a subject, and a SAN that is not critical"): shown(
        leaf=ROOT.leaf(uri(AGENT), subject="one", names_critical=False)
    ),
    ("X509-SVID 3.1", "a subject, and a critical SAN"): shown(leaf=ROOT.leaf(uri(AGENT), subject="one")),
    ("X509-SVID 3.2", "a signing certificate that is an SVID"): shown(SVID_ROOT),
    ("X509-SVID 3.2", "one of the chain that is an SVID"): shown(CHAINED_SVID, None, CHAINED_SVID),
    ("X509-SVID 3.2", "one that is an SVID of another trust domain"): shown(ELSEWHERE, None, ELSEWHERE),
    ("X509-SVID 3.2", "one that is no SVID"): shown(INTERMEDIATE, None, INTERMEDIATE),
    ("X509-SVID 4.1", "cA false, said"): shown(leaf=ROOT.leaf(uri(AGENT), constraints=True)),
    ("X509-SVID 4.1", "cA false, as it is when nothing is said"): shown(
        leaf=ROOT.leaf(uri(AGENT), constraints=False)
    ),
    ("X509-SVID 4.1", "a path length that is kept"): shown(SHORT_ROOT),
    ("X509-SVID 4.3", "digitalSignature"): shown(leaf=ROOT.leaf(uri(AGENT))),
    ("X509-SVID 4.3", "keyEncipherment and keyAgreement as well"): shown(
        leaf=ROOT.leaf(uri(AGENT), key_usage=usage("digital_signature", "key_encipherment", "key_agreement"))
    ),
    ("X509-SVID 4.4", "no extended key usage"): shown(leaf=ROOT.leaf(uri(AGENT), extended=())),
    ("X509-SVID 4.4", "a critical one"): shown(leaf=ROOT.leaf(uri(AGENT), extended_critical=True)),
    ("X509-SVID 4.4", "more than servers and clients"): shown(
        leaf=ROOT.leaf(uri(AGENT), extended=[*BOTH_SIDES, ExtendedKeyUsageOID.CODE_SIGNING])
    ),
    ("X509-SVID 5.1", "a chain of two"): shown(INTERMEDIATE, None, INTERMEDIATE),
}
PATHLESS: Final = below("pathless")
LONG: Final = Authority(name="long", signer=SHORT_ROOT)
INVALID: Final[dict[tuple[str, str], Case]] = {
    ("X509-SVID 2", "no SAN"): shown(leaf=ROOT.leaf(subject="one")),
    ("X509-SVID 2", "no URI SAN"): shown(leaf=ROOT.leaf(x509.DNSName("one.test"))),
    ("X509-SVID 2", "two SPIFFE IDs"): shown(leaf=ROOT.leaf(uri(AGENT), uri(f"{AGENT}-2"))),
    ("X509-SVID 2", "a SPIFFE ID and another URI"): shown(leaf=ROOT.leaf(uri(AGENT), uri("https://a.test"))),
    ("X509-SVID 3.1", "no path"): shown(leaf=ROOT.leaf(uri(f"spiffe://{TRUST_DOMAIN}"))),
    ("X509-SVID 3.1", "the root path"): shown(leaf=ROOT.leaf(uri(f"spiffe://{TRUST_DOMAIN}/"))),
    ("X509-SVID 3.1", "no subject, and a SAN that is not critical"): shown(
        leaf=ROOT.leaf(uri(AGENT), names_critical=False)
    ),
    ("X509-SVID 3.1", "the authority itself as a caller"): shown(SVID_ROOT, SVID_ROOT.pem),
    ("X509-SVID 3.2", "a signing certificate with a path"): shown(
        by := Authority(name="path", names=[uri(f"spiffe://{TRUST_DOMAIN}/ca")]), by.leaf(uri(AGENT))
    ),
    ("X509-SVID 3.2", "a signing certificate of the chain with a path"): shown(
        by := below("path", names=[uri(f"spiffe://{TRUST_DOMAIN}/ca")]), by.leaf(uri(AGENT)), by
    ),
    ("X509-SVID 3.2", "a signing certificate with a name that is no SPIFFE ID"): shown(
        by := below("badly", names=[uri("spiffe://EXAMPLE.test")]), by.leaf(uri(AGENT)), by
    ),
    ("X509-SVID 3.2", "a signing certificate with two names"): shown(
        by := below("two", names=[uri(f"spiffe://{TRUST_DOMAIN}"), uri("spiffe://other.test")]),
        by.leaf(uri(AGENT)),
        by,
    ),
    ("X509-SVID 3.2", "a caller that signed another one"): shown(
        by := below("caller", ca=False, names=[uri(AGENT)], key_usage=usage("digital_signature")),
        by.leaf(uri(AGENT)),
        by,
    ),
    ("X509-SVID 4.1", "a leaf that is a CA"): shown(leaf=ROOT.leaf(uri(AGENT), ca=True)),
    ("X509-SVID 4.1", "a signing certificate that is no CA"): shown(
        by := below("no-ca", ca=False), by.leaf(uri(AGENT)), by
    ),
    ("X509-SVID 4.1", "an authority that is no CA"): shown(Authority(name="no-ca", ca=False)),
    ("X509-SVID 4.1", "a path longer than its constraint"): (LONG.leaf(uri(AGENT)), [LONG], SHORT_ROOT),
    # 4.2: libraries without URI name constraints refuse them. Ours has none, for good names either.
    ("X509-SVID 4.2", "a constraint on other trust domains"): shown(
        Authority(name="limited", more=[(x509.NameConstraints([uri("other.test")], None), True)])
    ),
    ("X509-SVID 4.2", "a constraint that excludes the trust domain"): shown(
        Authority(name="limited", more=[(x509.NameConstraints(None, [uri(TRUST_DOMAIN)]), True)])
    ),
    ("X509-SVID 4.3", "no key usage"): shown(leaf=ROOT.leaf(uri(AGENT), key_usage=None)),
    ("X509-SVID 4.3", "a key usage that is not critical"): shown(
        leaf=ROOT.leaf(uri(AGENT), usage_critical=False)
    ),
    ("X509-SVID 4.3", "no digitalSignature"): shown(
        leaf=ROOT.leaf(uri(AGENT), key_usage=usage("key_encipherment"))
    ),
    ("X509-SVID 4.3", "a leaf with keyCertSign"): shown(
        leaf=ROOT.leaf(uri(AGENT), key_usage=usage("digital_signature", "key_cert_sign"))
    ),
    ("X509-SVID 4.3", "a leaf with cRLSign"): shown(
        leaf=ROOT.leaf(uri(AGENT), key_usage=usage("digital_signature", "crl_sign"))
    ),
    ("X509-SVID 4.3", "a signing certificate without keyCertSign"): shown(
        by := below("no-sign", key_usage=usage("crl_sign")), by.leaf(uri(AGENT)), by
    ),
    ("X509-SVID 4.3", "a signing certificate without key usage"): shown(
        by := below("no-usage", key_usage=None), by.leaf(uri(AGENT)), by
    ),
    ("X509-SVID 4.3", "a signing SVID whose key usage is not critical"): shown(
        by := below("soft", names=[uri(f"spiffe://{TRUST_DOMAIN}")], usage_critical=False),
        by.leaf(uri(AGENT)),
        by,
    ),
    ("X509-SVID 4.4", "clients alone"): shown(
        leaf=ROOT.leaf(uri(AGENT), extended=[ExtendedKeyUsageOID.CLIENT_AUTH])
    ),
    ("X509-SVID 4.4", "servers alone"): shown(
        leaf=ROOT.leaf(uri(AGENT), extended=[ExtendedKeyUsageOID.SERVER_AUTH])
    ),
    ("X509-SVID 5.1", "another authority of the same name"): (STRANGER.leaf(uri(AGENT)), [], ROOT),
    ("X509-SVID 5.1", "an authority that comes along"): (STRANGER.leaf(uri(AGENT)), [STRANGER], ROOT),
    ("X509-SVID 5.1", "a chain with a gap"): (INTERMEDIATE.leaf(uri(AGENT)), [], ROOT),
    ("X509-SVID 5.1", "an authority that has expired"): shown(
        Authority(name="old", valid_to=NOON - timedelta(seconds=1))
    ),
    ("X509-SVID 5.1", "an authority that is not valid yet"): shown(
        Authority(name="new", valid_from=NOON + timedelta(seconds=1))
    ),
    ("X509-SVID 5.2", "another scheme"): shown(leaf=ROOT.leaf(uri(AGENT.replace("spiffe:", "https:")))),
    ("X509-SVID 5.2", "not a SPIFFE ID"): shown(leaf=ROOT.leaf(uri(f"{AGENT}?x"))),
}


def verify(case: Case) -> object:
    leaf, chain, authority = case
    world = World(bundles={TRUST_DOMAIN: bundle_of(authority)})
    return world.verifier.verify(leaf, [signer.pem for signer in chain])


@pytest.mark.parametrize("case", VALID.values(), ids=map(": ".join, VALID))
def test_what_the_standard_calls_valid_is_verified(case: Case) -> None:
    leaf, chain, authority = case
    world = World(bundles={TRUST_DOMAIN: bundle_of(authority)})
    peer = world.verifier.verify(leaf, [signer.pem for signer in chain])
    assert (str(peer.spiffe_id), peer.verified_by) == (AGENT, SvidKind.X509)


@pytest.mark.parametrize("case", INVALID.values(), ids=map(": ".join, INVALID))
def test_what_the_standard_forbids_is_refused(case: Case) -> None:
    with pytest.raises(SvidInvalidError):
        verify(case)


def test_rfc_5280_validity_begins_and_ends_to_the_second() -> None:  # X509-SVID 5.1
    world = World(bundles={TRUST_DOMAIN: bundle_of(ROOT)})
    late = ROOT.leaf(uri(AGENT), valid_from=NOON + timedelta(seconds=1), valid_to=NOON + timedelta(minutes=1))
    with pytest.raises(SvidExpiredError):
        world.verifier.verify(late, [])
    with pytest.raises(SvidExpiredError):
        world.verifier.verify(ROOT.leaf(uri(AGENT), valid_from=BEFORE, valid_to=NOON), [])


def test_a_leaf_in_the_bundle_stands_for_nobody() -> None:  # X509-SVID 5.2: an authority issues it
    leaf = STRANGER.leaf(uri(AGENT))
    bundle = TrustBundle(
        trust_domain=TRUST_DOMAIN, authorities=(x509.load_pem_x509_certificate(leaf),), digest="leaf"
    )
    world = World(bundles={TRUST_DOMAIN: bundle})
    with pytest.raises(SvidInvalidError):
        world.verifier.verify(leaf, [])


def test_an_empty_bundle_vouches_for_nobody() -> None:  # X509-SVID 6.2
    world = World(bundles={TRUST_DOMAIN: TrustBundle(trust_domain=TRUST_DOMAIN, authorities=(), digest="")})
    with pytest.raises(BrokerError):
        world.verifier.verify(ROOT.leaf(uri(AGENT)), [])


def test_every_section_that_binds_a_validator_has_cases() -> None:
    bound = {"2", "3.1", "3.2", "4.1", "4.2", "4.3", "4.4", "5.1", "5.2"}
    assert {clause.split()[1] for clause, _what in INVALID} == bound
    assert {clause.split()[1] for clause, _what in VALID} == bound - {"4.2", "5.2"}
