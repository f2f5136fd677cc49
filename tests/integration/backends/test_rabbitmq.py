"""RabbitMQ: its credentials on the real thing, handed out for a task and refused after it; and it is asked itself."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from broker.adapters.backends.observing import BackendVerifier
from broker.api.v1 import tasks_pb2
from broker.devstack.stack import DevStack
from broker.domain.catalog import CredentialRole, Destination
from broker.domain.engines import Engine
from broker.domain.errors import CredentialBackendUnavailableError
from broker.domain.secret import Secret
from tests.contract.verifying import PATIENCE, VerifierCases
from tests.fakes.samples import a_role
from tests.integration.backends.rabbit import Rabbit, rabbit
from tests.threats.world import World

EVERYTHING = {"configure": ".*", "write": ".*", "read": ".*"}
ROLES = """version: 1
agent_classes:
  queue-bot:
    task_types: [move-messages]
task_types:
  move-messages:
    environment: staging
    roles: [queue]
    max_duration: 10m
    heartbeat: 60s
credential_roles:
  queue:
    engine: rabbitmq
    mount: rabbitmq
    path: creds/queue
    classification: internal
    destination: {{host: 127.0.0.1, port: {port}, scheme: amqp}}
    ttl: 60s
    max_ttl: 10m
    revocation: revocable
    verified_by: queue-observer
  queue-observer:
    engine: rabbitmq
    mount: rabbitmq
    path: creds/observer
    classification: internal
    destination: {{host: 127.0.0.1, port: {management}, scheme: http}}
    ttl: 60s
    max_ttl: 10m
    revocation: revocable
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rabbit]:
    with rabbit(tmp_path_factory.mktemp("rabbit") / "server") as server:
        yield server


# Asked by itself -----------------------------------------------------------------------------------------------


class Queue:
    def __init__(self, server: Rabbit) -> None:
        self.server = server
        self.verifier = BackendVerifier(self.fetch)
        destination = Destination(host="127.0.0.1", port=server.management, scheme="http")
        self.role = a_role("observer", engine=Engine.RABBITMQ, destination=destination)
        self._made: set[str] = set()

    async def fetch(self, _role: CredentialRole, _timeout: timedelta) -> Mapping[str, Secret]:
        return {"username": Secret("guest"), "password": Secret("guest")}

    def let_in(self, account: str) -> None:
        self._made.add(account)
        self.server.put(f"users/{account}", {"password": "word", "tags": ""})
        self.server.put(f"permissions/%2F/{account}", EVERYTHING)

    def refuse(self, account: str) -> None:
        self._made.discard(account)
        self.server.delete(f"users/{account}")

    @contextmanager
    def away(self) -> Iterator[None]:
        role = self.role
        self.role = a_role(
            "elsewhere",
            engine=Engine.RABBITMQ,
            destination=Destination(host="127.0.0.1", port=1, scheme="http"),
        )
        try:
            yield
        finally:
            self.role = role

    async def clean(self) -> None:
        await self.verifier.close()
        for account in list(self._made):
            self.refuse(account)


@pytest_asyncio.fixture
async def backend(server: Rabbit) -> AsyncIterator[Queue]:
    queue = Queue(server)
    yield queue
    await queue.clean()


class TestRabbitVerifier(VerifierCases):
    pass


async def test_who_is_deleted_is_thrown_out_and_then_refused(backend: Queue) -> None:
    backend.let_in("account-one")
    with backend.server.logged_in("account-one", "word") as connection:
        assert not await backend.verifier.refuses(backend.role, "account-one", timeout=PATIENCE)
        backend.refuse("account-one")
        connection.settimeout(10)
        assert connection.recv(1000), "the server says that it closes"
        end = time.monotonic() + 10
        while not await backend.verifier.refuses(backend.role, "account-one", timeout=PATIENCE):
            assert time.monotonic() < end


async def test_a_name_that_cannot_be_said_is_complained_of(
    backend: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    async def fetch(_role: CredentialRole, _timeout: timedelta) -> Mapping[str, Secret]:
        return {"username": Secret("jwt-spiffe://x"), "password": Secret("word")}

    verifier = BackendVerifier(fetch)
    with pytest.raises(CredentialBackendUnavailableError):
        await verifier.refuses(backend.role, "account-one", timeout=PATIENCE)
    assert "set username_template" in caplog.text


# Handed out for a task -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, server: Rabbit) -> Iterator[DevStack]:
    stack = DevStack(tmp_path_factory.mktemp("queues") / "dev", say=print)
    try:
        stack.up(with_broker=False)
        admin = stack.vault.admin()
        admin.sys.enable_secrets_engine("rabbitmq")
        connection = {
            "connection_uri": server.api,
            "username": "guest",
            "password": "guest",
            # Vault's own names begin with the token's, which for the broker is a SPIFFE ID.
            "username_template": '{{printf "v-%s" (random 20)}}',
        }
        admin.write_data("rabbitmq/config/connection", data=connection)
        admin.write_data("rabbitmq/config/lease", data={"ttl": 60, "max_ttl": 600})
        rights = '{"/": {"configure": ".*", "write": ".*", "read": ".*"}}'
        admin.write_data("rabbitmq/roles/queue", data={"vhosts": rights})
        admin.write_data("rabbitmq/roles/observer", data={"tags": "monitoring,administrator"})
        catalog = ROLES.format(port=server.port, management=server.management)
        (stack.broker.catalog / "queues.yaml").write_text(catalog)
        stack.up()
        yield stack
    finally:
        stack.down(purge=True)


@pytest.fixture
def world(stack: DevStack, tmp_path: Path) -> World:
    return World(stack, tmp_path)


def test_a_user_of_a_task_ends_with_it_and_so_does_its_connection(world: World, server: Rabbit) -> None:
    with world.calling(world.svid(path="agent/queue-bot")) as caller:
        declared = world.try_declare(
            caller, task_type="move-messages", scope=tasks_pb2.Scope(roles=["queue"]), intent="queues"
        )
        assert declared.ok, declared
        task_id = declared.message.task.task_id
        held = [world.try_acquire(caller, task_id, role="queue").message for _ in range(3)]
        logins = [(one.secret["username"], one.secret["password"]) for one in held]
        assert all(server.lets_in(*login) for login in logins)
        with server.logged_in(*logins[0]) as connection:
            world.complete(caller, task_id)
            connection.settimeout(10)
            assert connection.recv(1000), "the server says that it closes"
        world.until_ended(task_id)
        assert not any(server.lets_in(*login) for login in logins)
    accounts = {name for (name,) in world.rows("SELECT account FROM leases WHERE task_id = ?", task_id)}
    assert accounts == {name for name, _password in logins}
