"""Waits for a part to be healthy, by asking the part."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from broker.devstack.processes import Processes


class NotHealthyError(Exception):
    """A part did not become healthy; the message ends with the last lines of its log."""

    def __init__(self, message: str, *, gone: bool = False) -> None:
        super().__init__(message)
        self.gone = gone
        """Whether its process ended by itself."""


def wait_for(
    name: str, healthy: Callable[[], bool], processes: Processes | None = None, *, patience: float = 60
) -> None:
    """Poll `healthy` until it says so.

    Raises:
        NotHealthyError: `patience` seconds went by, or the part's process is gone.
    """
    end = time.monotonic() + patience
    pause = 0.02
    while not healthy():
        gone = processes is not None and processes.running(name) is None
        if gone or time.monotonic() > end:
            what = "stopped by itself" if gone else f"is not healthy after {patience:.0f} s"
            tail = _tail(processes.log_file(name)) if processes is not None else ""
            message = f"{name} {what}{tail}"
            raise NotHealthyError(message, gone=gone)
        time.sleep(pause)
        pause = min(pause * 1.5, 0.25)


def answers(url: str, *, accept: tuple[int, ...] = (200,)) -> bool:
    """Whether an HTTP GET on loopback answers with one of the statuses."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2) as response:
            status: int = response.status
    except urllib.error.HTTPError as error:
        status = error.code
    except OSError:
        return False
    return status in accept


def _tail(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").splitlines()[-15:]
    except OSError:
        return ""
    return f"; the end of {log}:\n  " + "\n  ".join(lines)
