"""Learn what is usual for task types, from tasks that completed with success and with nothing against them.

    L1  an ended task is noted, in memory
    L2  a little later, when what there is against it would have been found, its lesson is read from its chain
    L3  lessons are added to what is stored, in one write; again where another replica was faster

What always holds: what has a finding that stands, touched a canary, or ended in any other way than with success teaches nothing.
A crash loses the lessons that were not written yet, and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from datetime import datetime, timedelta
from typing import Final

from broker.anomaly.events import in_order
from broker.anomaly.learning import NOTHING_LEARNED, Model, ModelError, lesson_of, merged
from broker.domain.changes import SaveModel
from broker.domain.errors import StoreUnavailableError
from broker.domain.findings import Mark
from broker.domain.identifiers import TaskId
from broker.domain.task import EndCause, Outcome, Task
from broker.ports.policy import CatalogSource
from broker.ports.store import Conflict, ConflictError, Store, StoredModel
from broker.ports.system import Clock
from broker.usecases.task_work import events_of_task
from broker.usecases.usual import read, written

logger = logging.getLogger(__name__)

RIPE: Final = timedelta(seconds=10)
"""After its end a task may still turn out to have had something wrong with it: another replica saw the other half."""

MOST_NOTED: Final = 10_000
"""Ended tasks that wait; beyond, further ones teach nothing."""

_AT_ONCE: Final = 64
"""Lessons of one round: a busy broker learns from the oldest, and has time for calls."""
_MOST_FINDINGS: Final = 100
_TRIES: Final = 5


class LearnUsual:
    """See the module. Of one event loop."""

    def __init__(self, *, store: Store, catalogs: CatalogSource, clock: Clock) -> None:
        self._store = store
        self._catalogs = catalogs
        self._clock = clock
        self._noted: OrderedDict[TaskId, datetime] = OrderedDict()
        self._unwritten: Model = NOTHING_LEARNED

    def ended(self, task_id: TaskId) -> None:
        """Note a task that has ended; quick, and never fails."""
        if len(self._noted) < MOST_NOTED:
            self._noted.setdefault(task_id, self._clock.now())

    async def write(self) -> None:
        """A round: learn from what was noted a while ago, and write it.

        Raises:
            StoreUnavailableError: what could not be read or written is left for the next round.
        """
        ripe = self._clock.now() - RIPE
        for task_id in [one for one, at in self._noted.items() if at <= ripe][:_AT_ONCE]:
            lesson = await self._lesson(task_id)
            del self._noted[task_id]
            if lesson.types:
                self._unwritten = merged([self._unwritten, lesson])
        if self._unwritten.types:
            await self._save()

    async def _lesson(self, task_id: TaskId) -> Model:
        task = await self._store.task(task_id)
        if task is None or not _went_well(task):
            return NOTHING_LEARNED
        against = await self._store.findings_of_task(task_id, _MOST_FINDINGS)
        if len(against) == _MOST_FINDINGS or any(one.mark is not Mark.FALSE for one in against):
            return NOTHING_LEARNED
        events = in_order(await events_of_task(self._store, task, self._catalogs.current()))
        if any(event.decided is not None and event.decided.canary for event in events):
            return NOTHING_LEARNED
        return lesson_of(events)

    async def _save(self) -> None:
        for _ in range(_TRIES):
            stored = await self._store.model()
            try:
                data = await asyncio.to_thread(_together, stored, self._unwritten)
            except ModelError as error:
                logger.error("what was learned cannot be read; nothing more is learned: %s", error)
                self._unwritten = NOTHING_LEARNED
                return
            version = 1 if stored is None else stored.version + 1
            try:
                await self._store.commit([SaveModel(version=version, data=data)])
            except ConflictError as error:
                if error.conflict is not Conflict.MODEL_MOVED_ON:
                    raise
            else:
                self._unwritten = NOTHING_LEARNED
                return
        raise StoreUnavailableError


def _went_well(task: Task) -> bool:
    end = task.end
    return end is not None and end.cause is EndCause.COMPLETED and end.outcome is Outcome.SUCCEEDED


def _together(stored: StoredModel | None, lessons: Model) -> str:
    before = NOTHING_LEARNED if stored is None else read(stored.data)
    return written(merged([before, lessons]))
