"""Many leases at once: one task's five hundred against Vault alone, and what a storm of revocations does to who acquires.

Vault alone means: `sys/leases/revoke` with `sync`, one lease after the other, over one connection, without a look afterwards
and without a store: the least that anybody could do. The broker looks at Vault after each, and each is durable before and
after.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from statistics import median

from bench.figures import percentile
from bench.stack import ROLE, TASK_TYPE, VAULT_PATH, Measured
from broker.client import Task
from broker.demo.database import lets_in

AT_ONCE = 16


async def of_one_task(measured: Measured, *, leases: int, rounds: int) -> dict[str, float]:
    """Seconds until a task of so many leases has ended, and of Vault alone: medians, in turns."""
    vault, admin = measured.vault(), measured.stack.vault.admin()
    ours: list[float] = []
    bare: list[float] = []
    async with _room(measured, leases=leases), measured.broker() as broker:
        for _ in range(rounds):
            async with broker.task(TASK_TYPE, intent="bench", roles=[ROLE]) as task:
                held = await _acquire(task, leases)
                began = time.perf_counter()
                await task.complete()
                ours.append(time.perf_counter() - began)
                assert not await lets_in(held[-1])
            ids = [vault.read(VAULT_PATH)["lease_id"] for _ in range(leases)]
            began = time.perf_counter()
            for lease_id in ids:
                admin.adapter.put("/v1/sys/leases/revoke", json={"lease_id": lease_id, "sync": True})
            bare.append(time.perf_counter() - began)
    return {
        f"revoke.rounds_{leases}": rounds,
        f"revoke.{leases}_ours_s": median(ours),
        f"revoke.{leases}_vault_s": median(bare),
        f"revoke.{leases}_ratio": median(one / other for one, other in zip(ours, bare, strict=True)),
    }


async def storm(measured: Measured, *, leases: int, tasks: int) -> dict[str, float]:
    """p99 of an acquire while so many leases of so many tasks are revoked at once, and before that; and how long a release
    takes then, which has to pass by all that waits."""
    each = leases // tasks
    async with _room(measured, leases=500), AsyncExitStack() as block:
        bystander = await block.enter_async_context(measured.broker())
        before, mine = [
            await block.enter_async_context(bystander.task(TASK_TYPE, intent="bench", roles=[ROLE]))
            for _ in range(2)
        ]
        doomed: list[Task] = []
        for _ in range(tasks):
            other = await block.enter_async_context(measured.broker())
            doomed.append(
                await block.enter_async_context(other.task(TASK_TYPE, intent="bench", roles=[ROLE]))
            )
            await _acquire(doomed[-1], each)
        usual = [await _timed_acquire(before) for _ in range(300)]
        release = await mine.acquire(ROLE)
        began = time.perf_counter()
        ending = asyncio.gather(*(task.complete() for task in doomed))
        meanwhile = [await _timed_acquire(mine)]
        released = time.perf_counter()
        await release.release()
        released = time.perf_counter() - released
        while not ending.done() and len(meanwhile) < 450:
            meanwhile.append(await _timed_acquire(mine))
        await ending
        lasted = time.perf_counter() - began
    return {
        "storm.leases": leases,
        "storm.lasted_s": lasted,
        "storm.acquires_meanwhile": len(meanwhile),
        "storm.release_ms": released * 1000,
        "storm.usual_p99_ms": percentile(usual, 99) * 1000,
        "storm.usual_p50_ms": percentile(usual, 50) * 1000,
        "storm.issue_p50_ms": percentile(meanwhile, 50) * 1000,
        "storm.issue_p99_ms": percentile(meanwhile, 99) * 1000,
        "storm.issue_p99_ratio": percentile(meanwhile, 99) / percentile(usual, 99),
    }


async def _timed_acquire(task: Task) -> float:
    """As an agent that works: with a pause, and what it has it keeps."""
    await asyncio.sleep(0.01)
    began = time.perf_counter()
    await task.acquire(ROLE)
    return time.perf_counter() - began


async def _acquire(task: Task, leases: int) -> list[str]:
    at_once = asyncio.Semaphore(AT_ONCE)

    async def one() -> str:
        async with at_once:
            return (await task.acquire(ROLE)).dsn("orders")

    return list(await asyncio.gather(*(one() for _ in range(leases))))


@asynccontextmanager
async def _room(measured: Measured, *, leases: int) -> AsyncIterator[None]:
    """The catalog lets a task have so many leases meanwhile; the broker takes that up without a restart."""
    (file,) = measured.stack.broker.catalog.glob("*.yaml")
    before = file.read_text()
    file.write_text(before.replace("max_leases: 25", f"max_leases: {leases}"))
    await asyncio.sleep(2.5)
    try:
        yield
    finally:
        file.write_text(before)
        await asyncio.sleep(2.5)
