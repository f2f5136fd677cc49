"""Who can be an operator, and above all who never can."""

from __future__ import annotations

import pytest

from broker.domain.operators import InvalidGrantError, OperatorGrant, OperatorRole, Operators
from broker.domain.spiffe import SpiffeId

BROKER = SpiffeId.parse("spiffe://example.test/tasklease/broker")
VIEWER, OPERATOR = frozenset({OperatorRole.VIEWER}), frozenset({OperatorRole.OPERATOR})


def roles(grants: dict[str, frozenset[OperatorRole]], who: str) -> frozenset[OperatorRole]:
    parsed = tuple(OperatorGrant.parse(text, given, broker=BROKER) for text, given in grants.items())
    return Operators(broker=BROKER, grants=parsed).roles_of(SpiffeId.parse(who))


@pytest.mark.parametrize(
    "text",
    [
        "spiffe://example.test/agent",
        "spiffe://example.test/agent/",
        "spiffe://example.test/agent/operator",
        "spiffe://example.test/agent/operator/",
        "spiffe://example.test/agent/invoice-bot/one",
        "spiffe://example.test/agent/invoice-bot/one/",
        "spiffe://example.test/agent/a/b/c",
        "spiffe://example.test/tasklease/broker",
        "spiffe://example.test/tasklease/",
        "spiffe://example.test",
        "spiffe://example.test/",
        "spiffe://example.test//",
        "spiffe://example.test/ops//",
        "spiffe://example.test/ops/*",
        "spiffe://example.test/ops/../agent/",
        "spiffe://other.test/ops/ann",
        "spiffe://other.test/ops/",
        "https://example.test/ops/ann",
        "/ops/",
        "",
        "/",
    ],
)
def test_nobody_is_an_operator_by_this(text: str) -> None:
    with pytest.raises(InvalidGrantError):
        OperatorGrant.parse(text, OPERATOR, broker=BROKER)


def test_a_group_is_everything_below_it_and_nothing_else() -> None:
    group = {"spiffe://example.test/ops/": OPERATOR}
    for who in ("spiffe://example.test/ops/ann", "spiffe://example.test/ops/night/bob"):
        assert roles(group, who) == OPERATOR
    for who in (
        "spiffe://example.test/ops",
        "spiffe://example.test/opsy/ann",
        "spiffe://example.test/x/ops/ann",
        "spiffe://other.test/ops/ann",
        "spiffe://example.test/OPS/ann",
    ):
        assert not roles(group, who)


def test_an_id_is_itself_and_nobody_below() -> None:
    one = {"spiffe://example.test/ops/ann": OPERATOR}
    assert roles(one, "spiffe://example.test/ops/ann") == OPERATOR
    assert not roles(one, "spiffe://example.test/ops/ann/agent")
    assert not roles(one, "spiffe://example.test/ops/anna")


def test_roles_of_several_grants_add_up() -> None:
    both = {"spiffe://example.test/ops/": VIEWER, "spiffe://example.test/ops/ann": OPERATOR}
    assert roles(both, "spiffe://example.test/ops/ann") == VIEWER | OPERATOR
    assert roles(both, "spiffe://example.test/ops/bob") == VIEWER


@pytest.mark.parametrize(
    "who",
    [
        "spiffe://example.test/agent",
        "spiffe://example.test/agent/operator",
        "spiffe://example.test/agent/invoice-bot/one",
        "spiffe://example.test/agent/a/b/c",
        "spiffe://example.test/tasklease/broker",
        "spiffe://other.test/agent/a/b",
    ],
)
def test_the_gate_asks_again_whatever_was_configured(who: str) -> None:
    """A grant that no reader would let through."""
    spiffe_id = SpiffeId.parse(who)
    above = SpiffeId(trust_domain=spiffe_id.trust_domain, path="")
    planted = tuple(
        OperatorGrant(spiffe_id=one, group=group, roles=OPERATOR)
        for one, group in ((spiffe_id, False), (above, True))
    )
    assert all(grant.names(spiffe_id) for grant in planted)
    assert not Operators(broker=BROKER, grants=planted).roles_of(spiffe_id)


def test_without_grants_nobody_operates() -> None:
    assert not Operators(broker=BROKER).roles_of(SpiffeId.parse("spiffe://example.test/ops/ann"))
