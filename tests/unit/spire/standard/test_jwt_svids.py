"""JWT-SVID: which tokens are an SVID of a caller, for this broker."""

from __future__ import annotations

import base64
import logging
import string
from datetime import timedelta
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from broker.domain.errors import (
    AgentClassUnknownError,
    SvidExpiredError,
    SvidInvalidError,
    TrustDomainUnknownError,
)
from broker.domain.peer import SvidKind
from tests.fakes.system import NOON
from tests.unit.client.authority import TRUST_DOMAIN
from tests.unit.spire.certificates import AGENT
from tests.unit.spire.test_jwt_verifier import World
from tests.unit.spire.tokens import (
    ABSENT,
    ALGORITHMS,
    AUDIENCE,
    CLAIMS,
    encoded,
    hmac_token,
    jwt_bundle,
    key_for,
    public_pem,
    rsa_key,
    signature,
    token,
)

SECOND: Final = int(NOON.timestamp())
GOOD: Final = token()
HEADER, PAYLOAD, SIGNATURE = GOOD.split(".")
ALPHABET: Final = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
RAW: Final = base64.urlsafe_b64decode(SIGNATURE + "==")
OTHER_END: Final = ALPHABET[ALPHABET.index(SIGNATURE[-1]) ^ 1]
"""Differs from the last character in a bit that means nothing."""
DER: Final = encode_dss_signature(int.from_bytes(RAW[:32]), int.from_bytes(RAW[32:]))


def unsigned(algorithm: object) -> str:
    return f"{encoded({'alg': algorithm, 'kid': 'ES256', 'typ': 'JWT'})}.{PAYLOAD}."


def claiming(**claims: Any) -> str:
    return token(claims=claims)


def headed(**header: Any) -> str:
    return token(header=header)


VALID: Final = {
    **{("JWT-SVID 2.1", f"the algorithm {name}"): token(name) for name in ALGORITHMS},
    ("JWT-SVID 2.3", "type JWT"): headed(typ="JWT"),
    ("JWT-SVID 2.3", "type JOSE"): headed(typ="JOSE"),
    ("JWT-SVID 2.3", "no type"): headed(typ=ABSENT),
    ("JWT-SVID 3", "registered and private claims"): claiming(
        iss="https://spire.example.test", iat=SECOND, jti="1", private={"a": [1, None]}
    ),
    ("JWT-SVID 3", "a moment from which it is valid, now"): claiming(nbf=SECOND),
    ("JWT-SVID 3.1", "a SPIFFE ID"): claiming(sub=AGENT),
    ("JWT-SVID 3.2", "a list of one audience"): claiming(aud=[AUDIENCE]),
    ("JWT-SVID 3.2", "one audience by itself"): claiming(aud=AUDIENCE),
    ("JWT-SVID 3.3", "an expiry of the next second"): claiming(exp=SECOND + 1),
    ("JWT-SVID 3.3", "an expiry with a fraction"): claiming(exp=SECOND + 0.5),
}
INVALID: Final = {
    ("JWT-SVID 1", "JSON serialization"): (
        f'{{"payload":"{PAYLOAD}","protected":"{HEADER}","signature":"{SIGNATURE}"}}'
    ),
    ("JWT-SVID 2", "a header that is not described: jwk"): headed(jwk={"kty": "EC"}),
    ("JWT-SVID 2", "a header that is not described: jku"): headed(jku="https://keys.test"),
    ("JWT-SVID 2", "a header that is not described: x5c"): headed(x5c=[]),
    ("JWT-SVID 2", "a header that is not described: x5u"): headed(x5u="https://keys.test"),
    ("JWT-SVID 2", "a header that is not described: crit"): headed(crit=["exp"]),
    ("JWT-SVID 2", "a header that is not described: b64"): headed(b64=False),
    ("JWT-SVID 2", "a header that is not described: cty"): headed(cty="JWT"),
    ("JWT-SVID 2", "a private header"): headed(mine=1),
    ("JWT-SVID 2", "an encrypted token has five parts"): f"{GOOD}.{SIGNATURE}.{SIGNATURE}",
    ("JWT-SVID 2.1", "none, without a signature"): unsigned("none"),
    ("JWT-SVID 2.1", "none, with one"): headed(alg="none"),
    ("JWT-SVID 2.1", "None"): headed(alg="None"),
    ("JWT-SVID 2.1", "no algorithm"): headed(alg=ABSENT),
    ("JWT-SVID 2.1", "an algorithm that is no text"): headed(alg=["ES256"]),
    ("JWT-SVID 2.1", "an algorithm in lower case"): headed(alg="es256"),
    **{
        ("JWT-SVID 2.1", f"HS{size} with the public key for a secret"): hmac_token(f"HS{size}", public_pem())
        for size in ("256", "384", "512")
    },
    ("JWT-SVID 2.1", "EdDSA"): token(
        header={"alg": "EdDSA", "kid": "ed"}, key=ed25519.Ed25519PrivateKey.generate()
    ),
    ("JWT-SVID 2.1", "ES256K"): headed(alg="ES256K"),
    ("JWT-SVID 2.1", "another algorithm than the key's"): token("RS256", header={"kid": "ES256"}),
    ("JWT-SVID 2.1", "another curve than the key's"): token("ES384", header={"alg": "ES256", "kid": "ES384"}),
    ("JWT-SVID 2.1", "PSS said, PKCS #1 done"): token("RS256", header={"alg": "PS256"}),
    ("JWT-SVID 2.1", "another hash than said"): token("RS256", header={"alg": "RS512"}),
    # 2.2 leaves it out at will; 6.1 gives each key an id. Ours: without one, no key is looked for.
    ("JWT-SVID 2.2", "no key id"): headed(kid=ABSENT),
    ("JWT-SVID 2.2", "an empty key id"): headed(kid=""),
    ("JWT-SVID 2.2", "a key id that is no text"): headed(kid=1),
    ("JWT-SVID 2.2", "the id of no key"): headed(kid="nobody"),
    ("JWT-SVID 2.2", "the id of another key"): headed(kid="ES384"),
    ("JWT-SVID 2.3", "another type"): headed(typ="at+jwt"),
    ("JWT-SVID 2.3", "the type in lower case"): headed(typ="jwt"),
    ("JWT-SVID 2.3", "a type that is no text"): headed(typ=None),
    ("JWT-SVID 3", "a time of issue that is no number"): claiming(iat="now"),
    ("JWT-SVID 3", "a start that is no number"): claiming(nbf="now"),
    ("JWT-SVID 3.1", "no subject"): claiming(sub=ABSENT),
    ("JWT-SVID 3.1", "an empty subject"): claiming(sub=""),
    ("JWT-SVID 3.1", "a subject that is no SPIFFE ID"): claiming(sub="invoice-bot"),
    ("JWT-SVID 3.1", "a subject that is no text"): claiming(sub=[AGENT]),
    ("JWT-SVID 3.1", "a trust domain alone"): claiming(sub=f"spiffe://{TRUST_DOMAIN}"),
    ("JWT-SVID 3.1", "a SPIFFE ID that breaks a clause"): claiming(sub=f"{AGENT}/"),
    ("JWT-SVID 3.2", "no audience"): claiming(aud=ABSENT),
    ("JWT-SVID 3.2", "an empty list"): claiming(aud=[]),
    ("JWT-SVID 3.2", "null"): claiming(aud=None),
    ("JWT-SVID 3.2", "another audience"): claiming(aud=["vault"]),
    ("JWT-SVID 3.2", "an audience that only begins so"): claiming(aud=[f"{AUDIENCE}-2"]),
    ("JWT-SVID 3.2", "an audience in another case"): claiming(aud=[AUDIENCE.upper()]),
    ("JWT-SVID 3.2", "a list within the list"): claiming(aud=[[AUDIENCE]]),
    ("JWT-SVID 3.3", "no expiry"): claiming(exp=ABSENT),
    ("JWT-SVID 3.3", "null"): claiming(exp=None),
    ("JWT-SVID 3.3", "a text"): claiming(exp=str(SECOND + 60)),
    ("JWT-SVID 3.3", "true"): claiming(exp=True),
    ("JWT-SVID 3.3", "beyond all time"): claiming(exp=10**30),
    ("JWT-SVID 3.3", "infinity"): token(
        claims=b'{"sub":"%s","aud":"%s","exp":1e999}' % (AGENT.encode(), b"tasklease")
    ),
    ("JWT-SVID 3.3", "Infinity"): token(
        claims=b'{"sub":"%s","aud":"%s","exp":Infinity}' % (AGENT.encode(), b"tasklease")
    ),
    ("JWT-SVID 3.3", "NaN"): token(
        claims=b'{"sub":"%s","aud":"%s","exp":NaN}' % (AGENT.encode(), b"tasklease")
    ),
    ("JWT-SVID 4", "no signature"): f"{HEADER}.{PAYLOAD}.",
    ("JWT-SVID 4", "a signature that is cut short"): f"{HEADER}.{PAYLOAD}.{encoded(RAW[:-1])}",
    ("JWT-SVID 4", "a signature of zeros"): f"{HEADER}.{PAYLOAD}.{encoded(bytes(64))}",
    ("JWT-SVID 4", "a signature of somebody else"): token(key=ec.generate_private_key(ec.SECP256R1())),
    ("JWT-SVID 4", "a good signature of the key, whose curve is not the algorithm's"): token(
        key=key_for("ES384"), header={"kid": "ES384"}
    ),
    ("JWT-SVID 4", "a signature with a zero too many"): (
        f"{HEADER}.{PAYLOAD}.{encoded(RAW[:32] + bytes(1) + RAW[32:])}"
    ),
    ("JWT-SVID 4", "a signature in DER"): f"{HEADER}.{PAYLOAD}.{encoded(DER)}",
    (
        "JWT-SVID 4",
        "claims that were changed",
    ): f"{HEADER}.{encoded({**CLAIMS, 'sub': f'{AGENT}-2'})}.{SIGNATURE}",
    (
        "JWT-SVID 4",
        "a header that was changed",
    ): f"{encoded({'alg': 'ES256', 'kid': 'ES256'})}.{PAYLOAD}.{SIGNATURE}",
    ("JWT-SVID 5.1", "two parts"): f"{HEADER}.{PAYLOAD}",
    ("JWT-SVID 5.1", "nothing"): "",
    ("JWT-SVID 5.1", "points alone"): "..",
    ("JWT-SVID 5.1", "padding"): f"{HEADER}==.{PAYLOAD}.{SIGNATURE}",
    ("JWT-SVID 5.1", "another spelling of the same bytes"): f"{HEADER}.{PAYLOAD}.{SIGNATURE[:-1]}{OTHER_END}",
    ("JWT-SVID 5.1", "one character too many"): f"{HEADER}.{PAYLOAD}.{SIGNATURE}AAA",
    ("JWT-SVID 5.1", "NaN in a private claim"): token(
        claims=b'{"sub":"%s","aud":"tasklease","exp":%d,"private":NaN}' % (AGENT.encode(), SECOND + 60)
    ),
    ("JWT-SVID 5.1", "a line break"): f"{GOOD}\n",
    ("JWT-SVID 5.1", "a space"): f" {GOOD}",
    ("JWT-SVID 5.1", "the other alphabet"): f"{HEADER}.{PAYLOAD}.{SIGNATURE[:-1]}+",
    ("JWT-SVID 5.1", "characters that are not ASCII"): f"{HEADER}.{PAYLOAD}.ä{SIGNATURE}",
    ("JWT-SVID 5.1", "a header that is no object"): token(header=b"[]"),
    ("JWT-SVID 5.1", "claims that are no object"): token(claims=b'"x"'),
    ("JWT-SVID 5.1", "claims that are no JSON"): token(claims=b"{"),
    ("JWT-SVID 5.1", "a header that says something twice"): token(
        header=b'{"alg":"none","alg":"ES256","kid":"ES256"}'
    ),
    ("JWT-SVID 5.1", "claims that say something twice"): token(
        claims=b'{"sub":"%s","aud":"tasklease","exp":%d,"sub":"%s"}'
        % (AGENT.encode(), SECOND + 60, AGENT.encode())
    ),
    ("JWT-SVID 5.1", "UTF-16"): token(claims='{"sub":1}'.encode("utf-16")),
    ("JWT-SVID 5.1", "a byte order mark"): token(claims=b'\xef\xbb\xbf{"sub":1}'),
    ("JWT-SVID 5.1", "a deep nest"): token(claims=b"[" * 3000),
    ("JWT-SVID 5.1", "more than 8192 characters"): claiming(private="x" * 8192),
    # Stricter than the standard: each audience could show it to the others, and a long life is a long replay.
    ("JWT-SVID 7.2", "another audience beside ours"): claiming(aud=[AUDIENCE, "vault"]),
    ("JWT-SVID 7.2", "our audience twice"): claiming(aud=[AUDIENCE, AUDIENCE]),
    ("JWT-SVID 7.1", "valid for longer than is taken"): claiming(exp=SECOND + 601),
}


@pytest.mark.parametrize("text", VALID.values(), ids=map(": ".join, VALID))
def test_what_the_standard_calls_valid_is_verified(text: str) -> None:
    peer = World().verifier.verify(text)
    assert (str(peer.spiffe_id), peer.verified_by) == (AGENT, SvidKind.JWT)


@pytest.mark.parametrize("text", INVALID.values(), ids=map(": ".join, INVALID))
def test_what_the_standard_forbids_is_refused_as_foreseen_and_not_repeated(
    text: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), pytest.raises(SvidInvalidError) as refusal:
        World().verifier.verify(text)
    assert not caplog.records
    assert refusal.value.__cause__ is None
    assert not any(len(part) > 8 and part in str(refusal.value) for part in text.split("."))


@pytest.mark.parametrize(
    "claims",
    [{"exp": SECOND}, {"exp": SECOND - 1}, {"exp": 0}, {"exp": -1}, {"nbf": SECOND + 1}],
    ids=["this second", "the last second", "1970", "before 1970", "from the next second on"],
)
def test_what_is_not_valid_now_is_expired(
    claims: dict[str, int],
) -> None:  # JWT-SVID 3.3, RFC 7519 4.1.4, 4.1.5
    with pytest.raises(SvidExpiredError):
        World().verifier.verify(claiming(**claims))


def test_a_key_of_another_trust_domain_vouches_for_nobody_here() -> None:  # JWT-SVID 6.2
    theirs = ec.generate_private_key(ec.SECP256R1())
    world = World()
    world.bundles["other.test"] = jwt_bundle("other.test", theirs=theirs)
    with pytest.raises(SvidInvalidError):
        world.verifier.verify(token(key=theirs, header={"kid": "theirs"}))
    with pytest.raises(SvidInvalidError):
        world.verifier.verify(claiming(sub="spiffe://other.test/agent/invoice-bot/one"))
    with pytest.raises(TrustDomainUnknownError):
        world.verifier.verify(claiming(sub="spiffe://nobody.test/agent/invoice-bot/one"))


def test_the_same_key_id_in_two_trust_domains_is_two_keys() -> None:  # JWT-SVID 6.1
    theirs = ec.generate_private_key(ec.SECP256R1())
    world = World()
    world.bundles["other.test"] = jwt_bundle("other.test", ES256=theirs)
    world.verifier.verify(GOOD)
    with pytest.raises(SvidInvalidError):
        world.verifier.verify(token(key=theirs))


def test_a_short_rsa_key_is_no_key() -> None:  # RFC 7518 3.3: 2048 bits at least
    short = rsa_key(1024)
    world = World()
    world.bundles[TRUST_DOMAIN] = jwt_bundle(RS256=short)
    with pytest.raises(SvidInvalidError):
        world.verifier.verify(token("RS256", key=short))


def test_a_valid_token_of_what_is_no_instance_is_refused() -> None:  # ours: /agent/<class>/<instance>
    with pytest.raises(AgentClassUnknownError):
        World().verifier.verify(claiming(sub=f"spiffe://{TRUST_DOMAIN}/tasklease/broker"))


def test_the_other_half_of_an_ecdsa_signature_is_as_good_and_no_worse() -> (
    None
):  # RFC 7518 3.4: r and s, s not bound
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    made = signature("ES256", key_for("ES256"), f"{HEADER}.{PAYLOAD}".encode())
    twin = made[:32] + (order - int.from_bytes(made[32:])).to_bytes(32)
    peer = World().verifier.verify(f"{HEADER}.{PAYLOAD}.{encoded(twin)}")
    assert peer.svid_sha256 == World().verifier.verify(GOOD).svid_sha256


def test_every_section_that_binds_a_validator_has_cases() -> None:
    bound = {"1", "2", "2.1", "2.2", "2.3", "3", "3.1", "3.2", "3.3", "4", "5.1", "7.1", "7.2"}
    assert {clause.split()[1] for clause, _what in INVALID} == bound
    assert timedelta(minutes=10) == World().max_validity  # what 7.1 and the case above say
