"""Decides by Cedar policies that a platform team writes. Implements ports.policy.PolicyEngine.

What always holds: it allows only what Cedar allows by name and without a single error; whatever else happens is a denial. A
forbid that fails would be skipped by Cedar, so a failure anywhere denies.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Collection, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self, TypeVar

import cedarpy

from broker.adapters.policy.facts import CannotBeAskedError, Context, Entry, Facts, facts_of
from broker.adapters.policy.looks import Looks, looks_of
from broker.adapters.policy.lru import Lru
from broker.adapters.policy.reading import (
    Policy,
    PolicyFilesError,
    notices,
    read_policies,
)
from broker.adapters.policy.schema import argument_types, attributes_of, partial, schema_for
from broker.adapters.policy.slices import Question, Slice, Slices
from broker.config.reading import Problem
from broker.domain.catalog import Catalog, Tool
from broker.domain.decision import AcquireContext, CallContext, Decision, DeclareContext, Verdict
from broker.domain.errors import DenialClass, PolicyDeniedError

logger = logging.getLogger(__name__)

DECISION_PREFIX: Final = "cedar:"
"""Before the ids of policies, in decisions."""
DEFAULT: Final = f"{DECISION_PREFIX}default"
ERROR: Final = f"{DECISION_PREFIX}error"
_ENTITIES: Final = 8192
_ANSWERS: Final = 16_384
_STRICTEST: Final = (DenialClass.STRUCTURAL, DenialClass.GRANTABLE, DenialClass.TRANSIENT)
_DECIDED: Final = (cedarpy.Decision.Allow, cedarpy.Decision.Deny)
T = TypeVar("T")
_NAMED: Final = re.compile(r"policy `([^`]+)`")


@dataclass(frozen=True, slots=True)
class _Entities:
    entry: Entry
    handle: cedarpy.Entities


@dataclass(frozen=True, slots=True)
class Answer:
    """What Cedar says: whether it allows, which policies said so, and which failed."""

    allowed: bool
    determining: tuple[str, ...] = ()
    failed: bool = False
    failing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Remembered:
    entry: Entry
    decision: Decision
    failed: bool


class CedarPolicies:
    """See the module. Never changes; what it keeps are compiled forms."""

    def __init__(
        self, policies: tuple[Policy, ...], catalog: Catalog, *, sliced: bool = True, remembers: bool = True
    ) -> None:
        """Of policies that were checked; `load` is the way to them.

        Unsliced it asks all policies each time; without memory, each time anew. Both answer the same.
        """
        self.policies: Final = policies
        self.catalog_digest: Final = catalog.digest
        self.notices: Final = notices(policies, _known(catalog))
        self._by_id: Final = {policy.policy_id: policy for policy in policies}
        self.digest: Final = _digest(policies)
        schema = schema_for(catalog)
        self._schema: Final = cedarpy.Schema.from_str(schema)
        self._partial: Final = cedarpy.Schema.from_str(partial(schema))
        self._argument_types: Final = argument_types(catalog)
        self._slices: Final = Slices(policies)
        self._sliced: Final = sliced
        self._looks: Final[Lru[Question, Looks]] = Lru(_ENTITIES)
        self._answers: Final[Lru[tuple[Question, tuple[Hashable, ...]], _Remembered] | None] = (
            Lru(_ANSWERS) if remembers else None
        )
        self._entities: Final[Lru[tuple[str, str, str, str], _Entities]] = Lru(_ENTITIES)

    @classmethod
    def load(cls, folder: Path, catalog: Catalog) -> Self:
        """Read all policy files below `folder`. Without policies everything is denied.

        Raises:
            PolicyFilesError: they cannot be used with this catalog; says everything that is wrong.
        """
        try:
            schema = cedarpy.Schema.from_str(schema_for(catalog), release_gil=True)
        except ValueError as error:
            what = f"the catalog's tools cannot be put into the schema: {error}"
            raise PolicyFilesError([Problem(file="catalog", line=0, field="tools", what=what)]) from error
        return cls(read_policies(folder, schema, attributes_of(catalog)), catalog)

    def decide_declaration(self, context: DeclareContext, catalog: Catalog) -> Decision:
        """Whether policies let the task be declared."""
        return self.decide(context, catalog)

    def decide_acquisition(self, context: AcquireContext, catalog: Catalog) -> Decision:
        """Whether policies let the credential be handed out."""
        return self.decide(context, catalog)

    def decide_call(self, context: CallContext, catalog: Catalog) -> Decision:
        """Whether policies let the tool be called with these arguments."""
        return self.decide(context, catalog)

    def could_allow_call(self, context: CallContext, catalog: Catalog) -> bool:
        """Whether policies may let the tool be called with some arguments.

        False for sure where no arguments help; True may still turn out to be a denial for all arguments there are.
        """
        try:
            return self._could_allow(context, catalog)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is no permission (rule R5)
            return _in_error(error, False)  # noqa: FBT003 - what is answered then

    def facts(self, context: Context, catalog: Catalog) -> Facts:
        """What Cedar is told of it.

        Raises:
            CannotBeAskedError: it cannot be told.
        """
        return facts_of(context, catalog)

    def slice(self, facts: Facts) -> Slice:
        """The policies that can apply to it."""
        return self._slices.of(facts.question) if self._sliced else self._slices.whole()

    def ask(self, facts: Facts, asked: cedarpy.PolicySet, looked_at: Collection[str] | None = None) -> Answer:
        """Put the request to these policies, which look at no more of the context than that; None: perhaps at all."""
        schema = self._schema if looked_at is None else self._partial
        result = cedarpy.is_authorized(facts.request(looked_at), asked, self._handle(facts), schema)
        errors, decided = result.diagnostics.errors, result.decision
        if errors or decided not in _DECIDED:
            named = {name for error in errors for name in _NAMED.findall(error)}
            return Answer(allowed=False, failed=True, failing=tuple(sorted(named & self._by_id.keys())))
        allowed = decided is cedarpy.Decision.Allow
        return Answer(allowed=allowed, determining=tuple(sorted(result.diagnostics.reasons)))

    def _decided(self, facts: Facts) -> Decision:
        """What is decided; from memory where the same was decided before in all that these policies look at."""
        if facts.arguments and not self._fit(facts):
            return self._decision(facts, Answer(allowed=False, failed=True))
        looks = self._looks.get(facts.question, lambda: looks_of(self.slice(facts).policies))
        values = None if self._answers is None else looks.values(facts)
        if self._answers is None or values is None:
            return self._asked(facts, looks).decision
        return self._answers.get(
            (facts.question, values),
            lambda: self._asked(facts, looks),
            still_good=lambda found: found.entry is facts.entry and not found.failed,
        ).decision

    def _asked(self, facts: Facts, looks: Looks) -> _Remembered:
        looked_at = None if looks.everything else looks.names
        answer = self.ask(facts, self.slice(facts).compiled, looked_at)
        return _Remembered(facts.entry, self._decision(facts, answer), answer.failed)

    def _fit(self, facts: Facts) -> bool:
        """Whether these policies know the arguments, as the schema has them: also those that none of them looks at."""
        tool, known = facts.entry, self._argument_types
        return isinstance(tool, Tool) and all(
            known.get(name) is tool.attributes[name] for name in facts.arguments
        )

    def decide(self, context: Context, catalog: Catalog) -> Decision:
        """Decide, whatever it is."""
        try:
            return self._decided(self.facts(context, catalog))
        except CannotBeAskedError as error:
            return _denied((DEFAULT,), str(error), DenialClass.STRUCTURAL)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is no permission (rule R5)
            return _in_error(error, _FAILED)

    def _decision(self, facts: Facts, answer: Answer) -> Decision:
        if answer.failed:
            logger.error(
                "a decision FAILED and so denies: action %s, resource %s, policies %s",
                facts.question.action,
                facts.question.resource,
                ", ".join(answer.failing) or "unknown",
            )
            return _failed(answer.failing)
        determining = tuple(self._by_id[name] for name in answer.determining)
        named = tuple(f"{DECISION_PREFIX}{policy.policy_id}" for policy in determining)
        if answer.allowed and determining and all(policy.permits for policy in determining):
            return Decision(verdict=Verdict.ALLOW, policies=named)
        if not determining:
            return _denied((DEFAULT,), "no policy permits it", DenialClass.STRUCTURAL)
        strictest = min((policy.denial for policy in determining), key=_STRICTEST.index)
        text = "; ".join(policy.says or f"policy {policy.policy_id!r} forbids it" for policy in determining)
        return _denied(named, text, strictest)

    def _could_allow(self, context: CallContext, catalog: Catalog) -> bool:
        try:
            facts = facts_of(context, catalog, with_arguments=False)
        except CannotBeAskedError:
            return False
        asked = self.slice(facts).compiled
        entities = self._handle(facts)
        # Partial evaluation does not look at the schema: ask once with it, whether the rest fits at all.
        whole = cedarpy.is_authorized(facts.request(), asked, entities, self._schema)
        if whole.decision is cedarpy.Decision.NoDecision:
            return False
        result = cedarpy.is_authorized_partial(facts.request_without_arguments(), asked, entities)
        found = result.diagnostics
        if found.errors or found.unknown_entities:
            return False
        certain = [self._by_id[name] for name in found.reasons]
        unclear = [self._by_id[name] for name in found.nontrivial_residuals]
        if result.decision is cedarpy.Decision.Deny or not all(policy.permits for policy in certain):
            return False
        return any(policy.permits for policy in (*certain, *unclear))

    def _handle(self, facts: Facts) -> cedarpy.Entities:
        question = facts.question
        key = (str(facts.caller), question.agent_class, question.action, question.resource)
        kept = self._entities.get(
            key,
            lambda: _Entities(facts.entry, cedarpy.Entities.from_json_str(facts.entities(), self._schema)),
            still_good=lambda found: found.entry is facts.entry,
        )
        return kept.handle


def _in_error(error: Exception, answer: T) -> T:
    """What is answered then. The error's text may hold arguments, and is not logged."""
    logger.error("a decision FAILED and so denies: %s", type(error).__name__)
    return answer


def _denied(policies: tuple[str, ...], text: str, denial_class: DenialClass) -> Decision:
    return Decision(
        verdict=Verdict.DENY,
        policies=policies,
        reason=PolicyDeniedError.reason,
        text=text,
        denial_class=denial_class,
    )


def _failed(failing: tuple[str, ...]) -> Decision:
    """Structural: nobody may be asked to grant what was not decided."""
    policies = (ERROR, *(f"{DECISION_PREFIX}{name}" for name in failing))
    return _denied(policies, "the policies could not decide this", DenialClass.STRUCTURAL)


_FAILED: Final = _failed(())


def _digest(policies: tuple[Policy, ...]) -> str:
    """Tells one set of policies from another; the order and the files do not matter."""
    trees = {policy.policy_id: policy.tree for policy in policies}
    return hashlib.sha256(json.dumps(trees, sort_keys=True).encode()).hexdigest()[:16]


def _known(catalog: Catalog) -> dict[str, frozenset[str]]:
    return {
        "AgentClass": frozenset(catalog.agent_classes),
        "TaskType": frozenset(catalog.task_types),
        "CredentialRole": frozenset(catalog.credential_roles),
        "Tool": frozenset(catalog.tools),
    }
