"""What detectors find with two sets of parameters, and how both compare with what people know of the tasks."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from broker.anomaly.findings import DetectorName, Finding
from broker.domain.identifiers import TaskId
from broker.domain.proportions import Proportion
from broker.usecases.detecting_again import Work
from broker.usecases.recorded_findings import Labels

Key = tuple[str, str, str, str]
"""Of whom, in which task, by which detector, by which rule: what makes two findings one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Against what people know."""

    caught: Proportion
    """Of the tasks that went wrong, those with a finding."""
    false: Proportion
    """Of the honest tasks, those with a finding."""

    @property
    def missed(self) -> int:
        """Tasks that went wrong and of which nothing was found."""
        return self.caught.of - self.caught.hits


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What would be otherwise with the second parameters."""

    appears: tuple[Finding, ...]
    disappears: tuple[Finding, ...]


def key_of(finding: Finding) -> Key:
    """See `Key`."""
    return str(finding.instance), finding.task_id or "", finding.detector.value, finding.rule


def compared(before: Iterable[Finding], after: Iterable[Finding]) -> Change:
    """What is in one and not in the other, by their keys."""
    old, new = ({key_of(one): one for one in found} for found in (before, after))
    return Change(
        appears=tuple(one for key, one in new.items() if key not in old),
        disappears=tuple(one for key, one in old.items() if key not in new),
    )


def honest_tasks(work: Work, labels: Labels) -> frozenset[TaskId]:
    """Those with a finding that a person called false, and those that completed with success and have nothing against them."""
    return frozenset(
        task_id
        for task_id, task in work.tasks.items()
        if task_id not in labels.bad
        and task_id not in labels.standing
        and (task_id in labels.false or task.succeeded)
    )


def bad_tasks(work: Work, labels: Labels, detector: DetectorName | None = None) -> frozenset[TaskId]:
    """Those of the work that went wrong; with a detector, those that it should see."""
    return frozenset(
        task_id
        for task_id, detectors in labels.bad.items()
        if task_id in work.tasks and (detector is None or not detectors or detector.value in detectors)
    )


def score(found: Iterable[Finding], *, bad: Collection[TaskId], honest: Collection[TaskId]) -> Score:
    """How many of both have a finding."""
    tasks = {one.task_id for one in found}
    return Score(
        caught=Proportion(hits=sum(one in tasks for one in bad), of=len(bad)),
        false=Proportion(hits=sum(one in tasks for one in honest), of=len(honest)),
    )
