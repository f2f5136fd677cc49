"""What the policies of a slice look at: two requests that agree in it are answered alike, and no more need be told.

What always holds: everything that an expression reads is among it. What is not understood is taken to read everything, and is
then never taken from memory.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from broker.adapters.policy.expressions import read_paths
from broker.adapters.policy.facts import Facts
from broker.adapters.policy.reading import Policy

_NAMESPACE_OF_CLASSES: Final = "AgentClass"
_ABSENT: Final = ("absent",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Looks:
    """See the module."""

    paths: tuple[tuple[str, ...], ...]
    """Below `context`, sorted."""
    names: tuple[str, ...]
    """Their first steps: what stands directly below it."""
    caller: bool
    """Whether it matters which instance of the class asks."""
    everything: bool
    """Whether it may be anything at all."""

    def values(self, facts: Facts) -> tuple[Hashable, ...] | None:
        """All that matters of a request, beside its question and the catalog's entry; None where everything may."""
        if self.everything:
            return None
        caller = str(facts.caller) if self.caller else ""
        told = facts.told(self.names)
        return (caller, *(_value(told, path) for path in self.paths))


def looks_of(policies: Iterable[Policy]) -> Looks:
    """What these policies look at together."""
    paths: set[tuple[str, ...]] = set()
    caller = everything = False
    for policy in policies:
        caller = caller or not _is_about_classes(policy.tree.get("principal"))
        for path in read_paths(policy.tree.get("conditions", [])):
            match path:
                case ("context",):
                    everything = True
                case ("context", *below):
                    paths.add(tuple(below))
                case ("principal", *_):
                    caller = True
                case ("resource" | "action", *_):
                    pass  # known by the question and the catalog's entry
                case _:
                    everything = True
    return Looks(
        paths=tuple(sorted(paths)),
        names=tuple(sorted({path[0] for path in paths})),
        caller=caller,
        everything=everything,
    )


def _is_about_classes(scope: Any) -> bool:  # noqa: ANN401 - Cedar's JSON
    """Whether the scope tells no two instances of one class apart."""
    match scope:
        case {"op": "All"}:
            return True
        case {"op": "is", "in": {"entity": {"type": str(kind)}}} | {
            "op": "in",
            "entity": {"type": str(kind)},
        }:
            return kind.rpartition("::")[2] == _NAMESPACE_OF_CLASSES
        case {"op": "is", **rest}:
            return "in" not in rest
        case _:
            return False


def _value(context: Mapping[str, Any], path: tuple[str, ...]) -> Hashable:
    """What stands there, so that equal means the same to Cedar: 1 is not true."""
    found: Any = context
    for step in path:
        if not isinstance(found, dict) or step not in found:
            return _ABSENT
        found = found[step]
    return _kept(found)


def _kept(found: Any) -> Hashable:  # noqa: ANN401 - Cedar's JSON
    match found:
        case bool():
            return ("bool", found)
        case str() | int():
            return found
        case list():
            return ("list", *map(_kept, found))
        case _:
            return ("json", json.dumps(found, sort_keys=True))
