"""Tests beside policies, and the policies that are shipped with theirs."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.adapters.policy.bounded import BoundedPolicy
from broker.adapters.policy.cases import CaseResult, run_cases
from broker.adapters.policy.catalog_bounds import CatalogBoundsPolicy
from broker.adapters.policy.cedar import CedarPolicies
from broker.adapters.policy.files import FixedPolicies
from broker.config.catalog import load_catalog
from broker.config.reading import ConfigError
from broker.domain.catalog import Catalog
from tests.unit.policy.world import BASELINE, CATALOG, policies_of

EXAMPLES = Path(__file__).parents[3] / "examples"
CASE = """
  - name: one
    action: call
    class: invoice-bot
    task: {type: reconcile}
    tool: read-orders
    expect: allow
"""


def run(tmp_path: Path, cases: str, policies: str = BASELINE, catalog: Catalog = CATALOG) -> list[CaseResult]:
    loaded = policies_of(tmp_path, policies, catalog)
    (tmp_path / "all.test.yaml").write_text(f"cases:{cases}", encoding="utf-8")
    return run_cases(loaded, catalog, tmp_path)


def refused(tmp_path: Path, cases: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        run(tmp_path, cases)
    return [str(problem).removeprefix(f"{tmp_path}/") for problem in error.value.problems]


SHIPPED = load_catalog(EXAMPLES / "catalog", trust_domain="example.test")


def test_the_shipped_policies_pass_their_tests() -> None:
    policies = CedarPolicies.load(EXAMPLES / "policies", SHIPPED)
    assert not policies.notices
    bounded = BoundedPolicy(CatalogBoundsPolicy(), FixedPolicies(policies))
    results = run_cases(bounded, SHIPPED, EXAMPLES / "policies")
    assert len(results) >= 11
    assert [str(result) for result in results if not result.passed] == []


def test_each_shipped_policy_determines_a_case() -> None:
    policies = CedarPolicies.load(EXAMPLES / "policies", SHIPPED)
    bounded = BoundedPolicy(CatalogBoundsPolicy(), FixedPolicies(policies))
    results = run_cases(bounded, SHIPPED, EXAMPLES / "policies")
    determining = {name for result in results for name in result.decision.policies}
    assert {f"cedar:{policy.policy_id}" for policy in policies.policies} <= determining


def test_a_case_that_comes_out_passes(tmp_path: Path) -> None:
    (result,) = run(tmp_path, CASE)
    assert result.passed
    assert str(result) == f"{tmp_path}/all.test.yaml:2: one: passed"


def test_a_case_with_another_verdict_fails_and_says_what_came_out(tmp_path: Path) -> None:
    (result,) = run(tmp_path, CASE.replace("allow", "deny"))
    assert not result.passed
    assert result.text == "expected deny, got allow because of call"
    (result,) = run(tmp_path, CASE, policies="")
    assert result.text == "expected allow, got deny because of default (no policy permits it)"


@pytest.mark.parametrize(
    ("because", "passed"), [("[call]", True), ('["cedar:call"]', True), ("[declare]", False), ("[]", False)]
)
def test_because_names_all_that_determine_it(tmp_path: Path, because: str, passed: bool) -> None:  # noqa: FBT001
    (result,) = run(tmp_path, f"{CASE}    because: {because}\n")
    assert result.passed is passed
    assert result.passed or "got allow because of call" in result.text


def test_everything_of_a_case_reaches_the_policies(tmp_path: Path) -> None:
    conditions = [
        'principal.id == "spiffe://example.test/agent/invoice-bot/seven"',
        'context.environment == "production"',
        'context.asserted.intent == "why"',
        'context.scope_tools == ["read-orders"]',
        'context.scope_roles == ["customers", "orders"]',
        'context.asserted.fingerprint == "absent"',
        "context.task_age_seconds == 300",
        'context.labels == ["untrusted"]',
        'context.chain.steps_taken == ["read-mail", "orders"]',
        "context.chain.length == 4",
        "context.chain.denials == 1",
        'context.chain has last && context.chain.last == "read-mail"',
        "context.earlier_denials == 5",
        "context.live_leases == 3",
        "context.oldest_lease_seconds == 20",
        "context.open_anomalies == 2",
        "context.hour == 7",
        "context.weekday == 5",
        'context.effect.resource == "orders/17"',
        "context.asserted.arguments has limit && context.asserted.arguments.limit == 3",
        'context.asserted.arguments has columns && context.asserted.arguments.columns == ["a"]',
    ]
    case = """
  - name: one
    action: call
    class: invoice-bot
    instance: seven
    task: {type: reconcile, intent: why, tools: [read-orders], fingerprint: absent, age: 5m}
    tool: read-orders
    arguments: {order_id: "17", limit: 3, columns: [a]}
    labels: [untrusted]
    steps: [read-mail, orders, read-mail]
    denials: 1
    earlier_denials: 5
    live_leases: 3
    oldest_lease: 20s
    open_anomalies: 2
    at: 2026-03-07T09:30:00+02:00
    expect: allow
"""
    for number, condition in enumerate(conditions):
        text = f'@id("x") permit(principal, action == Tasklease::Action::"call", resource) when {{ {condition} }};'
        (result,) = run(tmp_path / str(number), case, text)
        assert result.passed, (condition, result.text)


@pytest.mark.parametrize(
    ("at", "hour"),
    [
        ("2026-03-07T07:30:00Z", 7),
        ("2026-03-07 07:30:00", 7),
        ('"2026-03-07T09:30:00+02:00"', 7),
        ('"2026-03-07"', 0),
    ],
)
def test_times_are_utc_unless_they_say_otherwise(tmp_path: Path, at: str, hour: int) -> None:
    text = f'@id("x") permit(principal, action, resource) when {{ context.hour == {hour} }};'
    (result,) = run(tmp_path, f"{CASE}    at: {at}\n", text)
    assert result.passed, result.text


WRONG: dict[str, tuple[str, str]] = {
    "a misspelt field": (f"{CASE}    labls: []\n", "all.test.yaml:8: cases.0.labls: unknown key (did you mean 'labels'?): remove it"),
    "a misspelt field of the task": (
        CASE.replace("type: reconcile", "type: reconcile, intend: x"),
        "all.test.yaml:5: cases.0.task.intend: unknown key (did you mean 'intent'?): remove it",
    ),
    "a reason for nothing": (
        CASE.replace("    expect: allow\n", "    because: [call]\n"),
        "all.test.yaml:7: cases.0.because: say with expect what it is a reason for",
    ),
    "an unlisted step": (
        CASE + "    steps: [read-order]\n",
        "all.test.yaml:8: cases.0.steps: the catalog has no 'read-order' (did you mean 'read-orders'?): give a name of the catalog",
    ),
    "an unknown label": (
        CASE + "    labels: [read.secret]\n",
        (
            "all.test.yaml:8: cases.0.labels: there is no label 'read.secret' (did you mean 'read.restricted'?): give one "
            "of read.confidential, read.internal, read.restricted, untrusted"
        ),
    ),
    "another verdict": (CASE.replace("allow", "maybe"), "all.test.yaml:7: cases.0.expect: input should be 'allow' or 'deny'"),
    "an unlisted tool": (
        CASE.replace("read-orders", "read-order"),
        "all.test.yaml:6: cases.0.tool: the catalog has no 'read-order' (did you mean 'read-orders'?): give a name of the catalog",
    ),
    "an unlisted class": (
        CASE.replace("invoice-bot", "nobody"), "all.test.yaml:4: cases.0.class: the catalog has no 'nobody': give a name of the catalog",
    ),
    "an unlisted role of the task": (
        CASE.replace("type: reconcile", "type: reconcile, roles: [x]"),
        "all.test.yaml:5: cases.0.task.roles: the catalog has no 'x': give a name of the catalog",
    ),
    "no tool": (
        CASE.replace("    tool: read-orders\n", ""),
        "all.test.yaml:2: cases.0.tool: a call is one of a tool: give tool, and no role",
    ),
    "a tool to acquire": (
        CASE.replace("action: call", "action: acquire"),
        "all.test.yaml:2: cases.0.role: what is acquired is a role: give role, and no tool",
    ),
    "a tool to declare": (
        CASE.replace("action: call", "action: declare"),
        "all.test.yaml:5: cases.0.task: a declaration has its roles and tools under task: give neither role nor tool",
    ),
    "no time": (f"{CASE}    at: noon\n", "all.test.yaml:8: cases.0.at: give a time such as 2026-03-02T12:00:00Z"),
    "an odd instance": (f"{CASE}    instance: a/b\n", "all.test.yaml:8: cases.0.instance: give a name of letters, digits and . _ -"),
    "a name twice": (CASE + CASE, "all.test.yaml:9: cases.1.name: the case of line 2 has this name already: choose another"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_field_is_said_with_line_and_remedy(tmp_path: Path, name: str) -> None:
    cases, expected = WRONG[name]
    assert refused(tmp_path, cases) == [expected]


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    policies = policies_of(tmp_path, BASELINE)
    (tmp_path / "a.test.yaml").write_text("- name: one\n")
    (tmp_path / "b.test.yaml").write_text("cases: []\n")
    with pytest.raises(ConfigError) as error:
        run_cases(policies, CATALOG, tmp_path)
    assert {Path(problem.file).name for problem in error.value.problems} == {"a.test.yaml", "b.test.yaml"}


def test_a_policy_that_fails_is_no_denial_that_was_meant(tmp_path: Path) -> None:
    failing = (
        BASELINE
        + '@id("adds") forbid(principal, action, resource) when { context.hour + 9223372036854775807 == 1 };'
    )
    (result,) = run(tmp_path, CASE.replace("allow", "deny"), failing)
    assert not result.passed
    assert "a policy failed: that is a denial, but not one that was meant" in result.text
    (result,) = run(tmp_path, CASE.replace("allow", "deny") + "    because: [error, adds]\n", failing)
    assert result.passed, result.text


def test_a_folder_that_cannot_be_looked_into_is_no_folder_without_cases(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "cases").mkdir()
    (tmp_path / "cases" / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="is a link to a folder"):
        run_cases(policies_of(tmp_path, BASELINE, CATALOG), CATALOG, tmp_path / "cases")
