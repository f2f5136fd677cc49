"""Decisions as the audit trail has them: what was asked, with what was known, and what was answered.

What was not recorded cannot be known again: arguments that no policy could look at, and the exact moment at which a credential
was released. A decision that may have rested on something like that is marked as not exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Final

from broker.domain.actions import Chain
from broker.domain.audit import AuditEvent, AuditKind, AuditRecord
from broker.domain.catalog import Catalog
from broker.domain.decision import (
    AcquireContext,
    CallContext,
    Decision,
    DeclareContext,
    Fingerprint,
    Verdict,
)
from broker.domain.errors import DenialClass
from broker.domain.identifiers import TaskId
from broker.domain.spiffe import AgentIdentity, InvalidSpiffeIdError, SpiffeId
from broker.domain.task import Scope, Task

Context = DeclareContext | AcquireContext | CallContext
_INTERVAL: Final = timedelta(seconds=10)
"""Of signs of life: no decision looks at it."""
_DENIED: Final = {AuditKind.TASK_DENIED, AuditKind.CREDENTIAL_DENIED, AuditKind.ACTION_DENIED}
_KINDS: Final = _DENIED | {
    AuditKind.TASK_DECLARED,
    AuditKind.CREDENTIAL_INTENDED,
    AuditKind.ACTION_ALLOWED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One decision of the past."""

    sequence: int
    at: datetime
    instance: SpiffeId
    context: Context
    decision: Decision
    action_id: str
    catalog: str
    """Digest of the catalog that held; empty where it was not recorded."""
    listed: bool
    """Whether the catalog at hand still has what was asked for."""
    exact: bool
    """Whether all that a policy can look at was recorded."""
    shadow: Mapping[str, Any] | None
    """What the candidate said, where one ran beside the live policies."""

    @property
    def what(self) -> str:
        """`call send-report`, `acquire orders`, `declare reconcile`."""
        match self.context:
            case DeclareContext(task_type=name):
                return f"declare {name}"
            case AcquireContext(role_name=name):
                return f"acquire {name}"
            case CallContext(tool_name=name):
                return f"call {name}"


@dataclass(slots=True)
class _Known:
    """A task, as far as its records have been read."""

    task: Task
    chain: Chain = field(default_factory=Chain)


class Trail:
    """Reads records in order; `catalog` is the one against which they are read."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._tasks: dict[str, _Known] = {}
        self.unreadable = 0
        """Decisions whose records say too little: of tasks that were declared before the first record, or by an older version."""

    def decisions(self, records: Iterable[AuditRecord]) -> Iterator[Recorded]:
        """Those of the records that are decisions."""
        for record in records:
            if record.event.kind not in _KINDS:
                continue
            try:
                found = self._read(record)
            except (KeyError, TypeError, ValueError, AttributeError):
                found = None
            if found is None:
                self.unreadable += 1
            else:
                yield found

    def _read(self, record: AuditRecord) -> Recorded | None:
        event, facts = record.event, record.event.facts
        decision = _decision(event)
        if event.kind in {AuditKind.TASK_DECLARED, AuditKind.TASK_DENIED}:
            declared = self._declaration(event)
            if decision.allowed:
                self._tasks[event.task_id] = _Known(_task(event, declared))
            return self._recorded(record, declared, decision, listed=True, exact=True)
        known = self._tasks.get(event.task_id)
        if known is None:
            return None
        position = int(_integer(facts["position"]))
        known.chain = replace(
            known.chain,
            length=position - 1,
            labels=frozenset(map(str, _list(facts["labels"]))),
            denials=_integer(facts["earlier_denials"]),
        )
        if event.kind in {AuditKind.ACTION_ALLOWED, AuditKind.ACTION_DENIED}:
            context, listed = self._call(event, known)
            exact = "arguments_left_out" not in facts
        else:
            context, listed = self._acquisition(event, known)
            exact = True
        if decision.allowed:
            known.chain = _with_step(known.chain, _name_of(context), event.at)
        return self._recorded(record, context, decision, listed=listed, exact=exact)

    @staticmethod
    def _recorded(
        record: AuditRecord, context: Context, decision: Decision, *, listed: bool, exact: bool
    ) -> Recorded:
        event = record.event
        shadow = event.facts.get("shadow")
        return Recorded(
            sequence=record.sequence,
            at=event.at,
            instance=context.caller,
            context=context,
            decision=decision,
            action_id=str(event.facts.get("action", "")),
            catalog=str(event.facts.get("catalog", "")),
            listed=listed,
            exact=exact,
            shadow=shadow if isinstance(shadow, Mapping) else None,
        )

    @staticmethod
    def _declaration(event: AuditEvent) -> DeclareContext:
        facts = event.facts
        caller = _instance(event.actor)
        return DeclareContext(
            caller=caller,
            agent_class=_class_of(caller),
            task_type=str(facts["task_type"]),
            intent=str(facts["intent"]),
            scope=Scope(
                roles=frozenset(map(str, _list(facts["roles"]))),
                tools=frozenset(map(str, _list(facts.get("tools", [])))),
            ),
            environment=str(facts["environment"]),
            at=event.at,
        )

    def _call(self, event: AuditEvent, known: _Known) -> tuple[Context, bool]:
        facts = event.facts
        tool = self._catalog.tools.get(str(facts["tool"]))
        arguments = facts.get("arguments", {})
        if not isinstance(arguments, Mapping):
            raise TypeError
        effect = None
        if tool is not None:
            effect = replace(tool.effect({}), resource=str(facts["resource"]))
        context = CallContext(
            caller=known.task.owner,
            task=known.task,
            tool_name=str(facts["tool"]),
            tool=tool,
            arguments=arguments,
            arguments_digest=str(facts["arguments_sha256"]),
            effect=effect,
            fingerprint=Fingerprint(str(facts["fingerprint"])),
            live_leases=_integer(facts["live_leases"]),
            earlier_denials=_integer(facts["earlier_denials"]),
            at=event.at,
            chain=known.chain,
            oldest_lease=_moment(facts.get("oldest_lease")),
            open_anomalies=_integer(facts.get("open_anomalies", 0)),
        )
        return context, tool is not None

    def _acquisition(self, event: AuditEvent, known: _Known) -> tuple[Context, bool]:
        facts = event.facts
        role = self._catalog.credential_roles.get(str(facts["role"]))
        context = AcquireContext(
            caller=known.task.owner,
            task=known.task,
            role_name=str(facts["role"]),
            role=role,
            fingerprint=Fingerprint(str(facts["fingerprint"])),
            live_leases=_integer(facts["live_leases"]),
            earlier_denials=_integer(facts["earlier_denials"]),
            at=event.at,
            chain=known.chain,
            oldest_lease=_moment(facts.get("oldest_lease")),
            open_anomalies=_integer(facts.get("open_anomalies", 0)),
        )
        return context, role is not None


def _name_of(context: Context) -> str:
    match context:
        case AcquireContext(role_name=name) | CallContext(tool_name=name):
            return name
        case DeclareContext():
            raise TypeError


def _decision(event: AuditEvent) -> Decision:
    facts = event.facts
    denied = event.kind in _DENIED
    said = str(facts.get("denial_class", ""))
    return Decision(
        verdict=Verdict.DENY if denied else Verdict.ALLOW,
        policies=tuple(map(str, _list(facts.get("policies", [])))),
        reason=str(facts.get("reason", "")) if denied else "",
        denial_class=DenialClass(said) if said else None,
    )


def _task(event: AuditEvent, declared: DeclareContext) -> Task:
    deadline = _moment(event.facts["deadline"])
    if deadline is None:
        raise ValueError
    return Task(
        task_id=TaskId(event.task_id),
        owner=declared.caller,
        agent_class=declared.agent_class,
        task_type=declared.task_type,
        intent=declared.intent,
        scope=declared.scope,
        environment=declared.environment,
        created_at=event.at,
        deadline=deadline,
        heartbeat_interval=_INTERVAL,
        heartbeat_due=deadline,
        fingerprint=bytes.fromhex(str(event.facts.get("fingerprint", ""))),
    )


def _with_step(chain: Chain, name: str, at: datetime) -> Chain:
    times = MappingProxyType({**chain.times, name: (*chain.times.get(name, ()), at)})
    return replace(chain, steps=(*chain.steps, name), times=times, last=name)


def _instance(text: str) -> SpiffeId:
    try:
        return SpiffeId.parse(text)
    except InvalidSpiffeIdError as error:
        raise ValueError from error


def _class_of(caller: SpiffeId) -> str:
    identity = AgentIdentity.of(caller)
    if identity is None:
        raise ValueError
    return identity.agent_class


def _list(value: object) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise TypeError
    return list(value)


def _integer(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError
    return value


def _moment(value: object) -> datetime | None:
    if not value:
        return None
    return datetime.fromisoformat(str(value))
