"""Domain objects to start from: valid, and complete unless a test says otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from broker.domain.actions import Action, ActionKind
from broker.domain.audit import AuditEvent, AuditKind
from broker.domain.catalog import (
    AgentClass,
    AttributeType,
    Catalog,
    CredentialRole,
    Destination,
    IssueMethod,
    Revocation,
    TaskType,
    Tool,
)
from broker.domain.classification import Classification
from broker.domain.effects import Effect, Verb
from broker.domain.engines import Engine
from broker.domain.errors import DenialClass
from broker.domain.findings import Answer, Found, RecordedFinding, Severity
from broker.domain.flows import Reads, Writes
from broker.domain.identifiers import ActionId, LeaseId, RequestId, TaskId, TokenAccessor
from broker.domain.lease import Lease
from broker.domain.peer import SvidKind, VerifiedPeer
from broker.domain.spiffe import SpiffeId
from broker.domain.task import EndCause, Scope, Task, TaskEnd
from broker.usecases.caller import Caller
from tests.fakes.system import NOON

OWNER = SpiffeId.parse("spiffe://example.test/agent/invoice-bot/one")
OTHER = SpiffeId.parse("spiffe://example.test/agent/invoice-bot/two")
BROKER = SpiffeId.parse("spiffe://example.test/tasklease/broker")
TASK = TaskId("task-00000000000000000000000001")
LEASE = LeaseId("lease-00000000000000000000000001")
ACCESSOR = TokenAccessor("accessor-one")


def a_role(name: str = "orders", **changed: Any) -> CredentialRole:
    return CredentialRole(
        **{
            "name": name,
            "description": "",
            "engine": Engine.POSTGRESQL,
            "mount": "database",
            "path": f"creds/{name}",
            "method": IssueMethod.READ,
            "parameters": {},
            "classification": Classification.CONFIDENTIAL,
            "destination": Destination(host="127.0.0.1", port=5432, scheme="postgresql"),
            "ttl": timedelta(minutes=1),
            "max_ttl": timedelta(minutes=30),
            "revocation": Revocation.REVOCABLE,
            **changed,
        }
    )


def a_catalog(
    *,
    roles: tuple[CredentialRole, ...] | None = None,
    max_tasks: int = 3,
    max_leases: int = 3,
    digest: str = "digest-one",
    tools: tuple[Tool, ...] = (),
    **of_the_type: Any,
) -> Catalog:
    listed = roles if roles is not None else (a_role("orders"), a_role("customers"))
    task_type = TaskType(
        name="reconcile",
        description="",
        environment="production",
        roles=frozenset(role.name for role in listed),
        max_duration=timedelta(hours=1),
        heartbeat=timedelta(seconds=10),
        max_leases=max_leases,
        tools=frozenset(tool.name for tool in tools),
        **of_the_type,
    )
    return Catalog(
        agent_classes={
            "invoice-bot": AgentClass(
                name="invoice-bot",
                trust_domain=OWNER.trust_domain,
                description="",
                task_types=frozenset({task_type.name}),
                max_tasks=max_tasks,
            )
        },
        task_types={task_type.name: task_type},
        credential_roles={role.name: role for role in listed},
        digest=digest,
        tools={tool.name: tool for tool in tools},
    )


def a_caller(owner: SpiffeId = OWNER, *, time_left: timedelta | None = None) -> Caller:
    _, _, agent_class, instance = owner.path.split("/")
    return Caller(
        peer=VerifiedPeer(
            spiffe_id=owner,
            agent_class=agent_class,
            instance=instance,
            svid_expires_at=NOON + timedelta(hours=1),
            verified_by=SvidKind.X509,
            svid_sha256="ab" * 32,
        ),
        request_id=RequestId("req-1"),
        time_left=time_left,
    )


def a_tool(name: str = "read-orders", **changed: Any) -> Tool:
    text = {"type": "string", "maxLength": 40}
    return Tool(
        **{
            "name": name,
            "description": "",
            "verb": Verb.READ,
            "resource": "orders",
            "destination": Destination(host="db.test", port=5432, scheme="postgresql"),
            "reads": Reads(),
            "writes": Writes.NOTHING,
            "arguments": {
                "type": "object",
                "properties": {"order_id": text, "to": text, "amount": {"type": "integer"}},
                "additionalProperties": False,
            },
            "attributes": {"to": AttributeType.STRING, "amount": AttributeType.INTEGER},
            **changed,
        }
    )


def a_task(task_id: str = TASK, **changed: Any) -> Task:
    return Task(
        **{
            "task_id": TaskId(task_id),
            "owner": OWNER,
            "agent_class": "invoice-bot",
            "task_type": "reconcile",
            "intent": "reconcile the invoices of März",
            "scope": Scope(roles=frozenset({"orders", "customers"})),
            "environment": "production",
            "created_at": NOON + timedelta(microseconds=1),
            "deadline": NOON + timedelta(hours=1),
            "heartbeat_interval": timedelta(seconds=10),
            "heartbeat_due": NOON + timedelta(seconds=30),
            "fingerprint": b"\x00\xff",
            "request_digest": "cd" * 32,
            **changed,
        }
    )


def a_lease(lease_id: str = LEASE, **changed: Any) -> Lease:
    return Lease(
        **{
            "lease_id": LeaseId(lease_id),
            "task_id": TASK,
            "role": "orders",
            "idempotency_key": f"key of {lease_id}",
            "request_digest": "ef" * 32,
            "accessor": ACCESSOR,
            "intended_at": NOON + timedelta(microseconds=3),
            "max_expires_at": NOON + timedelta(minutes=30),
            **changed,
        }
    )


def an_action(position: int = 1, *, allowed: bool = True, **changed: Any) -> Action:
    refused = {"reason": "POLICY_DENIED", "denial_class": DenialClass.STRUCTURAL}
    return Action(
        **{
            "action_id": ActionId(f"action-{position}"),
            "task_id": TaskId(TASK),
            "owner": OWNER,
            "position": position,
            "kind": ActionKind.TOOL,
            "name": "read-orders",
            "effect": Effect(
                verbs=frozenset({Verb.READ}), resource="orders/März", destination="postgresql://db:5432"
            ),
            "arguments_digest": "ab" * 32,
            "at": NOON + timedelta(microseconds=position),
            "allowed": allowed,
            **({"labels": frozenset({"read.internal", "untrusted"})} if allowed else refused),
            **changed,
        }
    )


def an_event(kind: str = AuditKind.TASK_DECLARED, **changed: Any) -> AuditEvent:
    facts: Mapping[str, object] = {"task_type": "reconcile", "roles": ["orders"], "words": "März", "n": 1}
    return AuditEvent(
        **{
            "kind": kind,
            "at": NOON + timedelta(microseconds=7),
            "actor": str(OWNER),
            "task_id": TASK,
            "lease_id": "",
            "request_id": "req-1",
            "facts": facts,
            **changed,
        }
    )


def an_end(cause: EndCause = EndCause.REVOKED, at: datetime = NOON, **changed: Any) -> TaskEnd:
    return TaskEnd(cause=cause, at=at, **changed)


def a_finding(number: int = 1, **changed: Any) -> RecordedFinding:
    """Found by a detector and recorded at once, and not answered yet."""
    of_found = {name: changed.pop(name) for name in list(changed) if name in Found.__dataclass_fields__}
    found = Found(
        **{
            "detector": "pivot",
            "rule": "same-effect",
            "severity": Severity.HIGH,
            "confidence": 0.9,
            "instance": OWNER,
            "task_id": TASK,
            "at": NOON,
            "evidence": (ActionId(f"action-{number:026}"),),
            "expected": "no other way to what was denied",
            "happened": "'read-orders' after a denial",
            **of_found,
        }
    )
    return RecordedFinding(
        **{
            "finding_id": found.finding_id,
            "found": found,
            "found_at": NOON,
            "answer": Answer.END_TASK,
            **changed,
        }
    )
