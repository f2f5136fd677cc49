"""Acquire through the broker against a direct read of the same Vault role.

With one client the two alternate, so that both meet the same machine; with sixteen they take turns in rounds. Giving
back what was acquired is not timed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from statistics import median
from typing import Any

import hvac

from bench.figures import percentile
from bench.stack import ROLE, TASK_TYPE, VAULT_PATH, Measured
from broker.client import Task

WARM_UP = 20


async def one_client(measured: Measured, runs: int) -> dict[str, float]:
    """p50 and p99 of `runs` of each, alternating."""
    vault, admin = measured.vault(), measured.stack.vault.admin()
    direct: list[float] = []
    ours: list[float] = []
    async with measured.broker() as broker, broker.task(TASK_TYPE, intent="bench", roles=[ROLE]) as task:
        for run in range(WARM_UP + runs):
            began = time.perf_counter()
            answer = vault.read(VAULT_PATH)
            read = time.perf_counter() - began
            # Synchronously, as a release is: else Vault would still be revoking while the broker acquires.
            admin.adapter.put("/v1/sys/leases/revoke", json={"lease_id": answer["lease_id"], "sync": True})
            began = time.perf_counter()
            credential = await task.acquire(ROLE)
            acquired = time.perf_counter() - began
            await credential.release()
            if run >= WARM_UP:
                direct.append(read)
                ours.append(acquired)
    return {
        "acquire.runs_1": runs,
        "acquire.direct_p50_ms_1": percentile(direct, 50) * 1000,
        "acquire.direct_p99_ms_1": percentile(direct, 99) * 1000,
        "acquire.broker_p50_ms_1": percentile(ours, 50) * 1000,
        "acquire.broker_p99_ms_1": percentile(ours, 99) * 1000,
        "acquire.p50_ratio_1": percentile(ours, 50) / percentile(direct, 50),
        "acquire.p99_ratio_1": percentile(ours, 99) / percentile(direct, 99),
    }


async def many_clients(measured: Measured, *, clients: int, each: int, rounds: int) -> dict[str, float]:
    """Credentials a second with all clients at once: rounds of both, and the median of the rounds' ratios."""
    vaults = [measured.vault() for _ in range(clients)]
    admin = measured.stack.vault.admin()
    direct: list[float] = []
    ours: list[float] = []
    taken: dict[str, list[float]] = {"direct": [], "broker": []}
    async with AsyncExitStack() as block:
        brokers = [await block.enter_async_context(measured.broker()) for _ in range(clients)]
        with ThreadPoolExecutor(clients) as pool:
            for number in range(rounds + 1):
                seconds, times = await direct_round(vaults, pool, each)
                admin.adapter.put(f"/v1/sys/leases/revoke-prefix/{VAULT_PATH}", json={"sync": True})
                mine, my_times = await broker_round(brokers, each)
                if number:  # the first warms up
                    direct.append(clients * each / seconds)
                    ours.append(clients * each / mine)
                    taken["direct"] += times
                    taken["broker"] += my_times
    return {
        f"acquire.rounds_{clients}": rounds,
        f"acquire.runs_{clients}": rounds * clients * each,
        f"acquire.direct_per_s_{clients}": median(direct),
        f"acquire.broker_per_s_{clients}": median(ours),
        f"acquire.direct_p50_ms_{clients}": percentile(taken["direct"], 50) * 1000,
        f"acquire.broker_p50_ms_{clients}": percentile(taken["broker"], 50) * 1000,
        f"acquire.direct_p99_ms_{clients}": percentile(taken["direct"], 99) * 1000,
        f"acquire.broker_p99_ms_{clients}": percentile(taken["broker"], 99) * 1000,
        f"acquire.throughput_ratio_{clients}": median(
            mine / bare for mine, bare in zip(ours, direct, strict=True)
        ),
    }


async def direct_round(
    vaults: Sequence[hvac.Client], pool: ThreadPoolExecutor, each: int
) -> tuple[float, list[float]]:
    """All of them read at once: how long it took together, and each by itself."""

    def client(vault: hvac.Client) -> list[float]:
        times = []
        for _ in range(each):
            began = time.perf_counter()
            vault.read(VAULT_PATH)
            times.append(time.perf_counter() - began)
        return times

    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    found = await asyncio.gather(*(loop.run_in_executor(pool, client, vault) for vault in vaults))
    return time.perf_counter() - began, [one for times in found for one in times]


async def broker_round(brokers: Sequence[Any], each: int) -> tuple[float, list[float]]:
    """All of them acquire at once, a task each: how long it took together, and each by itself."""
    async with AsyncExitStack() as block:
        tasks: list[Task] = [
            await block.enter_async_context(broker.task(TASK_TYPE, intent="bench", roles=[ROLE]))
            for broker in brokers
        ]

        async def client(task: Task) -> list[float]:
            return [await timed(lambda: task.acquire(ROLE)) for _ in range(each)]

        began = time.perf_counter()
        found = await asyncio.gather(*(client(task) for task in tasks))
        took = time.perf_counter() - began
    return took, [one for times in found for one in times]


async def timed(call: Callable[[], Awaitable[object]]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    await call()
    return time.perf_counter() - began
