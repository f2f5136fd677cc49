"""A task, as its agent sees it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Final, Self

from broker.api.v1 import credentials_pb2, tasks_pb2
from broker.client.connection import Connection
from broker.client.credential import Credential
from broker.client.errors import BrokerError, Idempotency, NotFound, TaskEnded

logger = logging.getLogger(__name__)

CALL_TIMEOUT: Final = timedelta(seconds=20)
COMPLETE_TIMEOUT: Final = timedelta(seconds=30)
_Kind = tasks_pb2.AttachTaskResponse.Kind


class Task:
    """An async context manager: declares the task on entering, ends it on leaving.

    Leaving normally completes it as succeeded, with an exception as failed, cancelled as cancelled. Inside, a stream
    to the broker keeps it alive; when the broker ends the task first (deadline, revocation), the body is cancelled
    and `TaskEnded` is raised from the block, unless `cancel_on_end=False`: then only `ended` is set, and the next
    `acquire` raises.
    """

    def __init__(  # noqa: PLR0913 - what a task is declared with
        self,
        connection: Connection,
        task_type: str,
        *,
        intent: str,
        roles: Sequence[str],
        environment: str,
        deadline: datetime | timedelta | None,
        fingerprint: bytes,
        cancel_on_end: bool,
    ) -> None:
        self._connection = connection
        self._declaration = tasks_pb2.DeclareTaskRequest(
            task_type=task_type,
            intent=intent,
            scope=tasks_pb2.Scope(roles=list(roles)),
            environment=environment,
            fingerprint=fingerprint,
            idempotency_key=secrets.token_urlsafe(24),
        )
        if deadline is not None:
            at = datetime.now(UTC) + deadline if isinstance(deadline, timedelta) else deadline
            self._declaration.deadline.FromDatetime(at)
        self._cancel_on_end = cancel_on_end
        self._message = tasks_pb2.Task()
        self._held: dict[str, Credential] = {}
        self._alive: asyncio.Task[None] | None = None
        self._body: asyncio.Task[object] | None = None
        self._cancelled_body = False
        self.ended = asyncio.Event()
        """Set when the task is ending or has ended."""

    @property
    def task_id(self) -> str:
        """The broker's id of the task."""
        return self._message.task_id

    @property
    def deadline(self) -> datetime:
        """When the broker ends it, whatever happens."""
        return self._message.deadline.ToDatetime(tzinfo=UTC)

    @property
    def state(self) -> str:
        """ACTIVE, ENDING or ENDED, as last heard."""
        return tasks_pb2.TaskState.Name(self._message.state).removeprefix("TASK_STATE_")

    @property
    def end_cause(self) -> str:
        """Why it ended (COMPLETED, DEADLINE, HEARTBEAT_LOST, REVOKED); empty while it lives."""
        name = tasks_pb2.TaskEndCause.Name(self._message.end_cause).removeprefix("TASK_END_CAUSE_")
        return "" if name == "UNSPECIFIED" else name

    async def acquire(self, role: str) -> Credential:
        """Acquire a credential for a role of the declared scope.

        Raises:
            Denied: not allowed.
            TaskEnded: the task is over.
            LimitReached: too many credentials at once.
            Unavailable: broker, store or Vault; nothing was handed out.
        """
        if self.ended.is_set():
            raise self._ended_error()
        try:
            answer = await self._acquire(role)
        except Idempotency as error:
            lost = error.metadata.get("lease_id")
            if error.reason != "IDEMPOTENT_RESULT_GONE" or lost is None:
                raise
            # The answer was lost on its way and is not kept: give that lease back, and ask for another.
            await self.release(lost)
            answer = await self._acquire(role)
        credential = Credential(
            lease_id=answer.lease.lease_id,
            role=role,
            secret=dict(answer.secret),
            host=answer.destination.host,
            port=answer.destination.port,
            scheme=answer.destination.scheme,
            expires_at=answer.lease.expires_at.ToDatetime(tzinfo=UTC),
            release=self.release,
        )
        self._held[credential.lease_id] = credential
        return credential

    async def release(self, lease_id: str) -> None:
        """Give a credential back.

        Raises:
            BrokerError: the broker cannot be reached.
        """
        request = credentials_pb2.ReleaseCredentialRequest(lease_id=lease_id)
        answer = await self._connection.call(
            lambda stubs: stubs.credentials.ReleaseCredential, request, timeout=COMPLETE_TIMEOUT
        )
        held = self._held.get(lease_id)
        if held is not None and answer.lease.state == credentials_pb2.LEASE_STATE_REVOKED:
            held.revoked = True

    async def renew(self, credential: Credential, increment: timedelta | None = None) -> None:
        """Extend a credential at once; the broker does so by itself while the task lives.

        Raises:
            BrokerError: it cannot be extended further, or the broker cannot be reached.
        """
        request = credentials_pb2.RenewCredentialRequest(lease_id=credential.lease_id)
        if increment is not None:
            request.increment.FromTimedelta(increment)
        answer = await self._connection.call(
            lambda stubs: stubs.credentials.RenewCredential, request, timeout=CALL_TIMEOUT
        )
        credential.expires_at = answer.lease.expires_at.ToDatetime(tzinfo=UTC)

    async def complete(self, outcome: str = "SUCCEEDED", reason: str = "") -> None:
        """End the task. Returns when its backends refuse what it held, or when the broker goes on without us.

        Raises:
            BrokerError: the broker cannot be reached; the dead man's switch ends the task then.
        """
        request = tasks_pb2.CompleteTaskRequest(
            task_id=self.task_id,
            outcome=tasks_pb2.TaskOutcome.Value(f"TASK_OUTCOME_{outcome}"),
            reason=reason,
        )
        answer = await self._connection.call(
            lambda stubs: stubs.tasks.CompleteTask, request, timeout=COMPLETE_TIMEOUT
        )
        self._heard(answer.task)
        for lease in answer.task.leases:
            self._heard_of(lease)

    async def __aenter__(self) -> Self:
        answer = await self._connection.call(
            lambda stubs: stubs.tasks.DeclareTask, self._declaration, timeout=CALL_TIMEOUT
        )
        self._message = answer.task
        self._body = asyncio.current_task()
        self._alive = asyncio.create_task(self._keep_alive(), name=f"keep-{self.task_id}")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._body = None
        if self._alive is not None:
            self._alive.cancel()
            await asyncio.gather(self._alive, return_exceptions=True)
        ended_by_broker = self.ended.is_set()
        if not ended_by_broker:
            await self._complete_quietly(kind)
        if self._cancelled_body and kind is asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.uncancel() <= 0:
                raise self._ended_error() from None

    async def _complete_quietly(self, kind: type[BaseException] | None) -> None:
        """Complete, whatever left the block; never hides what that was."""
        if kind is None:
            outcome, reason = "SUCCEEDED", ""
        elif issubclass(kind, asyncio.CancelledError):
            outcome, reason = "CANCELLED", ""
        else:
            outcome, reason = "FAILED", kind.__name__  # its text could hold a secret
        work = asyncio.ensure_future(self.complete(outcome, reason))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            with contextlib.suppress(BrokerError):
                await work
            raise
        except BrokerError as error:
            logger.warning(
                "task %s could not be completed (%s); the broker ends it by itself", self.task_id, error
            )

    async def _acquire(self, role: str) -> credentials_pb2.AcquireCredentialResponse:
        request = credentials_pb2.AcquireCredentialRequest(
            task_id=self.task_id, role=role, idempotency_key=secrets.token_urlsafe(24)
        )
        return await self._connection.call(
            lambda stubs: stubs.credentials.AcquireCredential, request, timeout=CALL_TIMEOUT
        )

    async def _keep_alive(self) -> None:
        """Stay attached; attach again when the stream breaks; beat in between."""
        request = tasks_pb2.AttachTaskRequest(task_id=self.task_id)
        beat = tasks_pb2.HeartbeatRequest(task_id=self.task_id)
        pause = self._message.heartbeat_interval.ToTimedelta().total_seconds() / 10
        while not self.ended.is_set():
            try:
                async for event in self._connection.stream(lambda stubs: stubs.tasks.AttachTask, request):
                    self._on(event)
            except (TaskEnded, NotFound):
                self._end()
                return
            except BrokerError as error:
                logger.info("detached from %s: %s", self.task_id, error)
            if self.ended.is_set():
                return
            await asyncio.sleep(min(max(pause, 0.1), 2.0))
            try:
                await self._connection.call(
                    lambda stubs: stubs.tasks.Heartbeat, beat, timeout=timedelta(seconds=2)
                )
            except (TaskEnded, NotFound):
                self._end()
                return
            except BrokerError as error:
                logger.warning("no sign of life reached the broker for %s: %s", self.task_id, error)

    def _on(self, event: tasks_pb2.AttachTaskResponse) -> None:
        self._heard(event.task)
        if event.HasField("lease"):
            self._heard_of(event.lease)
        if event.kind in {_Kind.KIND_TASK_ENDING, _Kind.KIND_TASK_ENDED}:
            self._end()

    def _heard(self, message: tasks_pb2.Task) -> None:
        self._message = message

    def _heard_of(self, lease: credentials_pb2.Lease) -> None:
        credential = self._held.get(lease.lease_id)
        if credential is None:
            return
        if lease.HasField("expires_at"):
            credential.expires_at = lease.expires_at.ToDatetime(tzinfo=UTC)
        if lease.state == credentials_pb2.LEASE_STATE_REVOKED:
            credential.revoked = True

    def _end(self) -> None:
        if self.ended.is_set():
            return
        self.ended.set()
        if self._cancel_on_end and self._body is not None:
            self._cancelled_body = True
            self._body.cancel(f"task {self.task_id} was ended by the broker")

    def _ended_error(self) -> TaskEnded:
        cause = f": {self.end_cause}" if self.end_cause else ""
        return TaskEnded(f"task {self.task_id} has ended{cause}", reason="TASK_NOT_ACTIVE")
