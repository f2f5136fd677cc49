"""A value that must never be shown by accident (rule R6).

What always holds: no `repr`, `str`, `format`, pickle, copy or JSON of a `Secret` contains its value. The only
way in is `reveal`, which is easy to search for.
"""

from __future__ import annotations

import hmac
from typing import Final, NoReturn

REDACTED: Final = "[secret]"


class Secret:
    """Holds a string that redacts itself everywhere and opens only by `reveal`."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        """Take `value` in; the caller should drop its own reference."""
        self._value = value

    def reveal(self) -> str:
        """Return the value. Call it at the very edge: on the wire to the owner, or towards the backend."""
        return self._value

    def __repr__(self) -> str:
        return REDACTED

    __str__ = __repr__

    def __format__(self, format_spec: str) -> str:
        return REDACTED

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    __hash__ = None  # type: ignore[assignment]  # a hash of a secret is a fingerprint of it

    def __reduce__(self) -> NoReturn:
        message = "a Secret cannot be pickled or copied"
        raise TypeError(message)
