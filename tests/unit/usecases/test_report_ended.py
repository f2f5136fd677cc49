"""An instance that was reported to have ended: every active task of it ends, and of nobody else."""

from __future__ import annotations

import pytest

from broker.domain.audit import AuditKind
from broker.domain.changes import Append
from broker.domain.errors import StoreUnavailableError
from broker.domain.identifiers import RequestId
from broker.domain.operators import OperatorRole
from broker.domain.peer import VerifiedOperator
from broker.domain.spiffe import SpiffeId
from broker.domain.task import EndCause, TaskState
from broker.usecases.caller import OperatorCaller
from tests.fakes.samples import OTHER, OWNER, a_caller
from tests.unit.usecases.wiring import Broker

LAUNCHER = OperatorCaller(
    operator=VerifiedOperator(
        spiffe_id=SpiffeId.parse("spiffe://example.test/registrar/node-1"),
        roles=frozenset({OperatorRole.REGISTRAR}),
        svid_sha256="cd" * 32,
    ),
    request_id=RequestId("req-launcher"),
)


async def test_every_task_of_the_instance_ends_and_what_it_held_is_revoked(broker: Broker) -> None:
    tasks = [await broker.declared() for _ in range(2)]
    for task in tasks:
        await broker.acquired(task)
    ended = await broker.report_ended(LAUNCHER, OWNER)
    assert (ended.tasks_found, ended.unfinished_tasks) == (2, 0)
    assert not broker.issuer.leases
    assert not broker.issuer.tokens
    for task in tasks:
        found = await broker.task(task.task_id)
        assert found.end is not None
        assert (found.state, found.end.cause) == (TaskState.ENDED, EndCause.INSTANCE_GONE)


async def test_the_tasks_of_another_instance_of_the_class_go_on(broker: Broker) -> None:
    other = await broker.declared(a_caller(OTHER))
    await broker.declared()
    assert (await broker.report_ended(LAUNCHER, OWNER)).tasks_found == 1
    assert (await broker.task(other.task_id)).state is TaskState.ACTIVE


async def test_the_report_is_written_down_before_the_first_task_ends(broker: Broker) -> None:
    await broker.declared()
    await broker.report_ended(LAUNCHER, OWNER)
    kinds = await broker.kinds()
    assert kinds.index(AuditKind.INSTANCE_ENDED) < kinds.index(AuditKind.TASK_ENDING)
    (report,) = [one.event for one in await broker.records() if one.event.kind == AuditKind.INSTANCE_ENDED]
    assert (report.actor, report.facts["instance"]) == (str(LAUNCHER.operator.spiffe_id), str(OWNER))


async def test_twice_is_harmless(broker: Broker) -> None:
    await broker.declared()
    await broker.report_ended(LAUNCHER, OWNER)
    assert (await broker.report_ended(LAUNCHER, OWNER)).tasks_found == 0


async def test_what_cannot_be_written_down_is_not_done(broker: Broker) -> None:
    task = await broker.declared()

    def away() -> None:
        raise StoreUnavailableError

    broker.store.before(Append, away)
    with pytest.raises(StoreUnavailableError):
        await broker.report_ended(LAUNCHER, OWNER)
    assert (await broker.task(task.task_id)).state is TaskState.ACTIVE
