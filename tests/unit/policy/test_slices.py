"""A slice decides as the whole set does, and what could be allowed is no less than what is."""

from __future__ import annotations

import json
from typing import Any

import cedarpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.adapters.policy.cedar import CedarPolicies
from broker.adapters.policy.reading import Policy
from broker.adapters.policy.schema import schema_for
from broker.adapters.policy.slices import Question, Slices, can_apply
from broker.domain.actions import Chain
from broker.domain.decision import CallContext
from broker.domain.errors import DenialClass
from broker.domain.spiffe import SpiffeId
from tests.fakes.samples import a_task
from tests.unit.policy.world import (
    CATALOG,
    POST_WEBHOOK,
    READ_ORDERS,
    SCOPE,
    TOOLS,
    acquiring,
    calling,
    declaring,
)

SCHEMA = cedarpy.Schema.from_str(schema_for(CATALOG))
CLASSES = ("invoice-bot", "other-bot")
N = "Tasklease::"
principals = st.sampled_from(
    [
        "principal",
        *(f'principal in {N}AgentClass::"{name}"' for name in (*CLASSES, "nobody")),
        *(f'principal is {N}Instance in {N}AgentClass::"{name}"' for name in CLASSES),
        f"principal is {N}Instance",
        f'principal == {N}Instance::"spiffe://example.test/agent/invoice-bot/one"',
        f'principal in {N}Instance::"spiffe://example.test/agent/invoice-bot/one"',
    ]
)
actions = st.sampled_from(
    [
        "action",
        *(f'action == {N}Action::"{name}"' for name in ("declare", "acquire", "call")),
        f'action in [{N}Action::"acquire", {N}Action::"call"]',
        f'action in {N}Action::"call"',
    ]
)
resources = st.sampled_from(
    [
        "resource",
        f"resource is {N}Tool",
        f"resource is {N}CredentialRole",
        f'resource == {N}Tool::"read-orders"',
        f'resource in {N}Tool::"read-orders"',
        f'resource is {N}Tool in {N}Tool::"read-orders"',
        f'resource == {N}Tool::"post-webhook"',
        f'resource == {N}CredentialRole::"orders"',
        f'resource == {N}TaskType::"reconcile"',
    ]
)
conditions = st.sampled_from(
    [
        "",
        'when { context.environment == "production" }',
        "when { context.hour + 9223372036854775807 == 1 }",
        'unless { context.environment == "production" }',
    ]
)
effects = st.sampled_from(["permit", "permit", "forbid"])
drafts = st.lists(st.tuples(effects, principals, actions, resources, conditions), max_size=12)


def policies_from(texts: list[str], *, sliced: bool = True) -> CedarPolicies:
    """Of those that the validator passes."""
    kept = []
    for number, text in enumerate(texts):
        tree = next(iter(json.loads(cedarpy.policies_to_json_str(text))["staticPolicies"].values()))
        kept.append(
            Policy(
                policy_id=f"p{number}",
                file="",
                line=0,
                permits=tree["effect"] == "permit",
                denial=DenialClass.GRANTABLE,
                says="",
                tree=tree,
            )
        )
    return CedarPolicies(tuple(kept), CATALOG, sliced=sliced)


def valid(texts: list[str]) -> list[str]:
    return [text for text in texts if cedarpy.validate_policies(text, SCHEMA).validation_passed]


@settings(max_examples=150, deadline=None)
@given(drafts, st.sampled_from(CLASSES))
def test_a_slice_decides_as_all_policies_do(drafted: list[tuple[str, ...]], agent_class: str) -> None:
    texts = valid([f"{effect}({who}, {what}, {on}) {when};" for effect, who, what, on, when in drafted])
    sliced, whole = policies_from(texts), policies_from(texts, sliced=False)
    caller = SpiffeId.parse(f"spiffe://example.test/agent/{agent_class}/one")
    task = a_task(scope=SCOPE, owner=caller, agent_class=agent_class)
    declaration = declaring(caller=caller, agent_class=agent_class)
    assert sliced.decide_declaration(declaration, CATALOG) == whole.decide_declaration(declaration, CATALOG)
    for name in ("orders", "customers"):
        acquisition = acquiring(name, caller=caller, task=task)
        assert sliced.decide_acquisition(acquisition, CATALOG) == whole.decide_acquisition(
            acquisition, CATALOG
        )
    for tool in TOOLS:
        call = calling(tool, caller=caller, task=task)
        decision = sliced.decide_call(call, CATALOG)
        assert decision == whole.decide_call(call, CATALOG)
        assert decision.allowed == by_text(texts, whole, call)
        assert sliced.could_allow_call(call, CATALOG) == whole.could_allow_call(call, CATALOG)
        assert sliced.could_allow_call(call, CATALOG) or not decision.allowed


def by_text(texts: list[str], policies: CedarPolicies, call: CallContext) -> bool:
    """What Cedar says of the policies' own text, which never was JSON."""
    facts = policies.facts(call, CATALOG)
    result = cedarpy.is_authorized(facts.request(), "\n".join(texts), facts.entities(), SCHEMA)
    return result.allowed and not result.diagnostics.errors


ARGUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "order_id": st.sampled_from(["1", "2", ""]),
        "limit": st.sampled_from([0, 1, 100, -1]),
        "archived": st.booleans(),
        "columns": st.lists(st.sampled_from(["a", "b"]), max_size=2),
    },
)
LOOKS = st.sampled_from(
    [
        "context.asserted.arguments has order_id",
        'context.asserted.arguments has order_id && context.asserted.arguments.order_id == "1"',
        "context.asserted.arguments has limit && context.asserted.arguments.limit > 10",
        "context.asserted.arguments has limit && context.asserted.arguments.limit + 9223372036854775807 > 10",
        "context.asserted.arguments has archived && context.asserted.arguments.archived",
        'context.asserted.arguments has columns && context.asserted.arguments.columns.contains("a")',
        'context.effect.resource == "orders/1"',
        'context.effect.resource like "orders/*"',
        'context.asserted.arguments_sha256 like "a*"',
        'context.labels.contains("untrusted")',
        'resource.writes == "external"',
        "false",
        "true",
    ]
)
conditional = st.lists(st.tuples(effects, st.sampled_from(["when", "unless"]), LOOKS), max_size=6)


@settings(max_examples=300, deadline=None)
@given(
    conditional,
    ARGUMENTS,
    st.sampled_from([READ_ORDERS, POST_WEBHOOK]),
    st.sampled_from([(), ("untrusted",)]),
)
def test_what_is_allowed_with_some_arguments_could_be_allowed(
    drafted: list[tuple[str, str, str]], arguments: dict[str, Any], tool: Any, labels: tuple[str, ...]
) -> None:
    scope = f'principal, action == {N}Action::"call", resource'
    policies = policies_from([f"{effect}({scope}) {kind} {{ {what} }};" for effect, kind, what in drafted])
    call = calling(tool, arguments, chain=Chain(labels=frozenset(labels)))
    if policies.decide_call(call, CATALOG).allowed:
        assert policies.could_allow_call(call, CATALOG)
        assert policies.could_allow_call(calling(tool, {}, chain=call.chain), CATALOG)


PERMIT = f'permit(principal, action == {N}Action::"call", resource)'
FORBID = f'forbid(principal, action == {N}Action::"call", resource)'
UNTRUSTED = 'when { context.labels.contains("untrusted") }'


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], False),
        ([f"{PERMIT};"], True),
        ([f"{PERMIT} {UNTRUSTED};"], False),
        ([f"{PERMIT};", f"{FORBID};"], False),
        ([f"{PERMIT};", f"{FORBID} {UNTRUSTED};"], True),
        ([f"{PERMIT};", f"{FORBID} when {{ context.hour + 9223372036854775807 == 1 }};"], False),
        ([f"{PERMIT} when {{ context.asserted.arguments has order_id }};"], True),
        ([f"{PERMIT};", f"{FORBID} unless {{ context.asserted.arguments has order_id }};"], True),
        ([f"{PERMIT} when {{ context.hour == 3 && context.asserted.arguments has order_id }};"], False),
        ([f"{FORBID} when {{ context.asserted.arguments has order_id }};"], False),
        ([f'{PERMIT} when {{ context.effect.resource == "orders/9" }};'], True),
        ([f'{PERMIT} when {{ context.asserted.intent == "another" }};'], False),
    ],
)
def test_what_could_be_allowed_depends_on_arguments_alone(texts: list[str], expected: bool) -> None:  # noqa: FBT001
    policies = policies_from(texts)
    assert (
        policies.could_allow_call(calling(READ_ORDERS, {"order_id": "1", "limit": 2**70}), CATALOG)
        is expected
    )
    assert not policies.could_allow_call(calling(None), CATALOG)


def test_the_resource_of_a_tool_without_placeholders_is_known() -> None:
    policies = policies_from([f'{PERMIT} when {{ context.effect.resource == "orders/9" }};'])
    assert not policies.could_allow_call(calling(POST_WEBHOOK), CATALOG)


QUESTION = Question(agent_class="invoice-bot", action="call", resource="read-orders")
TOOL = {"type": "Tasklease::Tool", "id": "other"}
STAYS: dict[str, dict[str, Any]] = {
    "nothing is said": {},
    "an operator to come": {"resource": {"op": "near", "entity": TOOL}},
    "more is said than is understood": {"resource": {"op": "==", "entity": TOOL, "or": {}}},
    "an entity with more": {"resource": {"op": "==", "entity": {**TOOL, "version": 2}}},
    "a slot": {"resource": {"op": "==", "slot": "?resource"}},
    "below another tool": {"resource": {"op": "in", "entity": TOOL}},
    "another kind of action": {"action": {"op": "==", "entity": {"type": "Other::Action", "id": "declare"}}},
    "actions that are understood in part": {
        "action": {"op": "in", "entities": [{"type": "Tasklease::Action", "id": "declare"}, {"__expr": "x"}]}
    },
    "in an instance": {"principal": {"op": "in", "entity": {"type": "Tasklease::Instance", "id": "x"}}},
    "in a list": {"principal": {"op": "in", "entities": []}},
    "text": {"principal": "principal", "action": "action", "resource": "resource"},
}


@pytest.mark.parametrize("name", STAYS)
def test_what_is_not_understood_stays_in_every_slice(name: str) -> None:
    assert can_apply(STAYS[name], QUESTION)


def test_what_cannot_apply_is_left_out_and_equal_slices_are_one() -> None:
    texts = [
        f'permit(principal in {N}AgentClass::"other-bot", action, resource);',
        f'permit(principal, action == {N}Action::"declare", resource);',
        f'permit(principal, action, resource == {N}Tool::"post-webhook");',
        f"permit(principal, action, resource is {N}CredentialRole);",
        "permit(principal, action, resource);",
    ]
    slices = Slices(policies_from(texts).policies)
    assert [policy.policy_id for policy in slices.of(QUESTION).policies] == ["p4"]
    same = slices.of(Question(agent_class="invoice-bot", action="call", resource="drop-orders"))
    assert same is slices.of(QUESTION)
