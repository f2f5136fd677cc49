"""What the models of several sections of the catalog are made of."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Final

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
