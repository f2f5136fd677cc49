"""SPIFFE-ID: what is a SPIFFE ID."""

from __future__ import annotations

from typing import Final

import pytest

from broker.domain.spiffe import InvalidSpiffeIdError, SpiffeId

LONGEST_TRUST_DOMAIN: Final = "a" * 255
VALID: Final = {
    ("SPIFFE-ID 2", "scheme, trust domain and path"): "spiffe://example.org/agent/invoice-bot/one",
    ("SPIFFE-ID 2", "the path is optional"): "spiffe://example.org",
    ("SPIFFE-ID 2.1", "letters, digits, dots, dashes, underscores"): "spiffe://a-z.0_9/x",
    ("SPIFFE-ID 2.1", "an IPv4 address is a name like others"): "spiffe://192.0.2.1/x",
    ("SPIFFE-ID 2.1", "no DNS name: an underscore"): "spiffe://_under_score_/x",
    ("SPIFFE-ID 2.1", "no DNS name: dots and dashes alone"): "spiffe://..--/x",
    ("SPIFFE-ID 2.2", "letters, digits, dots, dashes, underscores"): "spiffe://example.org/aZ/0-9/._-",
    ("SPIFFE-ID 2.2", "dots that are no relative step"): "spiffe://example.org/.../.a/a..",
    ("SPIFFE-ID 2.3", "2048 bytes"): "spiffe://example.org/" + "x" * (2048 - 21),
    ("SPIFFE-ID 2.3", "a trust domain of 255 bytes"): f"spiffe://{LONGEST_TRUST_DOMAIN}/x",
    ("SPIFFE-ID 2.4", "the path's case counts"): "spiffe://example.org/Agent",
}
INVALID: Final = {
    ("SPIFFE-ID 2", "nothing"): "",
    ("SPIFFE-ID 2", "another scheme"): "https://example.org/x",
    ("SPIFFE-ID 2", "no scheme"): "example.org/x",
    ("SPIFFE-ID 2", "a scheme that only begins so"): "spiffes://example.org/x",
    ("SPIFFE-ID 2", "no authority"): "spiffe:/example.org/x",
    ("SPIFFE-ID 2", "three slashes"): "spiffe:///example.org/x",
    ("SPIFFE-ID 2", "an empty trust domain"): "spiffe://",
    ("SPIFFE-ID 2", "a query"): "spiffe://example.org/x?y",
    ("SPIFFE-ID 2", "an empty query"): "spiffe://example.org/x?",
    ("SPIFFE-ID 2", "a fragment"): "spiffe://example.org/x#y",
    ("SPIFFE-ID 2", "an empty fragment"): "spiffe://example.org/x#",
    ("SPIFFE-ID 2", "a query without a path"): "spiffe://example.org?y",
    ("SPIFFE-ID 2", "a space before it"): " spiffe://example.org/x",
    ("SPIFFE-ID 2", "a line break after it"): "spiffe://example.org/x\n",
    ("SPIFFE-ID 2", "a NUL after it"): "spiffe://example.org/x\0",
    ("SPIFFE-ID 2.1", "an upper-case letter"): "spiffe://Example.org/x",
    ("SPIFFE-ID 2.1", "a user"): "spiffe://user@example.org/x",
    ("SPIFFE-ID 2.1", "an empty user"): "spiffe://@example.org/x",
    ("SPIFFE-ID 2.1", "a user and a password"): "spiffe://user:word@example.org/x",
    ("SPIFFE-ID 2.1", "a port"): "spiffe://example.org:8443/x",
    ("SPIFFE-ID 2.1", "a colon without a port"): "spiffe://example.org:/x",
    ("SPIFFE-ID 2.1", "a percent-encoded letter"): "spiffe://ex%61mple.org/x",
    ("SPIFFE-ID 2.1", "an IPv6 address"): "spiffe://[2001:db8::1]/x",
    ("SPIFFE-ID 2.1", "a letter that is not ASCII"): "spiffe://exämple.org/x",
    ("SPIFFE-ID 2.1", "a letter that only looks like ASCII"): "spiffe://ex\u0430mple.org/x",
    ("SPIFFE-ID 2.1", "a digit that is not ASCII"): "spiffe://example\u0661.org/x",
    ("SPIFFE-ID 2.1", "a space"): "spiffe://example .org/x",
    ("SPIFFE-ID 2.2", "a percent-encoded character"): "spiffe://example.org/x%2Fy",
    ("SPIFFE-ID 2.2", "a percent sign"): "spiffe://example.org/%",
    ("SPIFFE-ID 2.2", "an empty segment"): "spiffe://example.org/x//y",
    ("SPIFFE-ID 2.2", "an empty first segment"): "spiffe://example.org//x",
    ("SPIFFE-ID 2.2", "a slash at the end"): "spiffe://example.org/x/",
    ("SPIFFE-ID 2.2", "a slash alone"): "spiffe://example.org/",
    ("SPIFFE-ID 2.2", "a step to here"): "spiffe://example.org/x/./y",
    ("SPIFFE-ID 2.2", "a step up"): "spiffe://example.org/x/../y",
    ("SPIFFE-ID 2.2", "a step up at the end"): "spiffe://example.org/x/..",
    ("SPIFFE-ID 2.2", "a letter that is not ASCII"): "spiffe://example.org/ä",
    ("SPIFFE-ID 2.2", "a character beyond those allowed"): "spiffe://example.org/x~y",
    ("SPIFFE-ID 2.2", "a backslash"): "spiffe://example.org/x\\y",
    ("SPIFFE-ID 2.2", "a parameter"): "spiffe://example.org/x;y",
    ("SPIFFE-ID 2.3", "2049 bytes"): "spiffe://example.org/" + "x" * (2049 - 21),
    ("SPIFFE-ID 2.3", "a trust domain of 256 bytes"): f"spiffe://{LONGEST_TRUST_DOMAIN}a/x",
    # RFC 3986 compares schemes without regard to case; 2.1 wants the trust domain lower-case. One spelling is taken.
    ("SPIFFE-ID 2.4", "an upper-case scheme"): "SPIFFE://example.org/x",
}


@pytest.mark.parametrize("text", VALID.values(), ids=map(": ".join, VALID))
def test_what_the_standard_calls_a_spiffe_id_is_one_and_is_kept_to_the_letter(text: str) -> None:
    spiffe_id = SpiffeId.parse(text)
    assert str(spiffe_id) == text
    trust_domain, _, path = text.removeprefix("spiffe://").partition("/")
    assert (spiffe_id.trust_domain, spiffe_id.path) == (trust_domain, f"/{path}" if path else "")


@pytest.mark.parametrize("text", INVALID.values(), ids=map(": ".join, INVALID))
def test_what_the_standard_forbids_is_none_and_is_not_repeated(text: str) -> None:
    with pytest.raises(InvalidSpiffeIdError) as refusal:
        SpiffeId.parse(text)
    assert len(text) < 10 or text not in str(refusal.value)


def test_two_paths_that_differ_in_case_are_two_identities() -> None:  # SPIFFE-ID 2.4
    assert SpiffeId.parse("spiffe://example.org/a") != SpiffeId.parse("spiffe://example.org/A")
