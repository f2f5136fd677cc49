"""Effects: what would happen, to what, and where. A denial sticks to them, whatever tool or role tries next (rule R9)."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from broker.domain.quick import quick


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
_UNPRINTABLE: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What a call would do.

    A resource is a path: whoever touches `orders` touches `orders/17` as well, and the other way round. Upper and lower
    case are one, and so are other ways of writing the same characters (NFKC, any script's digits, with or without
    invisible ones), empty segments and none. A path with `.` or `..` stands for itself and for where it leads.
    Letters of two scripts that look alike stay two: nobody else takes them for each other.
    """

    verbs: frozenset[Verb]
    resource: str
    destination: str
    """`scheme://host:port`; empty where nothing leaves the agent's own process."""

    def touches(self, other: Effect) -> bool:
        """Whether the two have anything in common: a verb, at one destination, on a resource that contains the other's."""
        if not self.verbs & other.verbs or self.destination.casefold() != other.destination.casefold():
            return False
        return any(
            all(ours == theirs for ours, theirs in zip(mine, others, strict=False))
            for mine in _readings(self.resource)
            for others in _readings(other.resource)
        )

    def contains(self, other: Effect) -> bool:
        """Whether whatever the other one does is part of this one."""
        if not self.verbs >= other.verbs or self.destination.casefold() != other.destination.casefold():
            return False
        return all(
            any(others[: len(mine)] == mine for mine in _readings(self.resource))
            for others in _readings(other.resource)
        )

    def as_text(self) -> str:
        """For people: `delete orders/17 at postgresql://db:5432`."""
        verbs = "anything" if self.verbs == EVERY_VERB else "/".join(sorted(self.verbs))
        return f"{verbs} {self.resource or 'everything'}" + (
            f" at {self.destination}" if self.destination else ""
        )


def _readings(resource: str) -> set[tuple[str, ...]]:
    """The path, segment for segment; with `.` and `..` also the one that they lead to. No segment is everything."""
    written = tuple(filter(None, map(_compared, resource.split("/"))))
    led: list[str] = []
    for segment in written:
        if segment == "..":
            del led[-1:]
        elif segment != ".":
            led.append(segment)
    return {written, tuple(led)}


def _compared(segment: str) -> str:
    return unicodedata.normalize("NFKC", _plain(segment).casefold())


def _plain(text: str) -> str:
    """In the one way of writing that stands for all that mean the same, without blanks around it."""
    if not text.isascii():
        visible = "".join(one for one in text if unicodedata.category(one) != "Cf")
        text = unicodedata.normalize("NFKC", visible)
        text = "".join(str(unicodedata.decimal(one)) if one.isdecimal() else one for one in text)
    return text.strip()


def fill_in(template: str, arguments: Mapping[str, object]) -> str:
    """The resource that `template` (`orders/{order_id}`) names with these arguments.

    A slash in an argument stays one segment, so that it cannot name another resource. What is missing or blank ends the
    path, and so names everything below; so does a value that is no single one, or a segment that is only partly filled in.
    """
    filled: list[str] = []
    for part in template.split("/"):
        if "{" not in part and "}" not in part:
            filled.append(part)
            continue
        whole = part.startswith("{") and part.endswith("}")
        value = _plain(_as_text(arguments.get(part[1:-1]))) if whole else ""
        if not value:
            break
        filled.append("".join(map(_escaped, value)))
    return "/".join(filled)


def _as_text(value: object) -> str:
    """As JSON would have it, whole numbers always without a fraction; empty for what is no single value."""
    match value:
        case str():
            return value
        case bool():
            return str(value).lower()
        case float():
            return str(int(value) if value.is_integer() else value)
        case int():
            return str(value)
        case _:
            return ""


def _escaped(character: str) -> str:
    """What would end a segment or a line is written like in a URL, and so is what begins such a sign."""
    if character not in "%/" and unicodedata.category(character) not in _UNPRINTABLE:
        return character
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))
