"""Acts out what instances do: tools with what a catalog would say of them, and events with honest noise."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from broker.anomaly.events import Called, Closed, Decided, Event, EventKind
from broker.domain.actions import ActionKind, ActionOutcome
from broker.domain.classification import Classification
from broker.domain.effects import Effect, Verb
from broker.domain.errors import DenialClass
from broker.domain.flows import Writes
from broker.domain.identifiers import ActionId, TaskId
from broker.domain.spiffe import SpiffeId
from broker.domain.task import EndCause, Outcome

MIDNIGHT = datetime(2026, 3, 2, tzinfo=UTC)
POLICY = "POLICY_DENIED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A tool or role."""

    verb: Verb
    resource: str
    at: str = ""
    level: Classification = Classification.INTERNAL
    untrusted: bool = False
    writes: Writes = Writes.NOTHING
    kind: ActionKind = ActionKind.TOOL
    canary: bool = False


R, C, U, D, X, S, G = Verb.READ, Verb.CREATE, Verb.UPDATE, Verb.DELETE, Verb.EXECUTE, Verb.SEND, Verb.GRANT
PUBLIC, CONF, REST = Classification.PUBLIC, Classification.CONFIDENTIAL, Classification.RESTRICTED
DB, WEB, VAULT, MAIL, CRM, IAM, GIT = (
    "postgresql://db:5432",
    "https://www.example:443",
    "https://vault:8200",
    "smtp://mail.example:587",
    "https://crm:443",
    "https://iam:443",
    "https://git:443",
)
INTERNAL, EXTERNAL, DESTRUCTIVE = Writes.INTERNAL, Writes.EXTERNAL, Writes.DESTRUCTIVE

TOOLS: dict[str, Entry] = {
    "orders-readonly": Entry(verb=R, resource="orders", at=DB, level=CONF, kind=ActionKind.CREDENTIAL),
    "orders-admin": Entry(verb=D, resource="orders", at=DB, level=CONF, kind=ActionKind.CREDENTIAL),
    "query-orders": Entry(verb=R, resource="orders/{}", at=DB, level=CONF),
    "match-payment": Entry(verb=U, resource="payments/{}", at=DB, writes=INTERNAL),
    "delete-order": Entry(verb=D, resource="orders/{}", at=DB, writes=DESTRUCTIVE),
    "purge-order": Entry(verb=D, resource="orders/{}", at=DB, writes=DESTRUCTIVE),
    "patch-order": Entry(verb=U, resource="orders/{}", at=DB, writes=INTERNAL),
    "read-mail": Entry(verb=R, resource="inbox/{}", untrusted=True),
    "send-report": Entry(verb=S, resource="reports/{}", at=MAIL, writes=EXTERNAL),
    "post-web": Entry(verb=S, resource="reports/{}", at=WEB, writes=EXTERNAL),
    "read-ticket": Entry(verb=R, resource="tickets/{}", at=CRM, untrusted=True),
    "search-kb": Entry(verb=R, resource="kb", at=CRM, level=PUBLIC),
    "read-customer": Entry(verb=R, resource="customers/{}", at=CRM),
    "export-customer": Entry(verb=R, resource="customers/{}", at=CRM),
    "update-ticket": Entry(verb=U, resource="tickets/{}", at=CRM, writes=INTERNAL),
    "close-ticket": Entry(verb=U, resource="tickets/{}", at=CRM, writes=INTERNAL),
    "list-customers": Entry(verb=R, resource="customers", at=CRM),
    "upload-export": Entry(verb=C, resource="exports/{}", at=DB, writes=INTERNAL),
    "read-config": Entry(verb=R, resource="configs/{}", at=GIT),
    "run-tests": Entry(verb=X, resource="builds/{}", at=GIT, writes=INTERNAL),
    "deploy": Entry(verb=X, resource="services/{}", at=GIT, writes=INTERNAL),
    "read-status": Entry(verb=R, resource="services/{}", at=GIT),
    "roll-back": Entry(verb=X, resource="services/{}", at=GIT, writes=INTERNAL),
    "list-users": Entry(verb=R, resource="users", at=IAM),
    "create-user": Entry(verb=C, resource="users/{}", at=IAM, writes=INTERNAL),
    "grant-group": Entry(verb=G, resource="groups/{}", at=IAM, writes=INTERNAL),
    "send-welcome": Entry(verb=S, resource="welcome/{}", at=MAIL, level=PUBLIC, writes=EXTERNAL),
    "read-file": Entry(verb=R, resource="repo/{}", at=GIT),
    "search-code": Entry(verb=R, resource="repo", at=GIT),
    "run-linter": Entry(verb=X, resource="checks/{}", at=GIT, writes=INTERNAL),
    "comment": Entry(verb=C, resource="reviews/{}", at=GIT, writes=INTERNAL),
    "read-secret": Entry(verb=R, resource="secrets/{}", at=VAULT, level=REST),
    "read-replica": Entry(verb=R, resource="secrets/{}", at="https://replica:8200", level=REST),
    "write-secret": Entry(verb=U, resource="secrets/{}", at=VAULT, level=REST, writes=INTERNAL),
    "restart": Entry(verb=X, resource="services/{}", at=GIT, writes=INTERNAL),
    "fetch-page": Entry(verb=R, resource="pages/{}", at=WEB, level=PUBLIC, untrusted=True),
    "write-notes": Entry(verb=C, resource="notes/{}", at=DB, writes=INTERNAL),
    "all-backups": Entry(verb=R, resource="backups", at=DB, level=REST, canary=True),
    "root-role": Entry(verb=G, resource="", at=IAM, level=REST, canary=True, kind=ActionKind.CREDENTIAL),
}


@dataclass(slots=True)
class TaskOf:
    """A task that is being acted out."""

    task_id: TaskId
    task_type: str
    environment: str
    position: int = 0


@dataclass(slots=True)
class Actor:
    """One instance, with its clock."""

    random: random.Random
    name: str
    agent_class: str = "worker"
    now: datetime = MIDNIGHT
    events: list[Event] = field(default_factory=list)
    address: str = "10.0.0.7"
    svid: int = 1
    key: int = 1
    calls: bool = True
    delegator: SpiffeId | None = None
    _count: int = 0
    bad: int | None = None

    @property
    def instance(self) -> SpiffeId:
        return SpiffeId(trust_domain="example.org", path=f"/agent/{self.agent_class}/{self.name}")

    def wait(self, mean: float) -> None:
        """As long as an agent thinks: about lognormal."""
        self.now += timedelta(seconds=mean * self.random.lognormvariate(-0.2, 0.6))

    def pause(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def turns_bad(self) -> None:
        """What comes next is the attack's first event, if none was yet."""
        if self.bad is None:
            self.bad = len(self.events)

    def task(self, task_type: str, environment: str = "staging") -> TaskOf:
        self._count += 1
        task = TaskOf(TaskId(f"task-{self.name}-{self._count}"), task_type, environment)
        self._add(EventKind.DECLARED, task)
        return task

    def act(
        self,
        task: TaskOf,
        tool: str,
        resource: str = "",
        *,
        allowed: bool = True,
        denial: DenialClass = DenialClass.STRUCTURAL,
        reason: str = POLICY,
        outcome: ActionOutcome | None = ActionOutcome.SUCCEEDED,
        at: str = "",
    ) -> ActionId:
        """One decision, and how it went."""
        entry = TOOLS[tool]
        if self.calls:
            self.call(task)
        self._count += 1
        task.position += 1
        action_id = ActionId(f"action-{self.name}-{self._count}")
        decided = Decided(
            action_id=action_id,
            kind=entry.kind,
            name=tool,
            effect=Effect(
                verbs=frozenset({entry.verb}),
                resource=entry.resource.format(resource),
                destination=at or entry.at,
            ),
            allowed=allowed,
            reason="" if allowed else reason,
            denial_class=None if allowed else denial,
            classification=entry.level,
            reads_untrusted=entry.untrusted,
            writes=entry.writes,
            canary=entry.canary,
        )
        self._add(EventKind.DECIDED, task, position=task.position, decided=decided)
        if allowed and outcome is not None:
            self.pause(self.random.uniform(0.05, 0.8))
            closed = Closed(action_id=action_id, outcome=outcome)
            self._add(EventKind.CLOSED, task, position=task.position, closed=closed)
        return action_id

    def call(self, task: TaskOf | None = None) -> None:
        called = Called(
            address=self.address, svid_sha256=f"svid-{self.svid}", key_fingerprint=f"key-{self.key}"
        )
        self._add(EventKind.CALLED, task, called=called)
        self.pause(0.001)

    def renew(self, address: str | None = None) -> None:
        """Another SVID with another key, as SPIRE gives one."""
        self.svid, self.key = self.svid + 1, self.key + 1
        self.address = address or self.address

    def end(self, task: TaskOf, cause: EndCause = EndCause.COMPLETED) -> None:
        outcome = Outcome.SUCCEEDED if cause is EndCause.COMPLETED else None
        self.pause(0.01)
        self._add(EventKind.TASK_ENDED, task, end=cause, outcome=outcome)

    def ends(self) -> None:
        self._add(EventKind.INSTANCE_ENDED, None)

    def _add(  # one event's parts
        self,
        kind: EventKind,
        task: TaskOf | None,
        *,
        position: int = 0,
        decided: Decided | None = None,
        closed: Closed | None = None,
        called: Called | None = None,
        end: EndCause | None = None,
        outcome: Outcome | None = None,
    ) -> None:
        self.events.append(
            Event(
                kind=kind,
                at=self.now,
                instance=self.instance,
                agent_class=self.agent_class,
                task_id=None if task is None else task.task_id,
                task_type="" if task is None else task.task_type,
                environment="" if task is None else task.environment,
                position=position,
                delegator=self.delegator,
                decided=decided,
                closed=closed,
                called=called,
                end=end,
                outcome=outcome,
            )
        )
