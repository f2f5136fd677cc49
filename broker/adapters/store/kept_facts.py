"""What decisions need of tasks, kept in memory by the one process that writes the store.

What always holds: an entry is what a read would give, or would have given before a commit that is not answered yet. Each commit
that could change an entry drops it, or says what has changed, before it is answered; one that is not understood drops all.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Final

from broker.domain import changes as c
from broker.domain.actions import Action
from broker.domain.identifiers import TaskId
from broker.domain.lease import Lease
from broker.domain.task import Task
from broker.ports.store import ActionFacts

_MOST: Final = 5_000


class KeptFacts:
    """See the module. Of one thread; without what holds an idempotency key."""

    def __init__(self) -> None:
        self._kept: OrderedDict[TaskId, ActionFacts] = OrderedDict()

    def of(self, task_id: TaskId, now: datetime, limit: int) -> ActionFacts | None:
        """What is kept of the task; None where it has to be read: also where `limit` refusals may not have been all."""
        found = self._kept.get(task_id)
        if found is None or len(found.denied) >= limit:
            return None
        self._kept.move_to_end(task_id)
        if not found.denied:
            return found
        holding = (one for one in found.denied if one.task_id == task_id or _holds(one, now))
        return replace(found, denied=tuple(holding))

    def keep(self, task_id: TaskId, facts: ActionFacts, limit: int) -> None:
        """Keep what was read, with at most `limit` refusals."""
        if facts.task is None or len(facts.denied) >= limit:
            return  # whoever names tasks that do not exist fills nothing
        self._kept[task_id] = facts
        self._kept.move_to_end(task_id)
        while len(self._kept) > _MOST:
            self._kept.popitem(last=False)

    def forget(self) -> None:
        """Nothing that was kept holds."""
        self._kept.clear()

    def heard(self, changes: Iterable[c.Change]) -> None:
        """These are durable."""
        for change in changes:
            match change:
                case c.RecordAction(action=action):
                    self._after(action)
                case c.Append():
                    pass  # nothing of it is kept
                case (
                    c.CreateTask(task=Task(task_id=task_id))
                    | c.TouchTask(task_id=task_id)
                    | c.DetachTask(task_id=task_id)
                    | c.EndTask(task_id=task_id)
                    | c.FinishTask(task_id=task_id)
                    | c.HoldTask(task_id=task_id)
                    | c.LiftHold(task_id=task_id)
                    | c.CreateLease(lease=Lease(task_id=task_id))
                ):
                    self._kept.pop(task_id, None)
                case c.IssueLease() | c.VoidLease() | c.RevokeLease() | c.ConfirmRevoked():
                    # Of a task that holds leases; which one, these do not say.
                    self._drop(task_id for task_id, facts in self._kept.items() if facts.live_leases)
                case (
                    c.AddTaskToken()
                    | c.CloseAction()
                    | c.ExtendLease()
                    | c.PostponeRevocation()
                    | c.AnswerFinding()
                    | c.SaveModel()
                    | c.SeeInstance()
                    | c.AddMessage()
                    | c.PostponeMessage()
                    | c.RemoveMessage()
                ):
                    pass
                case c.RecordFinding(finding=finding):
                    if finding.found.task_id is not None:
                        self._kept.pop(finding.found.task_id, None)
                case c.MarkFinding():
                    # Of which task, it does not say: of one with a finding, whichever way it is marked now.
                    self.forget()
                case _:
                    self.forget()

    def _after(self, action: Action) -> None:
        if action.sticks_until is not None:
            # For each task of its instance.
            owner = action.owner
            self._drop(
                task_id
                for task_id, facts in self._kept.items()
                if facts.task is None or facts.task.owner == owner
            )
            return
        facts = self._kept.get(action.task_id)
        if facts is not None and facts.length < action.position:
            self._kept[action.task_id] = ActionFacts(
                task=facts.task,
                length=action.position,
                denied=facts.denied,
                live_leases=facts.live_leases,
                oldest_lease=facts.oldest_lease,
                open_anomalies=facts.open_anomalies,
            )

    def _drop(self, tasks: Iterable[TaskId]) -> None:
        for task_id in list(tasks):
            del self._kept[task_id]


def _holds(denied: Action, now: datetime) -> bool:
    return denied.sticks_until is not None and now < denied.sticks_until
