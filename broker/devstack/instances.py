"""Runs a command as an agent instance of the stack, with a SPIFFE ID of its own for as long as it runs.

What always holds: the entry is gone when the command has ended, whatever way it ended; where this process itself was
killed, the next one to come (another instance, or `up`) deletes what it left. No two instances that run have one name.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Final

from broker.devstack.parts import Say
from broker.devstack.processes import start_time
from broker.devstack.spire import Entry, Spire, SpireError
from broker.devstack.state import State

_FORWARDED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_BY_SIGNAL: Final = 128


class InstanceError(Exception):
    """The instance cannot be run; the message says why."""


class Instances:
    """The instances that commands of this machine run."""

    def __init__(self, state: State, spire: Spire, say: Say) -> None:
        self._say = say
        self._state = state
        self._spire = spire
        self._folder = state.folder / "instances"

    def run(
        self,
        agent_class: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        instance: str = "",
        started: Callable[[Entry], None] = lambda _entry: None,
    ) -> int:
        """Run the command as an instance of the class until it ends; signals are passed on to it.

        Returns its exit code, and 128 + N where signal N ended it.

        Raises:
            InstanceError: an instance of that name runs already.
            SpireError: SPIRE does not do what it must.
        """
        process: subprocess.Popen[bytes] | None = None
        early: list[int] = []

        # Raises nothing: whatever it interrupts, above all the deletion of the entry, goes on.
        def forward(number: int, _frame: FrameType | None) -> None:
            if process is None:
                early.append(number)
            elif number not in {signal.SIGINT, signal.SIGQUIT} or not _terminal_is_ours():
                process.send_signal(number)  # else the terminal sent it to the command as well

        before = {number: signal.signal(number, forward) for number in _FORWARDED}
        try:
            with self._state.locked():
                self.end_lost()
                entry = self._register(agent_class, instance or f"dev-{secrets.token_hex(4)}")
            try:
                self._spire.wait_for_identity(entry, given_up=lambda: bool(early))
                if early:
                    return _BY_SIGNAL + early[0]
                started(entry)
                process = subprocess.Popen(
                    command, extra_groups=[*os.getgroups(), entry.group], env=dict(environment)
                )
                if early:  # between the last look and the assignment
                    process.send_signal(early[0])
                code = process.wait()
            finally:
                self._end(entry)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return code if code >= 0 else _BY_SIGNAL - code

    def end_lost(self) -> None:
        """Delete the entries of instances whose starter is dead."""
        for record in self._records():
            content = _read(record)
            pid = content.get("pid")
            if isinstance(pid, int) and start_time(pid) == content.get("started"):
                continue
            entry_id = content.get("entry_id")
            if isinstance(entry_id, str):
                try:
                    self._spire.delete(entry_id)
                except SpireError as error:
                    # An entry that is gone already is as it should be.
                    if "NotFound" not in str(error):
                        raise
            record.unlink(missing_ok=True)

    def _register(self, agent_class: str, instance: str) -> Entry:
        spiffe_id = self._spire.instance_id(agent_class, instance)
        if any(_read(record).get("spiffe_id") == spiffe_id for record in self._records()):
            message = f"an instance {spiffe_id} runs already: give another name"
            raise InstanceError(message)
        entry = self._spire.register_instance(agent_class, instance, x509_ttl=timedelta(minutes=10))
        self._folder.mkdir(exist_ok=True, mode=0o700)
        record = {
            "entry_id": entry.entry_id,
            "spiffe_id": entry.spiffe_id,
            "pid": os.getpid(),
            "started": start_time(os.getpid()),
        }
        self._record(entry).write_text(json.dumps(record))
        return entry

    def _end(self, entry: Entry) -> None:
        """Delete the entry. When SPIRE is away, the record stays for `end_lost`."""
        try:
            self._spire.deregister(entry)
        except SpireError as error:
            self._say(f"the entry of {entry.spiffe_id} is left for the next start: {error}")
            return
        self._record(entry).unlink(missing_ok=True)

    def _records(self) -> list[Path]:
        return sorted(self._folder.glob("*.json"))

    def _record(self, entry: Entry) -> Path:
        return self._folder / f"{entry.entry_id}.json"


def _read(record: Path) -> dict[str, object]:
    try:
        content = json.loads(record.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _terminal_is_ours() -> bool:
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError):
        return False
