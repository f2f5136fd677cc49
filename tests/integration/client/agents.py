"""Agents that the tests run as instances of the real stack: `python -m tests.integration.client.agents NAME`.

Each says what it sees, a line each; the tests read along.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta
from typing import Any

import psycopg

from broker.client import Broker, BrokerError, NoIdentity, SyncBroker, TaskEnded

TYPE = "reconcile-invoices"
ROLE = "orders-readonly"


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def orders(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT count(*) FROM orders").fetchone()
    assert row is not None
    return int(row[0])


def refused(dsn: str) -> bool:
    try:
        orders(dsn)
    except psycopg.OperationalError:
        return True
    return False


async def life() -> None:
    async with Broker.connect() as broker:
        async with broker.task(TYPE, intent="tests", roles=[ROLE]) as task:
            async with await task.acquire(ROLE) as early:
                say("orders", orders(early.dsn("orders")))
            say("early refused", refused(early.dsn("orders")))
            credential = await task.acquire(ROLE)
            dsn = credential.dsn("orders")
            say("orders", orders(dsn))
            before = credential.expires_at
            await asyncio.sleep(1.1)
            await task.renew(credential)
            say("extended", credential.expires_at > before)
        say("state", task.state, "refused", refused(dsn), "revoked", credential.revoked)


async def restart() -> None:
    """Acquire before and after the broker was restarted."""
    async with Broker.connect() as broker, broker.task(TYPE, intent="tests", roles=[ROLE]) as task:
        first = await task.acquire(ROLE)
        say("ready")
        await asyncio.to_thread(sys.stdin.readline)
        second = await task.acquire(ROLE)
        say("orders", orders(first.dsn("orders")), orders(second.dsn("orders")))


async def outlive() -> None:
    """Acquire at each word from whoever started this, until there is none."""
    async with Broker.connect() as broker, broker.task(TYPE, intent="tests", roles=[ROLE]) as task:
        say("ready")
        while await asyncio.to_thread(sys.stdin.readline):
            credential = await task.acquire(ROLE)
            say("orders", orders(credential.dsn("orders")))


async def watch() -> None:
    """Wait until the broker ends the task by its deadline."""
    async with Broker.connect() as broker:
        dsn = ""
        try:
            async with broker.task(TYPE, intent="tests", roles=[ROLE], deadline=timedelta(seconds=2)) as task:
                dsn = (await task.acquire(ROLE)).dsn("orders")
                say("orders", orders(dsn))
                await asyncio.sleep(60)
        except TaskEnded as error:
            say("ended", error.cause)
        for _ in range(100):
            if refused(dsn):
                say("refused")
                return
            await asyncio.sleep(0.05)


async def rotate() -> None:
    """Live longer than an SVID."""
    async with Broker.connect() as broker, broker.task(TYPE, intent="tests", roles=[ROLE]) as task:
        first = broker._identity.version
        for _ in range(3):
            await asyncio.wait_for(broker._identity.changed(broker._identity.version), 60)
        say("rotated", broker._identity.version - first)
        await asyncio.sleep(10)  # as long as an SVID lives: the first has expired
        credential = await task.acquire(ROLE)
        say("orders", orders(credential.dsn("orders")), "ended", task.ended.is_set())


async def nobody() -> None:
    try:
        async with Broker.connect(patience=timedelta(seconds=2)):
            say("connected")
    except NoIdentity as error:
        say(error)


def blocking() -> None:
    with SyncBroker.connect() as broker:
        with broker.task(TYPE, intent="tests") as task, task.acquire(ROLE) as credential:
            dsn = credential.dsn("orders")
            say("orders", orders(dsn))
        say("refused", refused(dsn))
        try:
            with broker.task("no-such-type", intent="tests"):
                say("declared")
        except BrokerError as error:
            say(type(error).__name__, error.reason, error.denial_class, bool(error.request_id))


AGENTS: dict[str, Any] = {
    "life": life,
    "restart": restart,
    "outlive": outlive,
    "watch": watch,
    "rotate": rotate,
    "nobody": nobody,
}

if __name__ == "__main__":
    if sys.argv[1] == "blocking":
        blocking()
    else:
        asyncio.run(AGENTS[sys.argv[1]]())
