"""As much of JSON Schema as the catalog's uses. A word that is not known here is an error, not a pass."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

Schema = Mapping[str, Any]

SAYS_NOTHING = {"$defs", "$schema", "title", "description", "default", "examples", "discriminator"}
TYPES: Mapping[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
}


def accepts(schema: Schema, value: Any, root: Schema | None = None) -> bool:
    """Whether `value` is valid."""
    root = schema if root is None else root
    return all(
        _word(word, said, schema, value, root) for word, said in schema.items() if word not in SAYS_NOTHING
    )


def _word(  # noqa: C901, PLR0911, PLR0912 - one a word
    word: str, said: Any, schema: Schema, value: Any, root: Schema
) -> bool:
    match word:
        case "$ref":
            return accepts(root["$defs"][said.removeprefix("#/$defs/")], value, root)
        case "type":
            return TYPES[said](value)
        case "anyOf":
            return any(accepts(one, value, root) for one in said)
        case "const":
            return type(value) is type(said) and bool(value == said)
        case "enum":
            return value in said
        case "pattern" | "minLength" | "maxLength":
            return not isinstance(value, str) or _text(word, said, value)
        case "minimum":
            return not TYPES["number"](value) or bool(value >= said)
        case "maximum":
            return not TYPES["number"](value) or bool(value <= said)
        case "items":
            return not isinstance(value, list) or all(accepts(said, item, root) for item in value)
        case "uniqueItems":
            return not isinstance(value, list) or not said or all(value.count(item) == 1 for item in value)
        case "anyOf":
            return any(accepts(part, value, root) for part in said)
        case "oneOf":
            return sum(accepts(part, value, root) for part in said) == 1
        case "minItems":
            return not isinstance(value, list) or len(value) >= said
        case "maxItems":
            return not isinstance(value, list) or len(value) <= said
        case _:
            return _object(
                word, said, schema, value if isinstance(value, dict) else {}, root
            ) or not isinstance(value, dict)


def _text(word: str, said: Any, value: str) -> bool:
    if word == "pattern":
        # ECMA's $ is the end alone; Python's is also before a last line feed.
        return re.search(said.replace("$", r"\Z"), value) is not None
    return bool(len(value) >= said if word == "minLength" else len(value) <= said)


def _object(word: str, said: Any, schema: Schema, value: dict[str, Any], root: Schema) -> bool:
    patterned = {
        name: part
        for pattern, part in schema.get("patternProperties", {}).items()
        for name in value
        if _text("pattern", pattern, name)
    }
    match word:
        case "required":
            return set(said) <= set(value)
        case "maxProperties":
            return bool(len(value) <= said)
        case "properties":
            return all(accepts(part, value[name], root) for name, part in said.items() if name in value)
        case "patternProperties":
            return all(accepts(part, value[name], root) for name, part in patterned.items())
        case "additionalProperties":
            if said is True:
                return True
            others = set(value) - set(schema.get("properties", ())) - set(patterned)
            return not others if said is False else all(accepts(said, value[name], root) for name in others)
        case _:
            raise NotImplementedError(word)
