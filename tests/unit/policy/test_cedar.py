"""Decisions by Cedar: allowed is what it allows by name and without an error; everything else is denied (rule R5)."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import cedarpy
import pytest

from broker.adapters.policy import cedar
from broker.adapters.policy.cedar import CedarPolicies
from broker.adapters.policy.reading import PolicyFilesError
from broker.domain.actions import Chain
from broker.domain.catalog import AttributeType
from broker.domain.decision import Decision, Fingerprint, Verdict
from broker.domain.effects import Effect, Verb
from broker.domain.errors import DenialClass
from broker.domain.spiffe import SpiffeId
from tests.fakes.samples import BROKER, a_role, a_task
from tests.fakes.system import NOON
from tests.unit.policy.world import (
    BASELINE,
    CATALOG,
    POST_WEBHOOK,
    READ_MAIL,
    READ_ORDERS,
    SCOPE,
    acquiring,
    calling,
    declaring,
    policies_of,
)


def call(policies: CedarPolicies, *given: Any, **changed: Any) -> Decision:
    return policies.decide_call(calling(*given, **changed), CATALOG)


def is_default(decision: Decision) -> bool:
    assert decision.verdict is Verdict.DENY
    assert decision.reason == "POLICY_DENIED"
    assert decision.denial_class is DenialClass.STRUCTURAL
    return decision.policies == ("cedar:default",)


def is_failed(decision: Decision) -> bool:
    assert decision.verdict is Verdict.DENY
    assert decision.reason == "POLICY_DENIED"
    assert decision.denial_class is DenialClass.STRUCTURAL
    return decision.policies[0] == "cedar:error"


def test_without_policies_everything_is_denied(tmp_path: Path) -> None:
    policies = CedarPolicies.load(tmp_path, CATALOG)
    assert is_default(policies.decide_declaration(declaring(), CATALOG))
    assert is_default(policies.decide_acquisition(acquiring(), CATALOG))
    assert is_default(call(policies))
    assert not policies.could_allow_call(calling(), CATALOG)


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PolicyFilesError, match="there is no such folder"):
        CedarPolicies.load(tmp_path / "nowhere", CATALOG)


def test_what_is_permitted_is_allowed_and_names_its_policies_sorted(tmp_path: Path) -> None:
    policies = policies_of(tmp_path, BASELINE + '@id("also") permit(principal, action, resource);')
    for decision, name in (
        (policies.decide_declaration(declaring(), CATALOG), "declare"),
        (policies.decide_acquisition(acquiring(), CATALOG), "acquire"),
        (call(policies), "call"),
    ):
        assert decision == Decision(
            verdict=Verdict.ALLOW, policies=tuple(sorted(("cedar:also", f"cedar:{name}")))
        )


def test_a_forbid_wins_with_its_words_and_its_class(tmp_path: Path) -> None:
    policies = policies_of(
        tmp_path,
        BASELINE
        + """
        @id("b") @denial("transient") @says("later") forbid(principal, action, resource) when { context.hour == 12 };
        """,
    )
    decision = call(policies)
    assert decision == Decision(
        verdict=Verdict.DENY,
        policies=("cedar:b",),
        reason="POLICY_DENIED",
        text="later",
        denial_class=DenialClass.TRANSIENT,
    )
    assert call(policies, at=NOON + timedelta(hours=1)).allowed


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        (["transient", "transient"], DenialClass.TRANSIENT),
        (["transient", "grantable"], DenialClass.GRANTABLE),
        (["transient", None], DenialClass.GRANTABLE),
        (["transient", "grantable", "structural"], DenialClass.STRUCTURAL),
        ([None], DenialClass.GRANTABLE),
    ],
)
def test_the_strictest_class_of_those_that_forbid_holds(
    tmp_path: Path, annotations: list[str | None], expected: DenialClass
) -> None:
    text = BASELINE
    for number, denial in enumerate(annotations):
        said = "" if denial is None else f'@denial("{denial}") '
        text += f'@id("f{number}") {said}forbid(principal, action, resource);\n'
    decision = call(policies_of(tmp_path, text))
    assert decision.denial_class is expected
    assert decision.policies == tuple(f"cedar:f{number}" for number in range(len(annotations)))
    assert decision.text.startswith("policy 'f0' forbids it")


def test_a_forbid_that_fails_denies_and_is_not_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policies = policies_of(
        tmp_path,
        BASELINE
        + '@id("adds") forbid(principal, action, resource) when { context.hour + 9223372036854775807 == 3 };',
    )
    with caplog.at_level(logging.ERROR):
        decision = call(policies, READ_ORDERS, {"order_id": "hidden-argument"})
    assert is_failed(decision)
    assert decision.policies == ("cedar:error", "cedar:adds")
    assert "adds" in caplog.text
    assert "hidden-argument" not in caplog.text
    assert not policies.could_allow_call(calling(), CATALOG)


def test_whatever_is_thrown_is_a_denial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    policies = policies_of(tmp_path, BASELINE)

    def fails(*given: object, **named: object) -> None:
        message = "hidden-text"
        raise RuntimeError(message)

    monkeypatch.setattr(cedarpy, "is_authorized", fails)
    assert is_failed(call(policies))
    assert is_failed(policies.decide_declaration(declaring(), CATALOG))
    assert not policies.could_allow_call(calling(), CATALOG)
    assert "hidden-text" not in caplog.text


@pytest.mark.parametrize(
    "response",
    [
        {"decision": "NoDecision", "diagnostics": {"errors": ["does not fit"]}},
        {"decision": "NoDecision", "diagnostics": {}},
        {"decision": "Allow", "diagnostics": {"reason": ["call"], "errors": ["policy `call`: something"]}},
        {"decision": "Allow", "diagnostics": {"reason": [], "errors": []}},
        {"decision": "Allow", "diagnostics": {"reason": ["no"], "errors": []}},
        {"decision": "Allow", "diagnostics": {"reason": ["unheard"], "errors": []}},
        {"decision": "allow", "diagnostics": {"reason": ["call"], "errors": []}},
        {},
    ],
)
def test_an_odd_answer_is_a_denial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, response: dict[str, Any]
) -> None:
    loaded = policies_of(tmp_path, BASELINE + '@id("no") forbid(principal, action, resource) when {false};')
    policies = CedarPolicies(loaded.policies, CATALOG, remembers=False)
    assert call(policies).allowed

    def answers(*given: object, **named: object) -> cedarpy.AuthzResult:
        return cedarpy.AuthzResult(response)

    monkeypatch.setattr(cedarpy, "is_authorized", answers)
    assert call(policies).verdict is Verdict.DENY
    assert call(policies).reason == "POLICY_DENIED"


SURROGATE = "\ud800"
ARGUMENTS: dict[str, dict[str, object]] = {
    "no text": {"order_id": 7},
    "no text either": {"order_id": None},
    "half a character": {"order_id": SURROGATE},
    "an entity": {"order_id": {"__entity": {"type": "Tasklease::Tool", "id": "x"}}},
    "an extension": {"order_id": {"__extn": {"fn": "unknown", "arg": "x"}}},
    "more than 64 bits": {"limit": 2**63},
    "less than 64 bits": {"limit": -(2**63) - 1},
    "no integer": {"limit": 1.5},
    "a truth as an integer": {"limit": True},
    "not a number": {"limit": float("nan")},
    "infinity": {"limit": float("inf")},
    "a float that is one of several integers": {"limit": float(2**60)},
    "an integer as a truth": {"archived": 1},
    "a text as texts": {"columns": "abc"},
    "mixed texts": {"columns": ["a", 1]},
    "texts with half a character": {"columns": ["a", SURROGATE]},
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_what_is_no_value_of_the_attributes_type_is_a_denial_that_repeats_nothing(
    tmp_path: Path, name: str
) -> None:
    context = calling(READ_ORDERS, ARGUMENTS[name])
    decision = policies_of(tmp_path, BASELINE).decide_call(context, CATALOG)
    assert is_default(decision)
    (argument,) = ARGUMENTS[name]
    assert f"argument {argument!r} is not" in decision.text
    assert "9223372036854775808" not in decision.text


@pytest.mark.parametrize(
    ("condition", "arguments"),
    [
        ('arguments.order_id == "a\\"b"', {"order_id": 'a"b'}),
        ("arguments.limit == 9223372036854775807", {"limit": 2**63 - 1}),
        ("arguments.limit == 17", {"limit": 17.0}),
        ("arguments.archived", {"archived": True}),
        ('arguments.columns.containsAll(["a", "b"])', {"columns": ["a", "b", "a"]}),
        ("arguments.columns.isEmpty()", {"columns": []}),
    ],
)
def test_policies_look_at_arguments_in_their_types(tmp_path: Path, condition: str, arguments: Any) -> None:
    (name,) = arguments
    guarded = f"context.asserted.arguments has {name} && context.asserted.{condition}"
    text = f'@id("x") permit(principal, action == Tasklease::Action::"call", resource) when {{ {guarded} }};'
    policies = policies_of(tmp_path, text)
    assert call(policies, READ_ORDERS, arguments).allowed
    assert is_default(call(policies, READ_ORDERS, {}))


def test_arguments_that_the_tool_does_not_name_are_not_seen(tmp_path: Path) -> None:
    guarded = 'context.asserted.arguments has order_id && context.asserted.arguments.order_id == "1"'
    text = f'@id("x") forbid(principal, action == Tasklease::Action::"call", resource) when {{ {guarded} }};'
    policies = policies_of(tmp_path, BASELINE + text)
    tool = replace(READ_ORDERS, attributes={})
    assert call(policies, tool, {"order_id": "1", "huge": 2**70, "odd": object}).allowed
    assert not call(policies, READ_ORDERS, {"order_id": "1"}).allowed


def test_a_tool_with_attributes_that_the_schema_does_not_have_is_denied(tmp_path: Path) -> None:
    policies = policies_of(tmp_path, BASELINE)
    tool = replace(READ_ORDERS, attributes={"newer": AttributeType.STRING})
    assert call(policies, tool, {}).allowed
    assert is_failed(call(policies, tool, {"newer": "x"}))


def test_what_does_not_fit_together_is_denied(tmp_path: Path) -> None:
    policies = policies_of(tmp_path, BASELINE)
    stranger = SpiffeId.parse("spiffe://example.test/agent/other-bot/one")
    for context in (
        calling(None),
        calling(READ_ORDERS, tool_name="post-webhook"),
        calling(READ_ORDERS, effect=None),
        calling(caller=stranger),
        calling(caller=BROKER),
        calling(task=a_task(scope=SCOPE, agent_class="other-bot")),
        calling(at=datetime(2026, 3, 1, 12)),  # noqa: DTZ001 - that is what is refused
    ):
        assert is_default(policies.decide_call(context, CATALOG)), context
        assert not policies.could_allow_call(context, CATALOG) or context.effect is None
    assert is_default(policies.decide_acquisition(acquiring("nothing"), CATALOG))
    assert is_default(
        policies.decide_acquisition(acquiring(role_name="customers", role=a_role("orders")), CATALOG)
    )
    assert is_default(policies.decide_declaration(declaring(task_type="other"), CATALOG))
    assert is_default(policies.decide_declaration(declaring(caller=stranger), CATALOG))
    assert is_default(policies.decide_declaration(declaring(intent=SURROGATE), CATALOG))
    effect = Effect(verbs=frozenset({Verb.READ}), resource=SURROGATE, destination="")
    assert is_default(policies.decide_call(calling(READ_ORDERS, effect=effect), CATALOG))


PERMITS = {
    "declare": (
        'context.task_type == "reconcile"', 'context.environment == "production"', 'context.asserted.intent == "tests"',
        'context.scope_roles == ["orders", "customers"]', 'context.scope_tools.contains("read-mail")',
        "context.hour == 12", "context.weekday == 6", 'principal.trust_domain == "example.test"',
        'principal.id == "spiffe://example.test/agent/invoice-bot/one"',
    ),
    "acquire": (
        'resource.classification == "confidential"', "resource.classification_level == 2", "resource.revocable",
        'resource.destination_host == "127.0.0.1"', "resource.destination_port == 5432", 'resource.resource == ""',
        'resource.destination_scheme == "postgresql"', 'resource.verbs.contains("grant")', 'resource.writes == "nothing"',
        "!resource.reads_untrusted", "context.oldest_lease_seconds == 40",
        'context.effect.destination == "postgresql://127.0.0.1:5432"', 'context.effect.resource == ""',
        'context.effect.verbs.contains("delete")', "context.live_leases == 2", "context.earlier_denials == 3",
        'context.class == "invoice-bot"', "context.task_age_seconds == 90", "context.open_anomalies == 1",
        'context.asserted.intent like "reconcile*"',
    ),
    "call": (
        'resource.verb == "read"', 'resource.resource == "orders/{order_id}"', "resource.classification_level == 2",
        'resource has destination_host && resource.destination_host == "127.0.0.1"', 'context.asserted.fingerprint == "changed"',
        'context.effect.resource == "orders/17"', 'context.effect.verbs == ["read"]', "context.chain.length == 5",
        "context.chain.steps == 3", "context.chain.denials == 2",
        'context.chain has last && context.chain.last == "a"', 'context.chain.steps_taken == ["a", "b"]',
        'context.labels == ["read.internal"]', 'context.asserted.arguments_sha256 != ""',
        'principal in Tasklease::AgentClass::"invoice-bot"',
    ),
}  # fmt: skip
CHAIN = Chain(
    length=5,
    steps=("a", "b", "a"),
    denials=2,
    last="a",
    labels=frozenset({"read.internal"}),
)


@pytest.mark.parametrize("action", PERMITS)
def test_what_policies_see(tmp_path: Path, action: str) -> None:
    for number, condition in enumerate(PERMITS[action]):
        scope = f'principal, action == Tasklease::Action::"{action}", resource'
        policies = policies_of(tmp_path / str(number), f'@id("x") permit({scope}) when {{ {condition} }};')
        decisions = {
            "declare": policies.decide_declaration(declaring(), CATALOG),
            "acquire": policies.decide_acquisition(
                acquiring(
                    live_leases=2,
                    earlier_denials=3,
                    oldest_lease=NOON - timedelta(seconds=40),
                    open_anomalies=1,
                ),
                CATALOG,
            ),
            "call": call(
                policies, READ_ORDERS, {"order_id": "17"}, fingerprint=Fingerprint.CHANGED, chain=CHAIN
            ),
        }
        assert {name for name, decision in decisions.items() if decision.allowed} == {action}, condition


def test_an_empty_chain_has_no_last_step_and_a_local_tool_no_destination(tmp_path: Path) -> None:
    condition = (
        "!(context.chain has last) && !(resource has destination_host) && context.oldest_lease_seconds == 0"
    )
    text = (
        f'@id("x") permit(principal, action == Tasklease::Action::"call", resource) when {{ {condition} }};'
    )
    policies = policies_of(tmp_path, text)
    assert call(policies, READ_MAIL).allowed
    assert is_default(call(policies, POST_WEBHOOK))


def test_a_changed_entry_of_the_catalog_is_seen_at_once(tmp_path: Path) -> None:
    text = '@id("x") forbid(principal, action, resource) when { resource.writes == "external" };'
    text = text.replace("action,", 'action == Tasklease::Action::"call",')
    policies = policies_of(tmp_path, BASELINE + text)
    assert not call(policies, POST_WEBHOOK).allowed
    assert call(policies, replace(POST_WEBHOOK, writes=READ_ORDERS.writes)).allowed
    assert not call(policies, POST_WEBHOOK).allowed


def test_what_is_kept_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cedar, "_ENTITIES", 3)
    monkeypatch.setattr(cedar, "_ANSWERS", 3)
    about_the_caller = (
        BASELINE + '@id("x") forbid(principal, action, resource) when { principal.id == "nobody" };'
    )
    policies = policies_of(tmp_path, about_the_caller)
    for number in range(10):
        caller = SpiffeId.parse(f"spiffe://example.test/agent/invoice-bot/n{number}")
        assert call(policies, caller=caller).allowed
    assert len(policies._entities) == 3
    assert policies._answers is not None
    assert len(policies._answers) == 3
