"""What operators do about findings: look at them, mark them, watch them come, and let a task go on that one of them holds.

What always holds: nothing takes effect without its audit record. A mark undoes no answer: a quarantine is released and a hold
lifted by somebody who says so.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final

from broker.domain.audit import AuditEvent, AuditKind
from broker.domain.changes import Append, Change, LiftHold, MarkFinding
from broker.domain.errors import (
    FindingNotFoundError,
    HoldNotFoundError,
    TaskNotActiveError,
    TaskNotFoundError,
)
from broker.domain.findings import Mark, RecordedFinding
from broker.domain.identifiers import FindingId, TaskId
from broker.ports.store import Conflict, ConflictError, FindingFilter, FindingPage, Store
from broker.ports.system import Clock
from broker.usecases.caller import OperatorCaller

_LOOK: Final = timedelta(seconds=0.5)
_PAGE: Final = 100
_OPEN: Final = 1000
"""Findings that were shown and are not answered yet, of which a watcher hears again."""


class OperateFindings:
    """See the module."""

    def __init__(self, *, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self.tell_of_mark: Callable[[RecordedFinding], Awaitable[Sequence[Change]]] = _nobody_is_told
        """What is committed together with a mark, to tell others; set by the wiring."""

    async def page(
        self, caller: OperatorCaller, wanted: FindingFilter, *, page_size: int, page_token: str
    ) -> FindingPage:
        """One page of findings, newest first.

        Raises:
            FieldInvalidError: the page token is not one of ours.
        """
        page = await self._store.finding_page(wanted, page_size=page_size, page_token=page_token)
        facts = {"instance": wanted.instance, "detector": wanted.detector}
        await self._store.commit([self._event(AuditKind.ANOMALY_LISTED, caller, wanted.task_id, facts)])
        return page

    async def one(self, caller: OperatorCaller, finding_id: FindingId) -> RecordedFinding:
        """One finding.

        Raises:
            FindingNotFoundError: there is none.
        """
        found = await self._find(finding_id)
        task_id = found.found.task_id or ""
        event = self._event(AuditKind.ANOMALY_LISTED, caller, task_id, {"finding": finding_id})
        await self._store.commit([event])
        return found

    async def mark(
        self, caller: OperatorCaller, finding_id: FindingId, mark: Mark, reason: str
    ) -> RecordedFinding:
        """Say what it is; the last word counts.

        Raises:
            FindingNotFoundError: there is none.
        """
        found = await self._find(finding_id)
        by = str(caller.operator.spiffe_id)
        marked = replace(found, mark=mark, marked_by=by)
        facts = {"finding": finding_id, "false": mark is Mark.FALSE, "reason": reason}
        await self._store.commit(
            [
                MarkFinding(finding_id=finding_id, mark=mark, by=by),
                self._event(AuditKind.ANOMALY_MARKED, caller, found.found.task_id or "", facts),
                *await self.tell_of_mark(marked),
            ]
        )
        return marked

    async def lift(self, caller: OperatorCaller, task_id: TaskId, reason: str) -> None:
        """Let a task go on.

        Raises:
            TaskNotFoundError: there is none.
            TaskNotActiveError: it is ending or has ended.
            HoldNotFoundError: nothing holds it.
        """
        task = await self._store.task(task_id)
        if task is None:
            raise TaskNotFoundError
        hold = "" if task.hold is None else task.hold.value
        event = self._event(AuditKind.HOLD_LIFTED, caller, task_id, {"hold": hold, "reason": reason})
        try:
            await self._store.commit([LiftHold(task_id=task_id), event])
        except ConflictError as error:
            if error.conflict is Conflict.HOLD_MISSING:
                raise HoldNotFoundError from error
            raise TaskNotActiveError from error

    async def watch(self, caller: OperatorCaller, after: int | None) -> AsyncIterator[RecordedFinding]:
        """Yield findings as they are recorded, and again when they have been answered; for ever.

        Raises:
            StoreUnavailableError: called again with the last number, nothing is missed.
        """
        await self._store.commit([self._event(AuditKind.ANOMALY_LISTED, caller, "", {"watched": True})])
        last = await self._store.newest_finding() if after is None else after
        waiting: list[FindingId] = []
        while True:
            new = await self._store.findings_after(last, _PAGE)
            for found in new:
                last = found.number
                if found.answered_at is None:
                    waiting = [*waiting, found.finding_id][-_OPEN:]
                yield found
            still = (
                [one.finding_id for one in await self._store.unanswered_findings(_OPEN)] if waiting else []
            )
            for finding_id in [one for one in waiting if one not in still]:
                waiting.remove(finding_id)
                done = await self._store.finding(finding_id)
                if done is not None and done.answered_at is not None:
                    yield done
            if not new:
                await self._clock.sleep(_LOOK)

    async def _find(self, finding_id: FindingId) -> RecordedFinding:
        found = await self._store.finding(finding_id)
        if found is None:
            raise FindingNotFoundError
        return found

    def _event(self, kind: str, caller: OperatorCaller, task_id: str, facts: Mapping[str, object]) -> Append:
        return Append(
            event=AuditEvent(
                kind=kind,
                at=self._clock.now(),
                actor=str(caller.operator.spiffe_id),
                task_id=task_id,
                request_id=caller.request_id,
                facts={"roles": sorted(role.value for role in caller.operator.roles), **facts},
            )
        )


async def _nobody_is_told(_finding: RecordedFinding) -> Sequence[Change]:
    return ()
