"""Processes that are started, found again and stopped: with real ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.devstack.processes import Processes, start_time

SLEEP = ["/bin/sleep", "300"]


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    found = Processes(tmp_path)
    yield found
    for name in ("a", "b"):
        found.find_lost([name])
        found.kill(name)


def test_a_process_is_found_again_by_somebody_else(processes: Processes, tmp_path: Path) -> None:
    started = processes.start("a", SLEEP, environment={})
    assert Processes(tmp_path).running("a") == started


def test_one_that_runs_is_left_alone(processes: Processes) -> None:
    assert processes.start("a", SLEEP, environment={}) == processes.start("a", SLEEP, environment={})


def test_one_that_was_started_with_other_settings_is_started_anew(processes: Processes) -> None:
    before = processes.start("a", SLEEP, environment={}, settings=["port 1"])
    after = processes.start("a", SLEEP, environment={}, settings=["port 2"])
    assert after != before
    assert start_time(before.pid) is None


def test_a_recycled_pid_is_not_taken_for_ours_and_never_signalled(
    processes: Processes, tmp_path: Path
) -> None:
    with subprocess.Popen(SLEEP) as innocent:
        record = {"pid": innocent.pid, "started": "1", "made_of": ""}
        (tmp_path / "a.pid.json").write_text(json.dumps(record))
        assert processes.running("a") is None
        processes.stop("a")
        processes.kill("a")
        assert innocent.poll() is None
        innocent.kill()


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"pid": "x", "started": "1"}', '{"started": "1"}', "null"]
)
def test_a_broken_record_is_no_record(processes: Processes, tmp_path: Path, content: str) -> None:
    (tmp_path / "a.pid.json").write_text(content)
    assert processes.running("a") is None
    assert processes.start("a", SLEEP, environment={}).pid > 0


def test_a_process_whose_record_was_lost_is_found_by_its_mark_and_not_started_twice(
    processes: Processes, tmp_path: Path
) -> None:
    # A child of it bears the mark as well, and is not it.
    started = processes.start("a", ["/bin/sh", "-c", "/bin/sleep 300 & wait"], environment={})
    (tmp_path / "a.pid.json").unlink()
    # A program that starts shows its environment a moment after it took over the process.
    wait_until(lambda: Path(f"/proc/{started.pid}/environ").read_bytes() != b"")
    again = Processes(tmp_path)
    assert again.running("a") is None
    again.find_lost(["a", "b"])
    assert again.running("a") == started
    assert again.running("b") is None


def test_another_folders_process_of_the_same_name_is_not_taken(processes: Processes, tmp_path: Path) -> None:
    processes.start("a", SLEEP, environment={})
    other = Processes(tmp_path / "other")
    other.find_lost(["a"])
    assert other.running("a") is None


def test_one_that_does_not_want_to_stop_is_killed(processes: Processes) -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(300)"
    started = processes.start("a", [sys.executable, "-c", code], environment={})
    wait_until(lambda: "ready" in processes.log_file("a").read_text())
    processes.stop("a", patience=0.3)
    assert start_time(started.pid) is None


def test_one_that_was_suspended_is_stopped_in_order(processes: Processes) -> None:
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('in order', flush=True), sys.exit(0)))\n"
        "print('ready', flush=True)\ntime.sleep(300)"
    )
    started = processes.start("a", [sys.executable, "-c", code], environment={})
    wait_until(lambda: "ready" in processes.log_file("a").read_text())
    os.kill(started.pid, signal.SIGSTOP)
    processes.stop("a")
    assert "in order" in processes.log_file("a").read_text()


def test_one_that_ended_is_not_running_even_before_it_is_reaped(processes: Processes) -> None:
    started = processes.start("a", ["/bin/true"], environment={})
    wait_until(lambda: processes.running("a") is None)
    assert start_time(started.pid) is None


def wait_until(condition: object) -> None:
    assert callable(condition)
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
