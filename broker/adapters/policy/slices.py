"""Which policies can apply to a request at all, by their scopes; the others need not be asked.

What always holds: a slice decides as the whole set does. What of a scope is not understood here stays in every slice.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import cedarpy

from broker.adapters.policy.lru import Lru
from broker.adapters.policy.reading import Policy, policy_set_json
from broker.adapters.policy.schema import NAMESPACE

ACTION_TYPE: Final = f"{NAMESPACE}::Action"
CLASS_TYPE: Final = f"{NAMESPACE}::AgentClass"
INSTANCE_TYPE: Final = f"{NAMESPACE}::Instance"
RESOURCE_TYPES: Final[Mapping[str, str]] = {
    "declare": f"{NAMESPACE}::TaskType",
    "acquire": f"{NAMESPACE}::CredentialRole",
    "call": f"{NAMESPACE}::Tool",
}
_SLICES: Final = 4096
_SETS: Final = 1024


class Question(NamedTuple):
    """What a slice is made for."""

    agent_class: str
    action: str
    resource: str


@dataclass(frozen=True, slots=True)
class Slice:
    """Policies that can apply, compiled."""

    policies: tuple[Policy, ...]
    compiled: cedarpy.PolicySet


class Slices:
    """Makes them when they are first asked for, and keeps those that were used last."""

    def __init__(self, policies: Sequence[Policy]) -> None:
        self._policies = tuple(policies)
        self._slices: Lru[Question, Slice] = Lru(_SLICES)
        self._sets: Lru[tuple[bool, ...], Slice] = Lru(_SETS)

    def of(self, question: Question) -> Slice:
        """The policies that can apply to it."""
        return self._slices.get(question, lambda: self._slice(question))

    def whole(self) -> Slice:
        """All of them."""
        return self._compiled((True,) * len(self._policies))

    def _slice(self, question: Question) -> Slice:
        return self._compiled(tuple(can_apply(policy.tree, question) for policy in self._policies))

    def _compiled(self, kept: tuple[bool, ...]) -> Slice:
        """Many questions have one and the same slice: it is compiled once."""
        return self._sets.get(kept, lambda: compiled(tuple(itertools.compress(self._policies, kept))))


def compiled(policies: tuple[Policy, ...]) -> Slice:
    """These policies, ready to be asked; Cedar knows each by its `@id`."""
    text = policy_set_json({policy.policy_id: policy.tree for policy in policies})
    return Slice(policies, cedarpy.PolicySet.from_json_str(text))


def can_apply(tree: Mapping[str, Any], question: Question) -> bool:
    """Whether the scope may hold for it; True for everything that is not understood."""
    return not (
        _other_class(tree.get("principal"), question)
        or _other_action(tree.get("action"), question)
        or _other_resource(tree.get("resource"), question)
    )


def _other_class(scope: Any, question: Question) -> bool:  # noqa: ANN401 - Cedar's JSON
    """Whether it is certain that the scope is about another agent class: an instance is in its class and in no other."""
    match scope:
        case {"op": "in", "entity": {"type": entity_type, "id": str(name)}, **rest} if not rest:
            pass
        case {
            "op": "is",
            "entity_type": str(kind),
            "in": {"entity": {"type": entity_type, "id": str(name)}},
            **rest,
        } if kind == INSTANCE_TYPE and not rest:
            pass
        case _:
            return False
    return bool(entity_type == CLASS_TYPE) and name != question.agent_class


def _other_action(scope: Any, question: Question) -> bool:  # noqa: ANN401 - Cedar's JSON
    """Whether it is certain that the scope is about other actions: the schema has no groups of them."""
    match scope:
        case {"op": "==" | "in", "entity": dict(entity), **rest} if not rest:
            listed: list[Any] = [entity]
        case {"op": "in", "entities": list(entities), **rest} if not rest:
            listed = entities
        case _:
            return False
    for entity in listed:
        match entity:
            case {"type": str(kind), "id": str(name), **rest} if kind == ACTION_TYPE and not rest:
                if name == question.action:
                    return False
            case _:
                return False
    return True


def _other_resource(scope: Any, question: Question) -> bool:  # noqa: ANN401 - Cedar's JSON
    """Whether it is certain that the scope is about another resource, or another kind of them."""
    wanted = RESOURCE_TYPES.get(question.action)
    if wanted is None:
        return False
    match scope:
        case {"op": "==", "entity": {"type": str(kind), "id": str(name), **more}, **rest} if (
            not rest and not more
        ):
            return (kind, name) != (wanted, question.resource)
        case {"op": "is", "entity_type": str(kind), **rest} if not rest:
            return kind != wanted
        case _:
            return False
