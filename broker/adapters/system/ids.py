"""Identifiers: 48 bits of time and 80 of randomness in Crockford's base 32, so that they sort by age."""

from __future__ import annotations

import os
import secrets
import time
from functools import lru_cache
from typing import Final

from broker.domain.identifiers import ActionId, LeaseId, MessageId, RequestId, TaskId

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_OF_TIME: Final = range(45, -1, -5)
"""Of ten characters: 50 bits, of which the first two are zero."""
_CHARACTERS: Final = bytes(ord(_ALPHABET[byte % len(_ALPHABET)]) for byte in range(256))
"""Of each byte one, all alike often: 5 of its 8 bits."""
_SIXTEEN: Final = 16
_AT_ONCE: Final = 64
"""Identifiers for which randomness is read."""


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


class _Randomness:
    """The operating system's, read and written for several identifiers at once; a forked child reads its own."""

    def __init__(self) -> None:
        self._left: list[str] = []
        os.register_at_fork(after_in_child=self._left.clear)

    def sixteen(self) -> str:
        """Characters, 80 bits, that nobody had before; of any thread."""
        try:
            return self._left.pop()
        except IndexError:
            drawn = secrets.token_bytes(_SIXTEEN * _AT_ONCE).translate(_CHARACTERS).decode("ascii")
            one, *rest = (drawn[start : start + _SIXTEEN] for start in range(0, len(drawn), _SIXTEEN))
            self._left += rest
            return one


_RANDOMNESS: Final = _Randomness()


def _ulid() -> str:
    return _of_time(time.time_ns() // 1_000_000) + _RANDOMNESS.sixteen()


@lru_cache(maxsize=8)  # several are made in a millisecond
def _of_time(milliseconds: int) -> str:
    return "".join([_ALPHABET[milliseconds >> shift & 31] for shift in _OF_TIME])
