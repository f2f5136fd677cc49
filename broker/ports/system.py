"""Time, identifiers and steps: what only adapters.system may take from the operating system."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Protocol

from broker.domain.identifiers import ActionId, LeaseId, MessageId, RequestId, TaskId


class Clock(Protocol):
    """The time. Injected everywhere, so that tests own it."""

    def now(self) -> datetime:
        """Return the wall clock's time, aware, in UTC."""
        ...

    async def sleep(self, duration: timedelta) -> None:
        """Return after `duration` (cancellable)."""
        ...


class Ids(Protocol):
    """Makes identifiers that cannot be guessed, and randomness for jitter."""

    def task_id(self) -> TaskId: ...

    def action_id(self) -> ActionId: ...

    def lease_id(self) -> LeaseId: ...

    def request_id(self) -> RequestId: ...

    def message_id(self) -> MessageId: ...

    def fraction(self) -> float:
        """Return a number in [0, 1), for jitter."""
        ...


class Steps(Protocol):
    """Is told each step of a credential's life as it is reached.

    In production nobody listens; the crash tests kill the process at a named step (rule R2).
    """

    def reached(self, step: str) -> None:
        """Note that `step` is done; the names are the ones in ARCHITECTURE.md."""
        ...
