"""Effects: what would happen, to what, and where. A denial sticks to them, whatever tool or role tries next (rule R9)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Verb(StrEnum):
    """What happens."""

    READ = "read"
    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"
    EXECUTE = "execute"
    SEND = "send"
    GRANT = "grant"


EVERY_VERB: Final = frozenset(Verb)
EVERYTHING: Final = ""
"""The resource that contains every other one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What a call would do.

    A resource is a path: whoever touches `orders` touches `orders/17` as well, and the other way round. Upper and lower
    case are one, and so are empty segments and none.
    """

    verbs: frozenset[Verb]
    resource: str
    destination: str
    """`scheme://host:port`; empty where nothing leaves the agent's own process."""

    def touches(self, other: Effect) -> bool:
        """Whether the two have anything in common: a verb, at one destination, on a resource that contains the other's."""
        if not self.verbs & other.verbs or self.destination.casefold() != other.destination.casefold():
            return False
        mine, others = _segments(self.resource), _segments(other.resource)
        shorter = min(len(mine), len(others))
        return mine[:shorter] == others[:shorter]

    def contains(self, other: Effect) -> bool:
        """Whether whatever the other one does is part of this one."""
        mine = _segments(self.resource)
        return (
            self.verbs >= other.verbs
            and self.destination.casefold() == other.destination.casefold()
            and mine == _segments(other.resource)[: len(mine)]
        )

    def as_text(self) -> str:
        """For people: `delete orders/17 at postgresql://db:5432`."""
        verbs = "anything" if self.verbs == EVERY_VERB else "/".join(sorted(self.verbs))
        return f"{verbs} {self.resource or 'everything'}" + (
            f" at {self.destination}" if self.destination else ""
        )


def _segments(resource: str) -> list[str]:
    return [part for part in resource.casefold().split("/") if part]


def fill_in(template: str, arguments: Mapping[str, object]) -> str:
    """The resource that `template` (`orders/{order_id}`) names with these arguments.

    A slash in an argument stays one segment, so that it cannot name another resource; what is missing ends the path, and
    so names everything below.
    """
    filled: list[str] = []
    for part in template.split("/"):
        if not (part.startswith("{") and part.endswith("}")):
            filled.append(part)
            continue
        value = arguments.get(part[1:-1])
        if value is None:
            break
        filled.append(str(value).strip().replace("%", "%25").replace("/", "%2F") or "%")
    return "/".join(filled)
