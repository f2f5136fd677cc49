"""What a step is, as far as combinations of steps matter, and how high it reaches."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final

from broker.anomaly.events import Decided
from broker.domain.actions import ActionKind
from broker.domain.classification import Classification
from broker.domain.effects import EVERY_VERB, Verb
from broker.domain.flows import Writes

SECRET_WORDS: Final = frozenset(
    {"secret", "secrets", "credential", "credentials", "token", "tokens", "password", "passwords", "vault"}
)
"""Words in a resource's path that say it holds secrets, beside a classification as restricted."""

IDENTITY_WORDS: Final = frozenset(
    {
        "identity",
        "identities",
        "user",
        "users",
        "account",
        "accounts",
        "principal",
        "principals",
        "iam",
        "members",
    }
)
"""Words in a resource's path that say it holds identities."""

MOST_STEP: Final = 3
"""The highest level of data, and the greatest power."""

_MOST_WORDS: Final = 512
"""Characters of a path that are looked at."""
_WORD: Final = re.compile(r"[^a-z]+")
_LEVELS: Final = {classification: level for level, classification in enumerate(Classification)}
_POWER: Final = {
    Verb.READ: 0,
    Verb.CREATE: 1,
    Verb.UPDATE: 1,
    Verb.SEND: 2,
    Verb.DELETE: 2,
    Verb.EXECUTE: 2,
    Verb.GRANT: 3,
}


class Trait(StrEnum):
    """Something about a step."""

    SECRETS = "reads secrets"
    SENSITIVE = "reads confidential data"
    UNTRUSTED = "reads what anybody wrote"
    EGRESS = "writes outside"
    LISTS_IDENTITIES = "reads identities"
    MAKES_IDENTITY = "makes an identity or gives it rights"
    DESTROYS = "destroys"
    GRANTS = "gives rights"


SOURCES: Final = frozenset({Trait.SECRETS, Trait.SENSITIVE, Trait.UNTRUSTED, Trait.LISTS_IDENTITIES})
"""Traits of which a task has had only what was allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Combination:
    """Traits that are harmless each and dangerous one after the other."""

    name: str
    before: frozenset[Trait]
    last: Trait
    needs_evidence: bool
    """Whether it is said only of task types of which enough was seen: too many do it for good reasons."""


COMBINATIONS: Final = (
    Combination(
        name="secrets-then-egress",
        before=frozenset({Trait.SECRETS}),
        last=Trait.EGRESS,
        needs_evidence=False,
    ),
    Combination(
        name="identities-then-another",
        before=frozenset({Trait.LISTS_IDENTITIES}),
        last=Trait.MAKES_IDENTITY,
        needs_evidence=False,
    ),
    Combination(
        name="untrusted-and-confidential-then-egress",
        before=frozenset({Trait.UNTRUSTED, Trait.SENSITIVE}),
        last=Trait.EGRESS,
        needs_evidence=False,
    ),
    Combination(
        name="confidential-then-egress",
        before=frozenset({Trait.SENSITIVE}),
        last=Trait.EGRESS,
        needs_evidence=True,
    ),
    Combination(
        name="untrusted-then-destruction",
        before=frozenset({Trait.UNTRUSTED}),
        last=Trait.DESTROYS,
        needs_evidence=True,
    ),
    Combination(
        name="untrusted-then-rights",
        before=frozenset({Trait.UNTRUSTED}),
        last=Trait.GRANTS,
        needs_evidence=False,
    ),
)


SINKS: Final = frozenset(one.last for one in COMBINATIONS)
"""Traits that make a combination of what was before."""


def traits_of(decided: Decided) -> frozenset[Trait]:
    """What this step is, allowed or not."""
    effect = decided.effect
    return _traits(
        effect.verbs,
        effect.resource[:_MOST_WORDS],
        bool(effect.destination),
        decided.classification,
        decided.kind is ActionKind.TOOL,
        decided.reads_untrusted,
        decided.writes,
    )


@lru_cache(maxsize=1024)  # the same steps come again and again
def _traits(  # noqa: PLR0913, PLR0917 - all that it depends on
    every: frozenset[Verb],
    resource: str,
    leaves: bool,  # noqa: FBT001
    classification: Classification,
    tool: bool,  # noqa: FBT001
    untrusted: bool,  # noqa: FBT001
    writes: Writes,
) -> frozenset[Trait]:
    verbs = frozenset() if every == EVERY_VERB else every
    reads = Verb.READ in every
    words = frozenset(_WORD.split(resource.casefold()[:_MOST_WORDS]))
    found = {
        Trait.SECRETS: reads and (classification is Classification.RESTRICTED or words & SECRET_WORDS),
        Trait.SENSITIVE: reads and _LEVELS[classification] >= _LEVELS[Classification.CONFIDENTIAL],
        Trait.UNTRUSTED: untrusted,
        Trait.EGRESS: writes is Writes.EXTERNAL or (Verb.SEND in verbs and leaves),
        Trait.LISTS_IDENTITIES: tool and reads and words & IDENTITY_WORDS,
        Trait.MAKES_IDENTITY: Verb.GRANT in verbs or (Verb.CREATE in verbs and words & IDENTITY_WORDS),
        Trait.DESTROYS: writes is Writes.DESTRUCTIVE or Verb.DELETE in verbs,
        Trait.GRANTS: Verb.GRANT in verbs,
    }
    return frozenset(trait for trait, there in found.items() if there)


def level_of(decided: Decided) -> int:
    """How sensitive what it is about is: 0 to 3."""
    return _LEVELS[decided.classification]


def power_of(decided: Decided) -> int:
    """How much it can do: 0 to 3. A credential whose role does not say is not counted as one that can do everything."""
    return _power(decided.effect.verbs)


@lru_cache(maxsize=256)
def _power(verbs: frozenset[Verb]) -> int:
    return 0 if verbs == EVERY_VERB else max((_POWER[verb] for verb in verbs), default=0)
