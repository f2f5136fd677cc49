"""What every implementation of ports.store.Store does. A suite a store: subclass it and give the fixture `store`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from broker.domain import changes as c
from broker.domain.audit import AuditKind, ChainHead, verify_chain
from broker.domain.errors import FieldInvalidError
from broker.domain.identifiers import LeaseId, TaskId, TokenAccessor, VaultLeaseId
from broker.domain.lease import Lease, LeaseState, RevokeCause
from broker.domain.task import EndCause, Outcome, Task, TaskState
from broker.ports.store import Conflict, ConflictError, LeaseCounts, LeaseFilter, LeasePage, Store
from tests.fakes.samples import LEASE, OTHER, OWNER, TASK, a_lease, a_task, an_end, an_event
from tests.fakes.system import NOON

MANY = 1000
NEVER = TaskId("task-never")
VAULT_LEASE = VaultLeaseId("database/creds/orders/abc")
SECOND = timedelta(seconds=1)


async def refused(store: Store, *changes: c.Change) -> Conflict:
    with pytest.raises(ConflictError) as caught:
        await store.commit(changes)
    return caught.value.conflict


async def add_task(store: Store, task: Task | None = None, *, max_live: int = MANY) -> Task:
    task = task or a_task()
    await store.commit([c.CreateTask(task=task, max_live=max_live)])
    return task


async def add_lease(
    store: Store, lease: Lease | None = None, state: LeaseState = LeaseState.INTENDED
) -> Lease:
    """A lease that came to `state` the way leases do."""
    lease = lease or a_lease()
    lease_id = lease.lease_id
    steps: dict[LeaseState, Sequence[c.Change]] = {
        LeaseState.INTENDED: [],
        LeaseState.LIVE: [issue(lease_id)],
        LeaseState.REVOKING: [issue(lease_id), revoke(lease_id)],
        LeaseState.REVOKED: [
            issue(lease_id),
            revoke(lease_id),
            c.ConfirmRevoked(lease_id=lease_id, at=NOON + 2 * SECOND),
        ],
        LeaseState.VOID: [c.VoidLease(lease_id=lease_id, at=NOON + SECOND)],
    }
    await store.commit([c.CreateLease(lease=lease, max_live=MANY), *steps[state]])
    return await the_lease(store, lease_id)


async def the_task(store: Store, task_id: str = TASK) -> Task:
    task = await store.task(TaskId(task_id))
    assert task is not None
    return task


async def the_lease(store: Store, lease_id: str = LEASE) -> Lease:
    lease = await store.lease(LeaseId(lease_id))
    assert lease is not None
    return lease


def issue(lease_id: str = LEASE, *, expires_at: datetime | None = None, renewable: bool = True) -> c.Change:
    return c.IssueLease(
        lease_id=LeaseId(lease_id),
        vault_lease_id=VaultLeaseId(f"database/creds/orders/{lease_id}"),
        at=NOON + SECOND,
        expires_at=expires_at or NOON + timedelta(minutes=1),
        renewable=renewable,
        account=f"user-of-{lease_id}",
    )


def revoke(
    lease_id: str = LEASE,
    cause: RevokeCause = RevokeCause.RELEASED,
    *,
    at: datetime = NOON + SECOND,
    vault_lease_id: VaultLeaseId | None = None,
) -> c.Change:
    return c.RevokeLease(lease_id=LeaseId(lease_id), cause=cause, at=at, vault_lease_id=vault_lease_id)


def end(task_id: str = TASK, *, at: datetime = NOON) -> c.Change:
    return c.EndTask(task_id=TaskId(task_id), end=an_end(at=at))


def finish(task_id: str = TASK) -> c.Change:
    return c.FinishTask(task_id=TaskId(task_id), at=NOON + SECOND)


class TaskCases:
    async def test_a_created_task_is_read_back_as_it_was(self, store: Store) -> None:
        task = await add_task(store, a_task(idempotency_key="key"))
        assert await store.task(task.task_id) == task

    async def test_a_task_without_key_and_scope_is_read_back_as_it_was(self, store: Store) -> None:
        scope = replace(a_task().scope, roles=frozenset())
        task = await add_task(store, a_task(scope=scope, fingerprint=b"", intent=""))
        assert await store.task(task.task_id) == task

    async def test_what_was_never_created_is_none(self, store: Store) -> None:
        assert await store.task(NEVER) is None
        assert await store.lease(LeaseId("lease-never")) is None
        assert await store.task_by_key(OWNER, "never") is None
        assert await store.leases_of(NEVER) == ()
        assert await store.task_tokens(NEVER) == ()

    async def test_an_owner_has_as_many_tasks_as_the_limit(self, store: Store) -> None:
        await add_task(store, a_task("task-a"), max_live=2)
        await add_task(store, a_task("task-b"), max_live=2)
        third = c.CreateTask(task=a_task("task-c"), max_live=2)
        assert await refused(store, third) is Conflict.TASK_LIMIT
        assert await store.task(TaskId("task-c")) is None

    async def test_an_ending_task_counts_towards_the_limit_and_an_ended_one_does_not(
        self, store: Store
    ) -> None:
        await add_task(store, a_task("task-a"))
        await store.commit([end("task-a")])
        second = c.CreateTask(task=a_task("task-b"), max_live=1)
        assert await refused(store, second) is Conflict.TASK_LIMIT
        await store.commit([finish("task-a")])
        await store.commit([second])

    async def test_another_owners_tasks_do_not_count(self, store: Store) -> None:
        await add_task(store, a_task("task-a", owner=OTHER), max_live=1)
        await add_task(store, a_task("task-b"), max_live=1)

    async def test_of_many_tasks_at_once_only_as_many_as_the_limit_are_created(self, store: Store) -> None:
        answers = await asyncio.gather(
            *(add_task(store, a_task(f"task-{n:03}"), max_live=7) for n in range(40)), return_exceptions=True
        )
        assert sum(isinstance(answer, Task) for answer in answers) == 7
        page = await store.tasks_of(OWNER, states=frozenset(), page_size=MANY, page_token="")
        assert len(page.tasks) == 7

    async def test_one_task_an_owner_and_key(self, store: Store) -> None:
        first = await add_task(store, a_task("task-a", idempotency_key="key"))
        again = c.CreateTask(task=a_task("task-b", idempotency_key="key"), max_live=MANY)
        assert await refused(store, again) is Conflict.TASK_KEY_TAKEN
        await add_task(store, a_task("task-c", idempotency_key="key", owner=OTHER))
        await add_task(store, a_task("task-d", idempotency_key="another"))
        assert await store.task_by_key(OWNER, "key") == first

    async def test_a_taken_key_is_told_before_a_limit(self, store: Store) -> None:
        await add_task(store, a_task("task-a", idempotency_key="key"), max_live=1)
        again = c.CreateTask(task=a_task("task-b", idempotency_key="key"), max_live=1)
        assert await refused(store, again) is Conflict.TASK_KEY_TAKEN

    async def test_the_key_of_an_ended_task_stays_taken(self, store: Store) -> None:
        await add_task(store, a_task("task-a", idempotency_key="key"))
        await store.commit([end("task-a"), finish("task-a")])
        again = c.CreateTask(task=a_task("task-b", idempotency_key="key"), max_live=MANY)
        assert await refused(store, again) is Conflict.TASK_KEY_TAKEN

    async def test_any_number_of_tasks_have_no_key(self, store: Store) -> None:
        await add_task(store, a_task("task-a"))
        await add_task(store, a_task("task-b"))

    async def test_a_tasks_tokens_are_kept_in_the_order_in_which_they_were_made(self, store: Store) -> None:
        await add_task(store)
        for n, name in enumerate(("zulu", "alpha")):
            change = c.AddTaskToken(task_id=TASK, accessor=TokenAccessor(name), at=NOON + n * SECOND)
            await store.commit([change])
        assert await store.task_tokens(TASK) == ("zulu", "alpha")

    async def test_a_sign_of_life_moves_the_next_one(self, store: Store) -> None:
        task = await add_task(store)
        due = NOON + timedelta(hours=5)
        await store.commit([c.TouchTask(task_id=TASK, heartbeat_due=due)])
        assert await store.task(TASK) == replace(task, heartbeat_due=due)
        touch = c.TouchTask(task_id=TASK, heartbeat_due=due, svid_due=due - SECOND)
        await store.commit([touch])
        assert await store.task(TASK) == replace(task, heartbeat_due=due, svid_due=due - SECOND)

    async def test_a_stream_that_closed_moves_it_forward_and_never_back(self, store: Store) -> None:
        task = await add_task(store)
        for later in (task.heartbeat_due + SECOND, task.heartbeat_due):
            await store.commit([c.DetachTask(task_id=TASK, heartbeat_due=later)])
            assert await store.task(TASK) == task
        sooner = task.heartbeat_due - SECOND
        await store.commit([c.DetachTask(task_id=TASK, heartbeat_due=sooner)])
        assert await store.task(TASK) == replace(task, heartbeat_due=sooner)

    async def test_a_task_keeps_when_its_svid_is_due(self, store: Store) -> None:
        task = await add_task(store, a_task(svid_due=NOON + SECOND))
        assert await store.task(TASK) == task

    async def test_everybodys_leases_come_in_pages(self, store: Store) -> None:
        assert await store.lease_page(LeaseFilter(), page_size=9, page_token="") == LeasePage(
            leases=(), next_token=""
        )
        other = a_task("task-b", owner=OTHER)
        await add_task(store)
        await add_task(store, other)
        states = [LeaseState.LIVE, LeaseState.REVOKED, LeaseState.INTENDED, LeaseState.REVOKING]
        for number, state in enumerate(states):
            task_id = TASK if number < 3 else other.task_id
            lease = a_lease(f"lease-{number}", idempotency_key=f"key-{number}", task_id=task_id)
            await add_lease(store, lease, state=state)

        async def ids(size: int = 9, **wanted: Any) -> list[str]:
            found: list[str] = []
            token = ""
            while True:
                page = await store.lease_page(LeaseFilter(**wanted), page_size=size, page_token=token)
                found += [one.lease.lease_id for one in page.leases]
                assert len(page.leases) <= size
                token = page.next_token
                if not token:
                    return found

        for size in (1, 2, 3, 9):
            assert await ids(size) == ["lease-0", "lease-2", "lease-3"]
        assert await ids(states=frozenset({LeaseState.REVOKED})) == ["lease-1"]
        assert await ids(states=frozenset(LeaseState), task_id=TASK) == ["lease-0", "lease-1", "lease-2"]
        assert await ids(owner=str(OTHER)) == ["lease-3"]
        assert await ids(owner="spiffe://example.test/agent/nobody/1") == []
        (one,) = (await store.lease_page(LeaseFilter(task_id="task-b"), page_size=9, page_token="")).leases
        assert (one.owner, one.lease) == (OTHER, await store.lease(LeaseId("lease-3")))
        with pytest.raises(FieldInvalidError):
            await store.lease_page(LeaseFilter(), page_size=9, page_token="not one' OR 1=1")

    async def test_a_token_says_whose_it_is(self, store: Store) -> None:
        task = await add_task(store)
        accessor = TokenAccessor("an-accessor")
        assert await store.task_of_token(accessor) is None
        await store.commit([c.AddTaskToken(task_id=TASK, accessor=accessor, at=NOON)])
        assert await store.task_of_token(accessor) == task

    async def test_a_store_has_an_identity(self, store: Store) -> None:
        assert await store.identity() == await store.identity() != ""

    async def test_figures_count_what_is_not_final(self, store: Store) -> None:
        empty = await store.figures()
        assert (dict(empty.tasks), dict(empty.leases), empty.oldest_revoking_since) == ({}, {}, None)
        await add_task(store)
        for number, state in enumerate(LeaseState):
            await add_lease(store, a_lease(f"lease-{number}", idempotency_key=f"key-{number}"), state=state)
        found = await store.figures()
        assert dict(found.tasks) == {TaskState.ACTIVE: 1}
        assert dict(found.leases) == {
            LeaseState.INTENDED: 1,
            LeaseState.LIVE: 1,
            LeaseState.REVOKING: 1,
        }
        (revoking,) = [lease for lease in await store.leases_of(TASK) if lease.state is LeaseState.REVOKING]
        assert found.oldest_revoking_since == revoking.revoking_since
        await store.commit([end()])
        assert dict((await store.figures()).tasks) == {TaskState.ENDING: 1}

    async def test_an_ended_task_says_why_and_how(self, store: Store) -> None:
        task = await add_task(store)
        said = an_end(EndCause.COMPLETED, NOON + SECOND, outcome=Outcome.FAILED, reason="ärger")
        await store.commit([c.EndTask(task_id=TASK, end=said)])
        assert await store.task(TASK) == replace(task, state=TaskState.ENDING, end=said)
        await store.commit([c.FinishTask(task_id=TASK, at=NOON + 2 * SECOND)])
        ended = replace(task, state=TaskState.ENDED, end=said, ended_at=NOON + 2 * SECOND)
        assert await store.task(TASK) == ended

    @pytest.mark.parametrize("state", ["unknown", "ending", "ended"])
    @pytest.mark.parametrize("change", ["token", "touch", "detach", "end", "lease"])
    async def test_a_task_that_is_not_active_takes_nothing_more(
        self, store: Store, state: str, change: str
    ) -> None:
        if state != "unknown":
            await add_task(store)
            await store.commit([end()])
        if state == "ended":
            await store.commit([finish()])
        before = await store.task(TASK)
        asked: dict[str, c.Change] = {
            "token": c.AddTaskToken(task_id=TASK, accessor=TokenAccessor("late"), at=NOON),
            "touch": c.TouchTask(task_id=TASK, heartbeat_due=NOON),
            "detach": c.DetachTask(task_id=TASK, heartbeat_due=NOON),
            "end": c.EndTask(task_id=TASK, end=an_end(EndCause.DEADLINE, NOON + SECOND)),
            "lease": c.CreateLease(lease=a_lease(), max_live=MANY),
        }
        assert await refused(store, asked[change]) is Conflict.TASK_NOT_ACTIVE
        assert await store.task(TASK) == before
        assert await store.task_tokens(TASK) == ()
        assert await store.lease(LEASE) is None

    @pytest.mark.parametrize(
        "state", [LeaseState.INTENDED, LeaseState.LIVE, LeaseState.REVOKING], ids=lambda state: state.value
    )
    async def test_a_task_that_holds_a_lease_is_not_finished(self, store: Store, state: LeaseState) -> None:
        await add_task(store)
        await add_lease(store, state=state)
        await store.commit([end()])
        assert await refused(store, finish()) is Conflict.TASK_HOLDS_LEASES
        assert (await the_task(store)).state is TaskState.ENDING

    async def test_a_task_whose_leases_are_final_is_finished(self, store: Store) -> None:
        await add_task(store)
        await add_lease(store, a_lease("lease-a"), LeaseState.REVOKED)
        await add_lease(store, a_lease("lease-b"), LeaseState.VOID)
        await store.commit([end(), finish()])
        assert (await the_task(store)).state is TaskState.ENDED

    async def test_only_an_ending_task_is_finished(self, store: Store) -> None:
        assert await refused(store, finish()) is Conflict.TASK_NOT_ENDING
        await add_task(store)
        assert await refused(store, finish()) is Conflict.TASK_NOT_ENDING
        await store.commit([end(), finish()])
        assert await refused(store, finish()) is Conflict.TASK_NOT_ENDING

    async def test_ending_a_task_moves_what_it_holds_and_leaves_the_rest_as_it_is(self, store: Store) -> None:
        await add_task(store)
        before = {
            state: await add_lease(store, a_lease(f"lease-{state.value}"), state) for state in LeaseState
        }
        at = NOON + timedelta(minutes=5)
        await store.commit([end(at=at)])
        after = {state: await the_lease(store, lease.lease_id) for state, lease in before.items()}
        for state in (LeaseState.INTENDED, LeaseState.LIVE):
            assert after[state] == before[state].revoking(RevokeCause.TASK_ENDED, at)
        for state in (LeaseState.REVOKING, LeaseState.REVOKED, LeaseState.VOID):
            assert after[state] == before[state]

    async def test_ending_a_task_leaves_another_ones_leases_alone(self, store: Store) -> None:
        await add_task(store)
        await add_task(store, a_task("task-b"))
        await add_lease(store, a_lease("lease-b", task_id="task-b"), LeaseState.LIVE)
        await store.commit([end()])
        assert (await the_lease(store, "lease-b")).state is LeaseState.LIVE


class LeaseCases:
    async def test_an_intent_is_read_back_as_it_was(self, store: Store) -> None:
        await add_task(store)
        lease = a_lease()
        await store.commit([c.CreateLease(lease=lease, max_live=1)])
        assert await store.lease(LEASE) == lease

    async def test_what_is_not_final_counts_towards_the_limit(self, store: Store) -> None:
        await add_task(store)
        await add_lease(store, a_lease("lease-a"), LeaseState.VOID)
        await add_lease(store, a_lease("lease-b"), LeaseState.REVOKED)
        for n, state in enumerate((LeaseState.INTENDED, LeaseState.LIVE, LeaseState.REVOKING)):
            await store.commit([c.CreateLease(lease=a_lease(f"probe-{n}"), max_live=n + 1)])
            await store.commit([c.VoidLease(lease_id=LeaseId(f"probe-{n}"), at=NOON)])
            await add_lease(store, a_lease(f"lease-{state.value}"), state)
            another = c.CreateLease(lease=a_lease("another"), max_live=n + 1)
            assert await refused(store, another) is Conflict.LEASE_LIMIT

    async def test_another_tasks_leases_do_not_count(self, store: Store) -> None:
        await add_task(store)
        await add_task(store, a_task("task-b"))
        await add_lease(store, a_lease("lease-b", task_id="task-b", idempotency_key="key"))
        await store.commit([c.CreateLease(lease=a_lease(idempotency_key="key"), max_live=1)])

    async def test_of_many_leases_at_once_only_as_many_as_the_limit_are_created(self, store: Store) -> None:
        await add_task(store)
        wanted = [c.CreateLease(lease=a_lease(f"lease-{n:03}"), max_live=5) for n in range(40)]
        answers = await asyncio.gather(*(store.commit([one]) for one in wanted), return_exceptions=True)
        assert sum(answer is None for answer in answers) == 5
        assert len(await store.leases_of(TASK)) == 5

    @pytest.mark.parametrize("state", [LeaseState.INTENDED, LeaseState.LIVE, LeaseState.REVOKED])
    async def test_a_key_under_which_something_was_delivered_stays_taken(
        self, store: Store, state: LeaseState
    ) -> None:
        await add_task(store)
        first = await add_lease(store, a_lease(idempotency_key="key"), state)
        again = c.CreateLease(lease=a_lease("lease-b", idempotency_key="key"), max_live=MANY)
        assert await refused(store, again) is Conflict.LEASE_KEY_TAKEN
        assert (await store.action_facts(TASK, NOON, 10, key="key")).holds_key == first

    async def test_leases_are_counted_all_and_unfinished(self, store: Store) -> None:
        await add_task(store)
        await add_task(store, a_task("task-b"))
        await add_lease(store, a_lease("lease-of-another", task_id="task-b"))
        assert await store.lease_counts(TASK) == LeaseCounts(ever=0, unfinished=0)
        for n, state in enumerate(LeaseState):
            await add_lease(store, a_lease(f"lease-{n}", idempotency_key=f"key-{n}"), state)
        assert await store.lease_counts(TASK) == LeaseCounts(ever=5, unfinished=3)
        assert await store.lease_counts(NEVER) == LeaseCounts(ever=0, unfinished=0)

    async def test_a_taken_key_of_a_lease_is_told_before_a_limit(self, store: Store) -> None:
        await add_task(store)
        await add_lease(store, a_lease(idempotency_key="key"))
        again = c.CreateLease(lease=a_lease("lease-b", idempotency_key="key"), max_live=1)
        assert await refused(store, again) is Conflict.LEASE_KEY_TAKEN

    @pytest.mark.parametrize("cause", [None, RevokeCause.IN_DOUBT, RevokeCause.UNDELIVERED])
    async def test_a_key_under_which_nothing_was_delivered_is_free(
        self, store: Store, cause: RevokeCause | None
    ) -> None:
        await add_task(store)
        await add_lease(store, a_lease(idempotency_key="key"))
        gone = c.VoidLease(lease_id=LEASE, at=NOON) if cause is None else revoke(cause=cause)
        await store.commit([gone])
        assert (await store.action_facts(TASK, NOON, 10, key="key")).holds_key is None
        second = await add_lease(store, a_lease("lease-b", idempotency_key="key"))
        assert (await store.action_facts(TASK, NOON, 10, key="key")).holds_key == second

    async def test_an_issue_fills_in_what_the_backend_said(self, store: Store) -> None:
        await add_task(store)
        lease = await add_lease(store)
        await store.commit([issue(renewable=False)])
        assert await store.lease(LEASE) == lease.issued(
            vault_lease_id=VaultLeaseId(f"database/creds/orders/{LEASE}"),
            at=NOON + SECOND,
            expires_at=NOON + timedelta(minutes=1),
            renewable=False,
            account=f"user-of-{LEASE}",
        )

    async def test_an_issue_that_the_tasks_end_overtook_is_refused(self, store: Store) -> None:
        await add_task(store)
        await add_lease(store)
        await store.commit([end()])
        before = await the_lease(store)
        assert await refused(store, issue()) is Conflict.TASK_NOT_ACTIVE
        assert await the_lease(store) == before

    @pytest.mark.parametrize("state", LeaseState, ids=lambda state: state.value)
    @pytest.mark.parametrize("change", ["issue", "void", "extend", "revoke", "postpone", "confirm"])
    async def test_a_lease_changes_only_as_its_state_machine_says(
        self, store: Store, state: LeaseState, change: str
    ) -> None:
        await add_task(store)
        before = await add_lease(store, state=state)
        at = NOON + timedelta(seconds=20)
        asked: c.Change
        match change:
            case "issue":
                asked, allowed = issue(), {LeaseState.INTENDED}
                expected = replace(
                    before,
                    state=LeaseState.LIVE,
                    vault_lease_id=VaultLeaseId(f"database/creds/orders/{LEASE}"),
                    issued_at=NOON + SECOND,
                    expires_at=NOON + timedelta(minutes=1),
                    renewable=True,
                    account=f"user-of-{LEASE}",
                )
            case "void":
                asked, allowed = c.VoidLease(lease_id=LEASE, at=at), {LeaseState.INTENDED}
                expected = replace(before, state=LeaseState.VOID, revoked_at=at)
            case "extend":
                asked, allowed = c.ExtendLease(lease_id=LEASE, expires_at=at), {LeaseState.LIVE}
                expected = replace(before, expires_at=at)
            case "revoke":
                asked = revoke(cause=RevokeCause.EXPIRED, at=at)
                allowed = {LeaseState.INTENDED, LeaseState.LIVE}
                expected = replace(
                    before,
                    state=LeaseState.REVOKING,
                    revoke_cause=RevokeCause.EXPIRED,
                    revoking_since=at,
                    next_attempt_at=at,
                )
            case "postpone":
                asked = c.PostponeRevocation(lease_id=LEASE, next_attempt_at=at)
                allowed = {LeaseState.REVOKING}
                expected = replace(before, attempts=1, next_attempt_at=at)
            case _:
                asked, allowed = c.ConfirmRevoked(lease_id=LEASE, at=at), {LeaseState.REVOKING}
                expected = replace(before, state=LeaseState.REVOKED, revoked_at=at, next_attempt_at=None)
        if state in allowed:
            await store.commit([asked])
            assert await the_lease(store) == expected
        else:
            assert await refused(store, asked) is Conflict.LEASE_STATE
            assert await the_lease(store) == before

    async def test_what_is_unknown_changes_in_no_way(self, store: Store) -> None:
        for change in (
            c.VoidLease(lease_id=LEASE, at=NOON),
            c.ExtendLease(lease_id=LEASE, expires_at=NOON),
            revoke(),
            revoke(vault_lease_id=VAULT_LEASE),
            c.PostponeRevocation(lease_id=LEASE, next_attempt_at=NOON),
            c.ConfirmRevoked(lease_id=LEASE, at=NOON),
        ):
            assert await refused(store, change) is Conflict.LEASE_STATE
        assert await refused(store, issue()) is Conflict.TASK_NOT_ACTIVE

    async def test_a_revocation_brings_the_backends_lease_with_it(self, store: Store) -> None:
        await add_task(store)
        lease = await add_lease(store)
        await store.commit([revoke(cause=RevokeCause.UNDELIVERED, vault_lease_id=VAULT_LEASE)])
        moved = lease.revoking(RevokeCause.UNDELIVERED, NOON + SECOND)
        assert await the_lease(store) == replace(moved, vault_lease_id=VAULT_LEASE)

    async def test_a_lease_that_is_revoking_without_the_backends_id_gets_it_and_nothing_else(
        self, store: Store
    ) -> None:
        await add_task(store)
        await add_lease(store)
        await store.commit([end()])
        before = await the_lease(store)
        late = revoke(cause=RevokeCause.UNDELIVERED, at=NOON + 9 * SECOND, vault_lease_id=VAULT_LEASE)
        await store.commit([late])
        assert await the_lease(store) == replace(before, vault_lease_id=VAULT_LEASE)
        other = VaultLeaseId("database/creds/orders/another")
        assert await refused(store, revoke(vault_lease_id=other)) is Conflict.LEASE_STATE
        assert (await the_lease(store)).vault_lease_id == VAULT_LEASE

    async def test_failed_attempts_are_counted(self, store: Store) -> None:
        await add_task(store)
        await add_lease(store, state=LeaseState.REVOKING)
        for n in range(3):
            await store.commit([c.PostponeRevocation(lease_id=LEASE, next_attempt_at=NOON + n * SECOND)])
        lease = await the_lease(store)
        assert (lease.attempts, lease.next_attempt_at) == (3, NOON + 2 * SECOND)


class CommitCases:
    async def test_later_changes_of_a_commit_see_the_earlier_ones(self, store: Store) -> None:
        await store.commit(
            [
                c.CreateTask(task=a_task(), max_live=1),
                c.AddTaskToken(task_id=TASK, accessor=TokenAccessor("one"), at=NOON),
                c.CreateLease(lease=a_lease(), max_live=1),
                issue(),
                c.Append(event=an_event()),
                end(),
                c.ConfirmRevoked(lease_id=LEASE, at=NOON),
                finish(),
            ]
        )
        assert (await the_task(store)).state is TaskState.ENDED
        assert (await the_lease(store)).state is LeaseState.REVOKED

    @pytest.mark.parametrize("place", range(4))
    async def test_when_one_change_is_refused_none_is_applied(self, store: Store, place: int) -> None:
        await add_task(store)
        await add_lease(store, state=LeaseState.LIVE)
        await store.commit([c.Append(event=an_event())])
        before = await snapshot(store)
        changes: list[c.Change] = [
            c.Append(event=an_event(AuditKind.LEASE_REVOKING)),
            c.TouchTask(task_id=TASK, heartbeat_due=NOON + timedelta(hours=9)),
            revoke(),
        ]
        changes.insert(place, c.VoidLease(lease_id=LeaseId("lease-never"), at=NOON))
        assert await refused(store, *changes) is Conflict.LEASE_STATE
        assert await snapshot(store) == before

    async def test_a_refused_task_leaves_no_token_and_no_record(self, store: Store) -> None:
        await add_task(store, a_task("task-a"))
        assert (
            await refused(
                store,
                c.Append(event=an_event()),
                c.CreateTask(task=a_task("task-b"), max_live=1),
                c.AddTaskToken(task_id=TaskId("task-b"), accessor=TokenAccessor("one"), at=NOON),
            )
            is Conflict.TASK_LIMIT
        )
        assert await store.task_tokens(TaskId("task-b")) == ()
        assert await store.audit_head() is None

    async def test_of_two_that_want_the_same_one_wins(self, store: Store) -> None:
        await add_task(store)
        await add_lease(store)
        await store.commit([end()])
        answers = await asyncio.gather(
            *(
                store.commit(
                    [c.ConfirmRevoked(lease_id=LEASE, at=NOON + n * SECOND), c.Append(event=an_event())]
                )
                for n in range(10)
            ),
            return_exceptions=True,
        )
        assert sum(answer is None for answer in answers) == 1
        assert len(await store.audit_records(0, MANY)) == 1

    async def test_a_commit_of_nothing_is_nothing(self, store: Store) -> None:
        await store.commit([])
        assert await store.audit_head() is None


class AuditCases:
    async def test_an_empty_trail_has_no_head(self, store: Store) -> None:
        assert await store.audit_head() is None
        assert await store.audit_records(0, MANY) == ()

    async def test_records_are_numbered_from_one_and_chained(self, store: Store) -> None:
        events = [an_event(kind) for kind in (AuditKind.TASK_DECLARED, AuditKind.TASK_ENDING)]
        await store.commit([c.Append(event=event) for event in events])
        last = an_event(AuditKind.TASK_ENDED, facts={}, task_id="", request_id="", actor="ä")
        await store.commit([c.Append(event=last)])
        records = await store.audit_records(0, MANY)
        assert [record.event for record in records] == [*events, last]
        assert [record.sequence for record in records] == [1, 2, 3]
        head = verify_chain(records)
        assert head == ChainHead(sequence=3, hash=records[-1].hash)
        assert await store.audit_head() == head

    async def test_facts_come_back_as_they_went_in(self, store: Store) -> None:
        facts = {"texts": ["ä", "\n", '"'], "n": 12, "yes": True, "nothing": None, "deep": {"a": [1, {}]}}
        await store.commit([c.Append(event=an_event(facts=facts))])
        (record,) = await store.audit_records(0, MANY)
        assert record.event.facts == facts

    async def test_what_was_refused_leaves_no_gap(self, store: Store) -> None:
        never = c.VoidLease(lease_id=LEASE, at=NOON)
        await store.commit([c.Append(event=an_event())])
        assert await refused(store, c.Append(event=an_event()), never) is Conflict.LEASE_STATE
        await store.commit([c.Append(event=an_event())])
        records = await store.audit_records(0, MANY)
        assert [record.sequence for record in records] == [1, 2]
        assert verify_chain(records) == await store.audit_head()

    async def test_commits_at_once_make_one_chain(self, store: Store) -> None:
        await asyncio.gather(
            *(
                store.commit([c.Append(event=an_event(facts={"n": n})), c.Append(event=an_event())])
                for n in range(40)
            )
        )
        records = await store.audit_records(0, MANY)
        assert len(records) == 80
        assert verify_chain(records) == await store.audit_head()
        assert {record.event.facts.get("n") for record in records[::2]} == set(range(40))

    async def test_records_are_read_in_parts(self, store: Store) -> None:
        await store.commit([c.Append(event=an_event(facts={"n": n})) for n in range(5)])
        first = await store.audit_records(0, 2)
        second = await store.audit_records(first[-1].sequence, 2)
        third = await store.audit_records(second[-1].sequence, 2)
        assert [record.sequence for record in (*first, *second, *third)] == [1, 2, 3, 4, 5]
        assert await store.audit_records(5, 2) == ()


class ReadCases:
    async def test_pages_hold_every_task_of_the_owner_once_newest_first(self, store: Store) -> None:
        for n in range(7):
            await add_task(store, a_task(f"task-{n}"))
        await add_task(store, a_task("task-of-another", owner=OTHER))
        seen: list[str] = []
        sizes, token = [], ""
        while True:
            page = await store.tasks_of(OWNER, states=frozenset(), page_size=3, page_token=token)
            seen += [task.task_id for task in page.tasks]
            sizes.append(len(page.tasks))
            token = page.next_token
            if not token:
                break
        assert seen == [f"task-{n}" for n in reversed(range(7))]
        assert sizes == [3, 3, 1]

    async def test_a_last_page_that_is_full_has_no_next(self, store: Store) -> None:
        for n in range(4):
            await add_task(store, a_task(f"task-{n}"))
        first = await store.tasks_of(OWNER, states=frozenset(), page_size=2, page_token="")
        last = await store.tasks_of(OWNER, states=frozenset(), page_size=2, page_token=first.next_token)
        assert (len(last.tasks), last.next_token) == (2, "")

    async def test_a_new_task_does_not_shift_the_pages(self, store: Store) -> None:
        for n in range(4):
            await add_task(store, a_task(f"task-{n}"))
        first = await store.tasks_of(OWNER, states=frozenset(), page_size=2, page_token="")
        await add_task(store, a_task("task-9"))
        rest = await store.tasks_of(OWNER, states=frozenset(), page_size=9, page_token=first.next_token)
        assert [task.task_id for task in rest.tasks] == ["task-1", "task-0"]

    async def test_an_owner_without_tasks_has_an_empty_page(self, store: Store) -> None:
        await add_task(store)
        page = await store.tasks_of(OTHER, states=frozenset(), page_size=2, page_token="")
        assert (page.tasks, page.next_token) == ((), "")

    async def test_tasks_are_picked_by_their_states(self, store: Store) -> None:
        await add_task(store, a_task("task-active"))
        await add_task(store, a_task("task-ending"))
        await add_task(store, a_task("task-ended"))
        await store.commit([end("task-ending"), end("task-ended"), finish("task-ended")])
        for states in (
            {TaskState.ACTIVE},
            {TaskState.ENDING},
            {TaskState.ENDED},
            {TaskState.ACTIVE, TaskState.ENDED},
        ):
            page = await store.tasks_of(OWNER, states=states, page_size=9, page_token="")
            assert {task.state for task in page.tasks} == states
            assert len(page.tasks) == len(states)

    @pytest.mark.parametrize(
        "token", ["nonsense", "ä", "=", "dGFzay0wOg==", "bnVsbDo=", "|", f"{OWNER}|", "a" * 999]
    )
    async def test_a_page_token_that_is_none_of_ours_is_refused(self, store: Store, token: str) -> None:
        with pytest.raises(FieldInvalidError) as caught:
            await store.tasks_of(OWNER, states=frozenset(), page_size=2, page_token=token)
        assert [violation.field for violation in caught.value.violations] == ["page_token"]

    async def test_another_owners_page_token_is_refused(self, store: Store) -> None:
        for n in range(3):
            await add_task(store, a_task(f"task-{n}"))
        page = await store.tasks_of(OWNER, states=frozenset(), page_size=1, page_token="")
        with pytest.raises(FieldInvalidError):
            await store.tasks_of(OTHER, states=frozenset(), page_size=1, page_token=page.next_token)

    async def test_a_tasks_leases_come_oldest_first(self, store: Store) -> None:
        await add_task(store)
        await add_task(store, a_task("task-b"))
        for name, after in (("lease-b", 2), ("lease-c", 1), ("lease-a", 3)):
            await add_lease(store, a_lease(name, intended_at=NOON + after * SECOND))
        await add_lease(store, a_lease("lease-d", task_id="task-b"))
        leases = await store.leases_of(TASK)
        assert [lease.lease_id for lease in leases] == ["lease-c", "lease-b", "lease-a"]

    async def test_the_facts_for_an_acquire_are_the_tasks_own(self, store: Store) -> None:
        task = await add_task(store)
        await add_task(store, a_task("task-b"))
        for state in LeaseState:
            await add_lease(store, a_lease(f"lease-{state.value}"), state)
        await add_lease(store, a_lease("lease-b", task_id="task-b", idempotency_key="key"))
        facts = await store.action_facts(TASK, NOON, 10, key="key")
        assert (facts.task, facts.holds_key, facts.live_leases) == (task, None, 3)

    async def test_the_facts_for_an_acquire_of_an_unknown_task_are_none(self, store: Store) -> None:
        facts = await store.action_facts(NEVER, NOON, 10, key="key")
        assert (facts.task, facts.holds_key, facts.live_leases) == (None, None, 0)

    async def test_a_task_lapses_at_its_deadline_or_without_a_sign_of_life(self, store: Store) -> None:
        hour = timedelta(hours=1)
        times = {
            "task-deadline": (NOON, NOON + hour),
            "task-heartbeat": (NOON + hour, NOON),
            "task-both": (NOON - hour, NOON - hour),
            "task-lives": (NOON + SECOND, NOON + SECOND),
            "task-ending": (NOON, NOON),
        }
        for name, (deadline, heartbeat) in times.items():
            await add_task(store, a_task(name, deadline=deadline, heartbeat_due=heartbeat))
        await store.commit([end("task-ending")])
        lapsed = await store.take_lapsed_tasks(NOON, MANY)
        assert [task.task_id for task in lapsed] == ["task-both", "task-deadline", "task-heartbeat"]
        assert [task.task_id for task in await store.take_lapsed_tasks(NOON, 1)] == ["task-both"]
        assert await store.take_lapsed_tasks(NOON - 2 * hour, MANY) == ()

    async def test_ending_tasks_that_hold_nothing_are_to_be_finished(self, store: Store) -> None:
        for name in ("task-active", "task-ended", "task-holds", "task-held", "task-bare"):
            await add_task(store, a_task(name))
        await add_lease(store, a_lease("lease-a", task_id="task-holds"), LeaseState.LIVE)
        await add_lease(store, a_lease("lease-b", task_id="task-held"), LeaseState.REVOKED)
        await add_lease(store, a_lease("lease-c", task_id="task-held"), LeaseState.VOID)
        await store.commit(
            [
                end("task-ended"),
                finish("task-ended"),
                end("task-holds"),
                end("task-held", at=NOON + SECOND),
                end("task-bare", at=NOON),
            ]
        )
        assert [task.task_id for task in await store.take_ending_tasks(MANY)] == ["task-bare", "task-held"]
        assert [task.task_id for task in await store.take_ending_tasks(1)] == ["task-bare"]

    async def test_leases_to_renew_are_live_renewable_of_active_tasks_and_have_room(
        self, store: Store
    ) -> None:
        await add_task(store)
        await add_task(store, a_task("task-ending"))
        soon = NOON + timedelta(minutes=1)
        leases: dict[str, tuple[Lease, c.Change | None]] = {
            "soon": (a_lease("lease-soon"), issue("lease-soon", expires_at=soon)),
            "sooner": (a_lease("lease-sooner"), issue("lease-sooner", expires_at=soon - SECOND)),
            "later": (a_lease("lease-later"), issue("lease-later", expires_at=soon + SECOND)),
            "fixed": (a_lease("lease-fixed"), issue("lease-fixed", expires_at=NOON, renewable=False)),
            "full": (a_lease("lease-full", max_expires_at=soon), issue("lease-full", expires_at=soon)),
            "intended": (a_lease("lease-intended"), None),
            "ending": (
                a_lease("lease-ending", task_id="task-ending"),
                issue("lease-ending", expires_at=NOON),
            ),
        }
        for lease, change in leases.values():
            await store.commit([c.CreateLease(lease=lease, max_live=MANY), *([change] if change else [])])
        await store.commit([end("task-ending")])
        due = await store.take_leases_due_for_renewal(soon + SECOND, MANY)
        assert [lease.lease_id for lease in due] == ["lease-sooner", "lease-soon"]
        assert [lease.lease_id for lease in await store.take_leases_due_for_renewal(soon, MANY)] == [
            "lease-sooner"
        ]
        assert len(await store.take_leases_due_for_renewal(soon + SECOND, 1)) == 1

    async def test_expired_leases_are_the_live_ones_whose_time_ran_out(self, store: Store) -> None:
        await add_task(store)
        for name, after in (("lease-b", 0), ("lease-a", -1), ("lease-c", 1)):
            await add_lease(store, a_lease(name))
            await store.commit([issue(name, expires_at=NOON + after * SECOND)])
        await add_lease(store, a_lease("lease-revoking"))
        await store.commit([issue("lease-revoking", expires_at=NOON), revoke("lease-revoking")])
        expired = await store.take_expired_leases(NOON, MANY)
        assert [lease.lease_id for lease in expired] == ["lease-a", "lease-b"]
        assert len(await store.take_expired_leases(NOON, 1)) == 1

    async def test_leases_to_revoke_are_those_whose_attempt_is_due_longest_waiting_first(
        self, store: Store
    ) -> None:
        await add_task(store)
        for state in (LeaseState.INTENDED, LeaseState.LIVE, LeaseState.REVOKED, LeaseState.VOID):
            await add_lease(store, a_lease(f"lease-{state.value}"), state)
        for name, after in (("lease-b", 0), ("lease-a", -1), ("lease-c", 1)):
            await add_lease(store, a_lease(name))
            await store.commit([issue(name), revoke(name, at=NOON + after * SECOND)])
        due = await store.take_leases_to_revoke(NOON, MANY)
        assert [lease.lease_id for lease in due] == ["lease-a", "lease-b"]
        assert len(await store.take_leases_to_revoke(NOON, 1)) == 1
        await store.commit([c.PostponeRevocation(lease_id=LeaseId("lease-a"), next_attempt_at=NOON + SECOND)])
        assert [lease.lease_id for lease in await store.take_leases_to_revoke(NOON, MANY)] == ["lease-b"]

    async def test_a_doubtful_lease_is_to_be_revoked_when_nothing_else_stands_under_its_token(
        self, store: Store
    ) -> None:
        await add_task(store)
        await add_task(store, a_task("task-b"))
        await add_lease(store, a_lease("lease-doubtful"))
        await add_lease(store, a_lease("lease-doubtful-too"))
        doubt = RevokeCause.IN_DOUBT
        await store.commit([revoke("lease-doubtful", doubt), revoke("lease-doubtful-too", doubt)])
        await add_lease(store, a_lease("lease-live"), LeaseState.LIVE)
        elsewhere = a_lease("lease-elsewhere", accessor=TokenAccessor("accessor-two"))
        await add_lease(store, elsewhere, LeaseState.LIVE)
        await add_lease(store, a_lease("lease-b", task_id="task-b"), LeaseState.LIVE)
        assert await store.take_leases_to_revoke(NOON + SECOND, MANY) == ()
        await store.commit([revoke("lease-live")])
        (due,) = await store.take_leases_to_revoke(NOON + SECOND, MANY)
        assert due.lease_id == "lease-live"
        await store.commit([c.ConfirmRevoked(lease_id=due.lease_id, at=NOON)])
        due_now = await store.take_leases_to_revoke(NOON + SECOND, MANY)
        assert {lease.lease_id for lease in due_now} == {"lease-doubtful", "lease-doubtful-too"}

    async def test_stale_intents_are_those_that_are_old_and_still_intended(self, store: Store) -> None:
        await add_task(store)
        for name, after in (("lease-b", 0), ("lease-a", -1), ("lease-c", 1)):
            await add_lease(store, a_lease(name, intended_at=NOON + after * SECOND))
        for state in (LeaseState.LIVE, LeaseState.REVOKING, LeaseState.REVOKED, LeaseState.VOID):
            await add_lease(store, a_lease(f"lease-{state.value}", intended_at=NOON - SECOND), state)
        stale = await store.take_intended_leases(NOON, MANY)
        assert [lease.lease_id for lease in stale] == ["lease-a", "lease-b"]
        assert len(await store.take_intended_leases(NOON, 1)) == 1


async def snapshot(store: Store) -> tuple[object, ...]:
    return (
        await store.task(TASK),
        await store.leases_of(TASK),
        await store.task_tokens(TASK),
        await store.audit_records(0, MANY),
    )


class StoreCases(TaskCases, LeaseCases, CommitCases, AuditCases, ReadCases):
    """All of them."""
