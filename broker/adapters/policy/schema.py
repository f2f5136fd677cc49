"""The Cedar schema: the published file, and the type of the arguments that the catalog's tools name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from broker.domain.catalog import AttributeType, Catalog

NAMESPACE: Final = "Tasklease"
SCHEMA_FILE: Final = Path(__file__).with_name("schema.cedarschema")

CEDAR_TYPES: Final[Mapping[AttributeType, str]] = {
    AttributeType.STRING: "String",
    AttributeType.INTEGER: "Long",
    AttributeType.BOOLEAN: "Bool",
    AttributeType.STRINGS: "Set<String>",
}


_ATTRIBUTE: Final = re.compile(r"^\s*(\w+)\??:", re.MULTILINE)


_BELOW_CONTEXT: Final = re.compile(r"^( {6}\w+): ", re.MULTILINE)
"""An attribute of an action's context, as the published file is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """Names of attributes: those of the published schema, and those of the catalog's arguments."""

    published: frozenset[str]
    arguments: frozenset[str]


def schema_for(catalog: Catalog) -> str:
    """The schema's text for this catalog.

    Raises:
        ValueError: two tools give an argument of one name different types.
    """
    lines = [
        f"  {quoted(name)}?: {CEDAR_TYPES[kind]}," for name, kind in sorted(argument_types(catalog).items())
    ]
    arguments = "\n".join(["type Arguments = {", *lines, "};"])
    return f"{SCHEMA_FILE.read_text(encoding='utf-8')}\n{arguments}\n"


def argument_types(catalog: Catalog) -> Mapping[str, AttributeType]:
    """The arguments that policies may look at, by name.

    Raises:
        ValueError: two tools give an argument of one name different types.
    """
    types: dict[str, tuple[AttributeType, str]] = {}
    for tool in sorted(catalog.tools.values(), key=lambda one: one.name):
        for name, kind in tool.attributes.items():
            earlier, of_tool = types.setdefault(name, (kind, tool.name))
            if earlier is not kind:
                message = (
                    f"argument {name!r} is of type {earlier.value} in tool {of_tool!r} and of type {kind.value} in "
                    f"tool {tool.name!r}: policies see one type for a name, so rename one or give both one type"
                )
                raise ValueError(message)
    return {name: kind for name, (kind, _) in types.items()}


def partial(schema: str) -> str:
    """That schema for requests of which only a part of the context is told: nothing directly below it has to be there.

    What is told has to fit as before. Policies are never checked against this one: what they look at has to be there.
    """
    return _BELOW_CONTEXT.sub(r"\1?: ", schema)


def attributes_of(catalog: Catalog) -> Attributes:
    """The names that policies may ask for with `has`."""
    published = frozenset(_ATTRIBUTE.findall(SCHEMA_FILE.read_text(encoding="utf-8")))
    arguments = frozenset(name for tool in catalog.tools.values() for name in tool.attributes)
    return Attributes(published=published, arguments=arguments)


def quoted(text: str) -> str:
    """As a string literal of Cedar, whatever is in it."""
    plain = (
        one if one.isascii() and one.isprintable() and one not in '"\\' else _escaped(one) for one in text
    )
    return f'"{"".join(plain)}"'


def _escaped(character: str) -> str:
    return f"\\u{{{ord(character):x}}}"
