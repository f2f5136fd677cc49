"""What every store keeps of chains of actions."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from broker.domain import changes as c
from broker.domain.actions import ActionKind, ActionOutcome
from broker.domain.effects import EVERY_VERB, Effect
from broker.domain.errors import DenialClass
from broker.domain.identifiers import ActionId, TaskId
from broker.domain.lease import LeaseState
from broker.domain.task import Scope
from broker.ports.store import ActionFacts, Conflict, Store
from tests.contract.quarantining import INSTANCE, a_quarantine
from tests.contract.storing import NEVER, SECOND, add_lease, add_task, end, refused, the_task
from tests.fakes.samples import OTHER, TASK, a_lease, a_task, an_action, an_event
from tests.fakes.system import NOON

HOUR = timedelta(hours=1)


def record(*args: int, **changed: object) -> c.Change:
    return c.RecordAction(action=an_action(*args, **changed))  # type: ignore[arg-type]


def close(position: int = 1, outcome: ActionOutcome = ActionOutcome.SUCCEEDED, task: str = TASK) -> c.Change:
    return c.CloseAction(
        action_id=ActionId(f"action-{position}"), task_id=TaskId(task), outcome=outcome, at=NOON + SECOND
    )


class ChainCases:
    async def test_a_tasks_tools_come_back(self, store: Store) -> None:
        await add_task(store, a_task(scope=Scope(roles=frozenset({"orders"}), tools=frozenset({"a", "b"}))))
        assert (await the_task(store)).scope.tools == {"a", "b"}

    async def test_actions_come_back_as_they_were_in_order(self, store: Store) -> None:
        await add_task(store)
        first = an_action(1)
        second = an_action(
            2,
            allowed=False,
            sticks_until=NOON + HOUR,
            denial_class=DenialClass.GRANTABLE,
            reason="POLICY_DENIED",
        )
        third = an_action(
            3, kind=ActionKind.CREDENTIAL, effect=Effect(verbs=EVERY_VERB, resource="", destination="")
        )
        for action in (first, second, third):
            await store.commit([c.RecordAction(action=action)])
        assert await store.actions_of(TASK, 0, 10) == (first, second, third)
        assert await store.actions_of(TASK, 1, 1) == (second,)
        assert await store.actions_of(TASK, 3, 10) == ()
        assert await store.action(second.action_id) == second
        assert await store.action(ActionId("action-never")) is None

    async def test_a_position_is_taken_once(self, store: Store) -> None:
        await add_task(store)
        await add_task(store, a_task("task-b"))
        await store.commit([record(1)])
        again = record(1, action_id=ActionId("action-other"))
        assert await refused(store, c.Append(event=an_event()), again) is Conflict.CHAIN_MOVED_ON
        assert await store.audit_head() is None
        await store.commit([record(1, action_id=ActionId("action-b"), task_id=TaskId("task-b"))])

    async def test_an_idempotency_key_is_of_one_action_of_the_task(self, store: Store) -> None:
        await add_task(store)
        await add_task(store, a_task("task-b"))
        first = an_action(1, idempotency_key="key")
        await store.commit([c.RecordAction(action=first)])
        assert await refused(store, record(2, idempotency_key="key")) is Conflict.CHAIN_MOVED_ON
        elsewhere = {"action_id": ActionId("action-b"), "task_id": TaskId("task-b")}
        await store.commit([record(1, idempotency_key="key", **elsewhere), record(2), record(3)])
        assert (await store.action_facts(TASK, NOON, 10, key="key")).under_key == first
        assert (await store.action_facts(TASK, NOON, 10)).under_key is None

    async def test_of_many_at_once_one_takes_the_position(self, store: Store) -> None:
        await add_task(store)
        wanted = [record(1, action_id=ActionId(f"action-{n}")) for n in range(20)]
        answers = await asyncio.gather(*(store.commit([one]) for one in wanted), return_exceptions=True)
        assert sum(answer is None for answer in answers) == 1
        assert len(await store.actions_of(TASK, 0, 100)) == 1

    async def test_an_ending_task_and_a_quarantined_instance_have_no_more_actions(self, store: Store) -> None:
        assert await refused(store, record(1, task_id=NEVER)) is Conflict.TASK_NOT_ACTIVE
        await add_task(store)
        await store.commit([c.AddQuarantine(quarantine=a_quarantine(INSTANCE))])
        assert await refused(store, record(1)) is Conflict.OWNER_QUARANTINED
        await store.commit([end()])
        assert await refused(store, record(1)) is Conflict.TASK_NOT_ACTIVE

    @pytest.mark.parametrize("outcome", [one for one in ActionOutcome if one is not ActionOutcome.OPEN])
    async def test_an_allowed_action_is_closed_once(self, store: Store, outcome: ActionOutcome) -> None:
        await add_task(store)
        await store.commit([record(1)])
        await store.commit([close(1, outcome)])
        assert await store.action(ActionId("action-1")) == replace(
            an_action(1), outcome=outcome, closed_at=NOON + SECOND
        )
        assert await refused(store, close(1)) is Conflict.ACTION_STATE

    async def test_what_was_refused_or_is_anothers_is_not_closed(self, store: Store) -> None:
        await add_task(store)
        await store.commit([record(1), c.RecordAction(action=an_action(2, allowed=False))])
        assert await refused(store, close(2)) is Conflict.ACTION_STATE
        assert await refused(store, close(1, task="task-b")) is Conflict.ACTION_STATE
        assert await refused(store, close(3)) is Conflict.ACTION_STATE

    async def test_the_facts_of_a_decision(self, store: Store) -> None:
        nothing = ActionFacts(task=None, length=0, denied=(), live_leases=0, oldest_lease=None)
        assert await store.action_facts(NEVER, NOON, 10) == nothing
        task = await add_task(store)
        assert await store.action_facts(TASK, NOON, 10) == replace(nothing, task=task)
        await add_lease(store, a_lease("lease-a", idempotency_key="a"), LeaseState.LIVE)
        await add_lease(store, a_lease("lease-b", idempotency_key="b"), LeaseState.REVOKED)
        await store.commit([record(1), c.RecordAction(action=an_action(2, allowed=False))])
        facts = await store.action_facts(TASK, NOON, 10)
        lease = await store.lease(a_lease("lease-a").lease_id)
        assert lease is not None
        assert facts == ActionFacts(
            task=task, length=2, denied=(), live_leases=1, oldest_lease=lease.issued_at
        )

    async def test_refusals_that_stick_are_those_of_the_task_and_of_the_instance_for_a_while(
        self, store: Store
    ) -> None:
        await add_task(store)
        await add_task(store, a_task("task-b"))
        await add_task(store, a_task("task-c", owner=OTHER))
        until = NOON + HOUR
        old = an_action(1, allowed=False, sticks_until=NOON - HOUR)
        mine = an_action(2, allowed=False, sticks_until=until)
        siblings = an_action(
            1, allowed=False, sticks_until=until, task_id=TaskId("task-b"), action_id=ActionId("action-b")
        )
        others = an_action(
            1,
            allowed=False,
            sticks_until=until,
            task_id=TaskId("task-c"),
            action_id=ActionId("action-c"),
            owner=OTHER,
        )
        await store.commit([c.RecordAction(action=one) for one in (old, mine, siblings, others)])
        assert set((await store.action_facts(TASK, NOON, 10)).denied) == {old, mine, siblings}
        assert set((await store.action_facts(TaskId("task-b"), NOON, 10)).denied) == {mine, siblings}
        assert set((await store.action_facts(TaskId("task-b"), until, 10)).denied) == {siblings}
        assert (await store.action_facts(TASK, NOON, 1)).denied == (mine,)
