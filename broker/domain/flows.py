"""Information flow: what a task has read so far, and where a step writes.

Labels accumulate on a task with each step that was allowed, and never go away: once it has read confidential data, all that
it does is done by somebody who has read confidential data.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final

from broker.domain.classification import Classification


class Origin(StrEnum):
    """Who wrote what is read."""

    TRUSTED = "trusted"
    UNTRUSTED = "untrusted"
    """Anybody: it may hold instructions."""


class Writes(StrEnum):
    """Where a step writes, from least to most."""

    NOTHING = "nothing"
    INTERNAL = "internal"
    EXTERNAL = "external"
    DESTRUCTIVE = "destructive"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reads:
    """What a step reads."""

    classification: Classification = Classification.PUBLIC
    origin: Origin = Origin.TRUSTED


UNTRUSTED: Final = "untrusted"
_ORDER: Final = tuple(Classification)


@lru_cache(maxsize=64)  # there are fewer
def labels_of(reads: Reads) -> frozenset[str]:
    """What a task is labelled with after such a step: `read.confidential`, and the ones below it; `untrusted`."""
    up_to = _ORDER[: _ORDER.index(reads.classification) + 1]
    labels = {f"read.{level.value}" for level in up_to if level is not Classification.PUBLIC}
    if reads.origin is Origin.UNTRUSTED:
        labels.add(UNTRUSTED)
    return frozenset(labels)


LABELS: Final = frozenset().union(
    *(labels_of(Reads(classification=level, origin=origin)) for level in Classification for origin in Origin)
)
"""Every label there is."""
