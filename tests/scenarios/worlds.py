"""The same traces on the use cases over a real store, and on a broker behind its door. Simulated: broker's own code."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from broker.adapters.policy.bounded import BoundedPolicy
from broker.adapters.policy.catalog_bounds import CatalogBoundsPolicy
from broker.adapters.policy.cedar import CedarPolicies
from broker.adapters.policy.files import FixedPolicies
from broker.api.v1 import credentials_pb2, tasks_pb2, tools_pb2
from broker.config.catalog import load_catalog
from broker.demo.callers import Answer, Caller
from broker.domain.actions import ActionOutcome
from broker.domain.catalog import Catalog
from broker.domain.decision import Decision, Verdict
from broker.domain.errors import BrokerError, DenialClass
from broker.domain.identifiers import LeaseId, TaskId
from broker.domain.spiffe import SpiffeId
from broker.domain.task import Outcome
from broker.usecases.decide_acquisition import Acquisition
from broker.usecases.deciding import asked
from broker.usecases.declare_task import Declaration
from broker.usecases.judging import Call
from broker.usecases.simulating import Simulated, refused
from tests.fakes.samples import a_caller
from tests.fakes.system import FakeClock
from tests.threats.world import key
from tests.unit.usecases.wiring import Broker

HERE: Final = Path(__file__).parent
CATALOG: Final = HERE / "catalog.yaml"
POLICIES: Final = HERE / "policies"
TRACES: Final = HERE / "traces"


def the_catalog(trust_domain: str = "example.test") -> Catalog:
    return load_catalog(CATALOG, trust_domain=trust_domain)


def the_policy(catalog: Catalog) -> BoundedPolicy:
    return BoundedPolicy(CatalogBoundsPolicy(), FixedPolicies(CedarPolicies.load(POLICIES, catalog)))


class OnTheStore:
    """Implements tracing.World: the use cases, wired as the broker wires them; Vault alone is a fake."""

    def __init__(self, broker: Broker, policy: BoundedPolicy, catalog: Catalog) -> None:
        self.broker = broker
        broker.policy.instead = lambda context: asked(policy, context, catalog)
        self._leases: dict[tuple[TaskId, str], list[LeaseId]] = {}

    async def declare(self, caller: SpiffeId, declaration: Declaration, now: datetime) -> Simulated:
        _set(self.broker.clock, now)
        try:
            task = await self.broker.declare(a_caller(caller), declaration)
        except BrokerError as error:
            return refused(error)
        return Simulated(decision=Decision(verdict=Verdict.ALLOW, policies=()), task_id=task.task_id)

    async def call(
        self, caller: SpiffeId, task_id: TaskId, call: Call, outcome: ActionOutcome | None, now: datetime
    ) -> Simulated:
        _set(self.broker.clock, now)
        try:
            found = await self.broker.authorize(a_caller(caller), task_id, call)
        except BrokerError as error:
            return refused(error)
        if outcome is not None and found.action.allowed:
            await self.broker.report_outcome(a_caller(caller), found.action.action_id, outcome)
        return Simulated(decision=found.decision, expected=found.expected)

    async def acquire(
        self, caller: SpiffeId, task_id: TaskId, role: str, fingerprint: bytes, now: datetime
    ) -> Simulated:
        _set(self.broker.clock, now)
        request = Acquisition(task_id=task_id, role=role, idempotency_key=key(), fingerprint=fingerprint)
        try:
            acquired = await self.broker.acquire(a_caller(caller), request)
        except BrokerError as error:
            return refused(error)
        self._leases.setdefault((task_id, role), []).append(acquired.lease.lease_id)
        return Simulated(decision=Decision(verdict=Verdict.ALLOW, policies=()))

    async def release(self, caller: SpiffeId, task_id: TaskId, role: str) -> None:
        await self.broker.release(a_caller(caller), self._leases[task_id, role].pop(0))

    async def end(self, caller: SpiffeId, task_id: TaskId) -> None:
        await self.broker.complete(a_caller(caller), task_id, Outcome.SUCCEEDED, "")


def _set(clock: FakeClock, now: datetime) -> None:
    clock.advance(seconds=(now - clock.now()).total_seconds())


class BehindTheDoor:
    """Implements tracing.World: a running broker, called as agents call it, each with an SVID of its own."""

    def __init__(
        self, calling: Callable[[SpiffeId], AbstractContextManager[Caller]], block: ExitStack
    ) -> None:
        self._calling = calling
        self._block = block
        self._callers: dict[SpiffeId, Caller] = {}
        self._leases: dict[tuple[TaskId, str], list[str]] = {}

    async def declare(self, caller: SpiffeId, declaration: Declaration, now: datetime) -> Simulated:  # noqa: ARG002 - it has its own clock
        request = tasks_pb2.DeclareTaskRequest(
            task_type=declaration.task_type,
            intent=declaration.intent,
            environment=declaration.environment,
            fingerprint=declaration.fingerprint,
            idempotency_key=key(),
        )
        if declaration.scope is not None:
            scope = declaration.scope
            request.scope.CopyFrom(tasks_pb2.Scope(roles=sorted(scope.roles), tools=sorted(scope.tools)))
        answer = self._call(caller, "DeclareTask", request)
        return _answered(answer, TaskId(answer.message.task.task_id) if answer.ok else None)

    async def call(
        self,
        caller: SpiffeId,
        task_id: TaskId,
        call: Call,
        outcome: ActionOutcome | None,
        now: datetime,  # noqa: ARG002 - as above
    ) -> Simulated:
        said = tools_pb2.Call(
            tool=call.tool, arguments=json.dumps(dict(call.arguments)), fingerprint=call.fingerprint
        )
        request = tools_pb2.AuthorizeActionRequest(task_id=task_id, call=said)
        answer = self._call(caller, "AuthorizeAction", request)
        if not answer.ok:
            return _answered(answer)
        found = answer.message.authorization
        if outcome is not None and found.allowed:
            report = tools_pb2.ReportOutcomeRequest(
                action_id=found.action_id, outcome=f"ACTION_OUTCOME_{outcome.name}"
            )
            assert self._call(caller, "ReportOutcome", report).ok
        return Simulated(
            decision=Decision(
                verdict=Verdict.ALLOW if found.allowed else Verdict.DENY,
                policies=(),
                reason=found.reason,
                text=found.text,
                denial_class=_class_of(found.denial_class),
            )
        )

    async def acquire(
        self,
        caller: SpiffeId,
        task_id: TaskId,
        role: str,
        fingerprint: bytes,
        now: datetime,  # noqa: ARG002 - as above
    ) -> Simulated:
        request = credentials_pb2.AcquireCredentialRequest(
            task_id=task_id, role=role, idempotency_key=key(), fingerprint=fingerprint
        )
        answer = self._call(caller, "AcquireCredential", request)
        if answer.ok:
            self._leases.setdefault((task_id, role), []).append(answer.message.lease.lease_id)
        return _answered(answer)

    async def release(self, caller: SpiffeId, task_id: TaskId, role: str) -> None:
        request = credentials_pb2.ReleaseCredentialRequest(lease_id=self._leases[task_id, role].pop(0))
        assert self._call(caller, "ReleaseCredential", request).ok

    async def end(self, caller: SpiffeId, task_id: TaskId) -> None:
        request = tasks_pb2.CompleteTaskRequest(
            task_id=task_id, outcome=tasks_pb2.TASK_OUTCOME_SUCCEEDED, reason=""
        )
        assert self._call(caller, "CompleteTask", request).ok

    def _call(self, caller: SpiffeId, method: str, request: Any) -> Answer:
        if caller not in self._callers:
            self._callers[caller] = self._block.enter_context(self._calling(caller))
        return self._callers[caller].call(method, request, timeout=30)


def _answered(answer: Answer, task_id: TaskId | None = None) -> Simulated:
    if answer.ok:
        return Simulated(decision=Decision(verdict=Verdict.ALLOW, policies=()), task_id=task_id)
    return Simulated(
        decision=Decision(
            verdict=Verdict.DENY,
            policies=(),
            reason=answer.reason,
            text=answer.text,
            denial_class=DenialClass(answer.denial_class) if answer.denial_class else None,
        )
    )


def _class_of(said: tools_pb2.DenialClass) -> DenialClass | None:
    name = tools_pb2.DenialClass.Name(said).removeprefix("DENIAL_CLASS_").lower()
    return None if name == "unspecified" else DenialClass(name)
