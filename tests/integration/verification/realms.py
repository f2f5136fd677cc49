"""Three real SPIRE servers: the broker's own, a partner's, and one that only calls itself by our name.

The partner's bundle is given to ours as `spire-server bundle set` does it, and the broker's entry federates with it;
SPIRE's agent then tells the broker. When the partner is hostile, its bundle holds the third server's authorities as
well: who signs our names is then in the pool of roots that TLS trusts.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import grpc
from google.protobuf.message import Message

from broker.api.v1 import credentials_pb2, credentials_pb2_grpc, tasks_pb2, tasks_pb2_grpc
from broker.client import Svid
from broker.demo.callers import Answer, Caller, attempt, calling, svid_of
from broker.devstack.processes import Processes
from broker.devstack.spire import BROKER_DNS_NAME, SERVER, Spire
from broker.devstack.stack import DevStack
from broker.devstack.state import BROKER_GROUP, BROKER_ID, NODE_ID, TRUST_DOMAIN, State

PARTNER: Final = "partner.test"
AUDIENCE: Final = "tasklease"
OURS: Final = f"spiffe://{TRUST_DOMAIN}/agent/invoice-bot"
THEIRS: Final = f"spiffe://{PARTNER}/agent/partner-bot"
SOON: Final = timedelta(minutes=5)
METHODS: Final = (
    "TaskService/DeclareTask, TaskService/ListTasks, TaskService/AttachTask, TaskService/CompleteTask, "
    "CredentialService/AcquireCredential"
)


def until(true: Callable[[], bool], what: str, *, patience: float = 30) -> None:
    end = time.monotonic() + patience
    while not true():
        assert time.monotonic() < end, f"after {patience} s: not {what}"
        time.sleep(0.1)


class Realms:
    """See the module."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.stack = DevStack(folder / "dev", say=print)
        self.partner, self._partner_processes = self._server("partner", PARTNER)
        self.imposter, self._imposter_processes = self._server("imposter", TRUST_DOMAIN)

    def _server(self, name: str, trust_domain: str) -> tuple[Spire, Processes]:
        state = State(self._folder / name)
        state.make()
        processes = Processes(state.run)
        return Spire(state, processes, self.stack.find_parts(), trust_domain=trust_domain), processes

    def up(self) -> None:
        self.stack.up()
        self.partner.start_server()
        self.imposter.start_server()
        (self.stack.broker.catalog / "partner.yaml").write_text(
            f"""version: 1
agent_classes:
  partner-bot:
    trust_domain: {PARTNER}
    task_types: [partner-work]
task_types:
  partner-work:
    environment: staging
    roles: [orders-readonly]
    max_duration: 5m
    heartbeat: 1s
"""
        )
        self.stack.broker.apply_catalog()
        self.stack.stop_part("broker")
        port = self.stack.state.port("jwt", in_use=False)
        self.jwt_address = f"127.0.0.1:{port}"
        with self.stack.broker.config_file.open("a") as file:
            file.write(
                f"jwt_svids:\n  audience: {AUDIENCE}\n  listen: {self.jwt_address}\n  methods: [{METHODS}]\n"
            )
        self.stack.start_part("broker")

    def down(self) -> None:
        for processes in (self._partner_processes, self._imposter_processes):
            processes.stop(SERVER)
        self.stack.down(purge=True)

    # Federation.

    def federate(self, *, hostile: bool = False) -> None:
        """Give our SPIRE the partner's present bundle, and wait until the broker knows it."""
        bundle = json.loads(self.partner.bundle())
        if hostile:
            bundle["keys"] += json.loads(self.imposter.bundle())["keys"]
        file = self._folder / "partner-bundle.json"
        file.write_text(json.dumps(bundle))
        ours = self.stack.spire._server
        ours("bundle", "set", "-format", "spiffe", "-id", f"spiffe://{PARTNER}", "-path", str(file))
        ours(
            "entry", "update", "-entryID", self.stack.spire.register_broker().entry_id, "-parentID", NODE_ID,
            "-spiffeID", BROKER_ID, "-selector", f"unix:supplementary_gid:{BROKER_GROUP}",
            "-dns", BROKER_DNS_NAME, "-x509SVIDTTL", "600", "-federatesWith", f"spiffe://{PARTNER}",
        )  # fmt: skip
        newest = self.svid(THEIRS, by=self.partner)
        until(lambda: self.knock(newest).ok, "the partner is let in")
        until(lambda: self.token_knock(self.token(THEIRS, by=self.partner)).ok, "its tokens are taken")

    def end_federation(self) -> None:
        """Our SPIRE forgets the partner."""
        self.stack.spire._server("bundle", "delete", "-id", f"spiffe://{PARTNER}", "-mode", "dissociate")

    # Certificates.

    def svid(self, above: str, *, by: Spire | None = None, ttl: timedelta = SOON) -> Svid:
        """An SVID of a new instance; it trusts our authorities, whoever signed it."""
        spiffe_id = f"{above}/i-{secrets.token_hex(4)}"
        folder = self._folder / secrets.token_hex(4)
        made = svid_of((by or self.stack.spire).mint(spiffe_id, ttl=ttl, folder=folder), spiffe_id)
        return Svid(spiffe_id=spiffe_id, chain=made.chain, key=made.key, authorities=self.own_authorities())

    def own_authorities(self) -> bytes:
        return self.stack.spire._server("bundle", "show", "-format", "pem").encode()

    @contextmanager
    def calling(self, svid: Svid) -> Iterator[Caller]:
        with calling(self.stack.broker.address, authorities=svid.authorities, svid=svid) as caller:
            yield caller

    def knock(self, svid: Svid) -> Answer:
        with self.calling(svid) as caller:
            return caller.knock()

    # Tokens.

    def token(
        self, above: str, *, by: Spire | None = None, audience: str = AUDIENCE, ttl: timedelta = SOON
    ) -> str:
        """A JWT-SVID of a new instance."""
        instance = f"{above}/i-{secrets.token_hex(4)}"
        return (by or self.stack.spire).mint_jwt(instance, audience=audience, ttl=ttl)

    @contextmanager
    def calling_with(self, *authorization: str, address: str = "") -> Iterator[TokenCaller]:
        """A connection without a certificate, whose calls have these `authorization` headers."""
        credentials = grpc.ssl_channel_credentials(self.own_authorities())
        options = [
            ("grpc.ssl_target_name_override", BROKER_DNS_NAME),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_retries", 0),
        ]
        with grpc.secure_channel(address or self.jwt_address, credentials, options) as channel:
            yield TokenCaller(channel, authorization)

    def token_knock(self, token: str) -> Answer:
        with self.calling_with(f"Bearer {token}") as caller:
            return caller.knock()


class TokenCaller:
    """One connection, for as long as its block lasts."""

    def __init__(self, channel: grpc.Channel, authorization: tuple[str, ...]) -> None:
        self._stubs = (
            tasks_pb2_grpc.TaskServiceStub(channel),  # type: ignore[no-untyped-call]
            credentials_pb2_grpc.CredentialServiceStub(channel),  # type: ignore[no-untyped-call]
        )
        self._metadata = [("authorization", value) for value in authorization]

    def method(self, rpc: str) -> Any:
        (found,) = (getattr(stub, rpc) for stub in self._stubs if hasattr(stub, rpc))
        return lambda request, timeout: found(request, timeout=timeout, metadata=self._metadata)

    def call(self, rpc: str, request: Message, *, timeout: float = 10) -> Answer:
        return attempt(lambda: self.method(rpc)(request, timeout))

    def knock(self) -> Answer:
        return self.call("ListTasks", tasks_pb2.ListTasksRequest(page_size=1))


def declaration(task_type: str) -> tasks_pb2.DeclareTaskRequest:
    return tasks_pb2.DeclareTaskRequest(
        task_type=task_type,
        intent="verification",
        scope=tasks_pb2.Scope(roles=["orders-readonly"]),
        idempotency_key=secrets.token_urlsafe(16),
    )


def acquisition(task_id: str) -> credentials_pb2.AcquireCredentialRequest:
    return credentials_pb2.AcquireCredentialRequest(
        task_id=task_id, role="orders-readonly", idempotency_key=secrets.token_urlsafe(16)
    )


# A proxy -----------------------------------------------------------------------------------------------------


class TerminatingProxy:
    """Ends TLS with a certificate of its own, and goes on to the broker in TLS of its own, without a client's.

    One event loop in a thread: an SSL object must not be read and written by two threads at once.
    """

    def __init__(self, certificate: tuple[Path, Path], upstream: str, authorities: bytes) -> None:
        self._front = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._front.load_cert_chain(*certificate)
        self._front.set_alpn_protocols(["h2"])
        self._back = ssl.create_default_context(cadata=authorities.decode())
        self._back.set_alpn_protocols(["h2"])
        host, _, port = upstream.rpartition(":")
        self._upstream = (host, int(port))
        self.address = ""
        self.passed = 0
        self._stop = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        up = threading.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._run(up)))
        self._thread.start()
        up.wait(10)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        self._loop.close()

    async def _run(self, up: threading.Event) -> None:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._front)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        up.set()
        await self._stop.wait()
        server.close()
        here = asyncio.current_task()
        left = [task for task in asyncio.all_tasks() if task is not here]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await asyncio.sleep(0.1)  # transports close in the loop's next turns

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError), closing(writer.transport.abort):
            back_reader, back_writer = await asyncio.open_connection(
                *self._upstream, ssl=self._back, server_hostname=BROKER_DNS_NAME
            )
            self.passed += 1
            pumps = {
                asyncio.create_task(_pump(reader, back_writer)),
                asyncio.create_task(_pump(back_reader, writer)),
            }
            with closing(back_writer.transport.abort):
                try:
                    await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for pump in pumps:
                        pump.cancel()


@contextmanager
def closing(close: Callable[[], None]) -> Iterator[None]:
    """Close, whatever happens."""
    try:
        yield
    finally:
        close()


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
