"""SPIFFE IDs as the SPIFFE-ID standard has them, and the names of agent instances."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.domain.spiffe import (
    MAX_SPIFFE_ID_BYTES,
    MAX_TRUST_DOMAIN_BYTES,
    AgentIdentity,
    InvalidSpiffeIdError,
    SpiffeId,
)

LOWER = "abcdefghijklmnopqrstuvwxyz0123456789._-"
SEGMENT = LOWER + LOWER.upper()
TRUST_DOMAINS = st.text(alphabet=LOWER, min_size=1, max_size=MAX_TRUST_DOMAIN_BYTES)
SEGMENTS = st.text(alphabet=SEGMENT, min_size=1, max_size=40).filter(lambda text: text not in {".", ".."})
PATHS = st.lists(SEGMENTS, max_size=8).map(lambda parts: "".join(f"/{part}" for part in parts))


@given(TRUST_DOMAINS, PATHS)
def test_what_the_standard_allows_is_read_and_written_back(trust_domain: str, path: str) -> None:
    text = f"spiffe://{trust_domain}{path}"
    spiffe_id = SpiffeId.parse(text)
    assert (spiffe_id.trust_domain, spiffe_id.path) == (trust_domain, path)
    assert str(spiffe_id) == text


@given(st.text(max_size=100) | st.text(alphabet="/.:spife@?#%" + LOWER, max_size=40).map("spiffe://".__add__))
def test_whatever_is_read_is_written_back_as_it_was_and_has_no_relative_segment(text: str) -> None:
    try:
        spiffe_id = SpiffeId.parse(text)
    except InvalidSpiffeIdError as error:
        clause = str(error)
        assert "SPIFFE-ID" in clause
        assert len(text) < 12 or text not in clause
        return
    assert str(spiffe_id) == text
    assert spiffe_id.trust_domain.strip(LOWER) == ""
    assert not {"", ".", ".."} & set(spiffe_id.path.split("/")[1:])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "spiffe:",
        "spiffe://",
        "spiffe:///agent",
        "spiffe:/example.test/agent",
        "SPIFFE://example.test/agent",
        "https://example.test/agent",
        " spiffe://example.test/agent",
        "spiffe://example.test/agent ",
        "spiffe://example.test/agent\n",
        "spiffe://example.test\n/agent",
        "spiffe://Example.test/agent",
        "spiffe://exämple.test/agent",
        "spiffe://example.test:8443/agent",
        "spiffe://user@example.test/agent",
        "spiffe://example.test/",
        "spiffe://example.test//agent",
        "spiffe://example.test/agent/",
        "spiffe://example.test/./agent",
        "spiffe://example.test/agent/..",
        "spiffe://example.test/%61gent",
        "spiffe://example.test/agent?x=1",
        "spiffe://example.test/agent#x",
        "spiffe://example.test/agënt",
        "spiffe://example.test/a\x00b",
        "spiffe://example.test/a\ud800",
        "spiffe://example.test\\agent",
    ],
)
def test_what_the_standard_does_not_allow_is_refused(text: str) -> None:
    with pytest.raises(InvalidSpiffeIdError):
        SpiffeId.parse(text)


def test_lengths_are_bounded_in_bytes() -> None:
    longest = "spiffe://" + "a" * MAX_TRUST_DOMAIN_BYTES
    assert SpiffeId.parse(longest).path == ""
    with pytest.raises(InvalidSpiffeIdError, match=r"2\.1"):
        SpiffeId.parse(longest + "a")
    whole = "spiffe://example.test/".ljust(MAX_SPIFFE_ID_BYTES, "a")
    assert len(str(SpiffeId.parse(whole))) == MAX_SPIFFE_ID_BYTES
    with pytest.raises(InvalidSpiffeIdError, match=r"2\.3"):
        SpiffeId.parse(whole + "a")


@given(TRUST_DOMAINS, SEGMENTS, SEGMENTS)
def test_an_instance_is_named_by_class_and_instance(
    trust_domain: str, agent_class: str, instance: str
) -> None:
    spiffe_id = SpiffeId.parse(f"spiffe://{trust_domain}/agent/{agent_class}/{instance}")
    assert AgentIdentity.of(spiffe_id) == AgentIdentity(agent_class=agent_class, instance=instance)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/agent",
        "/agent/invoice-bot",
        "/agent/invoice-bot/one/two",
        "/Agent/invoice-bot/one",
        "/agents/invoice-bot/one",
        "/tasklease/broker",
        "/x/agent/invoice-bot/one",
        "/spire/agent/x509pop",
    ],
)
def test_any_other_path_names_no_instance(path: str) -> None:
    assert AgentIdentity.of(SpiffeId.parse(f"spiffe://example.test{path}")) is None
