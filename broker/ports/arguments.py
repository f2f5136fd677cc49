"""Whether a call's arguments are what its tool takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from broker.domain.catalog import Tool


class ArgumentChecker(Protocol):
    """Knows JSON Schema."""

    def check(self, tool: Tool, arguments: Mapping[str, object]) -> None:
        """Look at the arguments.

        Raises:
            FieldInvalidError: each argument that is wrong, and what to give instead; never a value.
        """
        ...
