"""Writes to a store until it is killed, and says which commits it was told are durable.

`python -m tests.integration.store.writer FILE` prints `ready`, then a number for every acknowledged commit. With a
second argument it does what that says once, and ends: see `ACTS`.
"""

from __future__ import annotations

import asyncio
import itertools
import resource
import signal
import sys
from pathlib import Path

from broker.adapters.store.sqlite import SqliteStore, StoreInUseError
from broker.domain.changes import Append, CreateTask, EndTask, FinishTask, RecordFinding
from broker.domain.errors import StoreUnavailableError
from broker.domain.identifiers import TaskId
from tests.contract.finding import a_finding
from tests.fakes.samples import a_task, an_end, an_event

CLIENTS = 8


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def write(store: SqliteStore, number: int) -> None:
    """One commit of several changes."""
    task_id = TaskId(f"task-{number:08}")
    await store.commit(
        [
            CreateTask(task=a_task(task_id), max_live=10_000),
            RecordFinding(finding=a_finding(task_id=task_id)),
            Append(event=an_event(task_id=task_id, facts={"n": number})),
            EndTask(task_id=task_id, end=an_end()),
            FinishTask(task_id=task_id, at=an_end().at),
        ]
    )


async def without_end(path: Path) -> None:
    """Several clients that commit as fast as they can."""
    store = SqliteStore.open(f"sqlite:///{path}")
    head = await store.audit_head()
    numbers = itertools.count(head.sequence * 10 if head else 0)
    say("ready")

    async def client() -> None:
        for number in numbers:
            await write(store, number)
            say(number)

    async with asyncio.TaskGroup() as clients:
        for _ in range(CLIENTS):
            clients.create_task(client())


async def open_it(path: Path) -> None:
    """Open the file, or say that somebody else has it."""
    try:
        store = SqliteStore.open(f"sqlite:///{path}")
    except StoreInUseError:
        say("in use")
        return
    await store.close()
    say("opened")


async def on_a_full_disk(path: Path) -> None:
    """Commit, have the disk full, commit again when it is not."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    store = SqliteStore.open(f"sqlite:///{path}")
    await write(store, 0)
    say("written", len(await store.audit_records(0, 99)))
    wal = path.with_name(path.name + "-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (wal, resource.RLIM_INFINITY))
    for number in (1, 2):
        try:
            await write(store, number)
        except StoreUnavailableError as error:
            say(error.reason, await store.task(TaskId(f"task-{number:08}")))
    say("readable", len(await store.audit_records(0, 99)))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await write(store, 3)
    say("written", len(await store.audit_records(0, 99)))
    await store.close()


ACTS = {"open": open_it, "full": on_a_full_disk}

if __name__ == "__main__":
    file = Path(sys.argv[1])
    asyncio.run(ACTS[sys.argv[2]](file) if len(sys.argv) > 2 else without_end(file))
