"""Honest work of several kinds, with honest mistakes: retries that back off, failures, time-outs, bursts, long and large tasks."""

from __future__ import annotations

import random
from collections.abc import Callable

from broker.domain.actions import ActionOutcome
from broker.domain.errors import DenialClass
from broker.domain.task import EndCause
from tests.scenarios.anomaly.acting import Actor, TaskOf

Steps = list[tuple[str, str]]
"""Tools, with what their resource is filled in with."""


def _reconcile(dice: random.Random) -> Steps:
    days = [str(dice.randrange(400)) for _ in range(dice.randint(2, 12))]
    steps: Steps = [("orders-readonly", "")]
    for day in days:
        steps.append(("query-orders", day))
        if dice.random() < 0.6:
            steps.append(("match-payment", day))
    if dice.random() < 0.4:
        steps += [("read-mail", str(one)) for one in range(dice.randint(1, 3))]
    return [*steps, ("send-report", "team")]


def _triage(dice: random.Random) -> Steps:
    steps: Steps = []
    for _ in range(min(60, int(dice.lognormvariate(1.8, 0.6)) + 1)):
        ticket = str(dice.randrange(10_000))
        steps.append(("read-ticket", ticket))
        if dice.random() < 0.7:
            steps.append(("search-kb", ""))
        if dice.random() < 0.3:
            steps.append(("read-customer", str(dice.randrange(10_000))))
        steps.append(("update-ticket" if dice.random() < 0.8 else "close-ticket", ticket))
    return steps


def _export(dice: random.Random) -> Steps:
    first, many = dice.randrange(10_000), dice.randint(40, 220)
    read: Steps = [("read-customer", str(first + one)) for one in range(many)]
    return [("list-customers", ""), *read, ("upload-export", str(first))]


def _deploy(dice: random.Random) -> Steps:
    service = dice.choice(["shop", "mail", "pay"])
    steps: Steps = [("read-config", service), ("run-tests", service)]
    steps += [("run-tests", service)] * (dice.random() < 0.2)
    steps.append(("deploy", service))
    steps += [("read-status", service)] * dice.randint(2, 15)
    if dice.random() < 0.06:
        steps += [("roll-back", service), ("read-status", service)]
    return steps


def _onboard(dice: random.Random) -> Steps:
    steps: Steps = [("list-users", "")]
    for _ in range(dice.choice([1, 1, 1, 2, 3, 4])):
        user = str(dice.randrange(10_000))
        steps.append(("create-user", user))
        steps += [("grant-group", str(dice.randrange(20))) for _ in range(dice.randint(1, 3))]
        steps.append(("send-welcome", user))
    return steps


def _review(dice: random.Random) -> Steps:
    weights = {"read-file": 6, "search-code": 3, "run-linter": 1, "comment": 2}
    names = dice.choices(
        list(weights), list(weights.values()), k=min(150, int(dice.lognormvariate(3, 0.6)) + 3)
    )
    return [(name, str(dice.randrange(60))) for name in names]


def _rotate(dice: random.Random) -> Steps:
    steps: Steps = []
    for _ in range(dice.randint(1, 5)):
        secret = str(dice.randrange(40))
        steps += [
            ("read-secret", secret),
            ("write-secret", secret),
            ("restart", secret),
            ("read-status", secret),
        ]
    return steps


def _research(dice: random.Random) -> Steps:
    steps: Steps = []
    for _ in range(dice.randint(2, 10)):
        steps += [("fetch-page", str(dice.randrange(10**6))) for _ in range(dice.randint(1, 4))]
        steps += [("write-notes", str(dice.randrange(50)))] * (dice.random() < 0.8)
    return [*steps, ("write-notes", "summary")]


WORK: dict[str, Callable[[random.Random], Steps]] = {
    "reconcile-invoices": _reconcile,
    "triage-tickets": _triage,
    "export-customers": _export,
    "deploy-service": _deploy,
    "onboard-people": _onboard,
    "review-code": _review,
    "rotate-secrets": _rotate,
    "research": _research,
}
PACE = {"export-customers": 0.25, "deploy-service": 8.0, "research": 4.0}
"""Seconds between steps; 2 where nothing is said."""
PRODUCTION = frozenset({"deploy-service", "rotate-secrets"})

_FORBIDDEN = {
    "reconcile-invoices": "delete-order",
    "triage-tickets": "read-customer",
    "export-customers": "read-customer",
    "deploy-service": "roll-back",
    "onboard-people": "grant-group",
    "review-code": "comment",
    "rotate-secrets": "write-secret",
    "research": "fetch-page",
}


def environment_of(actor: Actor, task_type: str) -> str:
    return "production" if task_type in PRODUCTION and actor.random.random() < 0.5 else "staging"


def perform(actor: Actor, task: TaskOf, steps: Steps, *, noise: float = 1.0) -> None:
    """The steps in order, with what goes wrong on the way."""
    dice, pace = actor.random, PACE.get(task.task_type, 2.0)
    burst = dice.randint(0, 12) if dice.random() < 0.2 * noise else 0
    for number, (tool, resource) in enumerate(steps):
        actor.wait(pace / 10 if number < burst else pace)
        mishap = dice.random() / max(noise, 1e-9)
        if mishap < 0.01:
            back_off(actor, task, tool, resource)
        elif mishap < 0.03:
            fail_and_retry(actor, task, tool, resource)
            continue
        elif mishap < 0.036:
            stumble(actor, task)
        elif mishap < 0.04:
            actor.pause(dice.uniform(60, 900))
        actor.act(task, tool, resource)
    if dice.random() < 0.05:
        actor.renew(dice.choice([None, "10.0.0.8"]))


def back_off(actor: Actor, task: TaskOf, tool: str, resource: str) -> None:
    """Refused for now, once or several times, with longer and longer waits."""
    wait = actor.random.uniform(0.2, 3.0)
    for _ in range(actor.random.randint(1, 6)):
        reason = actor.random.choice(["STEP_NOT_ALLOWED", "POLICY_DENIED"])
        actor.act(task, tool, resource, allowed=False, denial=DenialClass.TRANSIENT, reason=reason)
        actor.pause(wait * actor.random.uniform(0.8, 1.2))
        wait *= 2


def fail_and_retry(actor: Actor, task: TaskOf, tool: str, resource: str) -> None:
    """It was allowed and failed; the third or fourth time it works."""
    for _ in range(actor.random.randint(1, 3)):
        actor.act(task, tool, resource, outcome=ActionOutcome.FAILED)
        actor.pause(actor.random.uniform(0.5, 5.0))
    actor.act(task, tool, resource)


def stumble(actor: Actor, task: TaskOf) -> None:
    """Refused for good, or until a person says yes: asked again once at most, then something else is done."""
    dice, tool = actor.random, _FORBIDDEN[task.task_type]
    locked = f"locked-{dice.randrange(10_000)}"
    match dice.randrange(5):
        case 0:
            actor.act(task, tool, locked, allowed=False)
        case 1:
            actor.act(task, tool, locked, allowed=False)
            actor.wait(2)
            actor.act(task, tool, locked, allowed=False, reason="EFFECT_DENIED")
        case 2:
            for _ in range(dice.randint(1, 3)):
                actor.act(task, tool, locked, allowed=False, denial=DenialClass.GRANTABLE)
                actor.pause(dice.uniform(120, 400))
            actor.act(task, tool, locked)
        case 3:
            for resource in (locked, f"{locked}-too")[: dice.randint(1, 2)]:
                actor.act(task, tool, resource, allowed=False)
                actor.wait(1)
        case _:
            actor.act(task, "purge-order", "5", allowed=False, reason="TOOL_NOT_ALLOWED")


def work(actor: Actor, task_type: str, *, noise: float = 1.0) -> TaskOf:
    """One whole task."""
    task = actor.task(task_type, environment_of(actor, task_type))
    perform(actor, task, WORK[task_type](actor.random), noise=noise)
    finish(actor, task)
    return task


def finish(actor: Actor, task: TaskOf) -> None:
    """As asked for, or by a time-out that the agent learns of by its next call."""
    if actor.random.random() < 0.97:
        actor.end(task)
        return
    actor.end(task, actor.random.choice([EndCause.DEADLINE, EndCause.HEARTBEAT_LOST]))
    actor.pause(actor.random.uniform(0.5, 600))
    for _ in range(actor.random.randint(1, 3)):
        actor.call(task)


def daily(actor: Actor, task_type: str) -> None:
    """The same work again and again; each time the same is refused, as nothing is remembered from one to the next."""
    for _ in range(actor.random.randint(3, 6)):
        task = actor.task(task_type, environment_of(actor, task_type))
        steps = WORK[task_type](actor.random)
        perform(actor, task, steps[:3])
        actor.act(task, _FORBIDDEN[task_type], "not-yours", allowed=False)
        actor.wait(2)
        perform(actor, task, steps[3:])
        finish(actor, task)
        actor.pause(actor.random.uniform(1800, 80_000))


def interleaved(actor: Actor, types: list[str]) -> None:
    """Several tasks of one instance at once."""
    tasks = [actor.task(one, environment_of(actor, one)) for one in types]
    left = [WORK[one](actor.random) for one in types]
    while any(left):
        which = actor.random.choice([number for number, steps in enumerate(left) if steps])
        many = actor.random.randint(1, 4)
        now, left[which] = left[which][:many], left[which][many:]
        perform(actor, tasks[which], now, noise=0.5)
    for task in tasks:
        finish(actor, task)
