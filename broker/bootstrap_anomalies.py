"""Wires what sees anomalies while they happen, and what answers them."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from broker.adapters.observe.metrics import PrometheusMetrics
from broker.config.anomaly_parameters import load_parameters
from broker.config.settings import Settings
from broker.ports.identity import QuarantineInMemory
from broker.ports.policy import CatalogSource
from broker.ports.store import Store
from broker.ports.system import Clock, Steps
from broker.server.rounds import Round
from broker.usecases.answer_findings import AnswerFindings
from broker.usecases.end_quarantined import EndQuarantined
from broker.usecases.end_task import EndTask
from broker.usecases.learn_usual import LearnUsual
from broker.usecases.notice import Notice
from broker.usecases.noticing import NoticedBy
from broker.usecases.revoke_leases import RevokeLeases
from broker.usecases.see_instances import SeeInstances
from broker.usecases.task_events import TaskEvents
from broker.usecases.watch_instances import WatchInstances

_LOOK_AGAIN: Final = timedelta(seconds=0.5)
_TAKE_UP: Final = timedelta(seconds=1)
_LEARN: Final = timedelta(seconds=5)
_FIGURES: Final = timedelta(seconds=2)


class Anomalies:
    """All of it, over one store. From here on what `noticed` is told is noticed."""

    def __init__(  # noqa: PLR0913 - what it stands on
        self,
        settings: Settings,
        *,
        store: Store,
        catalogs: CatalogSource,
        end_task: EndTask,
        end_quarantined: EndQuarantined,
        revoke_leases: RevokeLeases,
        quarantine: QuarantineInMemory,
        events: TaskEvents,
        clock: Clock,
        steps: Steps,
        metrics: PrometheusMetrics,
        noticed: NoticedBy,
    ) -> None:
        """Read the parameters of the detectors.

        Raises:
            ConfigError: their file cannot be used.
        """
        file = settings.anomaly_parameters
        self.watches = WatchInstances(
            store=store,
            catalogs=catalogs,
            clock=clock,
            parameters=None if file is None else load_parameters(file),
        )
        self.answers = AnswerFindings(
            store=store,
            catalogs=catalogs,
            end_task=end_task,
            end_quarantined=end_quarantined,
            revoke_leases=revoke_leases,
            memory=quarantine,
            events=events,
            clock=clock,
            steps=steps,
            actor=settings.own_id,
        )
        self.answers.on_found = metrics.found
        self.answers.on_answered = metrics.answered
        self._notice = Notice(
            watches=self.watches, answers=self.answers, store=store, quarantine=quarantine, clock=clock
        )
        self.see = SeeInstances(store=store, notice=self._notice, clock=clock)
        self._learn = LearnUsual(store=store, catalogs=catalogs, clock=clock)
        self._metrics = metrics
        self._looked_at_all = False
        noticed.by = self._notice
        end_task.notice = self._notice
        end_task.learned = self._learn.ended

    def rounds(self) -> list[Round]:
        """What is done again and again."""
        return [
            ("look-at-all", self._look_at_all, _LOOK_AGAIN),
            ("look-again", self._notice.look_again, _LOOK_AGAIN),
            ("take-up", self.answers.take_up, _TAKE_UP),
            ("learn", self._learn.write, _LEARN),
            ("watches", self._figures, _FIGURES),
        ]

    async def drain(self) -> None:
        """Wait until what was seen is noticed, and what was found is answered as far as it goes now."""
        await self.see.drain()
        await self.answers.drain()

    async def _look_at_all(self) -> None:
        """Until it has been done once: what the process before left unseen."""
        if not self._looked_at_all:
            await self._notice.look_at_all()
            self._looked_at_all = True

    async def _figures(self) -> None:
        self._metrics.watching(self.watches.size(), self.watches.most(), self.watches.watches)
