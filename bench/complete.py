"""The time from `complete` until PostgreSQL itself refuses everything that the task held."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from bench.figures import percentile
from bench.stack import ROLE, TASK_TYPE, Measured
from broker.demo.database import lets_in


async def until_refused(measured: Measured, *, leases: int, runs: int) -> dict[str, float]:
    """p50 and p99 (seconds) for tasks that hold so many leases; every credential is tried, before and after."""
    refused: list[float] = []
    answered: list[float] = []
    async with measured.broker() as broker:
        for _ in range(runs):
            async with broker.task(TASK_TYPE, intent="bench", roles=[ROLE]) as task:
                held = [(await task.acquire(ROLE)).dsn("orders") for _ in range(leases)]
                for dsn in held:
                    assert await lets_in(dsn), "PostgreSQL refuses a live credential"
                began = time.perf_counter()
                watching = asyncio.create_task(all_refused_after(held, began))
                await task.complete()
                answered.append(time.perf_counter() - began)
                refused.append(await watching)
                assert not [dsn for dsn in held if await lets_in(dsn)], "a credential came back to life"
    return {
        f"complete.runs_{leases}": runs,
        f"complete.answered_p50_s_{leases}": percentile(answered, 50),
        f"complete.refused_p50_s_{leases}": percentile(refused, 50),
        f"complete.refused_p99_s_{leases}": percentile(refused, 99),
        f"complete.refused_max_s_{leases}": max(refused),
    }


async def all_refused_after(held: Sequence[str], began: float) -> float:
    """Try one after the other, again and again, until the last is refused: trying all at once would be a load."""
    for dsn in held:
        while await lets_in(dsn):  # noqa: ASYNC110 - PostgreSQL can only be asked
            await asyncio.sleep(0.002)
    return time.perf_counter() - began
