"""The processes of this machine, from /proc.

What always holds: a process is named by its id and its start, so a pid that came again is never taken for it; a group
is emptied by killing each process that has it, seen by a descriptor of that very process, until none has.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from typing import Final

from broker.domain.launching import Holder

_ROUNDS: Final = 200
_PAUSE: Final = 0.01
_ENDED: Final = "ZX"


class ProcNode:
    """Implements ports.launching.Node."""

    def myself(self) -> Holder:
        """This process."""
        pid = os.getpid()
        return Holder(pid=pid, started=_started(pid) or "")

    def is_alive(self, holder: Holder) -> bool:
        """See ports.launching."""
        return bool(holder.started) and _started(holder.pid) == holder.started

    def groups_in_use(self) -> frozenset[int]:
        """See ports.launching."""
        return frozenset(group for _, groups in all_groups() for group in groups)

    def empty(self, group: int) -> bool:
        """Kill every process that has the group, those that they start meanwhile as well; whether none is left."""
        for number in range(_ROUNDS):
            members = [pid for pid, groups in all_groups() if group in groups and pid != os.getpid()]
            if not members:
                return True
            for pid in members:
                _kill_if_in(pid, group)
            if number:
                time.sleep(_PAUSE)
        return False


def _kill_if_in(pid: int, group: int) -> None:
    with contextlib.suppress(OSError):
        descriptor = os.pidfd_open(pid)
        try:
            if group in _groups(pid):  # still: the pid may have come again before it was opened
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)


def all_groups() -> Iterator[tuple[int, frozenset[int]]]:
    """Each process that has not ended, by its pid, and its supplementary groups, if it has any."""
    for name in os.listdir("/proc"):  # noqa: PTH208 - Path costs more than the look itself
        if name.isdigit() and (groups := _groups(int(name))):
            yield int(name), groups


def _groups(pid: int) -> frozenset[int]:
    """The supplementary groups of a process; none of one that has ended."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:  # noqa: PTH123 - thousands of them: Path costs as much again
            text = file.read()
    except OSError:
        return frozenset()
    state = text.partition(b"\nState:\t")[2][:1].decode()
    if state in _ENDED:
        return frozenset()
    return frozenset(map(int, text.partition(b"\nGroups:")[2].partition(b"\n")[0].split()))


def _started(pid: int) -> str | None:
    """When a process started, in ticks since the boot; None when it has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    if len(fields) < 20 or fields[0].decode() in _ENDED:
        return None
    return f"{_boot()}.{fields[19].decode()}"


def _boot() -> str:
    """Which boot of the machine this is: ticks begin again with each."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:  # noqa: PTH123
        return file.read().strip()
