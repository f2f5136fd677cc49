"""A catalog with tools, and the contexts that policies are asked with."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from broker.adapters.policy.cedar import CedarPolicies
from broker.domain.actions import Chain, digest_of
from broker.domain.catalog import AttributeType, Catalog, Destination, Tool
from broker.domain.classification import Classification
from broker.domain.decision import AcquireContext, CallContext, DeclareContext, Fingerprint
from broker.domain.effects import Verb
from broker.domain.flows import Origin, Reads, Writes
from broker.domain.task import Scope
from tests.fakes.samples import OWNER, a_catalog, a_task
from tests.fakes.system import NOON

HOOKS = Destination(host="hooks.example.com", port=443, scheme="https")
ORDERS = Destination(host="127.0.0.1", port=5432, scheme="postgresql")
BASELINE = """
@id("declare") permit(principal, action == Tasklease::Action::"declare", resource);
@id("acquire") permit(principal, action == Tasklease::Action::"acquire", resource);
@id("call") permit(principal, action == Tasklease::Action::"call", resource);
"""


def a_tool(name: str, **changed: Any) -> Tool:
    return Tool(
        **{
            "name": name,
            "description": "",
            "verb": Verb.READ,
            "resource": "orders/{order_id}",
            "destination": ORDERS,
            "reads": Reads(classification=Classification.CONFIDENTIAL),
            "writes": Writes.NOTHING,
            "arguments": {"type": "object"},
            "attributes": {"order_id": AttributeType.STRING},
            **changed,
        }
    )


READ_ORDERS = a_tool(
    "read-orders",
    attributes={
        "order_id": AttributeType.STRING,
        "limit": AttributeType.INTEGER,
        "archived": AttributeType.BOOLEAN,
        "columns": AttributeType.STRINGS,
    },
)
POST_WEBHOOK = a_tool(
    "post-webhook", verb=Verb.SEND, resource="hooks", destination=HOOKS, reads=Reads(), writes=Writes.EXTERNAL
)
DROP_ORDERS = a_tool("drop-orders", verb=Verb.DELETE, resource="orders", writes=Writes.DESTRUCTIVE)
READ_MAIL = a_tool(
    "read-mail",
    destination=None,
    resource="mail",
    reads=Reads(origin=Origin.UNTRUSTED),
    attributes={},
)
TOOLS = (READ_ORDERS, POST_WEBHOOK, DROP_ORDERS, READ_MAIL)
SCOPE = Scope(roles=frozenset({"orders", "customers"}), tools=frozenset(tool.name for tool in TOOLS))


def with_tools(*tools: Tool, digest: str = "digest-tools") -> Catalog:
    catalog = a_catalog(digest=digest)
    listed = {tool.name: tool for tool in tools}
    types = {
        name: replace(one, tools=frozenset(listed), environment="production")
        for name, one in catalog.task_types.items()
    }
    return replace(catalog, task_types=types, tools=listed)


CATALOG = with_tools(*TOOLS)


def policies_of(
    folder: Path, text: str, catalog: Catalog = CATALOG, name: str = "all.cedar"
) -> CedarPolicies:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return CedarPolicies.load(folder, catalog)


def declaring(**changed: Any) -> DeclareContext:
    return DeclareContext(
        **{
            "caller": OWNER,
            "agent_class": "invoice-bot",
            "task_type": "reconcile",
            "intent": "tests",
            "scope": SCOPE,
            "environment": "production",
            "at": NOON,
            **changed,
        }
    )


def acquiring(name: str = "orders", **changed: Any) -> AcquireContext:
    return AcquireContext(
        **{
            "caller": OWNER,
            "task": a_task(scope=SCOPE, created_at=NOON - timedelta(seconds=90)),
            "role_name": name,
            "role": CATALOG.credential_roles.get(name),
            "live_leases": 0,
            "earlier_denials": 0,
            "at": NOON,
            **changed,
        }
    )


def calling(tool: Tool | None = READ_ORDERS, arguments: Any = None, **changed: Any) -> CallContext:
    given = {} if arguments is None else arguments
    return CallContext(
        **{
            "caller": OWNER,
            "task": a_task(scope=SCOPE, created_at=NOON - timedelta(seconds=90)),
            "tool_name": "nothing" if tool is None else tool.name,
            "tool": tool,
            "arguments": given,
            "arguments_digest": _digest(given),
            "effect": None if tool is None else tool.effect(given),
            "fingerprint": Fingerprint.SAME,
            "live_leases": 0,
            "earlier_denials": 0,
            "at": NOON,
            "chain": Chain(),
            **changed,
        }
    )


def _digest(arguments: Any) -> str:
    try:
        return digest_of(arguments)
    except (TypeError, ValueError):
        return "no digest"
