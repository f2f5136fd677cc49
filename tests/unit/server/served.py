"""The broker's door with everything behind it but SPIRE and Vault: the real server, gate, use cases and store.

It listens on a Unix socket with mTLS. Who calls is verified by the real verifier, against a test's authority. The
clock stands still at the time of the start, until a test moves it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from broker.adapters.spire.jwt_verifier import JwtSvidVerifier
from broker.adapters.spire.verifier import SvidVerifier
from broker.adapters.store.sqlite import SqliteStore
from broker.api.v1 import credentials_pb2, tasks_pb2
from broker.client import Svid
from broker.domain.operators import OperatorGrant, OperatorRole, Operators
from broker.domain.signals import ReporterBounds
from broker.domain.spiffe import SpiffeId
from broker.server.anomalies import AnomalyServicer
from broker.server.credentials import CredentialServicer
from broker.server.gate import Gate, JwtDoor
from broker.server.instances import InstanceServicer
from broker.server.leases import LeaseServicer
from broker.server.quarantines import QuarantineServicer
from broker.server.rate_limit import RateLimit
from broker.server.serving import GrpcServer
from broker.server.signals import SignalServicer
from broker.server.tasks import TaskServicer
from broker.server.tools import ToolServicer
from broker.usecases.record_refusal import RecordRefusal
from broker.usecases.report_signal import ReportSignal
from tests.fakes.answers import FakeAnswers
from tests.fakes.issuer import FakeIssuer
from tests.fakes.samples import BROKER, OWNER, a_catalog
from tests.fakes.system import CountingIds, FakeClock
from tests.unit.client.authority import TRUST_DOMAIN
from tests.unit.spire import certificates
from tests.unit.spire.certificates import bundle_of, uri, usage
from tests.unit.spire.tokens import AUDIENCE, jwt_bundle, token
from tests.unit.usecases.wiring import Broker

TASKS = "/broker.api.v1.TaskService/"
CREDENTIALS = "/broker.api.v1.CredentialService/"
TOOLS = "/broker.api.v1.ToolService/"
INSTANCES = "/broker.api.v1.InstanceService/"
SIGNALS = "/broker.api.v1.SignalService/"
ANOMALIES = "/broker.api.v1.AnomalyService/"
LEASES = "/broker.api.v1.LeaseService/"
QUARANTINES = "/broker.api.v1.QuarantineService/"
FOR_OPERATORS = (QUARANTINES, INSTANCES, LEASES, SIGNALS, ANOMALIES)
HEALTH = "/grpc.health.v1.Health/"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"

Channel = Any
"""A grpc.aio.Channel; the published types know no calls without serializers."""

ANN = SpiffeId.parse("spiffe://example.test/operator/ann")
VERA = SpiffeId.parse("spiffe://example.test/viewer")
OPERATORS = ("spiffe://example.test/operator/", "spiffe://example.test/viewer")
DAY = timedelta(days=1)
STOPS_WITHIN = timedelta(seconds=5)


class Authority(certificates.Authority):
    """Signs SVIDs that are good today, with the keys that go with them."""

    def __init__(self) -> None:
        now = datetime.now(UTC)
        super().__init__(valid_from=now - DAY, valid_to=now + DAY)

    def svid(self, spiffe_id: SpiffeId = OWNER) -> Svid:
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([uri(str(spiffe_id)), x509.DNSName("tasklease-broker")])
        now = datetime.now(UTC)
        certificate = self._sign(
            x509.Name([]),
            key.public_key(),
            [
                (x509.BasicConstraints(ca=False, path_length=None), True),
                (names, True),
                (usage("digital_signature"), True),
                (x509.ExtendedKeyUsage(certificates.BOTH_SIDES), False),
            ],
            now - timedelta(minutes=5),
            now + timedelta(hours=1),
        )
        return Svid(
            spiffe_id=str(spiffe_id),
            chain=certificate.public_bytes(Encoding.PEM),
            key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            authorities=self.pem,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Wide, unless a test is about one of them."""

    rate: float = 1e6
    burst: float = 1e6
    max_concurrent_calls: int = 64
    max_message_bytes: int = 65536
    token_methods: frozenset[str] = frozenset()
    """With any, a second door for JWT-SVIDs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An error status with its details taken apart."""

    code: grpc.StatusCode
    text: str
    reason: str
    domain: str
    metadata: Mapping[str, str]
    retry_after: timedelta | None
    fields: Mapping[str, str]

    @classmethod
    def of(cls, error: grpc.RpcError) -> Refusal:
        info = error_details_pb2.ErrorInfo()
        retry_after = None
        fields: dict[str, str] = {}
        status = rpc_status.from_call(error)  # type: ignore[arg-type]  # an AioRpcError has what a call has
        for detail in status.details if status is not None else ():
            retry = error_details_pb2.RetryInfo()
            bad = error_details_pb2.BadRequest()
            if detail.Unpack(retry):
                retry_after = retry.retry_delay.ToTimedelta()
            elif detail.Unpack(bad):
                fields = {violation.field: violation.description for violation in bad.field_violations}
            else:
                detail.Unpack(info)
        assert isinstance(error, grpc.aio.AioRpcError)
        return cls(
            code=error.code(),
            text=error.details() or "",
            reason=info.reason,
            domain=info.domain,
            metadata=dict(info.metadata),
            retry_after=retry_after,
            fields=fields,
        )


class Served:
    """One running server, and ways to call it."""

    def __init__(self, folder: Path, authority: Authority, limits: Limits) -> None:
        self.authority = authority
        self.clock = FakeClock(datetime.now(UTC))
        self.issuer = FakeIssuer()
        self.store = SqliteStore.open(f"sqlite:///{folder / 'broker.db'}")
        catalog = a_catalog(max_tasks=10_000, max_leases=50)
        # The wiring asks for the fakes by name; the store is the real one all the same.
        store = cast("Any", self.store)
        self.broker = Broker(store, self.issuer, self.clock, CountingIds(), catalog)
        self.address = f"unix:{folder / 'broker.sock'}"
        self.health_address = f"unix:{folder / 'health.sock'}"
        self.token_address = f"unix:{folder / 'tokens.sock'}"
        self.keys = {TRUST_DOMAIN: jwt_bundle()}
        self._channels: list[Channel] = []
        self._stopped = False
        self.gate = Gate(
            verifier=SvidVerifier(
                bundle_of={TRUST_DOMAIN: bundle_of(authority)}.get,
                quarantine=self.broker.quarantine,
                clock=self.clock,
            ),
            operators=Operators(broker=BROKER, grants=tuple(map(a_grant, OPERATORS))),
            record_refusal=RecordRefusal(store=store, clock=self.clock),
            rate_limit=RateLimit(rate=limits.rate, burst=limits.burst),
            max_concurrent_calls=limits.max_concurrent_calls,
            clock=self.clock,
            ids=CountingIds(),
            jwt_door=JwtDoor(
                verifier=JwtSvidVerifier(
                    audience=AUDIENCE,
                    max_validity=timedelta(minutes=10),
                    bundle_of=self.keys.get,
                    quarantine=self.broker.quarantine,
                    clock=self.clock,
                ),
                methods=limits.token_methods,
            )
            if limits.token_methods
            else None,
        )
        self.answers = FakeAnswers(store, self.clock)
        self.report = ReportSignal(
            store=store,
            catalogs=self.broker.catalogs,
            answer_findings=self.answers,
            bounds_of=lambda _reporter: ReporterBounds(),
            clock=self.clock,
        )
        own = authority.svid(BROKER)
        self.server = GrpcServer(
            tasks=TaskServicer(
                declare=self.broker.declare,
                look=self.broker.look,
                keep_alive=self.broker.keep_alive,
                complete=self.broker.complete,
                stopping=self.gate.stopping,
                clock=self.clock,
            ),
            credentials=CredentialServicer(
                acquire=self.broker.acquire, renew=self.broker.renew, release=self.broker.release
            ),
            quarantines=QuarantineServicer(quarantine=self.broker.quarantine_instances),
            instances=InstanceServicer(report_ended=self.broker.report_ended),
            leases=LeaseServicer(leases=self.broker.operate_leases, reconcile=self.broker.reconcile),
            signals=SignalServicer(report=self.report, clock=self.clock),
            anomalies=AnomalyServicer(findings=self.broker.operate_findings),
            tools=ToolServicer(
                list_tools=self.broker.list_tools,
                authorize=self.broker.authorize,
                report_outcome=self.broker.report_outcome,
            ),
            gate=self.gate,
            tls=grpc.ssl_server_credentials([(own.key, own.chain)], authority.pem, require_client_auth=True),
            listen=self.address,
            health_listen=self.health_address,
            jwt_listen=(self.token_address, grpc.ssl_server_credentials([(own.key, own.chain)]))
            if limits.token_methods
            else None,
            max_message_bytes=limits.max_message_bytes,
        )
        self.channel = self.connect()
        self.operator = self.connect(authority.svid(ANN))

    async def start(self) -> None:
        await self.server.start()
        await self.server.ready(ready=True)

    async def stop(self, grace: timedelta = STOPS_WITHIN) -> None:
        """As the broker does at SIGTERM."""
        if not self._stopped:
            self._stopped = True
            await self.server.stop(
                grace=grace, drains=[self.broker.acquire.drain, self.broker.complete.drain]
            )

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()
        await self.stop(timedelta())
        await self.store.close()

    def connect(self, svid: Svid | None = None) -> Channel:
        """A connection of its own, as `svid` or the usual agent."""
        svid = svid or self.authority.svid()
        credentials = grpc.ssl_channel_credentials(self.authority.pem, svid.key, svid.chain)
        options = [
            ("grpc.ssl_target_name_override", "tasklease-broker"),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        channel = grpc.aio.secure_channel(self.address, credentials, options=options)
        self._channels.append(channel)
        return channel

    def channel_for(self, method: str) -> Channel:
        """The connection of somebody who may call the RPC."""
        return self.operator if method.startswith(FOR_OPERATORS) else self.channel

    def connect_without_certificate(self) -> Channel:
        """A connection to the door for JWT-SVIDs."""
        credentials = grpc.ssl_channel_credentials(self.authority.pem)
        options = [("grpc.ssl_target_name_override", "tasklease-broker")]
        channel = grpc.aio.secure_channel(self.token_address, credentials, options=options)
        self._channels.append(channel)
        return channel

    def token(self, *, lives: timedelta = timedelta(minutes=5)) -> str:
        """A JWT-SVID of the usual agent."""
        return token(claims={"sub": str(OWNER), "exp": int((self.clock.now() + lives).timestamp())})

    async def call(
        self,
        method: str,
        request: Message | bytes,
        *,
        channel: Channel = None,
        timeout: float | None = 10,
    ) -> bytes:
        """The bytes of the answer."""
        channel = channel or self.channel_for(method)
        answer: bytes = await channel.unary_unary(method)(_bytes(request), timeout=timeout)
        return answer

    def stream(
        self,
        method: str,
        request: Message | bytes,
        *,
        channel: Channel = None,
        timeout: float | None = 10,
    ) -> Any:
        return (channel or self.channel_for(method)).unary_stream(method)(_bytes(request), timeout=timeout)

    async def refused(self, method: str, request: Message | bytes, **options: Any) -> Refusal:
        """How the call was refused; fails when it was not."""
        try:
            await self.call(method, request, **options)
        except grpc.RpcError as error:
            return Refusal.of(error)
        message = f"{method} was answered"
        raise AssertionError(message)

    async def declared(self) -> str:
        """A new task of the usual agent's: its id."""
        answer = await self.call(TASKS + "DeclareTask", a_declaration())
        return tasks_pb2.DeclareTaskResponse.FromString(answer).task.task_id

    async def acquired(
        self, task_id: str, key: str = "key-12345"
    ) -> credentials_pb2.AcquireCredentialResponse:
        """A new credential of that task."""
        answer = await self.call(CREDENTIALS + "AcquireCredential", an_acquisition(task_id, key))
        return credentials_pb2.AcquireCredentialResponse.FromString(answer)

    async def state(self) -> object:
        """Everything that is durable, and what the backend holds: to see whether it changed."""
        page = await self.store.tasks_of(OWNER, states=frozenset(), page_size=200, page_token="")
        leases = [await self.store.leases_of(task.task_id) for task in page.tasks]
        backend = dict(self.issuer.tokens), dict(self.issuer.leases)
        return page.tasks, leases, await self.store.audit_head(), backend


def a_grant(text: str) -> OperatorGrant:
    """Everything to an operator, looking to a viewer."""
    roles = {OperatorRole.VIEWER} if "viewer" in text else set(OperatorRole)
    return OperatorGrant.parse(text, frozenset(roles), broker=BROKER)


def a_declaration(**changed: Any) -> tasks_pb2.DeclareTaskRequest:
    good: dict[str, Any] = {"task_type": "reconcile", "intent": "tests", "scope": {"roles": ["orders"]}}
    return tasks_pb2.DeclareTaskRequest(**good | changed)


def an_acquisition(task_id: str, key: str = "key-12345") -> credentials_pb2.AcquireCredentialRequest:
    return credentials_pb2.AcquireCredentialRequest(task_id=task_id, role="orders", idempotency_key=key)


def _bytes(request: Message | bytes) -> bytes:
    return request if isinstance(request, bytes) else request.SerializeToString()
