"""Replicas whose machines' clocks differ by a minute: one of them runs with a wall clock that is wrong (libfaketime)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta

import pytest

from broker.api.v1 import tasks_pb2
from tests.debian import library
from tests.integration.client.test_real_stack import AGENT, agent, said
from tests.threats.world import World, until


@pytest.fixture(params=["+60s", "-60s"])
def skew(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def skewed(world: World, skew: str) -> Iterator[World]:
    """The second broker's clock is wrong."""
    wrong = {
        "LD_PRELOAD": str(library("libfaketimeMT.so.1", "libfaketime")),
        "FAKETIME": skew,
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    world.stack.stop_part("broker-2")
    world.stack.brokers[1].start(also=wrong)
    yield world
    world.stack.stop_part("broker-2")


def beat(world: World, task_id: str, callers: list[object], seconds: float) -> None:
    """Signs of life, at each in turn."""
    end, number = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        caller = callers[number % len(callers)]
        answer = caller.call("Heartbeat", tasks_pb2.HeartbeatRequest(task_id=task_id))  # type: ignore[attr-defined]
        assert answer.ok, answer
        number += 1
        time.sleep(0.5)


@pytest.fixture
def serves_all(skew: str) -> int:
    """A replica beside the first that takes the SVID of an agent that was born this minute.

    TLS looks at the machine's clock: one that is behind has not got to where those SVIDs begin. Agents go to another
    replica then (below); what the one that is behind does by itself is not concerned.
    """
    return 2 if skew.startswith("+") else 1


def test_no_live_task_is_ended_and_no_dead_one_lives_on(skewed: World, serves_all: int) -> None:
    world = skewed
    svid = world.svid()
    with world.calling(svid) as one, world.calling(svid, replica=serves_all) as other:
        task_id, second = world.declare(one), world.declare(other)
        held = [world.acquire(caller, task) for caller in (one, other) for task in (task_id, second)]
        for credential in held:
            lives = credential.lease.expires_at.ToDatetime() - credential.lease.issued_at.ToDatetime()
            assert timedelta() < lives < timedelta(hours=1)
        beat(world, task_id, [one], 6)  # two heartbeats
        assert world.task(other, task_id).state == tasks_pb2.TASK_STATE_ACTIVE
        beat(world, task_id, [other], 6)
        assert world.task(one, task_id).state == tasks_pb2.TASK_STATE_ACTIVE
        assert world.lets_in(held[0])
        assert world.lets_in(held[2])
        assert world.task(one, second).state == tasks_pb2.TASK_STATE_ENDED, "it gave no sign of life"
        assert not world.lets_in(held[1])
        assert not world.lets_in(held[3])
        assert world.complete(other, task_id).ok
        assert not any(world.lets_in(credential) for credential in held)


def test_work_passes_from_one_to_the_other_as_soon_as_with_right_clocks(skewed: World) -> None:
    world = skewed
    with world.calling() as caller:
        task_id = world.declare(caller)
        credential = world.acquire(caller, task_id)
    world.stack.kill_part("broker")
    took = until(lambda: not world.lets_in(credential), "refused")
    assert took < 20, "a heartbeat and a claim, and not a minute"
    world.until_ended(task_id)
    ((at,),) = world.rows("SELECT at FROM audit_records WHERE task_id = ? AND kind = 'task.ended'", task_id)
    assert abs(at / 1e6 - time.time()) < 15, "the trail has the database's time"


def test_an_agent_that_was_born_this_minute_finds_a_replica_that_takes_it(skewed: World) -> None:
    for _ in range(4):  # the order of the addresses is drawn
        with agent(skewed.stack, [*AGENT, "outlive"]) as process:
            assert said(process, answer="go on\ngo on\n") == ["ready", "orders 250", "orders 250"]
