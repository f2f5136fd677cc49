"""Policies within the catalog's bounds: no policy widens the catalog."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from broker.adapters.policy.bounded import BoundedPolicy
from broker.adapters.policy.catalog_bounds import CatalogBoundsPolicy
from broker.adapters.policy.cedar import CedarPolicies
from broker.domain.catalog import Catalog
from broker.domain.decision import Decision, Verdict, decided_facts
from broker.domain.task import Scope
from tests.fakes.samples import a_task
from tests.unit.policy.world import BASELINE, CATALOG, READ_ORDERS, acquiring, calling, declaring, policies_of


class Source:
    def __init__(self, policies: CedarPolicies | None) -> None:
        self.policies = policies

    def current(self) -> CedarPolicies:
        assert self.policies is not None, "what the catalog refuses is not put to the policies"
        return self.policies


def bounded(policies: CedarPolicies | None) -> BoundedPolicy:
    return BoundedPolicy(CatalogBoundsPolicy(), Source(policies))


def all_of(policy: BoundedPolicy, catalog: Catalog = CATALOG) -> list[Decision]:
    return [
        policy.decide_declaration(declaring(), catalog),
        policy.decide_acquisition(acquiring(), catalog),
        policy.decide_call(calling(), catalog),
    ]


def test_what_both_allow_is_allowed_and_named_by_both(tmp_path: Path) -> None:
    policy = bounded(policies_of(tmp_path, BASELINE))
    decisions = all_of(policy)
    assert all(decision.allowed for decision in decisions)
    assert decisions[2].policies == (
        "catalog:task-type/reconcile",
        "catalog:tool/read-orders",
        "catalog:scope",
        "cedar:call",
    )
    assert policy.could_allow_call(calling(), CATALOG)


def test_what_the_catalog_refuses_is_never_put_to_the_policies() -> None:
    policy = bounded(None)
    nobody = replace(CATALOG, agent_classes={})
    decisions = all_of(policy, nobody)
    assert [decision.reason for decision in decisions] == ["AGENT_CLASS_UNKNOWN"] * 3
    assert all(name.startswith("catalog:") for decision in decisions for name in decision.policies)
    assert not policy.could_allow_call(calling(), nobody)
    beyond = calling(READ_ORDERS, task=a_task(scope=Scope(roles=frozenset())))
    assert policy.decide_call(beyond, CATALOG).reason == "TOOL_NOT_ALLOWED"


def test_what_policies_refuse_is_refused_and_named_by_them(tmp_path: Path) -> None:
    policy = bounded(CedarPolicies.load(tmp_path, CATALOG))
    for decision in all_of(policy):
        assert not decision.allowed
        assert decision.reason == "POLICY_DENIED"
        assert decision.policies == ("cedar:default",)
    assert not policy.could_allow_call(calling(), CATALOG)


def test_without_a_source_nothing_is_allowed() -> None:
    with pytest.raises(AssertionError):
        bounded(None).decide_call(calling(), CATALOG)


def test_a_candidate_decides_nothing_and_is_heard(tmp_path: Path) -> None:
    live = policies_of(tmp_path / "live", BASELINE)
    candidate = policies_of(tmp_path / "candidate", '@id("none") forbid(principal, action, resource);')
    policy = BoundedPolicy(CatalogBoundsPolicy(), Source(live), Source(candidate))
    for decision in all_of(policy):
        assert decision.allowed
        shadow = decision.shadow
        assert shadow is not None
        assert (shadow.verdict, shadow.policies) == (Verdict.DENY, ("cedar:none",))
        assert shadow.policy_set == candidate.digest != live.digest
        assert decided_facts(decision)["shadow"] == {
            "policy_set": candidate.digest,
            "verdict": "deny",
            "policies": ["cedar:none"],
            "denial_class": "grantable",
        }
    nobody = replace(CATALOG, agent_classes={})
    assert all(decision.shadow is None for decision in all_of(policy, nobody)), "no policy is asked there"


def test_a_candidate_that_fails_or_is_missing_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    live = policies_of(tmp_path, BASELINE)

    class Failing(CedarPolicies):
        def decide(self, *_: object) -> Decision:
            message = "secret-17"
            raise RuntimeError(message)

    failing = Failing(live.policies, CATALOG)
    policy = BoundedPolicy(CatalogBoundsPolicy(), Source(live), Source(failing))
    assert [(one.allowed, one.shadow) for one in all_of(policy)] == [(True, None)] * 3
    assert "the candidate policies FAILED: RuntimeError" in caplog.text
    assert "secret-17" not in caplog.text

    class Nobody:
        def current(self) -> None:
            return None

    policy = BoundedPolicy(CatalogBoundsPolicy(), Source(live), Nobody())
    assert [(one.allowed, one.shadow) for one in all_of(policy)] == [(True, None)] * 3
