"""Acquire and complete with a hundred thousand live leases in the store, against a thousand; and the broker's memory.

The leases are rows of other instances' tasks, written into the file while the broker is stopped, alive for half a day, as
those of a large fleet between two renewals would be. All of them have the id of one lease that Vault really holds, so that
the broker, which reconciles meanwhile, finds each of them there. What is measured is real: SPIRE, Vault and PostgreSQL.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from statistics import median

from bench.stack import ROLE, TASK_TYPE, VAULT_PATH, Measured

FEW = 1_000
EACH = 100
"""Leases a task."""


async def with_leases(measured: Measured, *, many: int, runs: int) -> dict[str, float]:
    """Medians with few and with many, their ratios, and the broker's resident memory (MiB) after each."""
    found: dict[str, float] = {"scale.runs": runs, "scale.leases": many}
    lease = _a_lease(measured)
    for name, count in (("few", FEW), ("many", many)):
        await asyncio.to_thread(_fill, measured, count, lease)
        acquire, complete = await _measure(measured, runs)
        found |= {
            f"scale.acquire_{name}_ms": median(acquire) * 1000,
            f"scale.complete_{name}_ms": median(complete) * 1000,
            f"scale.memory_{name}_mib": _memory(measured),
        }
    label = f"{many // 1000}k"
    found[f"scale.acquire_{label}_ratio"] = found["scale.acquire_many_ms"] / found["scale.acquire_few_ms"]
    found[f"scale.complete_{label}_ratio"] = found["scale.complete_many_ms"] / found["scale.complete_few_ms"]
    return found


async def _measure(measured: Measured, runs: int) -> tuple[list[float], list[float]]:
    acquires: list[float] = []
    completes: list[float] = []
    async with measured.broker() as broker:
        for _ in range(runs):
            async with broker.task(TASK_TYPE, intent="bench", roles=[ROLE]) as task:
                began = time.perf_counter()
                await task.acquire(ROLE)
                acquires.append(time.perf_counter() - began)
                began = time.perf_counter()
                await task.complete()
                completes.append(time.perf_counter() - began)
    return acquires[runs // 5 :], completes[runs // 5 :]  # the first warm up


def _a_lease(measured: Measured) -> str:
    """One that Vault holds until long after all of this."""
    made = measured.vault().read(VAULT_PATH)
    measured.stack.vault.admin().sys.renew_lease(made["lease_id"], increment=7200)
    return str(made["lease_id"])


def _fill(measured: Measured, count: int, vault_lease_id: str) -> None:
    broker = measured.stack.broker
    measured.stack.stop_part("broker")
    now = time.time_ns() // 1000
    half_a_day = 12 * 3600 * 1_000_000
    with closing(sqlite3.connect(broker.folder / "broker.db")) as db, db:
        (there,) = db.execute("SELECT count(*) FROM tasks WHERE task_id LIKE 'task-fleet-%'").fetchone()
        for task in range(there, count // EACH):
            owner = f"spiffe://dev.tasklease.test/agent/invoice-bot/fleet-{task}"
            db.execute(
                "INSERT INTO tasks (task_id, owner, agent_class, task_type, intent, roles, environment, created_at,"
                " deadline, heartbeat_interval_us, heartbeat_due, fingerprint, request_digest, state)"
                " VALUES (?, ?, 'invoice-bot', ?, 'fleet', ?, 'staging', ?, ?, 10000000, ?, x'', '', 'active')",
                (
                    f"task-fleet-{task}",
                    owner,
                    TASK_TYPE,
                    f'["{ROLE}"]',
                    now,
                    now + 2 * half_a_day,
                    now + half_a_day,
                ),
            )
            db.executemany(
                "INSERT INTO leases (lease_id, task_id, role, idempotency_key, request_digest, accessor, intended_at,"
                " max_expires_at, state, vault_lease_id, renewable, issued_at, expires_at, attempts)"
                " VALUES (?, ?, ?, ?, '', 'fleet', ?, ?, 'live', ?, 1, ?, ?, 0)",
                [
                    (
                        *(f"lease-fleet-{task}-{lease}", f"task-fleet-{task}", ROLE, f"key-{lease}", now),
                        *(now + 2 * half_a_day, vault_lease_id, now, now + half_a_day),
                    )
                    for lease in range(EACH)
                ],
            )
    measured.stack.start_part("broker")


def _memory(measured: Measured) -> float:
    (pid,) = [part.pid for part in measured.stack.status() if part.name == "broker"]
    (line,) = [
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")
    ]
    return int(line.split()[1]) / 1024
