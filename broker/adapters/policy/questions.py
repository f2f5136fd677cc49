"""What policies are asked with: the schema, and each decision's principal, resource and context in Cedar's words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.resources import files
from typing import Final

from broker.domain.actions import Chain
from broker.domain.catalog import AttributeType, Catalog, CredentialRole, Destination, Tool
from broker.domain.classification import Classification
from broker.domain.decision import AcquireContext, CallContext, DeclareContext
from broker.domain.effects import Effect
from broker.domain.flows import Origin, Reads
from broker.domain.spiffe import SpiffeId
from broker.domain.task import Task

NAMESPACE: Final = "Tasklease"
_LEVELS: Final = tuple(Classification)
_TYPES: Final = {
    AttributeType.STRING: "String",
    AttributeType.INTEGER: "Long",
    AttributeType.BOOLEAN: "Bool",
    AttributeType.STRINGS: "Set<String>",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One decision that is asked for."""

    action: str
    instance: SpiffeId
    agent_class: str
    resource_type: str
    resource: str
    attributes: Mapping[str, object]
    """Of the resource; the same for one catalog."""
    context: Mapping[str, object]

    @property
    def request(self) -> dict[str, object]:
        """As the engine takes it."""
        return {
            "principal": _uid("Instance", str(self.instance)),
            "action": _uid("Action", self.action),
            "resource": _uid(self.resource_type, self.resource),
            "context": dict(self.context),
        }

    def entities(self) -> str:
        """The principal, its class and the resource, as Cedar's JSON."""
        agent_class = _uid("AgentClass", self.agent_class)
        return json.dumps(
            [
                {"uid": agent_class, "attrs": {}, "parents": []},
                {
                    "uid": _uid("Instance", str(self.instance)),
                    "attrs": {"trust_domain": self.instance.trust_domain},
                    "parents": [agent_class],
                },
                {
                    "uid": _uid(self.resource_type, self.resource),
                    "attrs": dict(self.attributes),
                    "parents": [],
                },
            ]
        )


def schema_for(catalog: Catalog) -> str:
    """The published schema, with the arguments that the catalog's tools name.

    Raises:
        ValueError: two tools give one argument different types.
    """
    found: dict[str, tuple[AttributeType, str]] = {}
    for tool in sorted(catalog.tools.values(), key=lambda tool: tool.name):
        for name, kind in tool.attributes.items():
            first, whose = found.setdefault(name, (kind, tool.name))
            if first is not kind:
                message = f"argument {name} is {first.value} at tool {whose} and {kind.value} at {tool.name}"
                raise ValueError(message)
    lines = [f'    "{name}"?: {_TYPES[kind]},' for name, (kind, _) in sorted(found.items())]
    text = files("broker.adapters.policy").joinpath("schema.cedarschema").read_text(encoding="utf-8")
    before, _, _ = text.rpartition("}")
    return "\n".join([before.rstrip(), "", "  type Arguments = {", *lines, "  };", "}", ""])


def of_declaration(context: DeclareContext, catalog: Catalog) -> Question:
    """May this instance declare this task?"""
    return Question(
        action="declare",
        instance=context.caller,
        agent_class=context.agent_class,
        resource_type="TaskType",
        resource=context.task_type,
        attributes={"environment": catalog.task_types[context.task_type].environment},
        context={
            "environment": context.environment,
            "scope_roles": sorted(context.scope.roles),
            "scope_tools": sorted(context.scope.tools),
            **_when(context.at),
            "asserted": {"intent": context.intent},
        },
    )


def of_acquisition(context: AcquireContext) -> Question:
    """May this task have this credential?

    Raises:
        ValueError: the role is not in the catalog.
    """
    role = context.role
    if role is None:
        message = "no such role"
        raise ValueError(message)
    return Question(
        action="acquire",
        instance=context.caller,
        agent_class=context.task.agent_class,
        resource_type="CredentialRole",
        resource=role.name,
        attributes={**_of_role(role), "revocable": role.revocation.value == "revocable"},
        context={
            **_of_task(context, context.task, context.chain, role.effect),
            "asserted": {"intent": context.task.intent},
        },
    )


def of_call(context: CallContext) -> Question:
    """May this task make this call?

    Raises:
        ValueError: the tool is not in the catalog.
    """
    tool = context.tool
    if tool is None or context.effect is None:
        message = "no such tool"
        raise ValueError(message)
    arguments = {
        name: value for name in tool.attributes if (value := context.arguments.get(name)) is not None
    }
    return Question(
        action="call",
        instance=context.caller,
        agent_class=context.task.agent_class,
        resource_type="Tool",
        resource=tool.name,
        attributes=_of_tool(tool),
        context={
            **_of_task(context, context.task, context.chain, context.effect),
            "asserted": {
                "intent": context.task.intent,
                "fingerprint": context.fingerprint.value,
                "arguments_sha256": context.arguments_digest,
                "arguments": arguments,
            },
        },
    )


def _of_task(
    context: AcquireContext | CallContext, task: Task, chain: Chain, effect: Effect
) -> dict[str, object]:
    oldest = context.oldest_lease
    return {
        "task_type": task.task_type,
        "environment": task.environment,
        "scope_roles": sorted(task.scope.roles),
        "scope_tools": sorted(task.scope.tools),
        "task_age_seconds": _seconds(context.at - task.created_at),
        "chain": {
            "length": chain.length,
            "steps": sorted(chain.times),
            "denials": chain.denials,
            "last": chain.last,
            "last_refused": chain.last_refused,
        },
        "labels": sorted(chain.labels),
        "earlier_denials": context.earlier_denials,
        "live_leases": context.live_leases,
        "oldest_lease_seconds": 0 if oldest is None else _seconds(context.at - oldest),
        "open_anomalies": 0,
        "effect": {
            "verbs": sorted(effect.verbs),
            "resource": effect.resource,
            "destination": effect.destination,
        },
        **_when(context.at),
    }


def _of_role(role: CredentialRole) -> dict[str, object]:
    return {
        **_what(role.reads, role.destination),
        "verbs": sorted(role.verbs),
        "resource": role.resource,
        "writes": role.writes.value,
    }


def _of_tool(tool: Tool) -> dict[str, object]:
    return {
        **_what(tool.reads, tool.destination),
        "verbs": [tool.verb.value],
        "resource": tool.resource,
        "writes": tool.writes.value,
    }


def _what(reads: Reads, destination: Destination | None) -> dict[str, object]:
    return {
        "classification": reads.classification.value,
        "level": _LEVELS.index(reads.classification),
        "untrusted": reads.origin is Origin.UNTRUSTED,
        "destination": "" if destination is None else str(destination),
        "host": "" if destination is None else destination.host,
        "port": 0 if destination is None else destination.port,
        "scheme": "" if destination is None else destination.scheme,
    }


def _when(at: datetime) -> dict[str, object]:
    """In UTC; Monday is 0."""
    return {"hour": at.hour, "weekday": at.weekday()}


def _seconds(span: timedelta) -> int:
    return max(int(span.total_seconds()), 0)


def _uid(kind: str, name: str) -> dict[str, str]:
    return {"type": f"{NAMESPACE}::{kind}", "id": name}
