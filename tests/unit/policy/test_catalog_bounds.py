"""Decisions by the catalog alone: what is listed is allowed, what is not is denied for good (rule R5)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.adapters.policy.catalog_bounds import CatalogBoundsPolicy
from broker.domain.catalog import AgentClass, Catalog, TaskType
from broker.domain.decision import AcquireContext, Decision, DeclareContext, Verdict
from broker.domain.errors import DenialClass
from broker.domain.spiffe import SpiffeId
from broker.domain.task import Scope, Task
from tests.fakes.samples import OWNER, a_catalog, a_role, a_task
from tests.fakes.system import NOON

POLICY = CatalogBoundsPolicy()
CATALOG = a_catalog()
CLASS = CATALOG.agent_classes["invoice-bot"]
TYPE = CATALOG.task_types["reconcile"]


def declare(catalog: Catalog = CATALOG, roles: tuple[str, ...] = ("orders",), **changed: Any) -> Decision:
    context = DeclareContext(
        **{
            "caller": OWNER,
            "agent_class": "invoice-bot",
            "task_type": "reconcile",
            "intent": "tests",
            "scope": Scope(roles=frozenset(roles)),
            "environment": "production",
            "at": NOON,
            **changed,
        }
    )
    return POLICY.decide_declaration(context, catalog)


def acquire(catalog: Catalog = CATALOG, role: str = "orders", task: Task | None = None) -> Decision:
    context = AcquireContext(
        caller=OWNER,
        task=task or a_task(),
        role_name=role,
        role=catalog.credential_roles.get(role),
        live_leases=0,
        earlier_denials=0,
        at=NOON,
    )
    return POLICY.decide_acquisition(context, catalog)


def without(section: str, name: str) -> Catalog:
    """The catalog without one of its entries."""
    kept = {key: value for key, value in getattr(CATALOG, section).items() if key != name}
    changed: dict[str, Any] = {section: kept}
    return replace(CATALOG, **changed)


def with_class(**changed: Any) -> Catalog:
    return replace(CATALOG, agent_classes={CLASS.name: replace(CLASS, **changed)})


def with_type(**changed: Any) -> Catalog:
    return replace(CATALOG, task_types={TYPE.name: replace(TYPE, **changed)})


ELSEWHERE = SpiffeId.parse(str(OWNER).replace(OWNER.trust_domain, "other.test"))
ONLY_ORDERS = frozenset({"orders"})
DENIED: dict[str, tuple[Decision, str, str, str]] = {
    "an unlisted class declares": (
        declare(agent_class="stranger"), "AGENT_CLASS_UNKNOWN", "catalog:agent-class/stranger", "'stranger'",
    ),
    "a class of no name declares": (declare(agent_class=""), "AGENT_CLASS_UNKNOWN", "catalog:agent-class/", "''"),
    "a class of another trust domain declares": (
        declare(with_class(trust_domain="other.test")), "AGENT_CLASS_UNKNOWN", "catalog:agent-class/invoice-bot",
        "in trust domain example.test",
    ),
    "somebody of another trust domain declares by our class": (
        declare(caller=ELSEWHERE), "AGENT_CLASS_UNKNOWN", "catalog:agent-class/invoice-bot",
        "in trust domain other.test",
    ),
    "a class of nobody's trust domain declares": (
        declare(with_class(trust_domain=None)), "AGENT_CLASS_UNKNOWN", "catalog:agent-class/invoice-bot", "example.test",
    ),
    "the class moved to another trust domain": (
        acquire(with_class(trust_domain="other.test")), "AGENT_CLASS_UNKNOWN", "catalog:agent-class/invoice-bot",
        "in trust domain example.test",
    ),
    "an unlisted type is declared": (
        declare(task_type="other"), "TASK_TYPE_NOT_ALLOWED", "catalog:agent-class/invoice-bot", "'other'",
    ),
    "a type of other classes is declared": (
        declare(with_class(task_types=frozenset())), "TASK_TYPE_NOT_ALLOWED", "catalog:agent-class/invoice-bot", "'reconcile'",
    ),
    "another environment is declared": (
        declare(environment="staging"), "ENVIRONMENT_NOT_ALLOWED", "catalog:task-type/reconcile", "'staging'",
    ),
    "no environment is declared": (declare(environment=""), "ENVIRONMENT_NOT_ALLOWED", "catalog:task-type/reconcile", "''"),
    "an unlisted role is declared": (
        declare(roles=("orders", "payments")), "ROLE_NOT_ALLOWED", "catalog:task-type/reconcile", "'payments'",
    ),
    "a role of other types is declared": (
        declare(with_type(roles=ONLY_ORDERS), ("customers",)), "ROLE_NOT_ALLOWED", "catalog:task-type/reconcile", "'customers'",
    ),
    "a role that is gone is declared": (
        declare(without("credential_roles", "orders")), "ROLE_NOT_ALLOWED", "catalog:task-type/reconcile", "'orders'",
    ),
    "the class is gone": (
        acquire(without("agent_classes", "invoice-bot")), "AGENT_CLASS_UNKNOWN", "catalog:agent-class/invoice-bot",
        "'invoice-bot'",
    ),
    "the type is gone": (
        acquire(without("task_types", "reconcile")), "TASK_TYPE_NOT_ALLOWED", "catalog:agent-class/invoice-bot",
        "no longer",
    ),
    "the class lost the type": (
        acquire(with_class(task_types=frozenset())), "TASK_TYPE_NOT_ALLOWED", "catalog:agent-class/invoice-bot", "no longer",
    ),
    "the type changed its environment": (
        acquire(with_type(environment="staging")), "ENVIRONMENT_NOT_ALLOWED", "catalog:task-type/reconcile", "no longer",
    ),
    "the role was not declared": (
        acquire(task=a_task(scope=Scope(roles=ONLY_ORDERS)), role="customers"), "ROLE_NOT_ALLOWED", "catalog:scope",
        "not in the scope that the task declared",
    ),
    "the type lost the role": (
        acquire(with_type(roles=frozenset({"customers"}))), "ROLE_NOT_ALLOWED", "catalog:task-type/reconcile", "no longer",
    ),
    "the role is gone": (
        acquire(without("credential_roles", "orders")), "ROLE_NOT_ALLOWED", "catalog:task-type/reconcile", "no longer",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DENIED)
def test_what_is_not_listed_is_denied_for_good_with_reason_and_entry(name: str) -> None:
    decision, reason, policy, words = DENIED[name]
    assert decision.verdict is Verdict.DENY
    assert not decision.allowed
    assert (decision.reason, decision.policies) == (reason, (policy,))
    assert decision.denial_class is DenialClass.STRUCTURAL
    assert words in decision.text


def test_what_is_listed_is_allowed_and_names_the_entries_that_said_so() -> None:
    decision = declare(roles=("orders", "customers"))
    assert decision.allowed
    assert decision.policies == ("catalog:agent-class/invoice-bot", "catalog:task-type/reconcile")
    decision = acquire()
    assert decision.allowed
    assert decision.policies == (
        "catalog:task-type/reconcile",
        "catalog:credential-role/orders",
        "catalog:scope",
    )
    assert (decision.reason, decision.text, decision.denial_class) == ("", "", None)


def test_a_task_may_declare_nothing_and_then_gets_nothing() -> None:
    assert declare(roles=()).allowed
    assert not acquire(task=a_task(scope=Scope(roles=frozenset()))).allowed


def test_a_class_of_a_listed_trust_domain_may_what_it_lists() -> None:
    assert declare(with_class(trust_domain="other.test"), caller=ELSEWHERE).allowed
    assert CATALOG.trust_domains == {OWNER.trust_domain}
    assert with_class(trust_domain="other.test").trust_domains == {"other.test"}
    assert with_class(trust_domain=None).trust_domains == frozenset()


def test_a_wider_catalog_does_not_widen_a_scope() -> None:
    wider = a_catalog(roles=(a_role("orders"), a_role("customers"), a_role("payments")))
    assert acquire(wider, "orders").allowed
    assert not acquire(wider, "payments").allowed


NAMES = st.sampled_from(["", "a", "b", "c", "Á"])
SETS = st.frozensets(NAMES, max_size=3)


@st.composite
def catalogs(draw: st.DrawFn) -> Catalog:
    classes = draw(st.dictionaries(NAMES, SETS, max_size=3))
    types = draw(st.dictionaries(NAMES, st.tuples(NAMES, SETS), max_size=3))
    return replace(
        CATALOG,
        agent_classes={
            name: AgentClass(
                name=name, trust_domain=OWNER.trust_domain, description="", task_types=listed, max_tasks=1
            )
            for name, listed in classes.items()
        },
        task_types={
            name: TaskType(
                name=name,
                description="",
                environment=environment,
                roles=roles,
                max_duration=TYPE.max_duration,
                heartbeat=TYPE.heartbeat,
                max_leases=1,
            )
            for name, (environment, roles) in types.items()
        },
        credential_roles={name: a_role(name) for name in draw(SETS)},
    )


@given(catalogs(), NAMES, NAMES, NAMES, SETS)
def test_a_declaration_is_allowed_exactly_when_all_of_it_is_listed(
    catalog: Catalog, agent_class: str, task_type: str, environment: str, roles: frozenset[str]
) -> None:
    listed = (
        agent_class in catalog.agent_classes
        and task_type in catalog.agent_classes[agent_class].task_types
        and task_type in catalog.task_types
        and environment == catalog.task_types[task_type].environment
        and roles <= catalog.task_types[task_type].roles
        and roles <= set(catalog.credential_roles)
    )
    decision = declare(
        catalog, tuple(roles), agent_class=agent_class, task_type=task_type, environment=environment
    )
    assert decision.allowed is listed
    assert (decision.denial_class is None) is listed
    assert decision.policies


@given(catalogs(), NAMES, NAMES, NAMES, SETS, NAMES)
def test_a_credential_is_allowed_exactly_when_declared_and_still_listed(
    catalog: Catalog, agent_class: str, task_type: str, environment: str, scope: frozenset[str], role: str
) -> None:
    task = a_task(
        agent_class=agent_class, task_type=task_type, environment=environment, scope=Scope(roles=scope)
    )
    listed = (
        role in scope
        and declare(
            catalog, (role,), agent_class=agent_class, task_type=task_type, environment=environment
        ).allowed
    )
    assert acquire(catalog, role, task).allowed is listed
