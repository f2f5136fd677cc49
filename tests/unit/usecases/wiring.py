"""All use cases, wired as bootstrap wires them, over fakes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from broker.adapters.catalog.arguments import SchemaArguments
from broker.adapters.policy.catalog_bounds import CatalogBoundsPolicy
from broker.adapters.store.quarantine import StoredQuarantine
from broker.domain.audit import AuditRecord, ChainHead, verify_chain
from broker.domain.catalog import Catalog
from broker.domain.decision import AcquireContext, CallContext, Decision, DeclareContext
from broker.domain.identifiers import LeaseId, TaskId
from broker.domain.lease import Lease
from broker.domain.task import Scope, Task
from broker.usecases.acquire_credential import AcquireCredential, Acquired
from broker.usecases.answer_findings import AnswerFindings
from broker.usecases.authorize_action import AuthorizeAction
from broker.usecases.caller import Caller
from broker.usecases.chains import Chains
from broker.usecases.complete_task import CompleteTask
from broker.usecases.decide_acquisition import Acquisition
from broker.usecases.declare_task import Declaration, DeclareTask
from broker.usecases.end_quarantined import EndQuarantined
from broker.usecases.end_task import EndTask
from broker.usecases.keep_task_alive import KeepTaskAlive
from broker.usecases.list_tools import ListTools
from broker.usecases.look_at_tasks import LookAtTasks
from broker.usecases.notice import Notice
from broker.usecases.noticing import NothingNoticed, NoticedBy
from broker.usecases.operate_findings import OperateFindings
from broker.usecases.operate_leases import OperateLeases
from broker.usecases.quarantine import QuarantineInstances
from broker.usecases.reconcile import Reconcile
from broker.usecases.release_credential import ReleaseCredential
from broker.usecases.renew_lease import RenewLease
from broker.usecases.report_ended import ReportEnded
from broker.usecases.report_outcome import ReportOutcome
from broker.usecases.revoke_leases import RevokeLeases
from broker.usecases.see_instances import SeeInstances
from broker.usecases.task_events import TaskEvents
from broker.usecases.task_grants import TaskGrants
from broker.usecases.watch_instances import WatchInstances
from broker.usecases.watch_over_tasks import WatchOverTasks
from tests.fakes.issuer import FakeIssuer
from tests.fakes.samples import BROKER, a_caller, a_catalog
from tests.fakes.store import FakeStore
from tests.fakes.system import CountingIds, FakeClock, RecordedSteps
from tests.fakes.verifier import FakeVerifier
from tests.fakes.view import FakeView

TIMEOUT = timedelta(seconds=5)


class FixedCatalog:
    """Implements ports.policy.CatalogSource."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog

    def current(self) -> Catalog:
        return self.catalog


class WatchedPolicy:
    """Implements ports.policy.PolicyEngine: the catalog's bounds, unless a test has another decision."""

    def __init__(self) -> None:
        self.instead: Callable[[DeclareContext | AcquireContext | CallContext], Decision] | None = None
        self.asked: list[DeclareContext | AcquireContext | CallContext] = []
        self._bounds = CatalogBoundsPolicy()

    def decide_declaration(self, context: DeclareContext, catalog: Catalog) -> Decision:
        self.asked.append(context)
        if self.instead is not None:
            return self.instead(context)
        return self._bounds.decide_declaration(context, catalog)

    def decide_acquisition(self, context: AcquireContext, catalog: Catalog) -> Decision:
        self.asked.append(context)
        if self.instead is not None:
            return self.instead(context)
        return self._bounds.decide_acquisition(context, catalog)

    def decide_call(self, context: CallContext, catalog: Catalog) -> Decision:
        self.asked.append(context)
        if self.instead is not None:
            return self.instead(context)
        return self._bounds.decide_call(context, catalog)

    def could_allow_call(self, context: CallContext, catalog: Catalog) -> bool:
        return self.decide_call(context, catalog).allowed


class Broker:
    """One process of the broker. Another one over the same store and backend is what a restart leaves."""

    def __init__(
        self,
        store: FakeStore,  # or a real one, where no test breaks it
        issuer: FakeIssuer,
        clock: FakeClock,
        ids: CountingIds,
        catalog: Catalog,
    ) -> None:
        self.store = store
        self.issuer = issuer
        self.clock = clock
        self.ids = ids
        self.catalogs = catalogs = FixedCatalog(catalog)
        self.policy = policy = WatchedPolicy()
        self.steps = steps = RecordedSteps()
        self.events = events = TaskEvents()
        self.grants = grants = TaskGrants(issuer=issuer, store=store, clock=clock, timeout=TIMEOUT)
        self.verifier = FakeVerifier()
        self.revoke_leases = revoke_leases = RevokeLeases(
            store=store,
            issuer=issuer,
            clock=clock,
            ids=ids,
            steps=steps,
            events=events,
            actor=BROKER,
            timeout=TIMEOUT,
            catalogs=catalogs,
            verifier=self.verifier,
        )
        shared: dict[str, Any] = {
            "store": store,
            "catalogs": catalogs,
            "policy": policy,
            "issuer": issuer,
            "grants": grants,
            "clock": clock,
            "ids": ids,
            "steps": steps,
            "timeout": TIMEOUT,
        }
        self.noticed = noticed = NoticedBy(NothingNoticed())
        shared["notice"] = noticed
        self.declare = DeclareTask(**shared)
        self.chains = Chains(store)
        self.acquire = AcquireCredential(**shared, revoke_leases=revoke_leases, chains=self.chains)
        revoke_leases.being_made = lambda: self.acquire.being_made
        self.end_task = EndTask(
            store=store,
            grants=grants,
            acquire=self.acquire,
            revoke_leases=revoke_leases,
            events=events,
            steps=steps,
        )
        self.authorize = AuthorizeAction(
            store=store,
            catalogs=catalogs,
            policy=policy,
            arguments=SchemaArguments(),
            chains=self.chains,
            end_task=self.end_task,
            clock=clock,
            ids=ids,
            steps=steps,
            notice=noticed,
        )
        self.list_tools = ListTools(
            store=store, catalogs=catalogs, policy=policy, chains=self.chains, clock=clock
        )
        self.report_outcome = ReportOutcome(store=store, clock=clock, notice=noticed)
        self.renew = RenewLease(
            store=store, catalogs=catalogs, issuer=issuer, events=events, clock=clock, timeout=TIMEOUT
        )
        self.watch = WatchOverTasks(
            store=store,
            catalogs=catalogs,
            end_task=self.end_task,
            renew_lease=self.renew,
            revoke_leases=revoke_leases,
            clock=clock,
            actor=BROKER,
        )
        self.quarantine = StoredQuarantine(store)
        self.end_quarantined = EndQuarantined(
            store=store, end_task=self.end_task, revoke_leases=revoke_leases, clock=clock, actor=BROKER
        )
        self.quarantine_instances = QuarantineInstances(
            store=store,
            memory=self.quarantine,
            end_quarantined=self.end_quarantined,
            events=events,
            clock=clock,
            steps=steps,
        )
        self.answers = AnswerFindings(
            store=store,
            catalogs=catalogs,
            end_task=self.end_task,
            end_quarantined=self.end_quarantined,
            revoke_leases=revoke_leases,
            memory=self.quarantine,
            events=events,
            clock=clock,
            steps=steps,
            actor=BROKER,
        )
        self.watches = WatchInstances(store=store, catalogs=catalogs, clock=clock)
        self.notice = Notice(
            watches=self.watches,
            answers=self.answers,
            store=store,
            quarantine=self.quarantine,
            clock=clock,
        )
        self.see_instances = SeeInstances(store=store, notice=self.notice, clock=clock)
        self.report_ended = ReportEnded(
            store=store,
            end_task=self.end_task,
            revoke_leases=revoke_leases,
            clock=clock,
            notice=noticed,
        )
        self.operate_leases = OperateLeases(store=store, revoke_leases=revoke_leases, clock=clock)
        self.operate_findings = OperateFindings(store=store, clock=clock)
        self.view = FakeView(issuer)
        self.reconcile = Reconcile(
            store=store,
            view=self.view,
            issuer=issuer,
            clock=clock,
            actor=str(BROKER),
            timeout=TIMEOUT,
        )
        self.complete = CompleteTask(store=store, end_task=self.end_task, clock=clock)
        self.release = ReleaseCredential(store=store, revoke_leases=revoke_leases, clock=clock)
        self.keep_alive = KeepTaskAlive(store=store, events=events, clock=clock)
        self.look = LookAtTasks(store=store)

    def watching(self) -> Broker:
        """From here on each step is noticed."""
        self.noticed.by = self.notice
        self.end_task.notice = self.notice
        return self

    def restarted(self) -> Broker:
        return Broker(self.store, self.issuer, self.clock, self.ids, self.catalogs.catalog)

    async def declared(self, caller: Caller | None = None, **changed: Any) -> Task:
        return await self.declare(caller or a_caller(), a_declaration(**changed))

    async def acquired(self, task: Task, role: str = "orders", key: str = "key") -> Acquired:
        return await self.acquire(a_caller(task.owner), an_acquisition(task, role, key))

    async def task(self, task_id: TaskId) -> Task:
        task = await self.store.task(task_id)
        assert task is not None
        return task

    async def lease(self, lease_id: LeaseId) -> Lease:
        lease = await self.store.lease(lease_id)
        assert lease is not None
        return lease

    async def only_lease(self, task: Task) -> Lease:
        (lease,) = await self.store.leases_of(task.task_id)
        return lease

    async def records(self) -> tuple[AuditRecord, ...]:
        """The audit trail, which is intact."""
        records = await self.store.audit_records(0, 10_000)
        assert verify_chain(records) is None or isinstance(verify_chain(records), ChainHead)
        return records

    async def kinds(self) -> list[str]:
        return [record.event.kind for record in await self.records()]


def a_declaration(**changed: Any) -> Declaration:
    return Declaration(
        **{
            "task_type": "reconcile",
            "intent": "reconcile",
            "scope": Scope(roles=frozenset({"orders", "customers"})),
            "environment": "",
            "deadline": None,
            "fingerprint": b"\x01",
            "idempotency_key": None,
            **changed,
        }
    )


def an_acquisition(task: Task, role: str = "orders", key: str = "key") -> Acquisition:
    return Acquisition(task_id=task.task_id, role=role, idempotency_key=key)


async def until(event: asyncio.Event) -> None:
    async with asyncio.timeout(5):
        await event.wait()


async def asked(issuer: FakeIssuer, operation: str, times: int) -> None:
    """Wait until the backend was asked so many times."""
    async with asyncio.timeout(5):
        while issuer.count(operation) < times:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)


async def settle() -> None:
    """Let everything run that waits for nothing but its turn."""
    for _ in range(50):
        await asyncio.sleep(0)


def a_broker() -> Broker:
    return Broker(FakeStore(), FakeIssuer(), FakeClock(), CountingIds(), a_catalog())
