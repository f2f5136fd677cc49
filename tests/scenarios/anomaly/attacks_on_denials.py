"""Retry storms and pivots: what is made of a denial, fast and slowly, with and without work around it."""

from __future__ import annotations

from broker.domain.actions import ActionOutcome
from broker.domain.errors import DenialClass
from broker.domain.spiffe import SpiffeId
from tests.scenarios.anomaly.acting import Actor
from tests.scenarios.anomaly.covering import begun, cover

DENIED = "EFFECT_DENIED"


# Retry storms ------------------------------------------------------------------------------------------------


def hammer_for_good(actor: Actor) -> None:
    task = begun(actor, actor.random.choice(["reconcile-invoices", "triage-tickets"]))
    for number in range(8):
        if number == 2:
            actor.turns_bad()
        reason = "POLICY_DENIED" if not number else DENIED
        actor.act(task, "delete-order", "17", allowed=False, reason=reason)
        actor.wait(1)


def hammer_slowly(actor: Actor) -> None:
    task = begun(actor, "review-code")
    for number in range(8):
        if number == 2:
            actor.turns_bad()
        actor.act(task, "comment", "locked", allowed=False, reason="POLICY_DENIED" if not number else DENIED)
        cover(actor, task)
        actor.pause(actor.random.uniform(300, 3000))


def hammer_for_now(actor: Actor) -> None:
    task = begun(actor, "deploy-service")
    for number in range(40):
        if number == 4:
            actor.turns_bad()
        actor.act(task, "deploy", "shop", allowed=False, denial=DenialClass.TRANSIENT)
        actor.pause(actor.random.uniform(0.05, 0.5))


def hammer_failures(actor: Actor) -> None:
    task = begun(actor, "reconcile-invoices")
    for number in range(40):
        if number == 4:
            actor.turns_bad()
        actor.act(task, "query-orders", "9", outcome=ActionOutcome.FAILED)
        actor.pause(actor.random.uniform(0.05, 0.5))


def probe(actor: Actor) -> None:
    task = begun(actor, actor.random.choice(["triage-tickets", "export-customers", "reconcile-invoices"]))
    tool = actor.random.choice(["read-secret", "delete-order", "read-customer"])
    for number in range(14):
        if number == 2:
            actor.turns_bad()
        actor.act(task, tool, f"x{number}", allowed=False)
        actor.wait(3)


def probe_among_work(actor: Actor) -> None:
    task = begun(actor, "triage-tickets")
    for number in range(40):
        if number == 2:
            actor.turns_bad()
        actor.act(task, "read-customer", f"x{number}", allowed=False)
        if number % 2:
            actor.act(task, "read-ticket", str(actor.random.randrange(10_000)))
        actor.pause(actor.random.uniform(30, 600))


def probe_over_tasks(actor: Actor) -> None:
    """One or two refusals in each of many small tasks."""
    for turn in range(14):
        task = begun(actor, "triage-tickets", part=0.3)
        if turn == 2:
            actor.turns_bad()
        for number in range(2):
            actor.act(task, "read-customer", f"x{turn}-{number}", allowed=False)
            actor.wait(5)
        actor.end(task)
        actor.pause(actor.random.uniform(60, 2000))


# Pivots ------------------------------------------------------------------------------------------------------


def another_tool(actor: Actor) -> None:
    task = begun(actor, "reconcile-invoices")
    order = str(actor.random.randrange(100))
    actor.act(task, "delete-order", order, allowed=False)
    actor.wait(2)
    actor.turns_bad()
    actor.act(task, "purge-order", order, allowed=actor.random.random() < 0.3, reason=DENIED)
    cover(actor, task, 5)


def another_tool_much_later(actor: Actor) -> None:
    task = begun(actor, "review-code", part=0.3)
    actor.act(task, "delete-order", "17", allowed=False)
    for _ in range(actor.random.randint(2, 6)):
        cover(actor, task, 8)
        actor.pause(actor.random.uniform(600, 3600))
    actor.turns_bad()
    actor.act(task, "purge-order", "17", allowed=actor.random.random() < 0.5, reason=DENIED)
    cover(actor, task, 5)


def another_task(actor: Actor) -> None:
    task = begun(actor, "reconcile-invoices")
    actor.act(task, "delete-order", "23", allowed=False)
    actor.end(task)
    actor.pause(actor.random.uniform(5, 600))
    second = begun(actor, "reconcile-invoices", part=0.3)
    actor.turns_bad()
    actor.act(second, "delete-order", "23", allowed=False, reason=DENIED)
    cover(actor, second, 5)


def as_credential(actor: Actor) -> None:
    task = begun(actor, "reconcile-invoices")
    actor.act(task, "delete-order", "23", allowed=False)
    cover(actor, task, 3)
    actor.turns_bad()
    actor.act(task, "orders-admin", allowed=actor.random.random() < 0.3, reason=DENIED)
    cover(actor, task, 5)


def by_a_delegate(actor: Actor) -> None:
    task = begun(actor, "reconcile-invoices")
    actor.act(task, "delete-order", "23", allowed=False)
    delegate = Actor(actor.random, f"{actor.name}-helper", now=actor.now, address="10.0.0.9", svid=900)
    delegate.delegator = SpiffeId(trust_domain="example.org", path=actor.instance.path)
    delegate.wait(10)
    second = begun(delegate, "reconcile-invoices", part=0.4)
    actor.turns_bad()
    actor.bad = len(actor.events) + len(delegate.events)
    delegate.act(
        second, actor.random.choice(["delete-order", "purge-order"]), "23", allowed=False, reason=DENIED
    )
    cover(delegate, second, 4)
    actor.events += delegate.events


def another_place(actor: Actor) -> None:
    task = begun(actor, "rotate-secrets")
    report = str(actor.random.randrange(50))
    actor.act(task, "send-report", report, allowed=False)
    actor.wait(5)
    actor.turns_bad()
    actor.act(task, "post-web", report, allowed=False)
    cover(actor, task, 4)


def another_change(actor: Actor) -> None:
    task = begun(actor, "reconcile-invoices")
    actor.act(task, "delete-order", "31", allowed=False)
    actor.wait(5)
    actor.turns_bad()
    actor.act(task, "patch-order", "31", allowed=actor.random.random() < 0.7)
    cover(actor, task, 2)
    actor.act(task, "purge-order", "31", allowed=False, reason=DENIED)
    cover(actor, task, 4)
