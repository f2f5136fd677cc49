"""The SDK without `await`: the asynchronous one on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self, TypeVar

from broker.api.v1 import tasks_pb2
from broker.client.credential import Credential
from broker.client.identity import Identity
from broker.client.session import Broker
from broker.client.task import Task

Result = TypeVar("Result")


class _Loop:
    """An event loop in a daemon thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tasklease", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class SyncTask:
    """A task: `with broker.task(...) as task`. When the broker ends it, `ended` is true and `acquire` raises."""

    def __init__(self, loop: _Loop, task: Task) -> None:
        self._loop = loop
        self._task = task

    @property
    def task_id(self) -> str:
        """The broker's id of the task."""
        return self._task.task_id

    @property
    def deadline(self) -> datetime:
        """When the broker ends it, whatever happens."""
        return self._task.deadline

    @property
    def ended(self) -> bool:
        """Whether it is ending or has ended."""
        return self._task.ended.is_set()

    def acquire(self, role: str) -> Credential:
        """As `Task.acquire`."""
        return self._loop.run(self._task.acquire(role))

    def release(self, credential: Credential) -> None:
        """As `Task.release`."""
        self._loop.run(self._task.release(credential.lease_id))

    def renew(self, credential: Credential, increment: timedelta | None = None) -> None:
        """As `Task.renew`."""
        self._loop.run(self._task.renew(credential, increment))

    def __enter__(self) -> Self:
        self._loop.run(self._task.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.run(self._task.__aexit__(kind, error, trace))


class SyncBroker:
    """`with SyncBroker.connect() as broker: with broker.task(...) as task: ...`."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._loop: _Loop | None = None

    @classmethod
    def connect(
        cls,
        address: str | None = None,
        *,
        broker_id: str | None = None,
        identity: Identity | None = None,
        patience: timedelta = timedelta(seconds=30),
    ) -> Self:
        """As `Broker.connect`."""
        return cls(Broker.connect(address, broker_id=broker_id, identity=identity, patience=patience))

    @property
    def spiffe_id(self) -> str:
        """This instance's own SPIFFE ID."""
        return self._broker.spiffe_id

    def task(  # noqa: PLR0913 - what a task is declared with
        self,
        task_type: str,
        *,
        intent: str,
        roles: Sequence[str] = (),
        environment: str = "",
        deadline: datetime | timedelta | None = None,
        fingerprint: bytes = b"",
    ) -> SyncTask:
        """As `Broker.task`; a body that does not await cannot be cancelled, so look at `ended`."""
        task = self._broker.task(
            task_type,
            intent=intent,
            roles=roles,
            environment=environment,
            deadline=deadline,
            fingerprint=fingerprint,
            cancel_on_end=False,
        )
        return SyncTask(self._entered(), task)

    def get_task(self, task_id: str) -> tasks_pb2.Task:
        """As `Broker.get_task`."""
        return self._entered().run(self._broker.get_task(task_id))

    def list_tasks(self) -> list[tasks_pb2.Task]:
        """As `Broker.list_tasks`."""
        return self._entered().run(self._broker.list_tasks())

    def __enter__(self) -> Self:
        self._loop = _Loop()
        try:
            self._loop.run(self._broker.__aenter__())
        except BaseException:
            self._loop.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        loop = self._entered()
        loop.run(self._broker.__aexit__(kind, error, trace))
        loop.close()
        self._loop = None

    def _entered(self) -> _Loop:
        if self._loop is None:
            message = "use it in a block: with SyncBroker.connect() as broker"
            raise RuntimeError(message)
        return self._loop
