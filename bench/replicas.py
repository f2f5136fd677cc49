"""Two replicas on PostgreSQL against one of them, on the same work, and what Vault does by itself beside them.

The stack is one of its own, with both replicas up all the time: agents go to the first alone, or half of them to each. Rounds
take turns, and the ratio is the median of the rounds'. Clients, replicas, Vault and PostgreSQL share the machine's cores, so
what can be seen here is whether the second costs anything, not what it would bring on a machine of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from statistics import median

from bench.acquire import broker_round, direct_round
from bench.figures import percentile
from bench.stack import VAULT_PATH, measured
from broker.client import Broker
from broker.devstack.parts import Say


async def one_and_two(say: Say, *, clients: int, each: int, rounds: int) -> dict[str, float]:
    """Credentials a second by one replica, by two, and by Vault when called directly."""
    per_s: dict[str, list[float]] = {"one": [], "two": [], "direct": []}
    times: dict[str, list[float]] = {"one": [], "two": []}
    with measured(say, replicas=2) as stack:
        admin = stack.stack.vault.admin()
        addresses = [replica.address for replica in stack.stack.brokers]
        vaults = [stack.vault() for _ in range(clients)]
        async with AsyncExitStack() as block:
            ways: dict[str, Sequence[Broker]] = {
                "one": [await block.enter_async_context(stack.broker(addresses[0])) for _ in range(clients)],
                "two": [
                    await block.enter_async_context(stack.broker(addresses[number % 2]))
                    for number in range(clients)
                ],
            }
            with ThreadPoolExecutor(clients) as pool:
                for number in range(rounds + 1):
                    # Whoever comes second finds the machine as the first left it: so they take turns in that as well.
                    for way in ("one", "two") if number % 2 else ("two", "one"):
                        seconds, took = await broker_round(ways[way], each)
                        if number:  # the first warms up
                            per_s[way].append(clients * each / seconds)
                            times[way] += took
                    seconds, _ = await direct_round(vaults, pool, each)
                    admin.adapter.put(f"/v1/sys/leases/revoke-prefix/{VAULT_PATH}", json={"sync": True})
                    if number:
                        per_s["direct"].append(clients * each / seconds)
    return {
        "replicas.rounds": rounds,
        **{f"replicas.{way}_per_s": median(found) for way, found in per_s.items()},
        **{f"replicas.{way}_p99_ms": percentile(found, 99) * 1000 for way, found in times.items()},
        "replicas.throughput_ratio_2": median(
            two / one for two, one in zip(per_s["two"], per_s["one"], strict=True)
        ),
    }
