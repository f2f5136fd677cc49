"""Wires what watches the broker itself: metrics, traces, and the rounds that look at its parts."""

from __future__ import annotations

import contextlib
import logging
from datetime import timedelta
from typing import Final

from broker.adapters.observe.metrics import Health, PrometheusMetrics
from broker.adapters.observe.together import Observers
from broker.adapters.observe.traces import Traces
from broker.adapters.spire.identity import WorkloadIdentity
from broker.adapters.store.sql_store import SqlStore
from broker.adapters.vault.health import VaultHealth
from broker.adapters.vault.login import VaultLogin
from broker.config.settings import Settings
from broker.ports.observing import Observer
from broker.ports.system import Clock
from broker.server.rounds import Round
from broker.server.serving import CannotListenError, GrpcServer
from broker.usecases.revoke_leases import RevokeLeases

logger = logging.getLogger(__name__)

_READY: Final = timedelta(seconds=0.25)
_FIGURES: Final = timedelta(seconds=2)


class Observing:
    """What watches: metrics always, for they cost little, served and traced where the settings say so."""

    def __init__(self, settings: Settings, stack: contextlib.AsyncExitStack, clock: Clock) -> None:
        self.metrics = PrometheusMetrics()
        self._clock = clock
        watching: list[Observer] = [self.metrics]
        if settings.metrics_listen is not None:
            try:
                host, port = self.metrics.serve(settings.metrics_listen)
            except OSError as error:
                message = f"metrics_listen: {settings.metrics_listen} cannot be listened on: {error.strerror}"
                raise CannotListenError(message) from error
            stack.callback(self.metrics.close)
            logger.info("metrics at http://%s:%d/metrics", host, port)
        if settings.tracing is not None:
            traces = Traces.to(
                settings.tracing.endpoint, service=str(settings.own_id), sample=settings.tracing.sample
            )
            stack.callback(traces.close)
            watching.append(traces)
        self.observer: Observer = Observers(*watching) if len(watching) > 1 else self.metrics

    def rounds(  # noqa: PLR0913 - what is looked at
        self,
        *,
        server: GrpcServer,
        store: SqlStore,
        revoke_leases: RevokeLeases,
        login: VaultLogin,
        identity: WorkloadIdentity,
        vault: VaultHealth,
    ) -> list[Round]:
        """What looks again and again."""

        async def readiness() -> None:
            now = self._clock.now()
            spire, writable = identity.healthy(now), await store.try_again()
            ready = login.healthy and spire and writable
            await server.ready(ready=ready)
            health = Health(
                vault=login.healthy and vault.up,
                spire=spire,
                store=writable,
                svid_expires_at=identity.svid_expires_at,
                ready=ready,
            )
            self.metrics.health(health)

        async def figures() -> None:
            found, under_way = await store.figures(), len(revoke_leases.under_way)
            self.metrics.figures(found, self._clock.now(), revocations_under_way=under_way)

        return [
            ("readiness", readiness, _READY),
            ("vault-health", vault.look, _FIGURES),
            ("figures", figures, _FIGURES),
        ]
