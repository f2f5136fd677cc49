"""Cedar behind the port: what is loaded, what is decided, and that a slice decides as the whole does."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.adapters.policy.bounded import BoundedPolicy
from broker.adapters.policy.cedar import CedarPolicies, PolicyFilesError, _compiled
from broker.adapters.policy.files import PolicyFiles
from broker.adapters.policy.questions import of_acquisition, of_call, schema_for
from broker.domain.actions import NO_ACTIONS, digest_of
from broker.domain.catalog import AttributeType, Catalog
from broker.domain.classification import Classification
from broker.domain.decision import AcquireContext, CallContext, DeclareContext, Fingerprint
from broker.domain.errors import DenialClass
from broker.domain.flows import Reads, Writes
from broker.domain.task import Scope
from broker.ports.policy import PolicyEngine
from broker.usecases.deciding import decide
from tests.fakes.samples import OTHER, OWNER, a_catalog, a_role, a_task, a_tool
from tests.fakes.system import NOON
from tests.unit.usecases.wiring import FixedCatalog

REPOSITORY = Path(__file__).parents[3]
MAIL = a_tool(
    "send-mail",
    writes=Writes.EXTERNAL,
    reads=Reads(),
    attributes={"to": AttributeType.STRING, "amount": AttributeType.INTEGER},
)
READ = a_tool("read-orders", reads=Reads(classification=Classification.CONFIDENTIAL))
CATALOG = a_catalog(tools=(MAIL, READ))
TASK = a_task(scope=Scope(roles=frozenset({"orders"}), tools=frozenset({"send-mail", "read-orders"})))
PERMIT = '@id("all") permit (principal, action, resource);'


def policies(tmp_path: Path, *texts: str, catalog: Catalog = CATALOG) -> CedarPolicies:
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.cedar").write_text(text)
    return CedarPolicies.load(tmp_path, catalog)


def a_call(tool: str = "send-mail", *, labels: frozenset[str] = frozenset(), **changed: Any) -> CallContext:
    arguments = changed.pop("arguments", {})
    found = CATALOG.tools.get(tool)
    return CallContext(
        **{
            "caller": TASK.owner,
            "task": TASK,
            "tool_name": tool,
            "tool": found,
            "arguments": arguments,
            "arguments_digest": digest_of(arguments),
            "effect": None if found is None else found.effect(arguments),
            "fingerprint": Fingerprint.ABSENT,
            "live_leases": 0,
            "earlier_denials": 0,
            "at": NOON,
            "chain": replace(NO_ACTIONS, labels=labels),
            **changed,
        }
    )


def an_acquisition(**changed: Any) -> AcquireContext:
    return AcquireContext(
        **{
            "caller": TASK.owner,
            "task": TASK,
            "role_name": "orders",
            "role": a_role("orders"),
            "live_leases": 0,
            "earlier_denials": 0,
            "at": NOON,
            **changed,
        }
    )


def a_declaration() -> DeclareContext:
    return DeclareContext(
        caller=OWNER,
        agent_class="invoice-bot",
        task_type="reconcile",
        intent="any",
        scope=TASK.scope,
        environment="production",
        at=NOON,
    )


# Loading -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("permit (principal, action, resource)", "0.cedar: "),
        ("permit (principal, action, resource);", "without @id"),
        ('@id("a") permit (principal, action, resource);' * 2, "'a'"),
        ('@id("a") @denial("never") forbid (principal, action, resource);', "structural, grantable, transient"),
        ('@id("a") @denial("structural") permit (principal, action, resource);', "for forbid alone"),
        ('@id("a") permit (principal == ?principal, action, resource);', "template"),
        ('@id("a") permit (principal, action, resource) when { context.labls.isEmpty() };', "labls"),
        ('@id("a") permit (principal, action == Tasklease::Action::"pay", resource);', "pay"),
        ('@id("a") forbid (principal, action == Tasklease::Action::"call", resource) when { context.asserted.arguments.to == "x" };', "to"),
        ('@id("a") permit (principal, action, resource) when { resource.level > "1" };', "a: "),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(PolicyFilesError) as caught:
        policies(tmp_path, text)
    assert any(says in problem for problem in caught.value.problems), caught.value.problems
    assert all("0.cedar" in problem for problem in caught.value.problems)


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PolicyFilesError, match="no such folder"):
        CedarPolicies.load(tmp_path / "never", CATALOG)


def test_one_id_in_two_files_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PolicyFilesError, match=r"1.cedar: @id\('all'\) stands in 0.cedar as well"):
        policies(tmp_path, PERMIT, PERMIT)


def test_arguments_of_two_types_are_an_error() -> None:
    other = a_tool("other", attributes={"to": AttributeType.INTEGER})
    with pytest.raises(ValueError, match="argument to is integer at tool other and string at send-mail"):
        schema_for(a_catalog(tools=(MAIL, other)))


def test_the_schema_of_a_catalog_without_tools_is_one() -> None:
    assert "type Arguments = {\n  };" in schema_for(a_catalog())


# Deciding ------------------------------------------------------------------------------------------------------


def every_question(engine: PolicyEngine) -> list[bool]:
    return [
        engine.decide_declaration(a_declaration(), CATALOG).allowed,
        engine.decide_acquisition(an_acquisition(), CATALOG).allowed,
        engine.decide_call(a_call(), CATALOG).allowed,
        engine.could_allow_call(a_call(), CATALOG),
    ]


def test_without_policies_everything_is_denied(tmp_path: Path) -> None:
    engine = policies(tmp_path)
    assert every_question(engine) == [False] * 4
    decision = engine.decide_call(a_call(), CATALOG)
    assert (decision.policies, decision.denial_class) == (("cedar:default",), DenialClass.STRUCTURAL)


def test_what_is_permitted_names_the_policy(tmp_path: Path) -> None:
    engine = policies(tmp_path, PERMIT)
    assert every_question(engine) == [True] * 4
    assert engine.decide_call(a_call(), CATALOG).policies == ("cedar:all",)


def test_a_forbid_has_a_class_and_says_why(tmp_path: Path) -> None:
    forbid = (
        '@id("a") @denial("transient") @says("later") forbid (principal, action, resource) when { context.hour == 12 };'
        '@id("b") @denial("structural") @says("never") forbid (principal, action, resource) when { context.weekday == 6 };'
        '@id("c") @says("silent") forbid (principal, action, resource) when { context.hour == 3 };'
    )
    engine = policies(tmp_path, PERMIT, forbid)
    assert NOON.weekday() == 6
    decision = engine.decide_call(a_call(), CATALOG)
    assert (decision.policies, decision.text, decision.denial_class) == (
        ("cedar:a", "cedar:b"),
        "later never",
        DenialClass.STRUCTURAL,
    )
    night = engine.decide_call(a_call(at=NOON + timedelta(hours=15)), CATALOG)
    assert (night.policies, night.denial_class) == (("cedar:c",), DenialClass.GRANTABLE)


def test_an_error_of_any_policy_denies(tmp_path: Path) -> None:
    fails = (
        '@id("overflows") forbid (principal, action == Tasklease::Action::"call", resource) when '
        "{ context.earlier_denials * 9223372036854775807 > 5 };"
    )
    engine = policies(tmp_path, PERMIT, fails)
    assert engine.decide_call(a_call(), CATALOG).allowed
    decision = engine.decide_call(a_call(earlier_denials=2), CATALOG)
    assert (decision.allowed, decision.policies) == (False, ("cedar:error",))
    assert not engine.could_allow_call(a_call(earlier_denials=2), CATALOG)


@pytest.mark.parametrize("wrong", [2**70, 1.5, ["x"], {"a": 1}, True])
def test_an_argument_that_is_not_of_its_type_is_denied(tmp_path: Path, wrong: object) -> None:
    engine = BoundedPolicy(lambda: policies(tmp_path, PERMIT))
    context = a_call(arguments={"amount": wrong})
    assert not decide(lambda: engine.decide_call(context, CATALOG)).allowed


def test_policies_see_the_arguments_that_the_catalog_names_and_no_others(tmp_path: Path) -> None:
    rule = (
        '@id("ours") permit (principal, action == Tasklease::Action::"call", resource) when '
        '{ context.asserted.arguments has to && context.asserted.arguments.to like "*@ours.test" };'
    )
    engine = policies(tmp_path, rule)
    ours = a_call(arguments={"to": "ann@ours.test", "order_id": "17"})
    assert engine.decide_call(ours, CATALOG).allowed
    assert not engine.decide_call(a_call(arguments={"to": "ann@theirs.test"}), CATALOG).allowed
    assert not engine.decide_call(a_call(), CATALOG).allowed
    assert engine.could_allow_call(a_call(), CATALOG), "with other arguments it is allowed"
    with pytest.raises(PolicyFilesError, match="order_id"):
        policies(tmp_path, rule.replace("arguments.to ", "arguments.order_id ").replace("ours", "b"))


def test_a_tool_is_listed_unless_it_is_forbidden_whatever_the_arguments(tmp_path: Path) -> None:
    theirs = (
        '@id("theirs") forbid (principal, action == Tasklease::Action::"call", resource) unless '
        '{ context.asserted.arguments has to && context.asserted.arguments.to like "*@ours.test" };'
    )
    engine = policies(tmp_path, PERMIT, theirs)
    assert not engine.decide_call(a_call(), CATALOG).allowed
    assert engine.could_allow_call(a_call(), CATALOG)
    never = '@id("never") forbid (principal, action, resource == Tasklease::Tool::"send-mail");'
    engine = policies(tmp_path, PERMIT, theirs, never)
    assert not engine.could_allow_call(a_call(), CATALOG)


def test_no_policy_widens_the_catalog(tmp_path: Path) -> None:
    engine = BoundedPolicy(lambda: policies(tmp_path, PERMIT))
    assert engine.decide_call(a_call(), CATALOG).policies == (
        "catalog:task-type/reconcile",
        "catalog:tool/send-mail",
        "catalog:scope",
        "cedar:all",
    )
    narrow = a_task(scope=Scope(roles=frozenset(), tools=frozenset({"read-orders"})))
    for context in (a_call(task=narrow), a_call("unlisted")):
        assert engine.decide_call(context, CATALOG).reason == "TOOL_NOT_ALLOWED"
        assert not engine.could_allow_call(context, CATALOG)
    assert engine.decide_acquisition(an_acquisition(task=narrow), CATALOG).reason == "ROLE_NOT_ALLOWED"


# Slices --------------------------------------------------------------------------------------------------------

PRINCIPALS = (
    "principal",
    "principal is Tasklease::Instance",
    'principal in Tasklease::AgentClass::"invoice-bot"',
    'principal in Tasklease::AgentClass::"other"',
    f'principal == Tasklease::Instance::"{OWNER}"',
    f'principal == Tasklease::Instance::"{OTHER}"',
    'principal is Tasklease::Instance in Tasklease::AgentClass::"invoice-bot"',
    'principal is Tasklease::Instance in Tasklease::AgentClass::"other"',
)
ACTIONS = (
    "action",
    'action == Tasklease::Action::"call"',
    'action == Tasklease::Action::"acquire"',
    'action in [Tasklease::Action::"call", Tasklease::Action::"declare"]',
)
RESOURCES = (
    "resource",
    "resource is Tasklease::Tool",
    "resource is Tasklease::CredentialRole",
    'resource == Tasklease::Tool::"send-mail"',
    'resource == Tasklease::Tool::"read-orders"',
    'resource in Tasklease::Tool::"send-mail"',
    'resource == Tasklease::CredentialRole::"orders"',
)
CONDITIONS = (
    "",
    "when { context.hour == 12 }",
    "when { context.hour == 11 }",
    "unless { context.hour == 12 }",
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    heads=st.lists(
        st.tuples(
            st.sampled_from(("permit", "forbid")),
            st.sampled_from(PRINCIPALS),
            st.sampled_from(ACTIONS),
            st.sampled_from(RESOURCES),
            st.sampled_from(CONDITIONS),
        ),
        max_size=8,
    )
)
def test_a_slice_decides_as_the_whole(tmp_path_factory: pytest.TempPathFactory, heads: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("policies")
    texts = [
        f'@id("p{number}") {effect} ({principal}, {action}, {resource}) {condition};'
        for number, (effect, principal, action, resource, condition) in enumerate(heads)
    ]
    usable = []
    for text in texts:  # some of these heads can never apply, which the validator does not take
        (folder / "0.cedar").write_text(text)
        try:
            CedarPolicies.load(folder, CATALOG)
        except PolicyFilesError:
            continue
        usable.append(text)
    engine = policies(folder, "\n".join(usable))
    whole = _compiled(engine.policies)
    others = a_task(owner=OTHER, scope=TASK.scope)
    for question in (
        of_call(a_call()),
        of_call(a_call("read-orders")),
        of_call(a_call(caller=OTHER, task=others)),
        of_acquisition(an_acquisition()),
    ):
        expected = engine._ask(question, whole)
        sliced = engine.decide(question)
        assert sliced.allowed == expected.allowed
        by_whole = {f"cedar:{one.policy_id}" for one in engine._determining(expected)}
        assert set(sliced.policies) == (by_whole or {"cedar:default"})


def test_policies_that_cannot_apply_are_in_no_slice(tmp_path: Path) -> None:
    others = "\n".join(
        f'@id("other-{number}") forbid (principal in Tasklease::AgentClass::"class-{number}", action, resource);'
        for number in range(50)
    )
    engine = policies(tmp_path, PERMIT, others)
    assert [policy.policy_id for policy in engine.slice_for(of_call(a_call()))] == ["all"]


# The shipped ones ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tool", "labels", "allowed"),
    [
        ("send-mail", [], True),
        ("send-mail", ["read.internal", "read.confidential"], True),
        ("send-mail", ["untrusted"], True),
        ("send-mail", ["read.internal", "read.confidential", "untrusted"], False),
        ("read-orders", ["read.internal", "read.confidential", "untrusted"], True),
    ],
)
def test_after_confidential_and_untrusted_nothing_goes_out(
    tool: str, labels: list[str], *, allowed: bool
) -> None:
    engine = CedarPolicies.load(REPOSITORY / "examples/policies", CATALOG)
    decision = engine.decide_call(a_call(tool, labels=frozenset(labels)), CATALOG)
    assert decision.allowed is allowed
    if not allowed:
        assert decision.policies == ("cedar:flows.nothing-external-after-confidential-and-untrusted",)
        assert decision.denial_class is DenialClass.STRUCTURAL


def test_after_untrusted_nothing_is_destroyed_without_a_person() -> None:
    engine = CedarPolicies.load(REPOSITORY / "examples/policies", CATALOG)
    role = a_role("orders", writes=Writes.DESTRUCTIVE)
    dirty = replace(NO_ACTIONS, labels=frozenset({"untrusted"}))
    assert engine.decide_acquisition(an_acquisition(role=role), CATALOG).allowed
    decision = engine.decide_acquisition(an_acquisition(role=role, chain=dirty), CATALOG)
    assert (decision.allowed, decision.denial_class) == (False, DenialClass.GRANTABLE)


# Reloading -----------------------------------------------------------------------------------------------------


async def test_changed_policies_are_taken_up_all_or_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "0.cedar").write_text(PERMIT)
    catalogs = FixedCatalog(CATALOG)
    files = PolicyFiles(tmp_path, catalogs)
    assert not await files.reload_if_changed()
    (tmp_path / "1.cedar").write_text('@id("no") forbid (principal, action, resource);')
    assert await files.reload_if_changed()
    assert not files.current().decide_call(a_call(), CATALOG).allowed
    (tmp_path / "1.cedar").write_text("forbid (")
    assert not await files.reload_if_changed()
    assert "REFUSED" in caplog.text
    assert len(files.current().policies) == 2
    await asyncio.to_thread((tmp_path / "1.cedar").unlink)
    assert await files.reload_if_changed()
    assert files.current().decide_call(a_call(), CATALOG).allowed


async def test_another_catalog_means_other_arguments(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "0.cedar").write_text(
        PERMIT + '@id("b") forbid (principal, action == Tasklease::Action::"call", resource) when '
        '{ context.asserted.arguments has to && context.asserted.arguments.to like "x*" };'
    )
    catalogs = FixedCatalog(CATALOG)
    files = PolicyFiles(tmp_path, catalogs)
    before = files.current()
    number = a_tool("other", attributes={"to": AttributeType.INTEGER})
    catalogs.catalog = a_catalog(tools=(number,), digest="another")
    assert not await files.reload_if_changed()
    assert "REFUSED" in caplog.text
    assert files.current() is before
    catalogs.catalog = a_catalog(tools=(MAIL,), digest="a third")
    assert await files.reload_if_changed()
