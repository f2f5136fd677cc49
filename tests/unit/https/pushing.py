"""The events' door, with everything behind it but SPIRE, Vault and the real store, and ways to push to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from broker.adapters.jose.jwks import JwksFile
from broker.adapters.jose.security_events import IssuerKeys, SetVerifier
from broker.adapters.spire.https_tls import https_context
from broker.domain.audit import AuditEvent
from broker.domain.findings import Severity
from broker.domain.security_events import Transmitter
from broker.domain.signals import ReporterBounds
from broker.server.https.open_door import OpenDoor
from broker.server.rate_limit import RateLimit
from broker.server.security_events import SecurityEvents
from broker.usecases.receive_event import ReceiveEvent
from broker.usecases.report_signal import ReportSignal
from tests.fakes.answers import FakeAnswers
from tests.https import Connection, Reply, connected
from tests.unit.https.doors import Door, Limits
from tests.unit.jose.sets import AUDIENCE, ISSUER, a_set, write_jwks

CONTENT_TYPE = "application/secevent+jwt"


class Events:
    """One running door, and ways to push to it. What is behind the AuthZEN door of these tests is behind it too."""

    def __init__(self, door: Door, folder: Path, limits: Limits, address: str = "") -> None:
        self.behind = door
        self.store, self.clock = door.broker.store, door.clock
        self.answers = FakeAnswers(self.store, self.clock)
        self.bounds = ReporterBounds(most_severe=Severity.CRITICAL, per_minute=5)
        self.keys = JwksFile(write_jwks(folder / "jwks.json"))
        self.report = ReportSignal(
            store=self.store,
            catalogs=door.broker.catalogs,
            answer_findings=self.answers,
            bounds_of=lambda _reporter: self.bounds,
            clock=self.clock,
        )
        receive = ReceiveEvent(
            verifier=SetVerifier(
                issuers={ISSUER: IssuerKeys(audience=AUDIENCE, keys=self.keys)}, clock=self.clock
            ),
            transmitters={ISSUER: Transmitter(issuer=ISSUER, audience=AUDIENCE)},
            report=self.report,
            store=self.store,
            clock=self.clock,
        )
        self.address = address or f"unix:{folder / 'events.sock'}"
        self.door = OpenDoor(
            endpoint=SecurityEvents(receive).endpoint(),
            rate_limit=RateLimit(rate=limits.rate, burst=limits.burst),
            max_concurrent_requests=limits.most,
            max_body_bytes=limits.max_body,
            stopping=door.stopping,
            clock=self.clock,
            ids=door.ids,
        )

    async def start(self) -> None:
        tls = https_context(self.behind.identity, demand_certificate=False)
        await self.door.start("signals.listen", self.address, tls)

    def a_set(self, algorithm: str = "ES256", **changed: Any) -> str:
        return a_set(algorithm, **{"iat": int(self.clock.now().timestamp()), **changed})

    async def on_one(self, use: Callable[[Connection], Any]) -> Any:
        def run() -> Any:
            with ExitStack() as stack:
                return use(
                    stack.enter_context(
                        connected(self.address, authorities=self.behind.authority.pem, svid=None)
                    )
                )

        return await asyncio.to_thread(run)

    async def push(self, token: str | bytes | None = None, path: str = "/events", **headers: str) -> Reply:
        body = token if token is not None else self.a_set()
        data = body.encode() if isinstance(body, str) else body
        named = {"Content_Type": CONTENT_TYPE, "Accept": "application/json", **headers}
        reply: Reply = await self.on_one(lambda one: one.ask("POST", path, data, named))
        return reply

    async def trail(self) -> list[AuditEvent]:
        return [record.event for record in await self.behind.broker.records()]
