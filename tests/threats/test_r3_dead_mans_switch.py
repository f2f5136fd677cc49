"""R3: whoever shows no life ends, with all that it held, however it stopped."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from broker.api.v1 import tasks_pb2
from tests.threats.world import World, until


def cause(world: World, task_id: str) -> str:
    ((found,),) = world.rows("SELECT end_cause FROM tasks WHERE task_id = ?", task_id)
    return str(found)


def test_an_svid_that_expired_and_was_not_renewed_ends_the_task(world: World) -> None:
    svid = world.svid(ttl=timedelta(seconds=5))
    with world.calling(svid) as caller:
        task_id = world.declare(caller)
        credential = world.acquire(caller, task_id)
    with world.alive(svid, task_id):  # as long as it is taken, and on
        until(lambda: cause(world, task_id) == "svid-expired", "the task is ended")
        until(lambda: not world.lets_in(credential), "refused by PostgreSQL", patience=5)


def test_a_newer_svid_keeps_it_alive(world: World) -> None:
    name = "rotates"
    with world.calling(world.svid(name, ttl=timedelta(seconds=5))) as caller:
        task_id = world.declare(caller)
        credential = world.acquire(caller, task_id)
    newer = world.svid(name)
    with world.alive(newer, task_id), world.calling(newer) as caller:
        began = datetime.now(UTC)
        until(lambda: datetime.now(UTC) - began > timedelta(seconds=9), "time passes")
        assert world.lets_in(credential)
        assert world.complete(caller, task_id).ok
    assert cause(world, task_id) == "completed"


def test_a_stream_that_is_cut_off_and_not_attached_again_ends_the_task_sooner(world: World) -> None:
    svid = world.svid()
    with world.calling(svid) as caller:
        task_id = world.declare(caller)
        credential = world.acquire(caller, task_id)
        stream = caller.stream("AttachTask", tasks_pb2.AttachTaskRequest(task_id=task_id), timeout=60)
        assert next(stream).kind == tasks_pb2.AttachTaskResponse.KIND_ATTACHED
        before = world.task(caller, task_id).heartbeat_due.ToDatetime(tzinfo=UTC)
    # The connection is gone, as it is when the agent was killed.
    with world.calling(svid) as caller:
        until(
            lambda: (
                world.task(caller, task_id).heartbeat_due.ToDatetime(tzinfo=UTC)
                < before - timedelta(seconds=1)
            ),
            "a sign of life is wanted sooner",
            patience=5,
        )
    until(lambda: cause(world, task_id) == "heartbeat-lost", "the task is ended")
    until(lambda: not world.lets_in(credential), "refused by PostgreSQL", patience=5)
