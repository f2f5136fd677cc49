"""Brokers that watch over one real store, with a canary to touch and an answer to choose."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from broker.adapters.store.sqlite import SqliteStore
from broker.domain.answers import AnswerRule, Answers
from broker.domain.findings import Answer, Found, Severity
from broker.domain.task import Scope, Task
from broker.ports.store import Store
from broker.usecases.authorize_action import Authorization
from broker.usecases.judging import Call
from tests.fakes.issuer import FakeIssuer
from tests.fakes.samples import OWNER, a_caller, a_catalog, a_role, a_tool
from tests.fakes.store import FakeStore
from tests.fakes.system import CountingIds, FakeClock
from tests.unit.usecases.wiring import Broker

READ = a_tool("read-orders")
SPARE = a_tool("spare-keys", resource="keys", canary=True)
SCOPE = Scope(
    roles=frozenset({"orders", "customers", "spare"}), tools=frozenset({"read-orders", "spare-keys"})
)


def a_broker_over(store: Store, *rules: AnswerRule, answer: Answer | None = None) -> Broker:
    """One process that watches. With `answer`, whatever is found gets it."""
    roles = (a_role("orders"), a_role("customers"), a_role("spare", canary=True))
    catalog = a_catalog(tools=(READ, SPARE), roles=roles)
    if answer is not None:
        rules = (*rules, AnswerRule(answer=answer))
    catalog = replace(catalog, answers=Answers(rules=rules))
    fake = cast("FakeStore", store)
    return Broker(fake, FakeIssuer(), FakeClock(), CountingIds(), catalog).watching()


def opened(folder: Any) -> SqliteStore:
    return SqliteStore.open(f"sqlite:///{folder / 'broker.db'}")


async def declared(broker: Broker, **changed: Any) -> Task:
    task = await broker.declared(**{"scope": SCOPE, **changed})
    broker.clock.advance(milliseconds=1)
    return task


async def called(
    broker: Broker, task: Task, tool: str = "read-orders", key: str | None = None, **arguments: Any
) -> Authorization:
    broker.clock.advance(milliseconds=1)
    call = Call(tool=tool, arguments=arguments, idempotency_key=key)
    return await broker.authorize(a_caller(task.owner), task.task_id, call)


def a_found(task: Task | None = None, **changed: Any) -> Found:
    return Found(
        **{
            "detector": "canary",
            "rule": "touched",
            "severity": Severity.CRITICAL,
            "confidence": 0.99,
            "instance": OWNER if task is None else task.owner,
            "task_id": None if task is None else task.task_id,
            "at": FakeClock().now(),
            "expected": "no use",
            "happened": "'spare-keys' was asked for",
            **changed,
        }
    )
