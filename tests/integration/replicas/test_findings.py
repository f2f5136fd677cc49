"""What an instance does at two brokers is seen as if it had done it at one; and what is found at one holds at the other."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from broker.demo.callers import Caller
from tests.threats.test_anomalies import Session, call
from tests.threats.world import World, until

CANARY = "export-customers"
OUT_OF_SCOPE = "query-orders"


def only_reads_mail(world: World, caller: Caller) -> str:
    answer = world.try_declare(caller, scope={"roles": ["orders-readonly"], "tools": ["read-mail", CANARY]})
    assert answer.ok, answer
    return str(answer.message.task.task_id)


def hammers(world: World, at: Sequence[Caller], task_id: str) -> list[tuple[str, str, int, str]]:
    """Ask for what is refused for good, in turns at each, until the task is stopped: what was found, with how much evidence."""
    for turn in range(12):
        answer = call(at[turn % len(at)], task_id, OUT_OF_SCOPE, day="2026-03-01")
        if answer.reason == "TASK_NOT_ACTIVE":
            break
        time.sleep(1.2)  # longer than it takes a replica to hear of what the other did
    until(
        lambda: "task.ended" in world.kinds(task_id), "the task is ended"
    )  # that it is answered is recorded after
    rows = world.rows("SELECT detector, rule, evidence, answer FROM findings WHERE task_id = ?", task_id)
    return [(str(d), str(rule), len(json.loads(evidence)), str(answer)) for d, rule, evidence, answer in rows]


def test_halves_of_a_storm_are_found_as_the_whole_is(world: World) -> None:
    found = []
    for replicas in ((1, 2), (1,)):
        svid = world.svid()
        with world.calling(svid, replica=1) as first, world.calling(svid, replica=2) as second:
            callers = {1: first, 2: second}
            task_id = only_reads_mail(world, first)
            with world.alive(svid, task_id):
                session = Session(world, first, task_id)
                assert session.works()
                found.append(hammers(world, [callers[one] for one in replicas], task_id))
                assert session.refused()
            session.close()
    halves, whole = found
    assert halves == whole
    assert [(detector, rule) for detector, rule, _, _ in whole] == [("retry-storm", "refused-again")]
    world.verify_trail()


def test_who_touches_a_canary_at_one_is_nobody_at_the_other(world: World) -> None:
    bad, good = world.svid(), world.svid()
    with (
        world.calling(bad, replica=1) as first,
        world.calling(bad, replica=2) as second,
        world.calling(good, replica=2) as other,
    ):
        tasks = only_reads_mail(world, first), only_reads_mail(world, second)
        others = only_reads_mail(world, other)
        with (
            world.alive(bad, tasks[0]),
            world.alive(bad, tasks[1], replica=2),
            world.alive(good, others, replica=2),
        ):
            sessions = Session(world, first, tasks[0]), Session(world, second, tasks[1])
            undisturbed = Session(world, other, others)
            assert all(session.works() for session in sessions)
            assert not call(first, tasks[0], CANARY).ok
            until(
                lambda: all(session.refused() for session in sessions),
                "both of its sessions have ended",
                patience=5,
            )
            until(lambda: second.knock().reason == "INSTANCE_QUARANTINED", "refused at the other", patience=5)
            assert world.try_declare(first).reason == "INSTANCE_QUARANTINED"
            assert undisturbed.works()
            assert call(other, others, "read-mail").message.authorization.allowed
        for session in (*sessions, undisturbed):
            session.close()
    assert world.rows("SELECT detector, answer FROM findings WHERE instance = ?", bad.spiffe_id) == [
        ("canary", "quarantine")
    ]
    assert world.rows("SELECT 1 FROM findings WHERE instance = ?", good.spiffe_id) == []
    world.verify_trail()
