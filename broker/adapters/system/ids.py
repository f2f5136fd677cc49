"""Identifiers: 48 bits of time and 80 of randomness in Crockford's base 32, so that they sort by age."""

from __future__ import annotations

import secrets
import time
from typing import Final

from broker.domain.identifiers import ActionId, LeaseId, MessageId, RequestId, TaskId

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS: Final = tuple(first + second for first in _ALPHABET for second in _ALPHABET)
_SHIFTS: Final = tuple(range(120, -1, -10))
"""Of thirteen pairs of characters: 130 bits, of which the first two are zero."""


class RandomIds:
    """Implements ports.system.Ids."""

    def task_id(self) -> TaskId:
        """Return a new task id."""
        return TaskId(f"task-{_ulid()}")

    def action_id(self) -> ActionId:
        """Return a new action id."""
        return ActionId(f"action-{_ulid()}")

    def lease_id(self) -> LeaseId:
        """Return a new lease id."""
        return LeaseId(f"lease-{_ulid()}")

    def request_id(self) -> RequestId:
        """Return a new request id."""
        return RequestId(f"req-{_ulid()}")

    def message_id(self) -> MessageId:
        """Return a new message id."""
        return MessageId(f"message-{_ulid()}")

    def fraction(self) -> float:
        """Return a number in [0, 1)."""
        return secrets.randbits(53) / (1 << 53)


def _ulid() -> str:
    number = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(secrets.token_bytes(10))
    return "".join([_PAIRS[number >> shift & 1023] for shift in _SHIFTS])
