"""The SDK without `await`: the asynchronous one on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self, TypeVar

from broker.api.v1 import credentials_pb2, tasks_pb2
from broker.client.credential import LeasedCredential
from broker.client.identity import Identity
from broker.client.session import Broker
from broker.client.task import CALL_TIMEOUT, Outcome, Task
from broker.client.tools import Authorization, CallOutcome, Tool, ToolCall

Result = TypeVar("Result")


class _Loop:
    """An event loop in a daemon thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tasklease", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Do it there, and wait; an interrupt here cancels it there."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()  # does nothing to what is done

    def close(self) -> None:
        """Cancel what is left, and end the thread."""

        async def cancel_all() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for other in others:
                other.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await self._loop.shutdown_asyncgens()

        self.run(cancel_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class SyncCredential(LeasedCredential):
    """One lease-bound credential; as a context manager it gives itself back."""

    def __init__(
        self,
        answer: credentials_pb2.AcquireCredentialResponse,
        release: Callable[[SyncCredential], None],
    ) -> None:
        super().__init__(answer)
        self._release = release

    def release(self) -> None:
        """As `Credential.release`."""
        self._release(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


class SyncTask:
    """A task: `with broker.task(...) as task`.

    A body that does not await cannot be cancelled: when the broker ends the task, `ended` is true, and `acquire`
    raises `TaskEnded`, also where it waits in another thread.
    """

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
    def state(self) -> str:
        """ACTIVE, ENDING or ENDED, as last heard."""
        return self._task.state

    @property
    def hold(self) -> str:
        """As `Task.hold`."""
        return self._task.hold

    @property
    def end_cause(self) -> str:
        """As `Task.end_cause`."""
        return self._task.end_cause

    @property
    def ended(self) -> bool:
        """Whether it is ending or has ended."""
        return self._task.ended.is_set()

    def wait_ended(self, within: timedelta) -> bool:
        """Wait until it is ending or has ended, at most `within`; say whether it is."""

        async def wait() -> bool:
            try:
                async with asyncio.timeout(within.total_seconds()):
                    return await self._task.ended.wait()
            except TimeoutError:
                return False

        return self._loop.run(wait())

    def acquire(
        self, role: str, *, within: timedelta = CALL_TIMEOUT, fingerprint: bytes = b""
    ) -> SyncCredential:
        """As `Task.acquire`."""
        work = self._task._acquire_as(role, within, fingerprint, self._made)  # noqa: SLF001 - its twin
        return self._loop.run(work)

    def tools(self) -> list[Tool]:
        """As `Task.tools`."""
        return self._loop.run(self._task.tools())

    def authorize(
        self, tool: str, arguments: Mapping[str, Any] | None = None, *, fingerprint: bytes = b""
    ) -> Authorization:
        """As `Task.authorize`."""
        return self._loop.run(self._task.authorize(tool, arguments, fingerprint=fingerprint))

    def authorize_plan(
        self, calls: Sequence[tuple[str, Mapping[str, Any]]], *, stop_at_refusal: bool = True
    ) -> list[Authorization]:
        """As `Task.authorize_plan`."""
        return self._loop.run(self._task.authorize_plan(calls, stop_at_refusal=stop_at_refusal))

    @contextmanager
    def call(
        self, tool: str, arguments: Mapping[str, Any] | None = None, *, fingerprint: bytes = b""
    ) -> Iterator[ToolCall]:
        """As `Task.call`: `with task.call("send-mail", {...}) as call`."""
        call = self._task.call(tool, arguments, fingerprint=fingerprint)
        self._loop.run(call.__aenter__())
        try:
            yield call
        except BaseException as error:
            self._loop.run(call.__aexit__(type(error), error, error.__traceback__))
            raise
        self._loop.run(call.__aexit__(None, None, None))

    def report(self, action_id: str, outcome: CallOutcome | str) -> None:
        """As `Task.report`."""
        self._loop.run(self._task.report(action_id, outcome))

    def release(self, credential: SyncCredential) -> None:
        """As `Task.release`."""
        self._loop.run(self._task.release(credential))

    def renew(self, credential: SyncCredential, increment: timedelta | None = None) -> None:
        """As `Task.renew`."""
        self._loop.run(self._task.renew(credential, increment))

    def complete(self, outcome: Outcome | str = Outcome.SUCCEEDED, reason: str = "") -> None:
        """As `Task.complete`."""
        self._loop.run(self._task.complete(outcome, reason))

    def say_outcome(self, outcome: Outcome | str, reason: str = "") -> None:
        """As `Task.say_outcome`."""
        self._task.say_outcome(outcome, reason)

    def _made(self, answer: credentials_pb2.AcquireCredentialResponse) -> SyncCredential:
        return SyncCredential(answer, self.release)

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
        workload_api: str | None = None,
        identity: Identity | None = None,
        patience: timedelta = timedelta(seconds=30),
    ) -> Self:
        """As `Broker.connect`."""
        return cls(
            Broker.connect(
                address, broker_id=broker_id, workload_api=workload_api, identity=identity, patience=patience
            )
        )

    @property
    def spiffe_id(self) -> str:
        """This instance's own SPIFFE ID."""
        return self._broker.spiffe_id

    def task(  # noqa: PLR0913 - what a task is declared with
        self,
        task_type: str,
        *,
        intent: str,
        roles: Sequence[str] | None = None,
        tools: Sequence[str] | None = None,
        environment: str = "",
        deadline: datetime | timedelta | None = None,
        fingerprint: bytes = b"",
    ) -> SyncTask:
        """As `Broker.task`."""
        task = self._broker.task(
            task_type,
            intent=intent,
            roles=roles,
            tools=tools,
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
            self._loop = None
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        loop = self._entered()
        try:
            loop.run(self._broker.__aexit__(kind, error, trace))
        finally:
            loop.close()
            self._loop = None

    def _entered(self) -> _Loop:
        if self._loop is None:
            message = "use it in a block: with SyncBroker.connect() as broker"
            raise RuntimeError(message)
        return self._loop
