"""Where an `AuthorizeAction`'s time goes, beside the echo: the gate alone, the decision with its durable record alone.

The gate: health's `Check` on the broker's own door, with an SVID, verified and counted like every call. The decision: the use case
on a real SQLite file in this process, sixteen tasks at once, with the same hundred policies; no gRPC.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.authorize import ARGUMENTS, CHAIN, TOOL, policies_text, timed
from bench.stack import AGENT_CLASS, TASK_TYPE, Measured
from broker.adapters.catalog.arguments import SchemaArguments
from broker.adapters.policy.bounded import BoundedPolicy
from broker.adapters.policy.catalog_bounds import CatalogBoundsPolicy
from broker.adapters.policy.cedar import CedarPolicies
from broker.adapters.policy.files import FixedPolicies
from broker.adapters.store.quarantine import StoredQuarantine
from broker.adapters.store.sqlite import SqliteStore
from broker.adapters.system.clock import FollowingClock
from broker.adapters.system.ids import RandomIds
from broker.adapters.system.steps import NoSteps
from broker.config.catalog import load_catalog
from broker.devstack.state import TRUST_DOMAIN
from broker.domain.audit import AuditEvent
from broker.domain.catalog import Catalog
from broker.domain.changes import Append, CreateTask
from broker.domain.findings import Found, RecordedFinding
from broker.domain.identifiers import RequestId, TaskId
from broker.domain.peer import SvidKind, VerifiedPeer
from broker.domain.spiffe import SpiffeId
from broker.domain.task import Scope, Task
from broker.usecases.authorize_action import AuthorizeAction
from broker.usecases.caller import Caller
from broker.usecases.chains import Chains
from broker.usecases.judging import Call
from broker.usecases.notice import Notice
from broker.usecases.noticing import NothingNoticed, Notices
from broker.usecases.task_work import declared_event
from broker.usecases.watch_instances import WatchInstances


async def gate_round(channels: list[grpc.aio.Channel]) -> tuple[float, list[float]]:
    """As many calls as a round of the others, which pass the gate and do nothing behind it."""

    def calling(channel: grpc.aio.Channel) -> Callable[[], Awaitable[object]]:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        return lambda: stub.Check(health_pb2.HealthCheckRequest())

    return await timed([calling(channel) for channel in channels])


async def without_grpc(measured: Measured, folder: Path, *, rounds: int) -> dict[str, float]:
    """Decisions a second, each durable with its audit record, of sixteen tasks at once."""
    async with decisions(measured, folder, watched=False) as deciding:
        rates = []
        for number in range(rounds + 1):
            seconds = await round_of(deciding, number)
            rates += [16 * CHAIN / seconds] if number else []  # the first warms up
    return {"authorize.alone_per_s_16": median(rates)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Deciding:
    """The use case on a store of its own."""

    authorize: AuthorizeAction
    store: SqliteStore
    watches: WatchInstances
    notice: Notices


@asynccontextmanager
async def decisions(measured: Measured, folder: Path, *, watched: bool) -> AsyncIterator[Deciding]:
    """The use case with a hundred policies, on a new SQLite file; with a watch over each instance, or nobody who watches."""
    catalog = load_catalog(measured.stack.broker.catalog, trust_domain=TRUST_DOMAIN)
    policies = folder / "policies"
    policies.mkdir(parents=True)
    (policies / "bench.cedar").write_text(policies_text(applying=100, others=0))
    (policies / "permit.cedar").write_text('@id("all") permit (principal, action, resource);')
    store = SqliteStore.open(f"sqlite:///{folder}/broker.db")
    clock = FollowingClock.of_wall()
    try:
        await store.commit([Append(event=_event())])
        watches = WatchInstances(store=store, catalogs=_Fixed(catalog), clock=clock)
        notice: Notices = NothingNoticed()
        if watched:
            notice = Notice(
                watches=watches,
                answers=_nothing_is_answered,
                store=store,
                quarantine=StoredQuarantine(store),
                clock=clock,
            )
        authorize = AuthorizeAction(
            store=store,
            catalogs=_Fixed(catalog),
            policy=BoundedPolicy(CatalogBoundsPolicy(), FixedPolicies(CedarPolicies.load(policies, catalog))),
            arguments=SchemaArguments(),
            chains=Chains(store),
            end_task=None,  # type: ignore[arg-type]  # no fingerprint changes here
            clock=clock,
            ids=RandomIds(),
            steps=NoSteps(),
            notice=notice,
        )
        yield Deciding(authorize=authorize, store=store, watches=watches, notice=notice)
    finally:
        await store.close()


async def round_of(deciding: Deciding, number: int) -> float:
    """Seconds for a chain of twenty calls of each of sixteen tasks, all at once."""
    store, call = deciding.store, Call(tool=TOOL, arguments=json.loads(ARGUMENTS))
    callers = [_caller(f"i{client}") for client in range(16)]
    tasks = [TaskId(f"task-{number}-{client}") for client in range(16)]
    for caller, task_id in zip(callers, tasks, strict=True):
        task = _task(caller.peer.spiffe_id, task_id)
        await store.commit([CreateTask(task=task, max_live=1000)])
        await deciding.notice(declared_event(task))  # as its declaration does

    async def one(caller: Caller, task_id: TaskId) -> None:
        for _ in range(CHAIN):
            assert (await deciding.authorize(caller, task_id, call)).action.allowed

    began = time.perf_counter()
    await asyncio.gather(*(one(caller, task_id) for caller, task_id in zip(callers, tasks, strict=True)))
    return time.perf_counter() - began


async def _nothing_is_answered(found: Found, **_others: object) -> RecordedFinding:
    message = f"honest work was taken for {found.detector} {found.rule}"
    raise AssertionError(message)


class _Fixed:
    """Implements ports.policy.CatalogSource."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def current(self) -> Catalog:
        return self._catalog


def _event() -> AuditEvent:
    return AuditEvent(kind="lease.listed", at=datetime.now(UTC), actor="bench", facts={})


def _caller(instance: str) -> Caller:
    spiffe_id = SpiffeId.parse(f"spiffe://{TRUST_DOMAIN}/agent/{AGENT_CLASS}/{instance}")
    return Caller(
        peer=VerifiedPeer(
            spiffe_id=spiffe_id,
            agent_class=AGENT_CLASS,
            instance=instance,
            svid_expires_at=datetime.now(UTC) + timedelta(hours=1),
            verified_by=SvidKind.X509,
            svid_sha256="00" * 32,
        ),
        request_id=RequestId("req-bench"),
    )


def _task(owner: SpiffeId, task_id: TaskId) -> Task:
    now = datetime.now(UTC)
    return Task(
        task_id=task_id,
        owner=owner,
        agent_class=AGENT_CLASS,
        task_type=TASK_TYPE,
        intent="bench",
        scope=Scope(roles=frozenset(), tools=frozenset({TOOL})),
        environment="staging",
        created_at=now,
        deadline=now + timedelta(hours=1),
        heartbeat_interval=timedelta(seconds=10),
        heartbeat_due=now + timedelta(seconds=30),
    )
