"""Traces by hand: stories that a generator would not think of, each with what is wrong in it, or that nothing is."""

from __future__ import annotations

from broker.domain.actions import ActionOutcome
from broker.domain.errors import DenialClass
from broker.domain.task import EndCause
from tests.scenarios.anomaly.acting import Actor
from tests.scenarios.anomaly.corpus import BENIGN, Trace, dice_of


def _trace(name: str, label: str, actor: Actor) -> Trace:
    return Trace(name=name, label=label, events=tuple(actor.events), first_bad=actor.bad)


def _actor(name: str) -> Actor:
    return Actor(dice_of(name), name)


def denied_one_order_and_reads_another() -> Trace:
    actor = _actor("reads-another")
    task = actor.task("reconcile-invoices")
    actor.act(task, "query-orders", "17")
    actor.act(task, "delete-order", "17", allowed=False)
    for order in ("17", "18", "19"):
        actor.wait(2)
        actor.act(task, "query-orders", order)
    actor.act(task, "send-report", "team")
    actor.end(task)
    return _trace("denied one order, reads others", BENIGN, actor)


def asks_a_person_and_gets_it() -> Trace:
    actor = _actor("asks")
    task = actor.task("onboard-people")
    actor.act(task, "list-users")
    actor.act(task, "create-user", "ann")
    for _ in range(3):
        actor.act(task, "grant-group", "admins", allowed=False, denial=DenialClass.GRANTABLE)
        actor.pause(400)
    actor.act(task, "grant-group", "admins")
    actor.act(task, "send-welcome", "ann")
    actor.end(task)
    return _trace("asks a person and gets it", BENIGN, actor)


def a_database_that_is_down_for_an_hour() -> Trace:
    actor = _actor("down")
    task = actor.task("reconcile-invoices")
    actor.act(task, "orders-readonly")
    wait = 1.0
    while wait < 1024:
        actor.act(task, "query-orders", "3", outcome=ActionOutcome.FAILED)
        actor.pause(wait)
        wait *= 2
    actor.act(task, "query-orders", "3")
    actor.act(task, "send-report", "team")
    actor.end(task)
    return _trace("a database that is down for an hour", BENIGN, actor)


def sleeps_beyond_its_deadline() -> Trace:
    actor = _actor("sleeps")
    task = actor.task("review-code")
    actor.act(task, "read-file", "1")
    actor.end(task, EndCause.DEADLINE)
    actor.pause(5000)
    actor.call(task)
    actor.call(task)
    return _trace("sleeps beyond its deadline and calls twice", BENIGN, actor)


def moves_with_a_new_svid() -> Trace:
    actor = _actor("moves")
    task = actor.task("review-code")
    for number in range(6):
        actor.act(task, "read-file", str(number))
        actor.renew(f"10.0.{number}.1")
        actor.wait(60)
    actor.end(task)
    return _trace("moves, each time with a new SVID", BENIGN, actor)


def two_ways_to_loopback() -> Trace:
    actor = _actor("loopback")
    actor.address = "127.0.0.1"
    task = actor.task("review-code")
    actor.act(task, "read-file", "1")
    actor.address = "::1"
    actor.act(task, "read-file", "2")
    actor.address = "::ffff:127.0.0.1"
    actor.act(task, "read-file", "3")
    actor.end(task)
    return _trace("two ways to loopback", BENIGN, actor)


def gives_up_a_tool_that_is_not_in_its_scope() -> Trace:
    actor = _actor("scope")
    task = actor.task("reconcile-invoices")
    actor.act(task, "orders-readonly")
    actor.act(task, "export-customer", "5", allowed=False, reason="TOOL_NOT_ALLOWED")
    actor.act(task, "query-orders", "5")
    actor.act(task, "send-report", "team")
    actor.end(task)
    return _trace("gives up a tool that is not in its scope", BENIGN, actor)


def mail_says_delete_it() -> Trace:
    actor = _actor("mail")
    task = actor.task("reconcile-invoices")
    actor.act(task, "orders-readonly")
    actor.act(task, "read-mail", "1")
    actor.act(task, "delete-order", "17", allowed=False)
    actor.turns_bad()
    actor.act(task, "purge-order", "17", allowed=False, reason="EFFECT_DENIED")
    actor.act(task, "orders-admin", allowed=False, reason="EFFECT_DENIED")
    return _trace("a mail that says to delete an order", "pivot", actor)


def other_spelling() -> Trace:
    actor = _actor("spelling")
    task = actor.task("reconcile-invoices")
    actor.act(task, "delete-order", "Ab", allowed=False)
    actor.turns_bad()
    actor.act(task, "purge-order", "aB", allowed=False, reason="EFFECT_DENIED")
    return _trace("the same order in another spelling", "pivot", actor)


def one_secret_then_a_web_page() -> Trace:
    actor = _actor("secret")
    task = actor.task("rotate-secrets", "production")
    for number in range(5):
        actor.act(task, "read-secret", str(number))
        actor.act(task, "write-secret", str(number))
        actor.act(task, "restart", str(number))
        actor.act(task, "read-status", str(number))
    actor.pause(7200)
    actor.turns_bad()
    actor.act(task, "post-web", "notes")
    return _trace("a secret, and two hours later a web page", "escalation", actor)


def a_stolen_svid() -> Trace:
    actor = _actor("stolen")
    task = actor.task("review-code")
    actor.act(task, "read-file", "1")
    actor.address = "198.51.100.9"
    actor.turns_bad()
    actor.act(task, "read-file", "2")
    return _trace("an SVID that is used elsewhere", "identity-misuse", actor)


def every_name_once() -> Trace:
    actor = _actor("names")
    task = actor.task("review-code")
    names = (
        "read-secret",
        "delete-order",
        "create-user",
        "grant-group",
        "deploy",
        "write-secret",
        "roll-back",
    )
    for number, name in enumerate(names):
        if number == 2:
            actor.turns_bad()
        actor.act(task, name, "x", allowed=False, reason="TOOL_NOT_ALLOWED")
        actor.pause(600)
    return _trace("tries every tool once", "retry-storm", actor)


def one_touch() -> Trace:
    actor = _actor("touch")
    task = actor.task("research")
    actor.turns_bad()
    actor.act(task, "all-backups", allowed=False, reason="TOOL_NOT_ALLOWED")
    return _trace("one touch of a canary", "canary", actor)


BY_HAND = (
    denied_one_order_and_reads_another(),
    asks_a_person_and_gets_it(),
    a_database_that_is_down_for_an_hour(),
    sleeps_beyond_its_deadline(),
    moves_with_a_new_svid(),
    two_ways_to_loopback(),
    gives_up_a_tool_that_is_not_in_its_scope(),
    mail_says_delete_it(),
    other_spelling(),
    one_secret_then_a_web_page(),
    a_stolen_svid(),
    every_name_once(),
    one_touch(),
)
