"""Where the time of one acquire goes: the broker notes when it reaches each step of a credential's life."""

from __future__ import annotations

import os
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Final

from bench.stack import ROLE, TASK_TYPE, Measured

_PARTS: Final = (
    ("request", "acquire.decided", "SDK, gRPC, TLS, verify, read the task, decide"),
    ("intent", "acquire.intent-durable", "decision and intent durable (one fsync)"),
    ("vault", "acquire.vault-issued", "Vault and PostgreSQL make the credential"),
    ("issue", "acquire.issued-durable", "lease id and audit durable (one fsync)"),
    ("answer", "", "the answer on its way back"),
)
WARM_UP: Final = 20


async def where_it_goes(
    measured: Measured, folder: Path, runs: int
) -> tuple[dict[str, float], list[list[str]]]:
    """Medians of each part (figures and rows of a table), with one client, in a broker of its own start."""
    file = folder / "steps"
    os.environ["STEPS_FILE"] = str(file)
    measured.stack.stop_part("broker")
    measured.stack.broker.start(module="bench.timed_broker")
    times: list[list[float]] = []
    async with measured.broker() as broker, broker.task(TASK_TYPE, intent="bench", roles=[ROLE]) as task:
        for _ in range(WARM_UP + runs):
            file_at = file.stat().st_size
            began = time.perf_counter()
            credential = await task.acquire(ROLE)
            ended = time.perf_counter()
            noted = dict(line.split() for line in file.read_text()[file_at:].splitlines())
            reached = [began, *(float(noted[step]) for _, step, _ in _PARTS if step), ended]
            times.append([after - before for before, after in pairwise(reached)])
            await credential.release()
    measured.stack.stop_part("broker")
    measured.stack.broker.start()
    parts = [median(part) * 1000 for part in zip(*times[WARM_UP:], strict=True)]
    figures = {f"acquire.part_{name}_p50_ms": part for (name, _, _), part in zip(_PARTS, parts, strict=True)}
    rows = [[what, f"{part:.2f} ms"] for (_, _, what), part in zip(_PARTS, parts, strict=True)]
    return figures, rows
