"""The life of tasks and leases, walked at random over the real store, with crashes between any two steps.

`LIFECYCLE_EXAMPLES=2000` walks longer. Hypothesis prints what to repeat.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from broker.domain.errors import BrokerError
from broker.domain.identifiers import LeaseId, TaskId
from broker.domain.lease import LeaseState
from broker.domain.lifecycle import LIFECYCLE, State, as_markdown, can_lead_to, is_drawn
from broker.domain.operators import OperatorRole
from broker.domain.peer import VerifiedOperator
from broker.domain.quarantine import QuarantineTarget, TargetKind
from broker.domain.spiffe import SpiffeId
from broker.domain.task import Outcome, TaskState
from broker.usecases.caller import Caller, OperatorCaller
from tests.fakes.issuer import Trouble
from tests.fakes.samples import OTHER, OWNER, a_caller
from tests.unit.lifecycle.mortal import Crash, Mortal
from tests.unit.usecases.wiring import an_acquisition, settle

STEPS = (
    "declare.token-made", "declare.durable", "acquire.decided", "acquire.token-made", "acquire.intent-durable",
    "acquire.vault-issued", "acquire.issued-durable", "end.durable", "revoke.vault-revoked", "revoke.durable",
    "quarantine.durable",
)  # fmt: skip
NUMBER = st.integers(0, 30)
CALLERS = (a_caller(OWNER), a_caller(OTHER))


def operator() -> OperatorCaller:
    ann = SpiffeId.parse("spiffe://example.test/oncall/ann")
    who = VerifiedOperator(spiffe_id=ann, roles=frozenset(OperatorRole), svid_sha256="ab" * 32)
    return OperatorCaller(operator=who, request_id=CALLERS[0].request_id, time_left=timedelta(seconds=1))


class Walk(RuleBasedStateMachine):
    """One walk."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory(prefix="tasklease-lifecycle-")
        self._runner = asyncio.Runner()
        self._states: dict[TaskId | LeaseId, State] = {}
        self._tasks: list[TaskId] = []

    @initialize()
    def begin(self) -> None:
        self._mortal = self._runner.run(self._made())

    async def _made(self) -> Mortal:
        return await Mortal.born(Path(self._folder.name))

    # What happens.

    @rule(who=st.sampled_from(CALLERS))
    def declare(self, who: Caller) -> None:
        self._do(self._mortal.broker.declared(who))

    @rule(number=NUMBER, role=st.sampled_from(["orders", "customers"]), key=st.integers(0, 3))
    def acquire(self, number: int, role: str, key: int) -> None:
        self._do(self._acquire(number, role, key))

    @rule(number=NUMBER)
    def two_acquire_while_one_completes(self, number: int) -> None:
        async def at_once() -> None:
            work = [self._acquire(number, "orders", 5), self._acquire(number, "customers", 6)]
            work.append(self._complete(number))
            done = await asyncio.gather(*work, return_exceptions=True)
            for one in done:
                if isinstance(one, BaseException) and not isinstance(one, BrokerError):
                    raise one

        self._do(at_once())

    @rule(number=NUMBER)
    def complete(self, number: int) -> None:
        self._do(self._complete(number))

    @rule(number=NUMBER)
    def release(self, number: int) -> None:
        async def released() -> None:
            leases = [item for item in self._states if isinstance(self._states[item], LeaseState)]
            if not leases:
                return
            lease_id = LeaseId(leases[number % len(leases)])
            lease = await self._mortal.store.lease(lease_id)
            assert lease is not None
            task = await self._mortal.store.task(lease.task_id)
            assert task is not None
            await self._mortal.broker.release(a_caller(task.owner), lease_id)

        self._do(released())

    @rule(number=NUMBER)
    def beat(self, number: int) -> None:
        async def beaten() -> None:
            if (task := await self._task(number)) is not None:
                await self._mortal.broker.keep_alive.beat(a_caller(task.owner), task.task_id)

        self._do(beaten())

    @rule(whom=st.sampled_from([OWNER, OTHER]), ends=st.booleans())
    def quarantine(self, whom: SpiffeId, ends: bool) -> None:  # noqa: FBT001 - drawn
        target = QuarantineTarget(kind=TargetKind.INSTANCE, name=str(whom))
        instances = self._mortal.broker.quarantine_instances
        change = instances.release if ends else instances.impose
        self._do(change(operator(), target, "a walk"))

    @rule(seconds=st.sampled_from([1, 4, 12, 40, 700]))
    def time_passes(self, seconds: int) -> None:
        self._mortal.clock.advance(seconds=seconds)
        self._do(self._rounds())

    @rule()
    def rounds(self) -> None:
        self._do(self._rounds())

    # What goes wrong.

    @rule(step=st.sampled_from(STEPS))
    def is_to_die_at(self, step: str) -> None:
        mortal = self._mortal

        def die() -> None:
            mortal.die()
            raise Crash

        mortal.broker.steps.at(step, die)

    @rule()
    def dies(self) -> None:
        self._runner.run(self._mortal.restart())

    @rule(away=st.booleans())
    def backend(self, away: bool) -> None:  # noqa: FBT001 - drawn
        self._mortal.issuer.away = away

    @rule(loses=st.booleans())
    def answers_are_lost(self, loses: bool) -> None:  # noqa: FBT001 - drawn
        self._mortal.issuer.loses_answers = loses

    @rule(trouble=st.sampled_from(Trouble))
    def the_next_issue_fails(self, trouble: Trouble) -> None:
        self._mortal.issuer.troubles.append(trouble)

    @rule(number=NUMBER)
    def the_backend_forgets_a_lease(self, number: int) -> None:
        """As after a restore: it works on until it has expired, and nobody can revoke it."""
        leases = self._mortal.issuer.leases
        if leases:
            forgotten = sorted(leases)[number % len(leases)]
            del leases[forgotten]

    @rule()
    def reconciles(self) -> None:
        self._do(self._mortal.broker.reconcile.round())

    @rule(away=st.booleans())
    def the_store(self, away: bool) -> None:  # noqa: FBT001 - drawn
        self._mortal.store_away = away

    # What always holds.

    @invariant()
    def every_state_was_reached_by_arrows(self) -> None:
        self._runner.run(self._look())

    def teardown(self) -> None:
        try:
            if hasattr(self, "_mortal"):
                self._runner.run(self._heal())
        finally:
            if hasattr(self, "_mortal"):
                self._runner.run(self._mortal.close())
            self._runner.close()
            self._folder.cleanup()

    # How.

    def _do(self, work: Coroutine[Any, Any, object]) -> None:
        """Refused or not is the store's and the backend's business here; a crash is followed by the next process."""

        async def done() -> None:
            try:
                await work
                await settle()
            except BrokerError:
                return
            except Crash:
                await self._mortal.restart()

        self._runner.run(done())
        if self._mortal._dead[0]:  # in the background
            self._runner.run(self._mortal.restart())

    async def _task(self, number: int) -> Any:
        if not self._tasks:
            return None
        return await self._mortal.store.task(self._tasks[number % len(self._tasks)])

    async def _acquire(self, number: int, role: str, key: int) -> None:
        if (task := await self._task(number)) is not None:
            acquisition = an_acquisition(task, role, f"key-{key}")
            await self._mortal.broker.acquire(a_caller(task.owner), acquisition)

    async def _complete(self, number: int) -> None:
        if (task := await self._task(number)) is not None:
            await self._mortal.broker.complete(
                a_caller(task.owner), task.task_id, Outcome.SUCCEEDED, "walked enough"
            )

    async def _rounds(self) -> None:
        watch = self._mortal.broker.watch
        for one_round in (
            watch.end_lapsed,
            watch.retry,
            watch.renew_due,
            watch.revoke_expired,
            watch.reclaim,
            self._mortal.broker.quarantine_instances.follow,
            self._mortal.broker.reconcile.round,
        ):
            try:
                await one_round()
            except BrokerError:
                continue

    async def _look(self) -> None:
        store, issuer = self._mortal.store, self._mortal.issuer
        await settle()
        tokens: dict[str, TaskState] = {}
        found: dict[TaskId | LeaseId, State] = {}
        for owner in (OWNER, OTHER):
            page = await store.tasks_of(owner, states=frozenset(), page_size=1000, page_token="")
            for task in page.tasks:
                found[task.task_id] = task.state
                leases = await store.leases_of(task.task_id)
                found.update({lease.lease_id: lease.state for lease in leases})
                tokens |= dict.fromkeys(await store.task_tokens(task.task_id), task.state)
                if task.state is not TaskState.ACTIVE:
                    assert all(lease.state not in {LeaseState.INTENDED, LeaseState.LIVE} for lease in leases)
                for lease in leases:
                    if lease.state in {LeaseState.REVOKED, LeaseState.VOID}:
                        assert lease.vault_lease_id not in issuer.leases, "said to be revoked, and works"
        for item, state in found.items():
            before = self._states.get(item)
            assert can_lead_to(before, state), f"{item}: {before} to {state}"
        assert self._states.keys() <= found.keys(), "something was forgotten"
        self._states = found
        self._tasks = [TaskId(item) for item, state in found.items() if isinstance(state, TaskState)]
        for vault_lease_id, accessor in issuer.leases.items():
            assert accessor in tokens, f"nobody can revoke {vault_lease_id}"
            assert tokens[accessor] is not TaskState.ENDED, f"{vault_lease_id} outlives its task"
        await self._mortal.broker_records_are_whole()

    async def _heal(self) -> None:
        """Everything comes back; nobody gives a sign of life. Nothing is left in the end."""
        mortal = self._mortal
        mortal.issuer.away = mortal.issuer.loses_answers = mortal.store_away = False
        mortal.issuer.troubles.clear()
        await mortal.restart()
        for _ in range(60):
            mortal.clock.advance(seconds=120)
            await self._rounds()
            await settle()
        await self._look()
        assert mortal.issuer.leases == {}
        assert mortal.issuer.tokens == {}, "a token that nobody answers for"
        assert all(state.is_final for state in self._states.values() if isinstance(state, LeaseState))
        assert all(
            state is TaskState.ENDED for state in self._states.values() if isinstance(state, TaskState)
        )


Walk.TestCase.settings = settings(
    max_examples=int(os.environ.get("LIFECYCLE_EXAMPLES", "60")),
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestWalk = Walk.TestCase
TestWalk.pytestmark = [pytest.mark.timeout(3600)]  # type: ignore[attr-defined]  # pytest's word


def test_what_is_drawn_is_all_there_is() -> None:
    states: tuple[State, ...] = (*TaskState, *LeaseState)
    reached = {one.after for one in LIFECYCLE}
    assert reached == set(states)
    assert not is_drawn(LeaseState.REVOKED, LeaseState.LIVE)
    assert not can_lead_to(TaskState.ENDED, TaskState.ACTIVE)
    assert can_lead_to(None, LeaseState.REVOKED)
    assert as_markdown().count("\n") == len(LIFECYCLE) + 1
