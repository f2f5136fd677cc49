"""Decides by Cedar policies in files: validated and compiled when they are read, sliced when they are asked.

What always holds: allowed is what Cedar allows by name and without any error; no policy, an error, a missing attribute or a
value that is not of the schema is a denial (rule R5). A `forbid` that errors is skipped by Cedar and would let a request
pass: that is why an error of any policy denies.
"""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cedarpy

from broker.adapters.policy import questions
from broker.adapters.policy.questions import NAMESPACE, Question, schema_for
from broker.domain.catalog import Catalog
from broker.domain.decision import AcquireContext, CallContext, Decision, DeclareContext, Verdict
from broker.domain.errors import DenialClass, PolicyDeniedError

logger = logging.getLogger(__name__)

_MOST_SLICES: Final = 2_000
_MOST_ENTITIES: Final = 5_000
_STRICTEST: Final = (DenialClass.STRUCTURAL, DenialClass.GRANTABLE, DenialClass.TRANSIENT)
_OF_THE_CALL: Final = frozenset({"arguments", "arguments_sha256", "resource"})
"""Attributes that depend on a call's arguments: of `context.asserted`, and of the effect."""
_LONGEST_TEXT: Final = 300


class PolicyFilesError(Exception):
    """The policies cannot be used; everything that is wrong with them, for people."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One policy of a file."""

    policy_id: str
    """Its `@id`."""
    file: str
    text: str
    body: Mapping[str, Any]
    """Cedar's JSON form."""

    @property
    def forbids(self) -> bool:
        """Whether it is a `forbid`."""
        return bool(self.body["effect"] == "forbid")

    @property
    def denial_class(self) -> DenialClass:
        """What its denials mean to the agent (`@denial`)."""
        return DenialClass(self.annotation("denial") or DenialClass.GRANTABLE)

    @property
    def says(self) -> str:
        """What it tells the caller (`@says`)."""
        return self.annotation("says")[:_LONGEST_TEXT]

    @property
    def looks_at_arguments(self) -> bool:
        """Whether it may depend on what a tool is called with."""
        return _mentions(self.body.get("conditions", []), _OF_THE_CALL)

    def annotation(self, name: str) -> str:
        """An annotation's value; empty without one."""
        return str(self.body.get("annotations", {}).get(name) or "")

    def can_apply(self, question: Question) -> bool:
        """Whether its head fits; true for every head that is not understood."""
        return (
            _fits(self.body["action"], "Action", {question.action})
            and _fits(
                self.body["resource"],
                question.resource_type,
                {question.resource},
            )
            and _fits_principal(self.body["principal"], question)
        )


class CedarPolicies:
    """See the module. Frozen; made by `load`."""

    def __init__(self, policies: Sequence[Policy], catalog: Catalog) -> None:
        self.policies = tuple(policies)
        self.catalog_digest = catalog.digest
        self._schema = cedarpy.Schema.from_str(schema_for(catalog))
        self._by_id = {policy.policy_id: policy for policy in policies}
        self._named_instances = frozenset(filter(None, (_named_instance(one.body) for one in policies)))
        self._slices: OrderedDict[tuple[str, ...], tuple[tuple[Policy, ...], cedarpy.PolicySet]] = (
            OrderedDict()
        )
        self._entities: OrderedDict[tuple[str, ...], cedarpy.Entities] = OrderedDict()

    @classmethod
    def load(cls, folder: Path, catalog: Catalog) -> CedarPolicies:
        """Read, check and compile every `.cedar` file below `folder`.

        Raises:
            PolicyFilesError: everything that is wrong.
        """
        if not folder.is_dir():
            raise PolicyFilesError([f"{folder}: there is no such folder: make one with .cedar files"])
        problems: list[str] = []
        policies: list[Policy] = []
        for file in sorted(folder.rglob("*.cedar")):
            name = str(file.relative_to(folder))
            try:
                policies += _read(file.read_text(encoding="utf-8"), name)
            except PolicyFilesError as error:
                problems += error.problems
            except (OSError, UnicodeError) as error:
                problems.append(f"{name}: cannot be read: {type(error).__name__}")
        problems += _twice(policies)
        if not problems:
            problems += _invalid(policies, catalog)
        if problems:
            raise PolicyFilesError(problems)
        return cls(policies, catalog)

    def slice_for(self, question: Question) -> tuple[Policy, ...]:
        """The policies whose heads fit."""
        return self._slice(question)[0]

    def decide(self, question: Question) -> Decision:
        """Decide one question."""
        _, compiled = self._slice(question)
        result = self._ask(question, compiled)
        determining = self._determining(result)
        names = tuple(f"cedar:{policy.policy_id}" for policy in determining) or ("cedar:default",)
        if result.diagnostics.errors:
            logger.error(
                "denied, because policies failed: %s", "; ".join(map(str, result.diagnostics.errors))[:1000]
            )
            return _denial(("cedar:error",), "the policies could not be evaluated", DenialClass.STRUCTURAL)
        if result.decision is cedarpy.Decision.Allow and determining:
            return Decision(verdict=Verdict.ALLOW, policies=names)
        if not determining:
            return _denial(names, "no policy permits it", DenialClass.STRUCTURAL)
        denial_class = min((one.denial_class for one in determining), key=_STRICTEST.index)
        says = " ".join(dict.fromkeys(one.says for one in determining if one.says))
        return _denial(names, says or "a policy forbids it", denial_class)

    def could_allow(self, question: Question) -> bool:
        """Whether there may be arguments with which it is allowed; `question` has none."""
        policies, _ = self._slice(question)
        certain = [policy for policy in policies if not policy.looks_at_arguments]
        result = self._ask(question, _compiled(certain))
        if result.diagnostics.errors:
            return False
        determining = self._determining(result)
        if result.decision is cedarpy.Decision.Allow:
            return bool(determining)
        forbidden = any(policy.forbids for policy in determining)
        permits = any(policy.looks_at_arguments and not policy.forbids for policy in policies)
        return permits and not forbidden and result.decision is cedarpy.Decision.Deny

    # ports.policy.PolicyEngine -------------------------------------------------------------------------------

    def decide_declaration(self, context: DeclareContext, catalog: Catalog) -> Decision:
        """See ports.policy."""
        return self.decide(questions.of_declaration(context, catalog))

    def decide_acquisition(self, context: AcquireContext, catalog: Catalog) -> Decision:  # noqa: ARG002
        """See ports.policy."""
        return self.decide(questions.of_acquisition(context))

    def decide_call(self, context: CallContext, catalog: Catalog) -> Decision:  # noqa: ARG002
        """See ports.policy."""
        return self.decide(questions.of_call(context))

    def could_allow_call(self, context: CallContext, catalog: Catalog) -> bool:  # noqa: ARG002
        """See ports.policy."""
        return self.could_allow(questions.of_call(context))

    # ---------------------------------------------------------------------------------------------------------

    def _ask(self, question: Question, compiled: cedarpy.PolicySet) -> cedarpy.AuthzResult:
        return cedarpy.is_authorized(
            question.request, compiled, self._entities_of(question), schema=self._schema
        )

    def _determining(self, result: cedarpy.AuthzResult) -> list[Policy]:
        return sorted(
            (self._by_id[reason] for reason in result.diagnostics.reasons), key=lambda one: one.policy_id
        )

    def _slice(self, question: Question) -> tuple[tuple[Policy, ...], cedarpy.PolicySet]:
        instance = str(question.instance)
        key = (
            question.action,
            question.agent_class,
            question.resource_type,
            question.resource,
            instance if instance in self._named_instances else "",
        )
        found = self._slices.get(key)
        if found is None:
            policies = tuple(policy for policy in self.policies if policy.can_apply(question))
            found = (policies, _compiled(policies))
            _keep(self._slices, key, found, _MOST_SLICES)
        return found

    def _entities_of(self, question: Question) -> cedarpy.Entities:
        key = (str(question.instance), question.agent_class, question.resource_type, question.resource)
        found = self._entities.get(key)
        if found is None:
            found = cedarpy.Entities.from_json_str(question.entities(), self._schema)
            _keep(self._entities, key, found, _MOST_ENTITIES)
        return found


def _keep(kept: OrderedDict[Any, Any], key: object, value: object, most: int) -> None:
    kept[key] = value
    while len(kept) > most:
        kept.popitem(last=False)


def _denial(policies: tuple[str, ...], text: str, denial_class: DenialClass) -> Decision:
    return Decision(
        verdict=Verdict.DENY,
        policies=policies,
        reason=PolicyDeniedError.reason,
        text=text,
        denial_class=denial_class,
    )


def _compiled(policies: Sequence[Policy]) -> cedarpy.PolicySet:
    """Under their own ids, so that the engine names them by those."""
    whole = {
        "staticPolicies": {one.policy_id: one.body for one in policies},
        "templates": {},
        "templateLinks": [],
    }
    return cedarpy.PolicySet.from_json_str(json.dumps(whole))


def _read(text: str, name: str) -> list[Policy]:
    try:
        parsed = json.loads(cedarpy.policies_to_json_str(text))
    except ValueError as error:
        raise PolicyFilesError([f"{name}: {error}"]) from error
    problems: list[str] = []
    if parsed.get("templates") or parsed.get("templateLinks"):
        problems.append(f"{name}: a template: write each policy out")
    found: list[Policy] = []
    for body in parsed.get("staticPolicies", {}).values():
        annotations = body.get("annotations", {})
        policy_id = annotations.get("id")
        if not policy_id:
            problems.append(f"{name}: a policy without @id: each needs one, by which decisions name it")
            continue
        if (denial := annotations.get("denial")) is not None and denial not in set(DenialClass):
            known = ", ".join(DenialClass)
            problems.append(f"{name}: {policy_id}: @denial({denial!r}): give one of {known}")
            continue
        if denial is not None and body["effect"] != "forbid":
            problems.append(f"{name}: {policy_id}: @denial is for forbid alone")
            continue
        found.append(Policy(policy_id=policy_id, file=name, text=text, body=body))
    if problems:
        raise PolicyFilesError(problems)
    return found


def _twice(policies: Sequence[Policy]) -> list[str]:
    first: dict[str, str] = {}
    problems = []
    for policy in policies:
        if policy.policy_id in first:
            problems.append(
                f"{policy.file}: @id({policy.policy_id!r}) stands in {first[policy.policy_id]} as well: keep one"
            )
        first.setdefault(policy.policy_id, policy.file)
    return problems


def _invalid(policies: Sequence[Policy], catalog: Catalog) -> list[str]:
    try:
        schema = schema_for(catalog)
        cedarpy.Schema.from_str(schema)
    except ValueError as error:
        return [f"the schema of this catalog: {error}"]
    problems = []
    for policy in policies:
        text = cedarpy.policies_from_json_str(
            json.dumps(
                {"staticPolicies": {policy.policy_id: policy.body}, "templates": {}, "templateLinks": []}
            )
        )
        result = cedarpy.validate_policies(text, schema)
        problems += [f"{policy.file}: {policy.policy_id}: {error.error}" for error in result.errors]
        if not result.validation_passed and not result.errors:
            problems.append(f"{policy.file}: {policy.policy_id}: is not valid")
    return problems


def _fits(head: Mapping[str, Any], kind: str, names: set[str]) -> bool:
    """Whether a scope of a policy's head fits an entity of this kind; nothing has parents but instances."""
    own = f"{NAMESPACE}::{kind}"
    match head:
        case {"op": "==", "entity": {"type": str(of), "id": str(name)}}:
            return of == own and name in names
        case {"op": "in", "entity": {"type": str(of), "id": str(name)}}:
            return of == own and name in names
        case {"op": "in", "entities": [*several]}:
            return any(one.get("type") == own and one.get("id") in names for one in several)
        case {"op": "is", "entity_type": str(of)} if "in" not in head:
            return of == own
        case _:
            return True


def _fits_principal(head: Mapping[str, Any], question: Question) -> bool:
    instance, agent_class = f"{NAMESPACE}::Instance", f"{NAMESPACE}::AgentClass"
    match head:
        case {"op": "==", "entity": {"type": str(of), "id": str(name)}}:
            return of == instance and name == str(question.instance)
        case {"op": "in", "entity": {"type": str(of), "id": str(name)}}:
            return (of, name) in {(instance, str(question.instance)), (agent_class, question.agent_class)}
        case {"op": "is", "entity_type": str(of), **rest}:
            within = rest.get("in")
            if of != instance:
                return False
            return within is None or _fits_principal({"op": "in", **within}, question)
        case _:
            return True


def _named_instance(body: Mapping[str, Any]) -> str:
    """The instance that a head names, if it names one: slices of others do without that policy."""
    head = body["principal"]
    entity = head.get("entity") or (head.get("in") or {}).get("entity") or {}
    return str(entity.get("id", "")) if entity.get("type") == f"{NAMESPACE}::Instance" else ""


def _mentions(node: object, names: frozenset[str]) -> bool:
    match node:
        case dict():
            return any(
                (key == "attr" and value in names) or (key in names) or _mentions(value, names)
                for key, value in node.items()
            )
        case list():
            return any(_mentions(value, names) for value in node)
        case _:
            return False
