"""Why a request is decided as it is, in words for people, and what would have to differ.

For platform teams: an explanation shows what the policies look at, and so may show arguments of a call.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import cedarpy

from broker.adapters.policy.cedar import CedarPolicies
from broker.adapters.policy.expressions import conjuncts, read_paths
from broker.adapters.policy.facts import CannotBeAskedError, Context, Facts
from broker.adapters.policy.reading import Policy, policy_set_json, tidied
from broker.domain.catalog import Catalog
from broker.domain.decision import Decision

ABSENT: Final = "absent"
_EVERYTHING: Final = {"op": "All"}
_PARTS: Final = ("principal", "action", "resource")
_AROUND: Final[Mapping[str, tuple[str, str]]] = {
    "principal": ("permit(", ", action, resource);"),
    "action": ("permit(principal, ", ", resource);"),
    "resource": ("permit(principal, action, ", ");"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is to be explained: the context of a decision, and the catalog at the time."""

    context: Context
    catalog: Catalog


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """An attribute that a policy looks at, and its value."""

    attribute: str
    value: str
    asserted: bool
    """Whether the agent says so of itself."""

    def __str__(self) -> str:
        return f"{self.attribute} is {self.value}" + (", as the agent says" if self.asserted else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Determining:
    """A policy that decided."""

    policy_id: str
    permits: bool
    place: str
    """File and line."""
    says: str
    text: str
    """In Cedar."""
    looked: tuple[Looked, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NotHeld:
    """A policy that would have permitted, and the part of it that did not hold."""

    policy_id: str
    place: str
    part: str
    """`principal`, `action`, `resource` or `condition`."""
    text: str
    """That part, in Cedar."""
    looked: tuple[Looked, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """See the module."""

    decision: Decision
    determining: tuple[Determining, ...]
    not_held: tuple[NotHeld, ...]
    considered: int
    """How many policies could apply at all."""
    differ: tuple[str, ...]
    """What would have to differ, a sentence each; empty where it is allowed."""

    def as_text(self) -> str:
        """For a terminal."""
        decision = self.decision
        lines = [f"{decision.verdict.value}, by {', '.join(decision.policies)}"]
        if decision.text:
            lines.append(f"the agent is told: {decision.text}")
        for one in self.determining:
            lines.append(f"\n{one.policy_id} {'permits' if one.permits else 'forbids'} it ({one.place}):")
            lines += [f"    {line}" for line in one.text.splitlines()]
            lines += [f"  {looked}" for looked in one.looked]
        if self.differ:
            lines += ["\nwhat would have to differ:", *(f"  {sentence}" for sentence in self.differ)]
        return "\n".join(lines)


def explain(policies: CedarPolicies, question: Asked) -> Explanation:
    """Why these policies decide the question as they do."""
    decision = policies.decide(question.context, question.catalog)
    try:
        facts = policies.facts(question.context, question.catalog)
    except CannotBeAskedError as error:
        return _short(decision, f"the policies were not asked: {error}")
    considered = policies.slice(facts)
    answer = policies.ask(facts, considered.compiled)
    named = answer.failing if answer.failed else answer.determining
    deciding = [policy for policy in considered.policies if policy.policy_id in named]
    determining = tuple(_determining(policy, facts) for policy in deciding)
    not_held: tuple[NotHeld, ...] = ()
    if answer.failed:
        differ = [f"{one.policy_id} fails, and must not: {_because(one.looked)}" for one in determining]
        differ = differ or ["the request does not fit the schema of these policies: see the broker's log"]
    elif decision.allowed:
        differ = []
    elif determining:
        differ = [f"{one.policy_id} must not hold: {_because(one.looked)}" for one in determining]
    else:
        permits = [policy for policy in considered.policies if policy.permits]
        found = (_not_held(policies, policy, facts) for policy in permits)
        not_held = tuple(one for one in found if one is not None)
        differ = [_would_permit(one) for one in not_held]
        differ = differ or [f"no policy permits {_words(facts)}: write one that does"]
    return Explanation(
        decision=decision,
        determining=determining,
        not_held=not_held,
        considered=len(considered.policies),
        differ=tuple(differ),
    )


def _short(decision: Decision, sentence: str) -> Explanation:
    return Explanation(decision=decision, determining=(), not_held=(), considered=0, differ=(sentence,))


def _words(facts: Facts) -> str:
    question = facts.question
    return f"class {question.agent_class!r} to {question.action} {question.resource!r}"


def _would_permit(one: NotHeld) -> str:
    if one.part != "condition":
        return f"{one.policy_id} ({one.place}) would permit it, but is about another {one.part}: {one.text}"
    return f"{one.policy_id} ({one.place}) would permit it, but this does not hold: {one.text}; {_because(one.looked)}"


def _because(looked: tuple[Looked, ...]) -> str:
    return ", ".join(map(str, looked)) or "it looks at nothing, and always holds"


def _determining(policy: Policy, facts: Facts) -> Determining:
    return Determining(
        policy_id=policy.policy_id,
        permits=policy.permits,
        place=policy.place,
        says=policy.says,
        text=policy.as_text(),
        looked=_looked(policy.tree.get("conditions", []), facts),
    )


def _not_held(policies: CedarPolicies, policy: Policy, facts: Facts) -> NotHeld | None:
    """The first part of a permit that does not hold, each asked for alone; None when it is not to be found."""
    for part in _PARTS:
        scope = {one: policy.tree[one] if one == part else _EVERYTHING for one in _PARTS}
        if not _holds(policies, facts, {**scope, "conditions": []}):
            text = _text({**scope, "conditions": []})
            return NotHeld(
                policy_id=policy.policy_id,
                place=policy.place,
                part=part,
                text=_scope_text(text, part),
                looked=(),
            )
    open_scope = dict.fromkeys(_PARTS, _EVERYTHING)
    for condition in policy.tree.get("conditions", []):
        for upto, last in _prefixes(condition):
            if not _holds(policies, facts, {**open_scope, "conditions": [upto]}):
                text = _text({**open_scope, "conditions": [last]})
                clause = text[text.index(f"{last['kind']} {{") :].rstrip(";").strip()
                looked = _looked([last], facts)
                return NotHeld(
                    policy_id=policy.policy_id,
                    place=policy.place,
                    part="condition",
                    text=" ".join(clause.split()),
                    looked=looked,
                )
    return None


def _prefixes(condition: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """`a && b && c` as `a`, `a && b`, `a && b && c`, each with its last part: a later part may rely on those before it."""
    if condition["kind"] != "when":
        yield dict(condition), dict(condition)
        return
    parts = list(conjuncts(condition["body"]))
    body = parts[0]
    yield {"kind": "when", "body": body}, {"kind": "when", "body": parts[0]}
    for part in parts[1:]:
        body = {"&&": {"left": body, "right": part}}
        yield {"kind": "when", "body": body}, {"kind": "when", "body": part}


def _holds(policies: CedarPolicies, facts: Facts, tree: Mapping[str, Any]) -> bool:
    text = policy_set_json({"part": {"effect": "permit", **tree}})
    return policies.ask(facts, cedarpy.PolicySet.from_json_str(text)).allowed


def _text(tree: Mapping[str, Any]) -> str:
    text = policy_set_json({"part": {"effect": "permit", **tree}})
    return tidied(cedarpy.policies_from_json_str(text).strip())


def _scope_text(text: str, part: str) -> str:
    """One part of a scope, where the two others are open."""
    before, after = _AROUND[part]
    return text.removeprefix(before).removesuffix(after)


def _looked(conditions: Any, facts: Facts) -> tuple[Looked, ...]:  # noqa: ANN401 - Cedar's JSON
    """What the conditions look at: the longest paths, sorted."""
    paths = set(read_paths(conditions))
    longest = [
        path for path in paths if not any(other != path and other[: len(path)] == path for other in paths)
    ]
    values = {
        "context": facts.context,
        "principal": facts.principal_attributes(),
        "resource": facts.resource_attributes(),
    }
    return tuple(
        Looked(
            attribute=".".join(path),
            value=_value(values, path),
            asserted=path[:2] == ("context", "asserted"),
        )
        for path in sorted(longest)
        if len(path) > 1
    )


def _value(values: Mapping[str, Any], path: tuple[str, ...]) -> str:
    found: Any = values
    for step in path:
        if not isinstance(found, Mapping) or step not in found:
            return ABSENT
        found = found[step]
    return json.dumps(found, ensure_ascii=False)
