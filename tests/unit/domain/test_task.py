"""The task's state machine, and when a task lapses."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.domain.errors import IllegalTransitionError
from broker.domain.task import EndCause, SignOfLife, Task, TaskState
from tests.fakes.samples import a_task, an_end
from tests.fakes.system import NOON

Step = Callable[[Task, datetime], Task]
FIXED = ("task_id", "owner", "agent_class", "task_type", "scope", "environment", "created_at", "deadline")


def end(task: Task, at: datetime) -> Task:
    return task.ending(an_end(EndCause.COMPLETED, at))


def revoke(task: Task, at: datetime) -> Task:
    return task.ending(an_end(EndCause.REVOKED, at))


def finish(task: Task, at: datetime) -> Task:
    return task.finished(at)


STEPS = (end, revoke, finish)
DRAWN: dict[tuple[TaskState, Step], TaskState] = {
    (TaskState.ACTIVE, end): TaskState.ENDING,
    (TaskState.ACTIVE, revoke): TaskState.ENDING,
    (TaskState.ENDING, finish): TaskState.ENDED,
}


@pytest.mark.parametrize("state", TaskState)
@pytest.mark.parametrize("step", STEPS)
def test_a_transition_is_as_drawn_or_refused(state: TaskState, step: Step) -> None:
    task = a_task(state=state)
    wanted = DRAWN.get((state, step))
    if wanted is not None:
        assert step(task, NOON).state is wanted
        return
    with pytest.raises(IllegalTransitionError, match=f"{task.task_id}: no transition from {state.value} to "):
        step(task, NOON)


@given(st.lists(st.sampled_from(STEPS), max_size=8))
def test_along_every_path_nothing_goes_back_and_the_first_end_stays(path: list[Step]) -> None:
    order = list(TaskState)
    task, at = a_task(), NOON
    seen = [task]
    for step in path:
        at += timedelta(seconds=1)
        try:
            task = step(task, at)
        except IllegalTransitionError:
            continue
        seen.append(task)
    assert [item.state for item in seen] == order[: len(seen)]
    for item in seen:
        assert (item.end is None) == (item.state is TaskState.ACTIVE)
        assert (item.ended_at is None) == (item.state is not TaskState.ENDED)
        assert [getattr(item, name) for name in FIXED] == [getattr(seen[0], name) for name in FIXED]
    assert len({item.end for item in seen[1:]}) <= 1


@given(st.integers(0, 7200), st.integers(0, 7200), st.integers(0, 7200))
def test_a_task_lapses_at_its_deadline_or_without_a_sign_of_life(deadline: int, due: int, now: int) -> None:
    at = NOON + timedelta(seconds=now)
    task = a_task(deadline=NOON + timedelta(seconds=deadline), heartbeat_due=NOON + timedelta(seconds=due))
    wanted = EndCause.DEADLINE if now >= deadline else EndCause.HEARTBEAT_LOST if now >= due else None
    assert task.lapsed(at) is wanted
    assert end(task, at).lapsed(at) is None
    assert finish(end(task, at), at).lapsed(at) is None


@pytest.mark.parametrize(
    ("interval", "svid", "due", "cause"),
    [
        (10, 3600, 30, EndCause.HEARTBEAT_LOST),
        (10, 20, 30, EndCause.SVID_EXPIRED),  # both at once: it is the SVID that has to be renewed
        (10, 5, 15, EndCause.SVID_EXPIRED),
        (300, 60, 90, EndCause.SVID_EXPIRED),  # a long interval is no long grace
        (10, -1, 9, EndCause.SVID_EXPIRED),
    ],
)
def test_a_sign_of_life_counts_no_longer_than_the_svid_it_came_with(
    interval: int, svid: int, due: int, cause: EndCause
) -> None:
    sign = SignOfLife.given(
        at=NOON, interval=timedelta(seconds=interval), svid_expires_at=NOON + timedelta(seconds=svid)
    )
    assert sign.heartbeat_due == NOON + timedelta(seconds=due)
    task = a_task(heartbeat_due=sign.heartbeat_due, svid_due=sign.svid_due)
    assert task.lapsed(sign.heartbeat_due - timedelta(microseconds=1)) is None
    assert task.lapsed(sign.heartbeat_due) is cause


def test_a_stream_that_closed_is_a_heartbeat_that_is_missing() -> None:
    task = a_task(heartbeat_due=NOON + timedelta(seconds=5), svid_due=NOON + timedelta(seconds=20))
    assert task.lapsed(NOON + timedelta(seconds=5)) is EndCause.HEARTBEAT_LOST
