"""Real processes on one file: killed at any moment, two at a time, on a disk that is full."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from broker.adapters.store.sqlite import SqliteStore
from broker.domain.audit import AuditRecord, ChainHead, verify_chain
from broker.domain.identifiers import TaskId
from broker.domain.task import TaskState

WRITER = [sys.executable, "-m", "tests.integration.store.writer"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "broker.db"


@contextmanager
def writing(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that writes as fast as it can."""
    with subprocess.Popen([*WRITER, str(path)], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def lines_of(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stdout is not None
    return (line.rstrip("\n") for line in process.stdout if line.endswith("\n"))


def act(path: Path, what: str) -> list[str]:
    done = subprocess.run([*WRITER, str(path), what], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.splitlines()


async def trail_of(path: Path) -> tuple[AuditRecord, ...]:
    """The trail, which is intact, of a database that is sound."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    store = SqliteStore.open(f"sqlite:///{path}")
    records = await store.audit_records(0, 1_000_000)
    head = verify_chain(records)
    assert isinstance(head, ChainHead)
    assert head == await store.audit_head()
    for record in records:
        task = await store.task(TaskId(record.event.task_id))
        assert task is not None
        assert task.state is TaskState.ENDED  # the last change of the same commit
    found = await store.findings_after(0, 1_000_000)
    assert [one.number for one in found] == list(range(1, len(records) + 1))
    assert [one.found.task_id for one in found] == [record.event.task_id for record in records]
    await store.close()
    return records


@pytest.mark.parametrize("commits", [1, 20, 300])
async def test_a_writer_that_is_killed_loses_no_acknowledged_commit(path: Path, commits: int) -> None:
    acknowledged: set[int] = set()
    for _ in range(2):  # the second goes on where the first was killed
        fresh: set[int] = set()
        with writing(path) as process:
            lines = lines_of(process)
            assert next(lines) == "ready"
            while len(fresh) < commits:
                fresh.add(int(next(lines)))
            process.send_signal(signal.SIGKILL)
            fresh |= {int(line) for line in lines}
            assert process.wait(10) == -signal.SIGKILL
        acknowledged |= fresh
        found = {record.event.facts["n"] for record in await trail_of(path)}
        assert acknowledged <= found


async def test_a_second_process_on_the_same_file_is_refused_until_the_first_is_gone(path: Path) -> None:
    with writing(path) as process:
        lines = lines_of(process)
        assert next(lines) == "ready"
        assert act(path, "open") == ["in use"]
        reader = SqliteStore.open(f"sqlite:///{path}", read_only=True)
        seen = int(next(lines))
        assert await reader.task(TaskId(f"task-{seen:08}")) is not None
        await reader.close()
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    assert act(path, "open") == ["opened"]


async def test_on_a_full_disk_commits_are_unavailable_and_nothing_is_corrupted(path: Path) -> None:
    assert act(path, "full") == [
        "written 1",
        "STORE_UNAVAILABLE None",
        "STORE_UNAVAILABLE None",
        "readable 1",
        "written 2",
    ]
    assert [record.event.facts["n"] for record in await trail_of(path)] == [0, 3]
