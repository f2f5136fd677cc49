"""What Cedar is told of a request: principal, action, resource, their attributes, and the context.

What always holds: what the agent says of itself stands below `asserted` and nowhere else; what cannot be said exactly in
Cedar's types raises `CannotBeAskedError`, and so is denied. What of the context nobody looks at is not put together at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, TypeAlias

from broker.adapters.policy.schema import quoted
from broker.adapters.policy.slices import ACTION_TYPE, CLASS_TYPE, INSTANCE_TYPE, RESOURCE_TYPES, Question
from broker.domain.actions import Chain
from broker.domain.catalog import AttributeType, Catalog, CredentialRole, Revocation, Tool
from broker.domain.classification import Classification
from broker.domain.decision import AcquireContext, CallContext, DeclareContext
from broker.domain.effects import Effect
from broker.domain.flows import Origin
from broker.domain.spiffe import AgentIdentity, SpiffeId

Context: TypeAlias = DeclareContext | AcquireContext | CallContext
Entry: TypeAlias = CredentialRole | Tool | None

LEVELS: Final[Mapping[Classification, int]] = {level: number for number, level in enumerate(Classification)}
_SMALLEST: Final = -(2**63)
_LARGEST: Final = 2**63 - 1
_EXACT_IN_A_FLOAT: Final = 2**53


class CannotBeAskedError(ValueError):
    """The request cannot be put to the policies; the text is for the caller, and repeats no value."""


class Facts(NamedTuple):
    """A request, as plain data."""

    question: Question
    caller: SpiffeId
    entry: Entry
    """The catalog's entry of the resource; a task type has no attributes."""
    of: Context
    arguments: Mapping[str, Any]
    """Those of a call that policies may look at, in their types."""

    def told(self, names: Iterable[str]) -> Mapping[str, Any]:
        """What stands directly below `context` under these names; an action has not all that others have."""
        said = _SAID[self.question.action]
        return {name: said[name](self) for name in names if name in said}

    @property
    def context(self) -> Mapping[str, Any]:
        """All that is told of the context."""
        return self.told(_SAID[self.question.action])

    @property
    def principal(self) -> dict[str, str]:
        """The instance's uid."""
        return {"type": INSTANCE_TYPE, "id": str(self.caller)}

    @property
    def action(self) -> dict[str, str]:
        """The action's uid."""
        return {"type": ACTION_TYPE, "id": self.question.action}

    @property
    def resource(self) -> dict[str, str]:
        """The resource's uid."""
        return {"type": RESOURCE_TYPES[self.question.action], "id": self.question.resource}

    def principal_attributes(self) -> dict[str, Any]:
        """What policies see of the principal."""
        return {"id": str(self.caller), "trust_domain": self.caller.trust_domain}

    def resource_attributes(self) -> dict[str, Any]:
        """What policies see of the resource."""
        match self.entry:
            case CredentialRole():
                return _role_attributes(self.entry)
            case Tool():
                return _tool_attributes(self.entry)
            case None:
                return {}

    def entities(self) -> str:
        """The three entities, in Cedar's JSON."""
        agent_class = {"type": CLASS_TYPE, "id": self.question.agent_class}
        return json.dumps(
            [
                {"uid": self.principal, "attrs": self.principal_attributes(), "parents": [agent_class]},
                {"uid": agent_class, "attrs": {}, "parents": []},
                {"uid": self.resource, "attrs": self.resource_attributes(), "parents": []},
            ]
        )

    def request(self, names: Iterable[str] | None = None) -> dict[str, Any]:
        """For `cedarpy.is_authorized`; of the context only what stands directly below it under these names, else all."""
        context = self.context if names is None else self.told(names)
        return {
            "principal": self.principal,
            "action": self.action,
            "resource": self.resource,
            "context": json.dumps(context, allow_nan=False),
        }

    def request_without_arguments(self) -> dict[str, Any]:
        """For `cedarpy.is_authorized_partial`: whatever follows from the arguments is unknown."""
        context: dict[str, Any] = json.loads(json.dumps(self.context, allow_nan=False))
        context["asserted"] |= {name: _unknown(name) for name in ("arguments", "arguments_sha256")}
        if isinstance(self.entry, Tool) and "{" in self.entry.resource:
            context["effect"]["resource"] = _unknown("resource")
        return {
            "principal": _uid_text(self.principal),
            "action": _uid_text(self.action),
            "resource": _uid_text(self.resource),
            "context": json.dumps(context),
        }


def facts_of(context: Context, catalog: Catalog, *, with_arguments: bool = True) -> Facts:
    """What Cedar is told of it; without arguments, as if the call had none.

    Raises:
        CannotBeAskedError: it cannot be told exactly, or does not fit together.
    """
    if context.at.tzinfo is None:
        message = "it is not known when this is"
        raise CannotBeAskedError(message)
    match context:
        case DeclareContext():
            return _declaration(context, catalog)
        case AcquireContext():
            return _acquisition(context)
        case CallContext():
            return _call(context, with_arguments=with_arguments)


def _declaration(context: DeclareContext, catalog: Catalog) -> Facts:
    task_type = context.task_type
    if task_type not in catalog.task_types:
        message = f"the catalog has no task type {task_type!r}"
        raise CannotBeAskedError(message)
    _demand_text("the intent", context.intent)
    agent_class = _class_of(context.caller, context.agent_class)
    return Facts(Question(agent_class, "declare", task_type), context.caller, None, context, {})


def _acquisition(context: AcquireContext) -> Facts:
    role = context.role
    if role is None or role.name != context.role_name:
        message = f"the catalog has no role {context.role_name!r}"
        raise CannotBeAskedError(message)
    agent_class = _class_of(context.caller, context.task.agent_class)
    return Facts(Question(agent_class, "acquire", role.name), context.caller, role, context, {})


def _call(context: CallContext, *, with_arguments: bool) -> Facts:
    tool = context.tool
    if tool is None or tool.name != context.tool_name:
        message = f"the catalog has no tool {context.tool_name!r}"
        raise CannotBeAskedError(message)
    if not with_arguments:
        context = replace(context, arguments={}, arguments_digest="", effect=tool.effect({}))
    if context.effect is None:
        message = f"it is not known what tool {tool.name!r} would do"
        raise CannotBeAskedError(message)
    _demand_text(f"what tool {tool.name!r} would do something to", context.effect.resource)
    agent_class = _class_of(context.caller, context.task.agent_class)
    arguments = _arguments(tool, context.arguments) if tool.attributes else {}
    return Facts(Question(agent_class, "call", tool.name), context.caller, tool, context, arguments)


def _class_of(caller: SpiffeId, said: str) -> str:
    """The class that the caller's verified name says; the rest of the context has to say the same."""
    identity = AgentIdentity.of(caller)
    if identity is None or identity.agent_class != said:
        message = f"the caller is no instance of agent class {said!r}"
        raise CannotBeAskedError(message)
    return identity.agent_class


def _demand_text(what: str, said: str) -> None:
    """Also where no policy looks at it: the audit trail could not hold it either."""
    if not said.isascii() and _string(said) is None:
        message = f"{what} is no text that could be written down"
        raise CannotBeAskedError(message)


def _arguments(tool: Tool, arguments: Mapping[str, object]) -> dict[str, Any]:
    """Those that policies may look at, in their types."""
    found: dict[str, Any] = {}
    for name, kind in tool.attributes.items():
        if name in arguments:
            value = _CONVERTERS[kind](arguments[name])
            if value is None:
                message = f"argument {name!r} is not {_SAYS[kind]}, and so policies cannot look at it"
                raise CannotBeAskedError(message)
            found[name] = value
    return found


def _string(value: object) -> str | None:
    if not isinstance(value, str):
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return None
    return value


def _integer(value: object) -> int | None:
    """An integer of 64 bits; also one that came as a float, where floats tell integers apart."""
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT_IN_A_FLOAT:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not _SMALLEST <= value <= _LARGEST:
        return None
    return value


def _boolean(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _strings(value: object) -> list[str] | None:
    if not isinstance(value, list | tuple):
        return None
    found = [_string(item) for item in value]
    return None if None in found else sorted({item for item in found if item is not None})


_CONVERTERS: Final[Mapping[AttributeType, Callable[[object], object]]] = {
    AttributeType.STRING: _string,
    AttributeType.INTEGER: _integer,
    AttributeType.BOOLEAN: _boolean,
    AttributeType.STRINGS: _strings,
}
_SAYS: Final[Mapping[AttributeType, str]] = {
    AttributeType.STRING: "a text",
    AttributeType.INTEGER: "an integer of 64 bits",
    AttributeType.BOOLEAN: "true or false",
    AttributeType.STRINGS: "a list of texts",
}


def _role_attributes(role: CredentialRole) -> dict[str, Any]:
    return {
        "classification": role.classification.value,
        "classification_level": LEVELS[role.classification],
        "destination_host": role.destination.host,
        "destination_port": role.destination.port,
        "destination_scheme": role.destination.scheme,
        "verbs": sorted(role.verbs),
        "resource": role.resource,
        "reads_untrusted": role.origin is Origin.UNTRUSTED,
        "writes": role.writes.value,
        "revocable": role.revocation is Revocation.REVOCABLE,
    }


def _tool_attributes(tool: Tool) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "verb": tool.verb.value,
        "resource": tool.resource,
        "classification": tool.reads.classification.value,
        "classification_level": LEVELS[tool.reads.classification],
        "reads_untrusted": tool.reads.origin is Origin.UNTRUSTED,
        "writes": tool.writes.value,
    }
    if tool.destination is not None:
        attributes |= {
            "destination_host": tool.destination.host,
            "destination_port": tool.destination.port,
            "destination_scheme": tool.destination.scheme,
        }
    return attributes


# What stands below `context`, by action: the schema's order ----------------------------------------------------------


def _progress(chain: Chain) -> dict[str, Any]:
    progress: dict[str, Any] = {
        "length": chain.length,
        "steps": len(chain.steps),
        "denials": chain.denials,
        "steps_taken": sorted(set(chain.steps)),
    }
    if chain.last:
        progress["last"] = chain.last
    return progress


def _oldest(context: Any) -> int:  # noqa: ANN401 - of an acquisition or a call
    oldest: datetime | None = context.oldest_lease
    return 0 if oldest is None else int((context.at - oldest).total_seconds())


def _effect(effect: Effect) -> dict[str, Any]:
    return {
        "verbs": sorted(effect.verbs),
        "resource": effect.resource,
        "destination": effect.destination,
    }


_Says: TypeAlias = Mapping[str, Callable[[Any], Any]]
"""Each is told the facts; its action says of which context they are."""

_WHEN: Final[_Says] = {
    "hour": lambda facts: facts.of.at.astimezone(UTC).hour,
    "weekday": lambda facts: facts.of.at.astimezone(UTC).weekday(),
}
_USING: Final[_Says] = {
    "task_type": lambda facts: facts.of.task.task_type,
    "environment": lambda facts: facts.of.task.environment,
    "class": lambda facts: facts.of.task.agent_class,
    "chain": lambda facts: _progress(facts.of.chain),
    "labels": lambda facts: sorted(facts.of.chain.labels),
    "earlier_denials": lambda facts: facts.of.earlier_denials,
    "live_leases": lambda facts: facts.of.live_leases,
    "oldest_lease_seconds": lambda facts: _oldest(facts.of),
    "open_anomalies": lambda facts: facts.of.open_anomalies,
    **_WHEN,
    "task_age_seconds": lambda facts: int((facts.of.at - facts.of.task.created_at).total_seconds()),
    "scope_roles": lambda facts: sorted(facts.of.task.scope.roles),
    "scope_tools": lambda facts: sorted(facts.of.task.scope.tools),
}
_SAID: Final[Mapping[str, _Says]] = {
    "declare": {
        "task_type": lambda facts: facts.of.task_type,
        "environment": lambda facts: facts.of.environment,
        "scope_roles": lambda facts: sorted(facts.of.scope.roles),
        "scope_tools": lambda facts: sorted(facts.of.scope.tools),
        **_WHEN,
        "asserted": lambda facts: {"intent": facts.of.intent},
    },
    "acquire": {
        **_USING,
        "effect": lambda facts: _effect(facts.of.role.effect),
        "asserted": lambda facts: {
            "intent": facts.of.task.intent,
            "fingerprint": facts.of.fingerprint.value,
        },
    },
    "call": {
        **_USING,
        "effect": lambda facts: _effect(facts.of.effect),
        "asserted": lambda facts: {
            "intent": facts.of.task.intent,
            "fingerprint": facts.of.fingerprint.value,
            "arguments_sha256": facts.of.arguments_digest,
            "arguments": facts.arguments,
        },
    },
}


def _unknown(name: str) -> dict[str, Any]:
    return {"__extn": {"fn": "unknown", "arg": name}}


def _uid_text(uid: Mapping[str, str]) -> str:
    return f"{uid['type']}::{quoted(uid['id'])}"
