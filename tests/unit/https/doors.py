"""The AuthZEN door on a Unix socket, with everything behind it but SPIRE, Vault and the real store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509

from broker.adapters.spire.https_tls import https_context, shown_by
from broker.adapters.spire.identity import OwnSvid, TrustBundle, WorkloadIdentity
from broker.adapters.spire.verifier import SvidVerifier
from broker.client import Svid
from broker.domain.audit import AuditEvent
from broker.domain.catalog import Obligations, Tool
from broker.domain.effects import Verb
from broker.domain.operators import OperatorGrant, OperatorRole, Operators
from broker.domain.secret import Secret
from broker.domain.spiffe import SpiffeId
from broker.domain.task import Task
from broker.server.authzen import Authzen
from broker.server.https.door import HttpsDoor
from broker.server.https.endpoints import Endpoint
from broker.server.rate_limit import RateLimit
from broker.usecases.enforce_for import EnforceFor
from broker.usecases.record_refusal import RecordRefusal
from tests.fakes.issuer import FakeIssuer
from tests.fakes.samples import BROKER, OWNER, a_caller, a_catalog, a_tool
from tests.fakes.store import FakeStore
from tests.fakes.system import CountingIds, FakeClock
from tests.https import EVALUATION, Connection, Reply, an_evaluation, connected
from tests.unit.client.authority import TRUST_DOMAIN
from tests.unit.server.served import Authority
from tests.unit.spire.certificates import bundle_of
from tests.unit.usecases.wiring import Broker

GATEWAY = SpiffeId.parse("spiffe://example.test/enforcer/gateway")
ANN = SpiffeId.parse("spiffe://example.test/operator/ann")
OBLIGATIONS = Obligations(redact=("iban",), limit_rows=5, credential_role="orders")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Wide, unless a test is about one of them."""

    rate: float = 1e6
    burst: float = 1e6
    most: int = 64
    max_body: int = 65536


def some_tools() -> tuple[Tool, ...]:
    return (
        a_tool("read-orders", obligations=OBLIGATIONS),
        a_tool("delete-order", verb=Verb.DELETE, resource="orders/{order_id}"),
    )


class Door:
    """One running door, and ways to ask it."""

    def __init__(self, folder: Path, authority: Authority, limits: Limits) -> None:
        self.authority = authority
        self.clock = FakeClock(datetime.now(UTC))
        self.ids = CountingIds()
        self.broker = Broker(
            FakeStore(), FakeIssuer(), self.clock, self.ids, a_catalog(tools=some_tools(), max_tasks=50)
        )
        self.identity = WorkloadIdentity(endpoint_socket="unix:///none", expected_id=BROKER)
        self.turn()
        self.address = f"unix:{folder / 'door.sock'}"
        self.stopping = asyncio.Event()
        self.rate_limit = RateLimit(rate=limits.rate, burst=limits.burst)
        self.authzen = Authzen(
            authorize=self.broker.authorize,
            list_tools=self.broker.list_tools,
            enforce_for=EnforceFor(catalogs=self.broker.catalogs, quarantine=self.broker.quarantine),
            rate_limit=self.rate_limit,
            clock=self.clock,
        )
        self.more: list[Endpoint] = []
        self._limits = limits
        self._open: list[HttpsDoor] = []

    async def start(self, *more: Endpoint) -> None:
        """Open it; with more endpoints than AuthZEN's, where a test has some."""
        door = HttpsDoor(
            endpoints=[*self.authzen.endpoints(), *more],
            verifier=SvidVerifier(
                bundle_of=lambda name: bundle_of(self.authority) if name == TRUST_DOMAIN else None,
                quarantine=self.broker.quarantine,
                clock=self.clock,
            ),
            shown=shown_by,
            operators=Operators(
                broker=BROKER,
                grants=(
                    a_grant("spiffe://example.test/enforcer/", OperatorRole.ENFORCER),
                    a_grant(str(ANN), *(set(OperatorRole) - {OperatorRole.ENFORCER})),
                ),
            ),
            record_refusal=RecordRefusal(store=self.broker.store, clock=self.clock),
            rate_limit=self.rate_limit,
            max_concurrent_requests=self._limits.most,
            max_body_bytes=self._limits.max_body,
            stopping=self.stopping,
            clock=self.clock,
            ids=self.ids,
        )
        await door.start("authzen.listen", self.address, https_context(self.identity))
        self._open.append(door)

    async def stop(self, grace: timedelta = timedelta(seconds=5)) -> None:
        self.stopping.set()
        for door in self._open:
            await door.stop(grace)
        self._open.clear()

    def turn(self, authority: Authority | None = None) -> Svid:
        """Another SVID of the broker's own, as its thread gets one; with `authority` also other roots."""
        self.authority = authority or self.authority
        svid = self.authority.svid(BROKER)
        roots = (x509.load_pem_x509_certificate(self.authority.pem),)
        self.identity._bundles = {
            TRUST_DOMAIN: TrustBundle(trust_domain=TRUST_DOMAIN, authorities=roots, digest="")
        }
        self.identity._svid = OwnSvid(
            spiffe_id=BROKER,
            chain_pem=svid.chain,
            key_pem=Secret(svid.key.decode()),
            expires_at=x509.load_pem_x509_certificate(svid.chain).not_valid_after_utc,
        )
        self.identity._version += 1
        return svid

    async def on_one(
        self, use: Callable[[Connection], Any], *, who: SpiffeId = OWNER, svid: Svid | None = None
    ) -> Any:
        """What `use` makes of one connection, on a thread of its own."""
        shown = svid or self.authority.svid(who)

        def run() -> Any:
            with ExitStack() as stack:
                return use(
                    stack.enter_context(connected(self.address, authorities=self.authority.pem, svid=shown))
                )

        return await asyncio.to_thread(run)

    async def post(self, path: str, body: object, *, who: SpiffeId = OWNER, **headers: str) -> Reply:
        reply: Reply = await self.on_one(lambda one: one.post(path, body, **headers), who=who)
        return reply

    async def evaluate(self, task: Task, *, who: SpiffeId = OWNER, **changed: Any) -> Reply:
        """Ask about a call of the task's owner."""
        return await self.post(EVALUATION, an_evaluation(str(task.owner), task.task_id, **changed), who=who)

    async def task(self, owner: SpiffeId = OWNER) -> Task:
        """A new one."""
        return await self.broker.declared(a_caller(owner), scope=None)

    async def last_event(self) -> AuditEvent:
        return (await self.broker.records())[-1].event

    async def length(self, task: Task) -> int:
        """Of the task's chain."""
        return len(await self.broker.store.actions_of(task.task_id, 0, 1000))


def a_grant(text: str, *roles: OperatorRole) -> OperatorGrant:
    return OperatorGrant.parse(text, frozenset(roles), broker=BROKER)
