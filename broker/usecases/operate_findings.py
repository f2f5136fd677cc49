"""What operators do about findings: look at them, watch them come, say what they are, and lift the holds that answered them.

What always holds: whatever takes effect does so together with its audit record, and what is looked at is in the audit
trail before it is answered; a mark undoes no answer.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from broker.domain.audit import AuditEvent, AuditKind
from broker.domain.changes import Append, Change, LiftHold
from broker.domain.changes import MarkFinding as MarkFindingChange
from broker.domain.errors import (
    FindingNotFoundError,
    HoldNotFoundError,
    OverloadedError,
    TaskNotFoundError,
)
from broker.domain.findings import Mark, RecordedFinding
from broker.domain.identifiers import FindingId, TaskId
from broker.ports.store import ConflictError, FindingFilter, FindingPage, Store
from broker.ports.system import Clock
from broker.usecases.caller import OperatorCaller

LOOKS_EVERY: Final = timedelta(seconds=0.5)
"""How often a watcher's new findings are looked for."""
MOST_WATCHERS: Final = 8
"""Streams at once: operators who watch must leave room for those who act."""
MOST_AT_ONCE: Final = 200
"""Findings that one look takes."""
MOST_FOLLOWED: Final = 100
"""Findings of which a watcher sees whatever becomes of them: the newest."""
MOST_AWAITED: Final = 256
"""Older ones without an answer, of which it sees that it has taken effect: the newest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """One item of what a watcher sees."""

    finding: RecordedFinding | None
    """None in the first, which says where it begins."""
    number: int
    """Every finding up to this one was seen, or not asked for."""


class OperateFindings:
    """See the module."""

    def __init__(self, *, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._watchers = 0
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
        await self._looked(caller, task_id=wanted.task_id, facts={"instance": wanted.instance})
        return page

    async def one(self, caller: OperatorCaller, finding_id: FindingId) -> RecordedFinding:
        """One finding.

        Raises:
            FindingNotFoundError: there is none.
        """
        finding = await self._find(finding_id)
        await self._looked(caller, task_id=finding.found.task_id or "", facts={"finding": finding_id})
        return finding

    async def mark(
        self, caller: OperatorCaller, finding_id: FindingId, mark: Mark, reason: str
    ) -> RecordedFinding:
        """Say what it is; the last word counts. The same one twice is recorded twice, and told to others once. No answer is
        undone by it.

        Raises:
            FindingNotFoundError: there is none.
            StoreUnavailableError: nothing changed.
        """
        finding = await self._find(finding_id)
        change = MarkFindingChange(finding_id=finding_id, mark=mark, by=str(caller.operator.spiffe_id))
        event = self._event(
            AuditKind.ANOMALY_MARKED,
            caller,
            task_id=finding.found.task_id or "",
            facts={"finding": finding_id, "false": mark is Mark.FALSE, "reason": reason},
        )
        try:
            known = finding.mark is mark
            told = [] if known else await self.tell_of_mark(replace(finding, mark=mark, marked_by=change.by))
            await self._store.commit([change, Append(event=event), *told])
        except ConflictError as error:
            raise FindingNotFoundError from error
        return await self._find(finding_id)

    async def lift(self, caller: OperatorCaller, task_id: TaskId, reason: str) -> None:
        """Let a task on hold go on.

        Raises:
            TaskNotFoundError: there is none.
            HoldNotFoundError: it is not on hold, or no longer active.
            StoreUnavailableError: nothing changed.
        """
        task = await self._store.task(task_id)
        if task is None:
            raise TaskNotFoundError
        event = self._event(
            AuditKind.HOLD_LIFTED,
            caller,
            task_id=task_id,
            facts={"hold": "" if task.hold is None else task.hold.value, "reason": reason},
        )
        try:
            await self._store.commit([LiftHold(task_id=task_id), Append(event=event)])
        except ConflictError as error:
            raise HoldNotFoundError from error

    async def watch(self, caller: OperatorCaller, after: int | None) -> AsyncGenerator[Watched]:
        """Yield where it begins; then findings beyond that number, or from now on, in order, and each again once it is
        answered; the newest of them also when a person says what they are.

        Raises:
            OverloadedError: as many watch as may.
            StoreUnavailableError: whoever watches goes on later, after the last number that it saw.
        """
        with self._watching():
            number = await self._store.newest_finding() if after is None else after
            await self._looked(caller, facts={"watching_after": number})
            yield Watched(finding=None, number=number)
            followed: dict[int, RecordedFinding] = {}
            awaited: dict[FindingId, None] = {}
            while True:
                for finding_id in await self._answered(awaited):
                    del awaited[finding_id]
                    yield Watched(finding=await self._find(finding_id), number=number)
                beyond = next(iter(followed), number + 1) - 1
                found = await self._store.findings_after(beyond, MOST_AT_ONCE)
                for finding in found:
                    if followed.get(finding.number) == finding:
                        continue
                    number = max(number, finding.number)
                    followed[finding.number] = finding
                    _let_go(followed, awaited)
                    yield Watched(finding=finding, number=number)
                if len(found) < MOST_AT_ONCE:
                    await self._clock.sleep(LOOKS_EVERY)

    async def _answered(self, awaited: dict[FindingId, None]) -> list[FindingId]:
        """Those of them whose answer has taken effect, in their order."""
        if not awaited:
            return []
        waiting = {one.finding_id for one in await self._store.unanswered_findings(MOST_AWAITED)}
        if len(waiting) < MOST_AWAITED:
            return [one for one in awaited if one not in waiting]
        found = [await self._store.finding(one) for one in awaited if one not in waiting]
        return [one.finding_id for one in found if one is not None and one.answered_at is not None]

    @contextmanager
    def _watching(self) -> Iterator[None]:
        if self._watchers >= MOST_WATCHERS:
            text = f"{MOST_WATCHERS} streams watch findings already, as many as may"
            raise OverloadedError(text, retry_after=timedelta(seconds=1))
        self._watchers += 1
        try:
            yield
        finally:
            self._watchers -= 1

    async def _find(self, finding_id: FindingId) -> RecordedFinding:
        finding = await self._store.finding(finding_id)
        if finding is None:
            raise FindingNotFoundError
        return finding

    async def _looked(self, caller: OperatorCaller, *, facts: dict[str, object], task_id: str = "") -> None:
        event = self._event(AuditKind.ANOMALY_LISTED, caller, task_id=task_id, facts=facts)
        await self._store.commit([Append(event=event)])

    def _event(
        self, kind: str, caller: OperatorCaller, *, task_id: str, facts: dict[str, object]
    ) -> AuditEvent:
        return AuditEvent(
            kind=kind,
            at=self._clock.now(),
            actor=str(caller.operator.spiffe_id),
            task_id=task_id,
            request_id=caller.request_id,
            facts={
                **facts,
                "roles": sorted(role.value for role in caller.operator.roles),
                "svid_sha256": caller.operator.svid_sha256,
            },
        )


def _let_go(followed: dict[int, RecordedFinding], awaited: dict[FindingId, None]) -> None:
    """The oldest are followed no longer; where the answer has not taken effect, that alone is waited for."""
    while len(followed) > MOST_FOLLOWED:
        oldest = followed.pop(next(iter(followed)))
        if oldest.answered_at is None:
            awaited[oldest.finding_id] = None
    while len(awaited) > MOST_AWAITED:
        del awaited[next(iter(awaited))]


async def _nobody_is_told(_finding: RecordedFinding) -> Sequence[Change]:
    return ()
