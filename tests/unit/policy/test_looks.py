"""What is remembered is what would be answered: whatever differs in something that a policy looks at is asked anew."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import cedarpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.adapters.policy.cedar import CedarPolicies
from broker.adapters.policy.looks import Looks, looks_of
from broker.adapters.policy.reading import Policy
from broker.domain.actions import Chain
from broker.domain.decision import Decision, Fingerprint
from broker.domain.errors import DenialClass
from broker.domain.spiffe import SpiffeId
from tests.fakes.samples import a_task
from tests.fakes.system import NOON
from tests.unit.policy.world import (
    BASELINE,
    CATALOG,
    POST_WEBHOOK,
    READ_ORDERS,
    SCOPE,
    acquiring,
    calling,
    declaring,
    policies_of,
)

CALL = 'principal, action == Tasklease::Action::"call", resource'


def looks(text: str) -> Looks:
    tree = next(iter(json.loads(cedarpy.policies_to_json_str(text))["staticPolicies"].values()))
    policy = Policy(
        policy_id="x", file="", line=0, permits=True, denial=DenialClass.GRANTABLE, says="", tree=tree
    )
    return looks_of([policy])


@pytest.mark.parametrize(
    ("text", "paths", "caller"),
    [
        (f"permit({CALL});", set(), False),
        (
            f"permit({CALL}) when {{ context.hour > 3 && context.chain.length < 9 }};",
            {("hour",), ("chain", "length")},
            False,
        ),
        (
            f'permit({CALL}) when {{ context.chain has last && context.chain.last == "x" }};',
            {("chain", "last")},
            False,
        ),
        (
            f"permit({CALL}) unless {{ context.asserted.arguments has a }};",
            {("asserted", "arguments", "a")},
            False,
        ),
        (
            f'permit({CALL}) when {{ if context.hour == 1 then context.weekday == 2 else resource.writes == "x" }};',
            {("hour",), ("weekday",)},
            False,
        ),
        (
            f'permit({CALL}) when {{ ["a", context.environment].contains(context.task_type) }};',
            {("environment",), ("task_type",)},
            False,
        ),
        (f'permit({CALL}) when {{ context["labels"].contains("untrusted") }};', {("labels",)}, False),
        (
            f"permit({CALL}) when {{ context.chain == {{length: context.hour}} }};",
            {("chain",), ("hour",)},
            False,
        ),
        ('permit(principal == Tasklease::Instance::"x", action, resource);', set(), True),
        ('permit(principal in Tasklease::Instance::"x", action, resource);', set(), True),
        (
            'permit(principal is Tasklease::Instance in Tasklease::Instance::"x", action, resource);',
            set(),
            True,
        ),
        ('permit(principal in Tasklease::AgentClass::"x", action, resource);', set(), False),
        ("permit(principal is Tasklease::Instance, action, resource);", set(), False),
        (f'permit({CALL}) when {{ principal.trust_domain == "x" }};', set(), True),
        (f'permit({CALL}) when {{ principal in Tasklease::AgentClass::"x" }};', set(), True),
    ],
)
def test_what_a_policy_looks_at(text: str, paths: set[tuple[str, ...]], caller: bool) -> None:  # noqa: FBT001
    found = looks(text)
    assert (set(found.paths), found.caller, found.everything) == (paths, caller, False)
    assert set(found.names) == {path[0] for path in paths}


@pytest.mark.parametrize(
    "condition",
    [
        "context == {hour: 1}",
        "(if context.hour == 1 then context else context).hour == 2",
        "{a: context}.a.hour == 1",
    ],
)
def test_what_uses_the_whole_context_is_never_remembered(condition: str) -> None:
    assert looks(f"permit({CALL}) when {{ {condition} }};").everything


def call(policies: CedarPolicies, **changed: Any) -> Decision:
    return policies.decide_call(calling(READ_ORDERS, changed.pop("arguments", {}), **changed), CATALOG)


def test_the_same_is_asked_once_and_anything_else_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policies = policies_of(
        tmp_path,
        BASELINE + f'@id("night") forbid({CALL}) when {{ context.hour < 6 && context.live_leases == 1 }};',
    )
    asked: list[object] = []
    ask = cedarpy.is_authorized

    def counted(*given: Any) -> cedarpy.AuthzResult:
        asked.append(given)
        return ask(*given)

    monkeypatch.setattr(cedarpy, "is_authorized", counted)
    night = NOON.replace(hour=3)
    for _ in range(3):
        assert call(policies).allowed
        assert call(policies, live_leases=1).allowed
        assert not call(policies, live_leases=1, at=night).allowed
        assert call(policies, chain=Chain(length=9), earlier_denials=4).allowed, "nobody looks at that"
    assert len(asked) == 3


def test_another_count_of_open_anomalies_is_another_question(tmp_path: Path) -> None:
    policies = policies_of(
        tmp_path, BASELINE + f'@id("calm") forbid({CALL}) when {{ context.open_anomalies > 0 }};'
    )
    for _ in range(2):
        assert call(policies).allowed
        assert not call(policies, open_anomalies=1).allowed


def test_a_catalog_that_says_something_else_of_a_tool_is_asked_anew(tmp_path: Path) -> None:
    policies = policies_of(
        tmp_path, BASELINE + f'@id("out") forbid({CALL}) when {{ resource.writes == "external" }};'
    )
    assert call(policies).allowed
    changed = replace(READ_ORDERS, writes=POST_WEBHOOK.writes, destination=POST_WEBHOOK.destination)
    assert not policies.decide_call(calling(changed), CATALOG).allowed
    assert call(policies).allowed


def test_an_answer_that_failed_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policies = policies_of(tmp_path, BASELINE)
    with monkeypatch.context() as broken:
        broken.setattr(
            cedarpy,
            "is_authorized",
            lambda *_: cedarpy.AuthzResult({"decision": "NoDecision", "diagnostics": {}}),
        )
        assert not call(policies).allowed
    assert call(policies).allowed


conditions = st.sampled_from(
    [
        "context.hour < 12",
        "context.weekday == 0",
        "context.chain.length > 2",
        'context.chain has last && context.chain.last == "read-orders"',
        'context.labels.contains("untrusted")',
        "context.live_leases == 1",
        "context.open_anomalies > 0",
        "context.asserted.arguments has order_id",
        'context.asserted.arguments has order_id && context.asserted.arguments.order_id like "1*"',
        'context.asserted.fingerprint == "same"',
        'principal.id like "*one"',
        'context.effect.resource == "orders/1"',
        "context.task_age_seconds > 100",
    ]
)
policies_drawn = st.lists(st.tuples(st.sampled_from(["permit", "forbid"]), conditions), max_size=6)
contexts = st.lists(
    st.fixed_dictionaries(
        {
            "at": st.sampled_from([NOON, NOON + timedelta(hours=13), NOON + timedelta(days=1)]),
            "length": st.integers(0, 4),
            "labels": st.sampled_from([frozenset(), frozenset({"untrusted"})]),
            "live_leases": st.integers(0, 2),
            "open_anomalies": st.integers(0, 2),
            "arguments": st.sampled_from([{}, {"order_id": "1"}, {"order_id": "2"}]),
            "fingerprint": st.sampled_from([Fingerprint.SAME, Fingerprint.ABSENT]),
            "instance": st.sampled_from(["one", "two"]),
        }
    ),
    min_size=2,
    max_size=12,
)


def loaded(texts: list[tuple[str, str]], *, remembers: bool) -> CedarPolicies:
    made = [
        Policy(
            policy_id=f"p{number}",
            file="",
            line=0,
            permits=effect == "permit",
            denial=DenialClass.GRANTABLE,
            says="",
            tree=next(
                iter(
                    json.loads(cedarpy.policies_to_json_str(f"{effect}({CALL}) when {{ {condition} }};"))[
                        "staticPolicies"
                    ].values()
                )
            ),
        )
        for number, (effect, condition) in enumerate(texts)
    ]
    return CedarPolicies(tuple(made), CATALOG, remembers=remembers)


@settings(max_examples=80, deadline=None)
@given(policies_drawn, contexts)
def test_memory_answers_as_asking_does(texts: list[tuple[str, str]], drawn: list[dict[str, Any]]) -> None:
    remembering, asking = loaded(texts, remembers=True), loaded(texts, remembers=False)
    for one in [*drawn, *drawn]:
        caller = SpiffeId.parse(f"spiffe://example.test/agent/invoice-bot/{one['instance']}")
        length: int = one["length"]
        at: datetime = one["at"]
        context = calling(
            READ_ORDERS,
            one["arguments"],
            caller=caller,
            task=a_task(scope=SCOPE, owner=caller),
            at=at,
            live_leases=one["live_leases"],
            open_anomalies=one["open_anomalies"],
            fingerprint=one["fingerprint"],
            chain=Chain(length=length, labels=one["labels"], last="read-orders" if length else ""),
        )
        assert remembering.decide_call(context, CATALOG) == asking.decide_call(context, CATALOG)


@settings(max_examples=80, deadline=None)
@given(policies_drawn, contexts)
def test_what_is_looked_at_decides_as_the_whole_context_does(
    texts: list[tuple[str, str]], drawn: list[dict[str, Any]]
) -> None:
    policies = loaded(texts, remembers=False)
    for one in drawn:
        caller = SpiffeId.parse(f"spiffe://example.test/agent/invoice-bot/{one.pop('instance')}")
        length = one.pop("length")
        chain = Chain(length=length, labels=one.pop("labels"), last="read-orders" if length else "")
        task = a_task(scope=SCOPE, owner=caller)
        arguments = one.pop("arguments")
        facts = policies.facts(
            calling(READ_ORDERS, arguments, caller=caller, task=task, chain=chain, **one), CATALOG
        )
        asked = policies.slice(facts).compiled
        looks = looks_of(policies.policies)
        assert not looks.everything
        assert policies.ask(facts, asked, looks.names) == policies.ask(facts, asked)


def test_only_what_is_looked_at_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policies = policies_of(
        tmp_path,
        BASELINE + f'@id("calm") forbid({CALL}) when {{ context.chain.length > 9 && context.hour < 2 }};',
    )
    told: list[dict[str, Any]] = []
    ask = cedarpy.is_authorized

    def listening(request: dict[str, Any], *others: Any) -> cedarpy.AuthzResult:
        told.append(json.loads(request["context"]))
        return ask(request, *others)

    monkeypatch.setattr(cedarpy, "is_authorized", listening)
    assert call(policies).allowed
    assert [set(one) for one in told] == [{"chain", "hour"}]


def test_a_policy_that_reads_what_it_was_not_said_to_look_at_fails_and_so_denies(tmp_path: Path) -> None:
    policies = policies_of(tmp_path, BASELINE + f'@id("late") forbid({CALL}) when {{ context.hour > 22 }};')
    facts = policies.facts(calling(READ_ORDERS, {}), CATALOG)
    answer = policies.ask(facts, policies.slice(facts).compiled, {"weekday"})
    assert (answer.allowed, answer.failed, answer.failing) == (False, True, ("late",))


def test_declarations_and_acquisitions_are_remembered_as_well(tmp_path: Path) -> None:
    policies = policies_of(tmp_path, BASELINE)
    for _ in range(2):
        assert policies.decide_declaration(declaring(), CATALOG).allowed
        assert policies.decide_acquisition(acquiring(), CATALOG).allowed
    assert policies._answers is not None
    assert len(policies._answers) == 2


def test_what_one_action_has_and_another_has_not_is_asked_for_and_not_missed(tmp_path: Path) -> None:
    policies = policies_of(
        tmp_path,
        '@id("all") permit(principal, action, resource) unless { context has labels && context.labels.contains("untrusted") };',
    )
    for remembered in (False, True):
        asking = CedarPolicies(policies.policies, CATALOG, remembers=remembered)
        assert asking.decide_declaration(declaring(), CATALOG).allowed
        assert asking.decide_acquisition(acquiring(), CATALOG).allowed
        assert call(asking).allowed
        assert not call(asking, chain=Chain(length=1, labels=frozenset({"untrusted"}))).allowed
