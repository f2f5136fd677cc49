"""What every implementation of ports.store.Store does about quarantines. Goes with `StoreCases`."""

from __future__ import annotations

from typing import Any

import pytest

from broker.domain import changes as c
from broker.domain.errors import FieldInvalidError
from broker.domain.lease import LeaseState
from broker.domain.quarantine import Quarantine, QuarantineTarget, TargetKind
from broker.domain.spiffe import SpiffeId
from broker.domain.task import Task, TaskState
from broker.ports.store import Conflict, Store
from tests.contract.storing import MANY, add_lease, add_task, end, finish, issue, refused, the_task
from tests.fakes.samples import BROKER, LEASE, OTHER, OWNER, a_lease, a_task, an_event
from tests.fakes.system import NOON

INSTANCE = QuarantineTarget(kind=TargetKind.INSTANCE, name=str(OWNER))
CLASS = QuarantineTarget(kind=TargetKind.AGENT_CLASS, name="invoice-bot")
DOMAIN = QuarantineTarget(kind=TargetKind.TRUST_DOMAIN, name="example.test")
ALL = (INSTANCE, CLASS, DOMAIN)

LOOKALIKES = (
    QuarantineTarget(kind=TargetKind.INSTANCE, name=str(OTHER)),
    QuarantineTarget(kind=TargetKind.INSTANCE, name="spiffe://example.test/agent/invoice-bot"),
    QuarantineTarget(kind=TargetKind.INSTANCE, name="spiffe://example.test/agent/invoice-bot/"),
    QuarantineTarget(kind=TargetKind.AGENT_CLASS, name="invoice"),
    QuarantineTarget(kind=TargetKind.AGENT_CLASS, name="one"),
    QuarantineTarget(kind=TargetKind.AGENT_CLASS, name="Invoice-bot"),
    QuarantineTarget(kind=TargetKind.TRUST_DOMAIN, name="example"),
    QuarantineTarget(kind=TargetKind.TRUST_DOMAIN, name="example_test"),
    QuarantineTarget(kind=TargetKind.TRUST_DOMAIN, name="xample.test"),
    QuarantineTarget(kind=TargetKind.TRUST_DOMAIN, name="%"),
)
"""None of these concerns OWNER, however its name is written."""


def a_quarantine(target: QuarantineTarget = INSTANCE, **changed: Any) -> Quarantine:
    good: dict[str, Any] = {
        "target": target,
        "by": "spiffe://example.test/operator/ann",
        "reason": "März",
        "since": NOON,
    }
    return Quarantine(**good | changed)


async def impose(store: Store, target: QuarantineTarget = INSTANCE, **changed: Any) -> None:
    await store.commit([c.AddQuarantine(quarantine=a_quarantine(target, **changed))])


async def unfinished(store: Store, target: QuarantineTarget) -> int:
    status = await store.quarantine(target)
    assert status is not None
    return status.unfinished_tasks


def an_agents_task(task_id: str, owner: str) -> Task:
    spiffe_id = SpiffeId.parse(owner)
    return a_task(task_id, owner=spiffe_id, agent_class=spiffe_id.path.split("/")[2])


class QuarantineCases:
    async def test_nothing_is_quarantined_at_first(self, store: Store) -> None:
        await add_task(store)
        assert await store.quarantines() == ()
        assert await store.quarantine(INSTANCE) is None
        assert await store.quarantined_tasks(MANY) == ()
        assert (await store.quarantine_page(page_size=10, page_token="")).quarantines == ()

    @pytest.mark.parametrize("target", ALL, ids=str)
    async def test_a_quarantine_is_read_back_as_it_was(self, store: Store, target: QuarantineTarget) -> None:
        await impose(store, target)
        assert await store.quarantines() == (a_quarantine(target),)
        status = await store.quarantine(target)
        assert status is not None
        assert status.quarantine == a_quarantine(target)

    async def test_a_second_quarantine_of_the_same_target_leaves_the_first(self, store: Store) -> None:
        await impose(store)
        second = c.AddQuarantine(quarantine=a_quarantine(reason="another", by="somebody"))
        await store.commit([second, c.Append(event=an_event())])
        assert await store.quarantines() == (a_quarantine(),)
        assert len(await store.audit_records(0, MANY)) == 1

    @pytest.mark.parametrize("target", ALL, ids=str)
    async def test_the_quarantined_declare_nothing(self, store: Store, target: QuarantineTarget) -> None:
        await impose(store, target)
        declaration = c.CreateTask(task=a_task(), max_live=MANY)
        assert await refused(store, declaration) is Conflict.OWNER_QUARANTINED
        assert await store.task(a_task().task_id) is None

    @pytest.mark.parametrize("target", ALL, ids=str)
    async def test_no_lease_of_the_quarantined_is_intended_or_issued(
        self, store: Store, target: QuarantineTarget
    ) -> None:
        await add_task(store)
        await add_lease(store)
        await impose(store, target)
        another = c.CreateLease(lease=a_lease("lease-another"), max_live=MANY)
        assert await refused(store, another) is Conflict.OWNER_QUARANTINED
        assert await refused(store, issue()) is Conflict.OWNER_QUARANTINED
        lease = await store.lease(a_lease(LEASE).lease_id)
        assert lease is not None
        assert lease.state is LeaseState.INTENDED

    async def test_an_ended_task_is_told_before_a_quarantine(self, store: Store) -> None:
        await add_task(store)
        await store.commit([end()])
        await impose(store)
        lease = c.CreateLease(lease=a_lease(), max_live=MANY)
        assert await refused(store, lease) is Conflict.TASK_NOT_ACTIVE

    async def test_what_only_looks_like_the_owner_keeps_it_from_nothing(self, store: Store) -> None:
        for target in LOOKALIKES:
            await impose(store, target)
        await add_task(store)
        await add_lease(store, state=LeaseState.LIVE)
        assert await store.quarantined_tasks(MANY) == ()
        assert [await unfinished(store, target) for target in LOOKALIKES] == [0] * len(LOOKALIKES)

    @pytest.mark.parametrize(
        ("target", "concerned"),
        [
            (INSTANCE, {"task-one"}),
            (CLASS, {"task-one", "task-two", "task-abroad"}),
            (DOMAIN, {"task-one", "task-two", "task-class"}),
        ],
        ids=str,
    )
    async def test_active_tasks_of_the_quarantined_are_found(
        self, store: Store, target: QuarantineTarget, concerned: set[str]
    ) -> None:
        for task_id, owner in (
            ("task-one", str(OWNER)),
            ("task-two", str(OTHER)),
            ("task-class", "spiffe://example.test/agent/other-bot/one"),
            ("task-abroad", "spiffe://example.test.elsewhere/agent/invoice-bot/one"),
        ):
            await add_task(store, an_agents_task(task_id, owner))
        await impose(store, target)
        found = await store.quarantined_tasks(MANY)
        assert {task.task_id for task in found} == concerned
        assert len(await store.quarantined_tasks(1)) == 1
        assert await unfinished(store, target) == len(concerned)

    async def test_a_task_that_several_quarantines_concern_is_found_once(self, store: Store) -> None:
        await add_task(store)
        for target in ALL:
            await impose(store, target)
        assert await store.quarantined_tasks(MANY) == (await the_task(store),)

    async def test_a_task_counts_as_unfinished_until_it_has_ended(self, store: Store) -> None:
        await add_task(store)
        await impose(store)
        assert await unfinished(store, INSTANCE) == 1
        await store.commit([end()])
        assert await store.quarantined_tasks(MANY) == ()
        assert await unfinished(store, INSTANCE) == 1
        await store.commit([finish()])
        assert await unfinished(store, INSTANCE) == 0

    @pytest.mark.parametrize("target", ALL, ids=str)
    async def test_a_quarantine_is_not_removed_over_an_active_task(
        self, store: Store, target: QuarantineTarget
    ) -> None:
        await add_task(store)
        await impose(store, target)
        removal = c.RemoveQuarantine(target=target)
        assert await refused(store, removal) is Conflict.QUARANTINE_UNFINISHED
        await store.commit([end()])
        await store.commit([removal])
        assert await store.quarantines() == ()
        assert (await the_task(store)).state is TaskState.ENDING
        await add_task(store, a_task("task-new"))

    async def test_what_does_not_stand_is_not_removed(self, store: Store) -> None:
        await impose(store, CLASS)
        for target in (INSTANCE, DOMAIN, *LOOKALIKES):
            assert await refused(store, c.RemoveQuarantine(target=target)) is Conflict.QUARANTINE_MISSING
        assert await store.quarantines() == (a_quarantine(CLASS),)

    async def test_one_quarantine_is_removed_and_the_others_stay(self, store: Store) -> None:
        for target in ALL:
            await impose(store, target)
        await store.commit([c.RemoveQuarantine(target=INSTANCE)])
        assert {one.target for one in await store.quarantines()} == {CLASS, DOMAIN}
        declaration = c.CreateTask(task=a_task(), max_live=MANY)
        assert await refused(store, declaration) is Conflict.OWNER_QUARANTINED

    async def test_a_quarantine_and_a_task_of_one_commit_are_looked_at_in_order(self, store: Store) -> None:
        declaration = c.CreateTask(task=a_task(), max_live=MANY)
        both = c.AddQuarantine(quarantine=a_quarantine()), declaration
        assert await refused(store, *both) is Conflict.OWNER_QUARANTINED
        assert await store.quarantines() == ()

    async def test_who_is_no_agent_is_concerned_by_nothing(self, store: Store) -> None:
        await impose(store, DOMAIN)
        assert not DOMAIN.concerns(BROKER)
        assert not CLASS.concerns(SpiffeId.parse("spiffe://example.test/agent/invoice-bot"))

    async def test_pages_hold_every_quarantine_once(self, store: Store) -> None:
        targets = {*ALL, *LOOKALIKES}
        for target in targets:
            await impose(store, target)
        seen: list[QuarantineTarget] = []
        token = ""
        while True:
            page = await store.quarantine_page(page_size=3, page_token=token)
            seen += [status.quarantine.target for status in page.quarantines]
            token = page.next_token
            if not token:
                break
            assert len(page.quarantines) == 3
        assert len(seen) == len(targets)
        assert set(seen) == targets
        assert [target.kind.value for target in seen] == sorted(target.kind.value for target in seen)

    async def test_a_last_page_of_quarantines_that_is_full_has_no_next(self, store: Store) -> None:
        await impose(store, INSTANCE)
        await impose(store, CLASS)
        assert not (await store.quarantine_page(page_size=2, page_token="")).next_token

    @pytest.mark.parametrize("token", ["nonsense", "bm9uc2Vuc2U=", "\u00e4", "====", "aW5zdGFuY2X="])
    async def test_a_page_token_of_quarantines_that_is_none_of_ours_is_refused(
        self, store: Store, token: str
    ) -> None:
        with pytest.raises(FieldInvalidError):
            await store.quarantine_page(page_size=2, page_token=token)
