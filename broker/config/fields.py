"""What the models of several sections of the catalog are made of."""

from __future__ import annotations

import math
from datetime import date, timedelta
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, WithJsonSchema

from broker.config.reading import parse_duration
from broker.domain.spiffe import MAX_TRUST_DOMAIN_BYTES

LONGEST: Final = timedelta(hours=24)
NAME: Final = r"^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$"

Name = Annotated[str, Field(pattern=NAME)]
Text = Annotated[str, Field(max_length=500)]
TrustDomain = Annotated[str, Field(pattern=r"^[a-z0-9._-]+$", max_length=MAX_TRUST_DOMAIN_BYTES)]
Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^(?=.)([0-9]{1,4}h)?([0-9]{1,5}m)?([0-9]{1,6}s)?$",
            "examples": ["90s", "30m", "1h30m"],
        }
    ),
]


def _json(value: object) -> object:
    """What JSON can say as well.

    Raises:
        ValueError: YAML reads something else here; says what, and where within the value.
    """
    match value:
        case float() if not math.isfinite(value):
            message = "JSON has no such number: give another, or put it in quotes"
        case str() | bool() | int() | float() | None:
            return value
        case dict() | list():
            for step, item in value.items() if isinstance(value, dict) else enumerate(value):
                try:
                    _json(item)
                except ValueError as error:
                    message = f"{step}: {error}"
                    break
            else:
                return value
        case date():
            message = "is read as a date: put it in quotes"
        case _:
            message = f"JSON has no {type(value).__name__}: put it in quotes"
    raise ValueError(message)


JsonObject = Annotated[dict[str, Any], BeforeValidator(_json)]
"""Arguments of a tool, as an agent would send them."""
