"""Telling systems outside: who is told, and what came of an attempt.

What always holds: an attempt never raises, and says in words of ours how it ended; what a receiver answered is not repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Protocol

from broker.domain.findings import Severity
from broker.domain.messages import Message, ReceiverKind


class Fate(StrEnum):
    """How an attempt ended."""

    TAKEN = "taken"
    FAILED = "failed"
    """Something is wrong with the receiver or the way to it: later."""
    REFUSED = "refused"
    """The receiver does not want this message, whenever it comes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What came of an attempt."""

    fate: Fate
    what: str = ""
    """For people: `status 503`."""
    retry_after: timedelta | None = None
    """What the receiver asked for."""


class Receiver(Protocol):
    """A system outside."""

    async def deliver(self, message: Message) -> Delivery:
        """Try once. Never raises; takes no longer than the receiver's `timeout`."""
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedReceiver:
    """A receiver, with what the settings say of it."""

    name: str
    kind: ReceiverKind
    receiver: Receiver
    timeout: timedelta
    told_from: Severity | None = None
    """It is told of findings that are so bad or worse, whatever rule chose their answer."""


class TellingWatched(Protocol):
    """Is told how telling goes: for metrics."""

    def attempted(self, kind: ReceiverKind, outcome: str) -> None:
        """Note a message's outcome: a value of `Fate`, `given-up`, or `left-out` of one that was never made."""
        ...

    def waiting(self, counts: Mapping[ReceiverKind, int]) -> None:
        """Note how many messages wait."""
        ...
