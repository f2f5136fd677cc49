"""The real stack, and whoever calls it: what the tests of the rules look at and do."""

from __future__ import annotations

import secrets
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import psycopg

from broker.api.v1 import credentials_pb2, tasks_pb2
from broker.client import Broker, StaticIdentity, Svid
from broker.demo.callers import Answer, Caller, calling, svid_of
from broker.demo.database import is_refusal
from broker.devstack import broker_process
from broker.devstack.parts import REPOSITORY
from broker.devstack.stack import DevStack

CLASS = "invoice-bot"
TASK_TYPE = "reconcile-invoices"
ROLE = "orders-readonly"


def key() -> str:
    """A new idempotency key."""
    return secrets.token_urlsafe(16)


def until(true: Callable[[], bool], what: str, *, patience: float = 30) -> float:
    """Return when it is true: after how many seconds.

    Raises:
        AssertionError: it never was.
    """
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < patience, f"after {patience} s: not {what}"
        time.sleep(0.05)
    return time.monotonic() - began


def wants_heartbeats(stack: DevStack, every: str) -> None:
    """Have signs of life missed sooner, or later, than the sample catalog says."""
    (catalog,) = stack.broker.catalog.iterdir()
    catalog.write_text(catalog.read_text().replace("heartbeat: 10s", f"heartbeat: {every}"))


class World:
    """See the module."""

    def __init__(self, stack: DevStack, folder: Path) -> None:
        self.stack = stack
        self._folder = folder
        self._svids: dict[str, Svid] = {}

    # Who calls.

    def svid(
        self, name: str = "", *, path: str = f"agent/{CLASS}", ttl: timedelta = timedelta(minutes=10)
    ) -> Svid:
        """An SVID that SPIRE's server signed; a name of its own unless one is given."""
        name = name or f"i-{secrets.token_hex(4)}"
        return self.svid_of(f"spiffe://dev.tasklease.test/{path}/{name}", ttl=ttl)

    def svid_of(self, spiffe_id: str, *, ttl: timedelta = timedelta(minutes=10)) -> Svid:
        """An SVID of whatever name."""
        folder = self._folder / secrets.token_hex(4)
        svid = svid_of(self.stack.spire.mint(spiffe_id, ttl=ttl, folder=folder), spiffe_id)
        self._svids[spiffe_id] = svid
        return svid

    @contextmanager
    def calling(
        self, svid: Svid | None = None, *, authorities: bytes | None = None, replica: int = 1
    ) -> Iterator[Caller]:
        """A raw connection, of a new instance when no SVID is given."""
        svid = svid or self.svid()
        address = self.stack.brokers[replica - 1].address
        with calling(address, authorities=authorities or svid.authorities, svid=svid) as caller:
            yield caller

    def sdk(self, svid: Svid | None = None) -> Broker:
        """The SDK, with that SVID."""
        address = ",".join(one.address for one in self.stack.brokers)
        return Broker.connect(address, identity=StaticIdentity(svid or self.svid()))

    # What they do.

    @staticmethod
    def try_declare(caller: Caller, **fields: Any) -> Answer:
        """Declare; `fields` replace the good ones."""
        good: dict[str, Any] = {
            "task_type": TASK_TYPE,
            "intent": "threats",
            "scope": tasks_pb2.Scope(roles=[ROLE]),
            "idempotency_key": key(),
        }
        return caller.call("DeclareTask", tasks_pb2.DeclareTaskRequest(**good | fields), timeout=20)

    def declare(self, caller: Caller) -> str:
        """Declare; the task's id."""
        answer = self.try_declare(caller)
        assert answer.ok, answer
        return str(answer.message.task.task_id)

    @staticmethod
    def try_acquire(caller: Caller, task_id: str, *, role: str = ROLE, idempotency_key: str = "") -> Answer:
        """Acquire."""
        request = credentials_pb2.AcquireCredentialRequest(
            task_id=task_id, role=role, idempotency_key=idempotency_key or key()
        )
        return caller.call("AcquireCredential", request, timeout=30)

    def acquire(self, caller: Caller, task_id: str) -> credentials_pb2.AcquireCredentialResponse:
        """Acquire; the lease and its secret."""
        answer = self.try_acquire(caller, task_id)
        assert answer.ok, answer
        response: credentials_pb2.AcquireCredentialResponse = answer.message
        return response

    @staticmethod
    def complete(caller: Caller, task_id: str, *, timeout: float = 30) -> Answer:
        """Complete."""
        request = tasks_pb2.CompleteTaskRequest(
            task_id=task_id, outcome=tasks_pb2.TASK_OUTCOME_SUCCEEDED, reason=""
        )
        return caller.call("CompleteTask", request, timeout=timeout)

    @staticmethod
    def task(caller: Caller, task_id: str) -> tasks_pb2.Task:
        """Look at a task of one's own."""
        answer = caller.call("GetTask", tasks_pb2.GetTaskRequest(task_id=task_id))
        assert answer.ok, answer
        task: tasks_pb2.Task = answer.message.task
        return task

    @classmethod
    @contextmanager
    def whole(cls, stack: DevStack, folder: Path) -> Iterator[Self]:
        """The stack, all of it up, with no task left of the test before, and none after this one."""
        stack.up()
        world = cls(stack, folder)
        unfinished = "SELECT 1 FROM tasks WHERE state <> 'ended'"
        until(
            lambda: not world.users() and not world.rows(unfinished),
            "the tasks of the test before have ended",
        )
        yield world
        stack.up()
        world.complete_what_is_left()

    def complete_what_is_left(self) -> None:
        """Complete the tasks that the test left, so that the next one need not wait for the dead man's switch."""
        for task_id, owner in self.rows("SELECT task_id, owner FROM tasks WHERE state = 'active'"):
            if owner in self._svids:
                with self.calling(self._svids[owner]) as caller:
                    self.complete(caller, task_id)

    @contextmanager
    def alive(self, svid: Svid, task_id: str, *, replica: int = 1) -> Iterator[None]:
        """Signs of life for the task, whatever becomes of the broker meanwhile."""
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(0.2):
                with self.calling(svid, replica=replica) as caller:
                    caller.call("Heartbeat", tasks_pb2.HeartbeatRequest(task_id=task_id), timeout=2)

        thread = threading.Thread(target=beat)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    # What there is.

    def users(self) -> set[str]:
        """The PostgreSQL users that Vault made and that exist."""
        with psycopg.connect(self.stack.postgres.admin_dsn) as connection:
            rows = connection.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE 'v-%'").fetchall()
        return {str(name) for (name,) in rows}

    def lets_in(self, response: credentials_pb2.AcquireCredentialResponse) -> bool:
        """Whether PostgreSQL accepts the credential."""
        dsn = self.stack.postgres.dsn(response.secret["username"], response.secret["password"])
        try:
            psycopg.connect(dsn).close()
        except psycopg.OperationalError as error:
            if not is_refusal(error):
                raise
            return False
        return True

    @property
    def store(self) -> Path:
        """The broker's SQLite file."""
        return self.stack.broker.folder / "broker.db"

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Read the store, beside the broker."""
        if self.stack.replicas > 1:
            with psycopg.connect(self.stack.postgres.store_dsn) as shared:
                return shared.execute(query.replace("?", "%s"), values).fetchall()
        with closing(sqlite3.connect(f"file:{self.store}?mode=ro", uri=True)) as connection:
            return connection.execute(query, values).fetchall()

    def catalog_without_answers(self) -> str:
        """The broker's catalog, up to its answers to anomalies, which stand at its end."""
        (catalog,) = self.stack.broker.catalog.iterdir()
        return catalog.read_text().partition("\nanswers:")[0]

    def taking_up(self, catalog_text: str) -> AbstractContextManager[None]:
        """The broker has this catalog, and the one of before again at the end."""
        (catalog,) = self.stack.broker.catalog.iterdir()
        return self._reading(catalog, catalog_text)

    def ruled_by(self, policies: str) -> AbstractContextManager[None]:
        """The broker has these policies as well, until the end."""
        return self._reading(self.stack.broker.policies / "test.cedar", policies)

    @contextmanager
    def _reading(self, file: Path, text: str) -> Iterator[None]:
        before = file.read_text() if file.exists() else None
        with self.policies_change():
            file.write_text(text)
        try:
            yield
        finally:
            with self.policies_change():
                file.unlink() if before is None else file.write_text(before)

    @contextmanager
    def policies_change(self) -> Iterator[None]:
        """Wait until the broker has taken up what is changed here: another catalog has its policies read again as well."""
        log = self.stack.log_files([broker_process.NAME])[0]

        def changes() -> int:
            return log.read_text().count("policies changed")

        seen = changes()
        yield
        until(lambda: changes() > seen, "what was changed is taken up")

    def until_ended(self, task_id: str) -> None:
        """Wait for a task's end, after which nothing of it is recorded.

        Raises:
            AssertionError: it does not end; says how far it came, and what the brokers say.
        """
        try:
            until(lambda: self.kinds(task_id)[-1:] == ["task.ended"], "ended")
        except AssertionError as error:
            leases = self.rows(
                "SELECT lease_id, state, attempts, next_attempt_at FROM leases WHERE task_id = ?", task_id
            )
            logs = "\n".join(
                file.read_text()[-4000:] for file in self.stack.log_files() if "broker" in file.name
            )
            message = f"{error}: {self.kinds(task_id)}, {leases} at {time.time():.0f}\n{logs}"
            raise AssertionError(message) from None

    def kinds(self, task_id: str) -> list[str]:
        """The audit trail of a task."""
        found = self.rows("SELECT kind FROM audit_records WHERE task_id = ? ORDER BY sequence", task_id)
        return [str(kind) for (kind,) in found]

    def verify_trail(self) -> None:
        """`tasklease audit verify` finds the trail intact."""
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "broker",
                "audit",
                "verify",
                "--config",
                str(self.stack.broker.config_file),
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd=REPOSITORY,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "intact" in done.stdout

    def owned_leases(self) -> int:
        """Leases that are live, of tasks that are active."""
        query = (
            "SELECT count(*) FROM leases JOIN tasks USING (task_id) "
            "WHERE leases.state = 'live' AND tasks.state = 'active'"
        )
        return int(self.rows(query)[0][0])

    @contextmanager
    def store_unavailable(self) -> Iterator[None]:
        """Somebody holds the store's write lock: a full disk or a stuck file system look the same to the broker."""
        if self.stack.replicas > 1:
            with psycopg.connect(self.stack.postgres.store_dsn) as shared:
                shared.execute("LOCK TABLE tasks, leases, audit_records IN SHARE ROW EXCLUSIVE MODE")
                yield
            return
        with closing(sqlite3.connect(self.store, isolation_level=None, timeout=10)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            try:
                yield
            finally:
                connection.execute("ROLLBACK")
