"""Anomalies: what watching adds to an `AuthorizeAction`, what it holds in memory, how soon PostgreSQL refuses what a finding
takes away, and how well the detectors do on seeds that nothing was set by."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path
from statistics import median

from bench.authorize import broker_round, channels, have_policies
from bench.authorize_parts import decisions, round_of
from bench.blindable_broker import BLIND, SEEING
from bench.complete import all_refused_after
from bench.figures import percentile
from bench.stack import ROLE, TASK_TYPE, Measured
from broker.anomaly.escalation import EscalationParameters
from broker.client import Broker, TaskEnded
from broker.demo.database import lets_in
from broker.devstack import broker_process
from broker.usecases.usual import KEPT, read
from tests.scenarios.anomaly.corpus import HELD_OUT, attacks, benign_tasks, learned
from tests.scenarios.anomaly.measure import measure

_TOOL = "bench-canary"
_CANARY = """
  bench-canary: {effect: execute, resource: console, canary: true}
"""
_ANSWERS = """
answers:
  - {detectors: [canary], do: end-task}
"""


def detectors(*, benign: int, each: int) -> dict[str, float]:
    """Recall, false alarms in 1,000 benign tasks and further actions until detection, on held-out seeds."""
    report = measure([*benign_tasks(HELD_OUT, benign), *attacks(HELD_OUT, each)], learned())
    return {
        "anomaly.benign_tasks": report.benign_tasks,
        "anomaly.attacks": report.every.traces,
        "anomaly.recall": report.recall,
        "anomaly.false_per_1000": report.false_per_thousand,
        "anomaly.median_actions": report.median,
    }


async def overhead(measured: Measured, *, clients: int, rounds: int) -> dict[str, float]:
    """Seconds of rounds of `AuthorizeAction` that are watched over those that are not: in turns, at one broker, which judges by a model
    that it has learned."""
    broker = measured.stack.broker
    measured.stack.stop_part(broker_process.NAME)
    broker.start(module="bench.blindable_broker")
    (pid,) = (part.pid for part in measured.stack.status() if part.name == broker_process.NAME)
    assert pid is not None, "the broker does not run"
    ratios = []
    try:
        await have_policies(broker.policies, applying=100, others=0)
        await _teach(measured, clients)
        async with channels(measured, broker.address, clients) as lines:
            for number in range(rounds + 1):
                took = {}
                for how in (BLIND, SEEING) if number % 2 else (SEEING, BLIND):
                    os.kill(pid, how)
                    took[how], _ = await broker_round(lines)
                ratios += [took[SEEING] / took[BLIND]] if number else []  # the first warms up
    finally:
        (broker.policies / "bench.cedar").unlink(missing_ok=True)
        measured.stack.stop_part(broker_process.NAME)
        broker.start()
    return {"anomaly.overhead_rounds": rounds, "anomaly.overhead_ratio": median(ratios)}


async def _teach(measured: Measured, clients: int) -> None:
    """Complete tasks until the broker judges by a model of their type: a watch that was begun before never does."""
    store = measured.stack.broker.folder / "broker.db"
    async with channels(measured, measured.stack.broker.address, clients) as lines:
        end_of_patience = time.monotonic() + 120
        while _learned(store) < EscalationParameters().least_tasks:
            assert time.monotonic() < end_of_patience, "nothing is learned"
            await broker_round(lines)
            await asyncio.sleep(2)
    await asyncio.sleep(KEPT.total_seconds())


def _learned(store: Path) -> int:
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as connection:
        row = connection.execute("SELECT data FROM models").fetchone()
    return 0 if row is None else read(row[0]).of(TASK_TYPE).tasks


async def overhead_alone(measured: Measured, folder: Path, *, rounds: int) -> dict[str, float]:
    """The same of durable decisions in this process, without gRPC; and what a watch holds in memory."""
    async with (
        decisions(measured, folder / "plain", watched=False) as plain,
        decisions(measured, folder / "watched", watched=True) as watched,
    ):
        ratios = []
        for number in range(rounds + 1):
            bare = await round_of(plain, number)
            ours = await round_of(watched, number)
            ratios += [ours / bare] if number else []  # the first warms up
        watches = watched.watches
        held = watches.size() / max(watches.watches, 1)
    return {
        "anomaly.overhead_alone_ratio": median(ratios),
        "anomaly.values_per_watch": held,
    }


async def until_refused(measured: Measured, *, runs: int) -> dict[str, float]:
    """p50 and p99 (seconds) from the call that touches a canary until PostgreSQL refuses what the task held."""
    (catalog,) = measured.stack.broker.catalog.iterdir()
    before = catalog.read_text()
    changed = before.partition("\nanswers:")[0].replace(
        "query-orders, read-mail", "query-orders, bench-canary, read-mail"
    )
    catalog.write_text(changed.replace("\ntools:\n", "\ntools:" + _CANARY, 1) + _ANSWERS)
    await asyncio.sleep(4)  # the broker takes it up by itself
    try:
        async with measured.broker() as broker:
            refused = [await _one(broker) for _ in range(runs)]
    finally:
        catalog.write_text(before)
    return {
        "anomaly.refused_runs": runs,
        "anomaly.refused_p50_s": percentile(refused, 50),
        "anomaly.refused_p99_s": percentile(refused, 99),
    }


async def _one(broker: Broker) -> float:
    watching: asyncio.Task[float] | None = None
    with suppress(TaskEnded):
        async with broker.task(TASK_TYPE, intent="bench", roles=[ROLE], tools=[_TOOL]) as task:
            dsn = (await task.acquire(ROLE)).dsn("orders")
            assert await lets_in(dsn), "PostgreSQL refuses a live credential"
            watching = asyncio.create_task(
                all_refused_after([dsn], time.perf_counter())
            )  # not of this block, which ends with the task
            await task.authorize(_TOOL)
            await asyncio.sleep(10)
    assert watching is not None, "the task ended before it began"
    return await watching
