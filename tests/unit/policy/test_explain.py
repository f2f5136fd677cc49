"""Explanations: what decided, what it looks at, and what would have to differ."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.adapters.policy.explain import Asked, Explanation, explain
from broker.domain.actions import Chain
from broker.domain.decision import Fingerprint
from tests.unit.policy.world import (
    BASELINE,
    CATALOG,
    POST_WEBHOOK,
    READ_ORDERS,
    acquiring,
    calling,
    declaring,
    policies_of,
)

CALL = 'principal, action == Tasklease::Action::"call", resource'
FLOWS = f"""
@id("flows") @denial("structural") @says("not after both")
forbid({CALL})
when {{ context.labels.containsAll(["read.confidential", "untrusted"]) && resource.writes == "external" }};
@id("orders") forbid({CALL})
when {{ context.asserted.arguments has order_id && context.asserted.arguments.order_id == "(context.labels)" }};
"""
LABELS = frozenset({"read.confidential", "untrusted"})


def explained(tmp_path: Path, text: str, context: object) -> Explanation:
    return explain(policies_of(tmp_path, text), Asked(context=context, catalog=CATALOG))  # type: ignore[arg-type]


def test_a_forbid_is_explained_by_its_text_and_by_what_it_looks_at(tmp_path: Path) -> None:
    found = explained(tmp_path, BASELINE + FLOWS, calling(POST_WEBHOOK, chain=Chain(labels=LABELS)))
    (one,) = found.determining
    assert (one.policy_id, one.permits, one.says) == ("flows", False, "not after both")
    assert 'context.labels.containsAll(["read.confidential", "untrusted"])' in " ".join(one.text.split())
    assert [(looked.attribute, looked.value, looked.asserted) for looked in one.looked] == [
        ("context.labels", '["read.confidential", "untrusted"]', False),
        ("resource.writes", '"external"', False),
    ]
    assert found.differ == (
        'flows must not hold: context.labels is ["read.confidential", "untrusted"], resource.writes is "external"',
    )
    text = found.as_text()
    assert text.startswith("deny, by cedar:flows\nthe agent is told: not after both\n")
    assert f"flows forbids it ({tmp_path}/" in text
    assert found.considered == 3


def test_what_the_agent_asserts_is_told_apart_and_texts_stay_as_they_are(tmp_path: Path) -> None:
    found = explained(tmp_path, BASELINE + FLOWS, calling(READ_ORDERS, {"order_id": "(context.labels)"}))
    (one,) = found.determining
    assert 'context.asserted.arguments.order_id == "(context.labels)"' in " ".join(one.text.split())
    assert [str(looked) for looked in one.looked] == [
        'context.asserted.arguments.order_id is "(context.labels)", as the agent says'
    ]


def test_what_is_allowed_needs_nothing_else(tmp_path: Path) -> None:
    found = explained(tmp_path, BASELINE, declaring())
    assert found.decision.allowed
    assert found.differ == ()
    assert [one.policy_id for one in found.determining] == ["declare"]
    assert f"declare permits it ({tmp_path}/" in found.as_text()


PERMITS: dict[str, tuple[str, str, str]] = {
    "the instance": (
        'permit(principal == Tasklease::Instance::"x", action, resource);',
        "principal",
        'principal == Tasklease::Instance::"x"',
    ),
    "the resource": (
        'permit(principal, action, resource in Tasklease::Tool::"other");',
        "resource",
        'resource in Tasklease::Tool::"other"',
    ),
    "a condition": (
        f"permit({CALL}) when {{ context.hour > 3 && context.live_leases > 2 && context.weekday == 9 }};",
        "condition",
        "when { context.live_leases > 2 };",
    ),
    "a second condition": (
        f'permit({CALL}) when {{ context.hour > 3 }} unless {{ context.asserted.fingerprint == "absent" }};',
        "condition",
        'unless { context.asserted.fingerprint == "absent" };',
    ),
    "a guard": (
        f'permit({CALL}) when {{ context.asserted.arguments has order_id && context.asserted.arguments.order_id == "1" }};',
        "condition",
        "when { context.asserted.arguments has order_id };",
    ),
}


@pytest.mark.parametrize("name", PERMITS)
def test_a_default_denial_says_which_part_of_each_permit_did_not_hold(tmp_path: Path, name: str) -> None:
    text, part, clause = PERMITS[name]
    context = calling(fingerprint=Fingerprint.ABSENT)
    found = explained(tmp_path, f'@id("x") {text}', context)
    (one,) = found.not_held
    assert (one.policy_id, one.part) == ("x", part)
    assert one.text.rstrip(";") == clause.rstrip(";")
    assert found.decision.policies == ("cedar:default",)
    assert found.differ[0].startswith(f"x ({one.place}) would permit it, but")
    assert clause.rstrip(";") in found.as_text()


def test_what_is_absent_is_said_to_be(tmp_path: Path) -> None:
    found = explained(tmp_path, f'@id("x") {PERMITS["a guard"][0]}', calling())
    assert "context.asserted.arguments.order_id is absent, as the agent says" in found.differ[0]


def test_where_nothing_permits_a_permit_is_asked_for(tmp_path: Path) -> None:
    found = explained(tmp_path, "", acquiring())
    assert found.differ == ("no policy permits class 'invoice-bot' to acquire 'orders': write one that does",)


def test_a_policy_that_fails_is_named(tmp_path: Path) -> None:
    text = (
        BASELINE
        + '@id("adds") forbid(principal, action, resource) when { context.hour + 9223372036854775807 == 1 };'
    )
    found = explained(tmp_path, text, declaring())
    assert not found.decision.allowed
    assert found.differ == ("adds fails, and must not: context.hour is 12",)


def test_what_cannot_be_asked_is_said(tmp_path: Path) -> None:
    found = explained(tmp_path, BASELINE, calling(READ_ORDERS, {"order_id": 7}))
    assert found.differ == (
        "the policies were not asked: argument 'order_id' is not a text, and so policies cannot look at it",
    )
