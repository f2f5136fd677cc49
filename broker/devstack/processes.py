"""Starts and stops the parts' processes, and finds them again after a crash of whoever started them.

What always holds: a signal is sent only to a process whose pid *and* start time are the recorded ones, so a
recycled pid is never hit; every process has a log file; nothing is killed by name. A process whose record was lost
(the starter died between starting it and writing that down) is found by the mark that it bears in its environment.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_MARK: Final = "TASKLEASE_DEV_PART"
_PROC: Final = Path("/proc")
_ENDED: Final = frozenset("ZX")


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A process that was started and is alive."""

    name: str
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stat:
    parent: int
    started: str


class Processes:
    """The processes of one state folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def log_file(self, name: str) -> Path:
        """Where the part's output goes."""
        return self._folder / f"{name}.log"

    def running(self, name: str) -> Running | None:
        """The part's process, if the recorded one is alive."""
        record = self._read(name)
        try:
            pid, started = int(record["pid"]), record["started"]
        except (ValueError, KeyError):
            return None
        stat = _stat(pid)
        return Running(name=name, pid=pid) if stat is not None and stat.started == started else None

    def start(  # noqa: PLR0913 - what a process is made of
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        environment: Mapping[str, str],
        settings: Sequence[str] = (),
        user: str | None = None,
        groups: Sequence[int] | None = None,
    ) -> Running:
        """Start the part in a session of its own; its output is appended to its log.

        One that runs already is left alone, unless it was started with another command or other `settings` (what
        it read at its start: addresses, a configuration file): then it is stopped first.
        """
        words = [str(word) for word in command]
        made_of = _digest([*words, *settings])
        self.find_lost([name])
        if (already := self.running(name)) is not None:
            if self._read(name).get("made_of") == made_of:
                return already
            self.stop(name)
        self._folder.mkdir(parents=True, exist_ok=True)
        with self.log_file(name).open("ab") as log:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**environment, _MARK: self._mark(name)},
                user=user,
                extra_groups=list(groups) if groups is not None else None,
                cwd="/",  # of a caller whose folder goes away
                start_new_session=True,
            )
        self._write(name, process.pid, made_of)
        # Reaped here if it dies while we live; by init if it outlives us.
        _reap()
        with _lock:
            _children[process.pid] = process
        return Running(name=name, pid=process.pid)

    def stop(self, name: str, *, how: signal.Signals = signal.SIGTERM, patience: float = 10.0) -> None:
        """Stop the part: `how`, and SIGKILL when it has not gone after `patience` seconds."""
        if (process := self.running(name)) is not None:
            _signal(process.pid, how)
            # One that was stopped (SIGSTOP) gets no SIGTERM before it goes on.
            _signal(process.pid, signal.SIGCONT)
            if not self._gone(process, patience):
                _signal(process.pid, signal.SIGKILL)
                self._gone(process, patience)
        self._record(name).unlink(missing_ok=True)

    def kill(self, name: str) -> None:
        """SIGKILL, at once."""
        self.stop(name, how=signal.SIGKILL)

    def find_lost(self, names: Sequence[str]) -> None:
        """Take processes of ours back into the records that were started but never written down."""
        missing = {self._mark(name): name for name in names if self.running(name) is None}
        if not missing:
            return
        marked: dict[int, str] = {}
        for folder in _PROC.iterdir():
            if folder.name.isdigit() and (mark := _mark_of(folder)) in missing:
                marked[int(folder.name)] = mark
        for pid, mark in marked.items():
            stat = _stat(pid)
            if stat is not None and stat.parent not in marked:  # the part itself, not a child of it
                self._write(missing[mark], pid, made_of="")

    def _gone(self, process: Running, patience: float) -> bool:
        end = time.monotonic() + patience
        while self.running(process.name) is not None:
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        _reap()
        return True

    def _mark(self, name: str) -> str:
        return f"{self._folder}:{name}"

    def _record(self, name: str) -> Path:
        return self._folder / f"{name}.pid.json"

    def _read(self, name: str) -> dict[str, str]:
        try:
            record = json.loads(self._record(name).read_text())
        except (OSError, ValueError):
            return {}
        return {str(key): str(value) for key, value in record.items()} if isinstance(record, dict) else {}

    def _write(self, name: str, pid: int, made_of: str) -> None:
        stat = _stat(pid)
        record = {"pid": pid, "started": stat.started if stat else "", "made_of": made_of}
        new = self._record(name).with_suffix(".new")
        new.write_text(json.dumps(record))
        new.replace(self._record(name))


_children: Final[dict[int, subprocess.Popen[bytes]]] = {}
_lock: Final = threading.Lock()


def start_time(pid: int) -> str | None:
    """What tells a process from a later one with the same pid; None when there is none, or it has ended."""
    stat = _stat(pid)
    return stat.started if stat is not None else None


def _reap() -> None:
    """Take the exit codes of those that have ended, so that no zombies are left."""
    with _lock:
        for pid in [pid for pid, child in _children.items() if child.poll() is not None]:
            del _children[pid]


def _signal(pid: int, how: signal.Signals) -> None:
    try:
        os.kill(pid, how)
    except ProcessLookupError:
        return


def _stat(pid: int) -> _Stat | None:
    """None when the process is gone or only waits to be reaped."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return None if fields[0] in _ENDED else _Stat(parent=int(fields[1]), started=fields[19])


def _mark_of(folder: Path) -> str:
    try:
        environment = (folder / "environ").read_bytes()
    except OSError:  # it ended meanwhile, or is not ours to look at
        return ""
    prefix = f"{_MARK}=".encode()
    for variable in environment.split(b"\0"):
        if variable.startswith(prefix):
            return variable.removeprefix(prefix).decode(errors="replace")
    return ""


def _digest(words: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(words).encode()).hexdigest()
