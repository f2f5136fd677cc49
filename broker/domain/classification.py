"""How sensitive data is."""

from __future__ import annotations

from enum import StrEnum


class Classification(StrEnum):
    """How sensitive the data behind a role or a tool is, from least to most."""

    PUBLIC = "public"
    INTERNAL = "internal"
    CONFIDENTIAL = "confidential"
    RESTRICTED = "restricted"
