"""Wires what comes in from outside: reports over gRPC, and Security Event Tokens over HTTPS."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from datetime import timedelta
from typing import Final

from broker.adapters.jose.jwks import JwksFile
from broker.adapters.jose.security_events import IssuerKeys, SetVerifier
from broker.adapters.spire.https_tls import https_context
from broker.adapters.spire.identity import WorkloadIdentity
from broker.config.settings import Settings
from broker.ports.observing import Observer
from broker.ports.policy import CatalogSource
from broker.ports.store import Store
from broker.ports.system import Clock, Ids
from broker.server.https.open_door import OpenDoor
from broker.server.rate_limit import RateLimit
from broker.server.rounds import Round
from broker.server.security_events import SecurityEvents
from broker.server.signals import SignalServicer
from broker.usecases.receive_event import ReceiveEvent
from broker.usecases.report_signal import AnswersFindings, ReportSignal

logger = logging.getLogger(__name__)

_LOOK: Final = timedelta(seconds=5)


class SignalsIn:
    """Both doors, over one use case."""

    def __init__(
        self,
        settings: Settings,
        *,
        store: Store,
        catalogs: CatalogSource,
        answer_findings: AnswersFindings,
        clock: Clock,
    ) -> None:
        """Read the transmitters' keys.

        Raises:
            ConfigError: a JWKS file cannot be used.
        """
        self._settings = settings
        self._clock = clock
        report = ReportSignal(
            store=store,
            catalogs=catalogs,
            answer_findings=answer_findings,
            bounds_of=settings.signals.bounds_of,
            clock=clock,
        )
        self.servicer = SignalServicer(report=report, clock=clock)
        transmitters = settings.signals.transmitters
        self._keys = {one.issuer: JwksFile(one.jwks_file) for one in transmitters}
        verifier = SetVerifier(
            issuers={
                one.issuer: IssuerKeys(audience=one.audience, keys=self._keys[one.issuer])
                for one in transmitters
            },
            clock=clock,
        )
        self._receive = ReceiveEvent(
            verifier=verifier,
            transmitters={one.issuer: one.transmitter() for one in transmitters},
            report=report,
            store=store,
            clock=clock,
        )

    def rounds(self) -> list[Round]:
        """What looks whether keys have changed."""
        return [("signal-keys", self._reload, _LOOK)] if self._keys else []

    async def open(
        self,
        stack: contextlib.AsyncExitStack,
        *,
        identity: WorkloadIdentity,
        stopping: asyncio.Event,
        ids: Ids,
        observer: Observer,
    ) -> OpenDoor | None:
        """The door for tokens, open, where the settings want one.

        Raises:
            CannotListenError: not at that address.
        """
        settings = self._settings
        if settings.signals.listen is None:
            return None
        door = OpenDoor(
            endpoint=SecurityEvents(self._receive).endpoint(),
            rate_limit=RateLimit(
                rate=settings.limits.calls_per_second_per_instance, burst=settings.limits.burst
            ),
            max_concurrent_requests=settings.limits.max_concurrent_calls,
            max_body_bytes=settings.limits.max_message_bytes,
            stopping=stopping,
            clock=self._clock,
            ids=ids,
            observer=observer,
        )
        await door.start(
            "signals.listen", settings.signals.listen, https_context(identity, demand_certificate=False)
        )
        stack.push_async_callback(door.stop, timedelta())
        logger.info("security events on port %d", door.port)
        return door

    async def _reload(self) -> None:
        for keys in self._keys.values():
            await keys.reload_if_changed()
