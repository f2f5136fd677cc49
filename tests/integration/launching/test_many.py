"""A hundred instances, one after another and at once, also with kills at random: nothing is left of any.

`LAUNCH_LOOPS=1000` makes it more, `LAUNCH_SEED` the same kills again.
"""

from __future__ import annotations

import os
import random
import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from broker.adapters.node.ledger import SqliteLedger
from broker.domain.launching import IdentityState
from tests.integration.launching.node import FOREVER, Node, eventually

INSTANCES = int(os.environ.get("LAUNCH_LOOPS", "100"))
AT_ONCE = 6
WHO = ("launcher", "child", "watcher")


def nothing_is_left(node: Node) -> None:
    """Nothing runs, no entry is there; and when their time has come, no number is taken and no row is there."""
    node.write(ready=0)
    eventually(lambda: not node.identities(IdentityState.READY, IdentityState.USED, IdentityState.RETIRING))
    eventually(lambda: not node.entries() and not node.groups_in_use())
    ledger = SqliteLedger(node.state)
    try:
        for one in ledger.identities():  # the pool has forgotten those that have cooled down meanwhile
            assert one.state is IdentityState.COOLING
            assert one.free_at is not None
            assert one.free_at <= datetime.now(UTC) + timedelta(minutes=2)
            ledger.forget(one)
        assert not ledger.identities()
    finally:
        ledger.close()


@pytest.mark.timeout(600)
def test_a_hundred_instances_started_and_stopped_leave_nothing(node: Node) -> None:
    node.write(ready=8)
    with node.pool(ready=8):
        with ThreadPoolExecutor(AT_ONCE) as threads:
            done = list(threads.map(lambda _: node.launch("true"), range(INSTANCES)))
        assert [one.returncode for one in done] == [0] * INSTANCES, {one.stderr for one in done}
        assert len({one.stderr for one in done}) == INSTANCES
        nothing_is_left(node)
    eventually(lambda: not node.processes())
    assert sorted(path.name for path in node.state.iterdir() if not path.name.startswith("ledger.db")) == [
        "pool.lock"
    ]


@pytest.mark.timeout(600)
def test_a_hundred_instances_killed_at_random_leave_nothing(node: Node) -> None:
    seed = int(os.environ.get("LAUNCH_SEED", "") or random.SystemRandom().randrange(1 << 32))
    print(f"LAUNCH_SEED={seed}")  # noqa: T201 - shown where it fails
    chance = random.Random(seed)  # noqa: S311 - no secret
    plans = [
        (chance.sample(WHO, chance.randint(1, 3)), chance.random() < 0.3, chance.random() * 0.3)
        for _ in range(INSTANCES)
    ]

    def one_instance(plan: tuple[list[str], bool, float]) -> None:
        who, blindly, when = plan
        if blindly:  # in the middle of its start, wherever it is
            process = subprocess.Popen(node.command(*FOREVER), stderr=subprocess.DEVNULL)
            try:
                process.wait(when)
            except subprocess.TimeoutExpired:
                process.kill()
            process.wait()
            return
        launched = node.start(*FOREVER)
        launched.kill(*who)
        if who == ["watcher"]:
            launched.process.terminate()
        launched.wait()

    node.write(ready=8)
    with node.pool(ready=8):
        with ThreadPoolExecutor(AT_ONCE) as threads:
            list(threads.map(one_instance, plans))
        nothing_is_left(node)
    eventually(lambda: not node.processes())
