"""Everything breaks in turn while agents work; after each fault one check, the same for all.

    no credential of an ended task is accepted by its backend
    no live task has lost one
    the audit trail has no gap
    the backend holds what the store knows, and nothing else

`make chaos` runs for half an hour, `CHAOS_SECONDS` for as long as it says, `CHAOS_SEED` (it prints its own) draws the same
faults in the same order. What the agents do meanwhile depends on the machine as well.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Final

import psycopg
import pytest

from tests.chaos.agents import Agents, Held
from tests.chaos.faults import FAULTS, Fault
from tests.chaos.surroundings import Breakable, breakable
from tests.threats.world import World, until

SECONDS: Final = float(os.environ.get("CHAOS_SECONDS", "60"))
PATIENCE: Final = 90.0

pytestmark = [pytest.mark.timeout(SECONDS * 2 + 600)]


def say(text: str) -> None:
    """Shown at once with -s, and where the test fails."""
    print(text, flush=True)  # noqa: T201 - what it is for


class Check:
    """What was looked at, and what was lost."""

    def __init__(self, world: World, agents: Agents) -> None:
        self._world = world
        self._agents = agents
        self.refused = 0
        self.alive = 0

    def __call__(self) -> None:
        """The world is whole: see that nothing is lost."""
        until(self._nothing_is_ending, "every ending task has ended", patience=PATIENCE)
        held = self._agents.take()
        ended = {task for (task,) in self._world.rows("SELECT task_id FROM tasks WHERE state = 'ended'")}
        self._are_refused([one for one in held if one.task_id in ended])
        self._are_accepted_while_their_task_lives([one for one in held if one.task_id not in ended])
        self._world.verify_trail()

    def _nothing_is_ending(self) -> bool:
        # A task that began to end this very second is under way, not stuck.
        query = "SELECT count(*) FROM tasks WHERE state = 'ending' AND end_at < ?"
        before = (time.time_ns() - 2_000_000_000) // 1000
        ((left,),) = self._world.rows(query, before)
        return int(left) == 0

    def _are_refused(self, held: list[Held]) -> None:
        for one in held:
            assert not self._world.lets_in(one.response), f"{one.lease_id} outlives its task {one.task_id}"
            self.refused += 1

    def _are_accepted_while_their_task_lives(self, held: list[Held]) -> None:
        """Looked at before and after: what ends in between proves nothing."""

        def lives(lease_id: str) -> bool:
            query = (
                "SELECT 1 FROM leases JOIN tasks USING (task_id) "
                "WHERE lease_id = ? AND leases.state = 'live' AND tasks.state = 'active'"
            )
            return bool(self._world.rows(query, lease_id))

        for one in held:
            if lives(one.lease_id):
                accepted = self._world.lets_in(one.response)
                if lives(one.lease_id):
                    assert accepted, f"{one.lease_id} of the living task {one.task_id} is refused"
                    self.alive += 1
        self._agents.give_back(held)


@pytest.mark.parametrize("replicas", [1, 2])
def test_nothing_is_lost_whatever_breaks(tmp_path: Path, replicas: int) -> None:
    with breakable(tmp_path, replicas=replicas) as around:
        break_everything(around, FAULTS[replicas])


def break_everything(around: Breakable, kinds: tuple[Fault, ...]) -> None:
    world = around.world
    seed = int(os.environ.get("CHAOS_SEED", "") or random.SystemRandom().randrange(1 << 32))
    dice = random.Random(seed)  # noqa: S311 - to be repeated
    say(f"CHAOS_SEED={seed}")
    agents = Agents(world, count=4, seed=seed)
    check = Check(world, agents)
    agents.start()
    began, faults = time.monotonic(), 0
    try:
        bag: list[int] = []
        while time.monotonic() - began < SECONDS or faults < len(kinds):
            if not bag:  # each comes once before any comes twice
                bag = dice.sample(range(len(kinds)), len(kinds))
            said = kinds[bag.pop()](around, dice)
            faults += 1
            world.stack.up()
            check()
            say(f"{time.monotonic() - began:6.1f} s  {said}")
            assert not agents.trouble, agents.trouble
    finally:
        agents.stop()
    assert not agents.trouble, agents.trouble
    unfinished = "SELECT 1 FROM tasks WHERE state <> 'ended'"
    until(lambda: not world.rows(unfinished), "every task has ended", patience=PATIENCE)
    check()
    assert world.users() == set(), "the backend holds what nobody knows"
    with psycopg.connect(world.stack.postgres.admin_dsn) as connection:
        row = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE usename LIKE 'v-%'").fetchone()
    assert row == (0,)
    ((tasks,),) = world.rows("SELECT count(*) FROM tasks")
    ((leases,),) = world.rows("SELECT count(*) FROM leases")
    say(
        f"{faults} faults, {tasks} tasks, {leases} leases; {check.refused} credentials seen refused after their task, "
        f"{check.alive} seen accepted during it; lost: 0"
    )
    assert tasks > 0
    assert check.refused > 0
    assert check.alive > 0
