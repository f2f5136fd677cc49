"""Starts and stops the parts' processes, and finds them again after a crash of whoever started them.

What always holds: a signal is sent only to a process whose pid *and* start time are the recorded ones, so a
recycled pid is never hit; every process has a log file; nothing is killed by name.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A process that was started and is alive."""

    name: str
    pid: int


class Processes:
    """The processes of one state folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def log_file(self, name: str) -> Path:
        """Where the part's output goes."""
        return self._folder / f"{name}.log"

    def running(self, name: str) -> Running | None:
        """The part's process, if the recorded one is alive."""
        try:
            record = json.loads(self._record(name).read_text())
            pid, started = int(record["pid"]), str(record["started"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return Running(name=name, pid=pid) if _start_time(pid) == started else None

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        environment: Mapping[str, str] | None = None,
        user: str | None = None,
        groups: Sequence[int] | None = None,
        cwd: Path | None = None,
    ) -> Running:
        """Start the part in a session of its own, unless it is running; its output is appended to its log."""
        already = self.running(name)
        if already is not None:
            return already
        self._folder.mkdir(parents=True, exist_ok=True)
        with self.log_file(name).open("ab") as log:
            process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(environment) if environment is not None else None,
                user=user,
                extra_groups=list(groups) if groups is not None else None,
                cwd=cwd,
                start_new_session=True,
            )
        self.adopt(name, process.pid)
        # Reaped here if it dies while we live; by init if it outlives us.
        _children[process.pid] = process
        return Running(name=name, pid=process.pid)

    def adopt(self, name: str, pid: int) -> None:
        """Record a process that somebody else started as the part's."""
        record = {"pid": pid, "started": _start_time(pid)}
        new = self._record(name).with_suffix(".new")
        new.write_text(json.dumps(record))
        new.replace(self._record(name))

    def stop(self, name: str, *, how: signal.Signals = signal.SIGTERM, patience: float = 10.0) -> None:
        """Stop the part: `how`, and SIGKILL when it has not gone after `patience` seconds."""
        if (process := self.running(name)) is not None:
            _signal(process.pid, how)
            end = time.monotonic() + patience
            while self.running(name) is not None and time.monotonic() < end:
                _reap(process.pid)
                time.sleep(0.02)
            if self.running(name) is not None:
                _signal(process.pid, signal.SIGKILL)
                while self.running(name) is not None:
                    _reap(process.pid)
                    time.sleep(0.02)
        self._record(name).unlink(missing_ok=True)

    def kill(self, name: str) -> None:
        """SIGKILL, at once."""
        self.stop(name, how=signal.SIGKILL)

    def _record(self, name: str) -> Path:
        return self._folder / f"{name}.pid.json"


_children: dict[int, subprocess.Popen[bytes]] = {}


def _reap(pid: int) -> None:
    child = _children.get(pid)
    if child is not None and child.poll() is not None:
        del _children[pid]


def _signal(pid: int, how: signal.Signals) -> None:
    try:
        os.kill(pid, how)
    except ProcessLookupError:
        return


def _start_time(pid: int) -> str | None:
    """When the process started, in ticks since boot; None when it is gone or only waits to be reaped."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] in {"Z", "X"} else fields[19]
