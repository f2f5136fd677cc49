"""Honest work around an attack."""

from __future__ import annotations

from tests.scenarios.anomaly.acting import Actor, TaskOf
from tests.scenarios.anomaly.benign import WORK, perform


def begun(actor: Actor, task_type: str, *, part: float = 0.6, environment: str = "staging") -> TaskOf:
    """Honest work so far, with the usual noise."""
    task = actor.task(task_type, environment)
    steps = WORK[task_type](actor.random)
    perform(actor, task, steps[: max(1, int(len(steps) * part))], noise=0.5)
    return task


def cover(actor: Actor, task: TaskOf, many: int = 2) -> None:
    """Steps that such a task has anyway."""
    steps = WORK[task.task_type](actor.random)
    perform(actor, task, steps[1 : 1 + many], noise=0.0)
