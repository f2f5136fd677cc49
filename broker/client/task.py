"""A task, as its agent sees it.

What always holds: a block that was entered is completed on leaving it, once, within `COMPLETE_TIMEOUT`, also when it
is cancelled; where the broker cannot be told, it ends the task by itself (a dead man's switch), and the exception
that left the block is the one that is seen. No text of an exception goes to the broker: it could hold a secret.
Left to others: keeping the task alive and hearing of it (`attachment`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from broker.api.v1 import credentials_pb2, tasks_pb2, tools_pb2
from broker.client.attachment import Attachment, TaskEvent
from broker.client.connection import Connection
from broker.client.credential import Credential, LeasedCredential
from broker.client.errors import BrokerError, IdempotencyConflict, TaskEnded
from broker.client.tools import (
    Authorization,
    CallOutcome,
    Tool,
    ToolCall,
    authorization_of,
    authorizations_of,
    call_message,
    tool_of,
)

logger = logging.getLogger(__name__)

CALL_TIMEOUT: Final = timedelta(seconds=20)
COMPLETE_TIMEOUT: Final = timedelta(seconds=20)
_MOST_REASON: Final = 1000
AnyCredential = TypeVar("AnyCredential", bound=LeasedCredential)


class Outcome(StrEnum):
    """How a task went, as its agent says."""

    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class Task:
    """An async context manager: declares the task on entering, ends it on leaving.

    Leaving normally completes it as succeeded, with an exception as failed, cancelled as cancelled. Inside, a stream
    to the broker keeps it alive.

    When the broker ends the task first (its deadline, a lost heartbeat, revocation), `ended` is set, pending and later
    calls of `acquire` raise `TaskEnded`, and the block's body is cancelled, as `asyncio.timeout` does it: it sees a
    CancelledError at its next `await`, and `TaskEnded` leaves the block, unless the body raises something else. With `cancel_on_end=False` the body goes on.
    """

    def __init__(  # noqa: PLR0913 - what a task is declared with
        self,
        connection: Connection,
        task_type: str,
        *,
        intent: str,
        roles: Sequence[str] | None,
        tools: Sequence[str] | None,
        environment: str,
        deadline: datetime | timedelta | None,
        fingerprint: bytes,
        cancel_on_end: bool,
    ) -> None:
        if isinstance(deadline, datetime) and deadline.tzinfo is None:
            message = "a deadline needs a time zone: datetime.now(UTC) + ..."
            raise ValueError(message)
        if isinstance(roles, str) or isinstance(tools, str):
            message = "roles and tools are lists of names: roles=[...], tools=[...]"
            raise TypeError(message)
        self._connection = connection
        self._declaration = tasks_pb2.DeclareTaskRequest(
            task_type=task_type,
            intent=intent,
            scope=(
                None
                if roles is None and tools is None
                else tasks_pb2.Scope(roles=list(roles or ()), tools=list(tools or ()))
            ),
            environment=environment,
            fingerprint=fingerprint,
            idempotency_key=secrets.token_urlsafe(24),
        )
        self._deadline = deadline
        self._cancel_on_end = cancel_on_end
        self._attachment: Attachment | None = None
        self._pending: set[asyncio.Timeout] = set()
        self._body: asyncio.Task[object] | None = None
        self._cancelling_before = 0
        self._cancelled_body = False
        self._completing = False
        self._said = (Outcome.SUCCEEDED, "")
        self.ended = asyncio.Event()
        """Set when the task is ending or has ended."""

    @property
    def task_id(self) -> str:
        """The broker's id of the task."""
        return self._attached.message.task_id

    @property
    def deadline(self) -> datetime:
        """When the broker ends it, whatever happens."""
        return self._attached.message.deadline.ToDatetime(tzinfo=UTC)

    @property
    def state(self) -> str:
        """ACTIVE, ENDING or ENDED, as last heard."""
        return self._attached.state

    @property
    def hold(self) -> str:
        """Why it gets nothing new for now (APPROVAL, FROZEN), because of what was found; empty when it is not on hold, as last
        heard."""
        return self._attached.hold

    @property
    def end_cause(self) -> str:
        """Why it ended (COMPLETED, DEADLINE, HEARTBEAT_LOST, REVOKED, ANOMALY); empty while it lives, or not known."""
        return self._attached.end_cause

    def __repr__(self) -> str:
        if self._attachment is None:
            return f"Task({self._declaration.task_type!r}, not entered)"
        return f"Task({self._declaration.task_type!r}, task_id={self.task_id!r}, state={self.state})"

    async def acquire(
        self, role: str, *, within: timedelta = CALL_TIMEOUT, fingerprint: bytes = b""
    ) -> Credential:
        """Acquire a credential for a role of the declared scope.

        The broker renews it for as long as the task lives; it is taken back when the task ends, if not before.

        Args:
            role: a credential role that the task was declared with.
            within: how long to try, when the broker or Vault is away.
            fingerprint: digest of model, prompt and tool schemas as they are now; another one than at the declaration
                ends the task.

        Raises:
            Denied: not allowed; `denial_class` says whether to stop, to ask or to wait.
            TaskEnded: the task is over, or ended meanwhile.
            LimitReached: too many credentials or calls at once.
            Unavailable: broker, store or Vault; nothing was handed out.
        """
        return await self._acquire_as(
            role, within, fingerprint, lambda answer: Credential(answer, self.release)
        )

    async def _acquire_as(
        self,
        role: str,
        within: timedelta,
        fingerprint: bytes,
        make: Callable[[credentials_pb2.AcquireCredentialResponse], AnyCredential],
    ) -> AnyCredential:
        """`acquire` for both twins."""
        attached = self._attached
        if self.ended.is_set():
            raise self._ended_error()
        try:
            async with asyncio.timeout(None) as until_ended:
                self._pending.add(until_ended)
                try:
                    answer = await self._acquire(role, within, fingerprint)
                finally:
                    self._pending.discard(until_ended)
        except TimeoutError:
            raise self._ended_error() from None
        credential = make(answer)
        attached.held[credential.lease_id] = credential
        return credential

    async def tools(self) -> list[Tool]:
        """The tools that it may call now, with their arguments' JSON Schemas: exactly what to show to a model.

        Raises:
            TaskEnded: the task is over.
            BrokerError: the broker cannot be reached.
        """
        request = tools_pb2.ListToolsRequest(task_id=self.task_id)
        answer = await self._connection.call(lambda line: line.list_tools, request, within=CALL_TIMEOUT)
        return [tool_of(one) for one in answer.tools]

    async def authorize(
        self, tool: str, arguments: Mapping[str, Any] | None = None, *, fingerprint: bytes = b""
    ) -> Authorization:
        """Ask whether a tool may be called with these arguments; the answer is a step of the task's chain.

        Args:
            tool: a tool that the task was declared with.
            arguments: JSON, at most 16 KiB.
            fingerprint: digest of model, prompt and tool schemas as they are now; another one than at the declaration
                ends the task.

        Raises:
            InvalidRequest: the arguments are not what the tool takes.
            TaskEnded: the task is over.
            LimitReached: as many steps, or denials, as allowed.
            BrokerError: the broker cannot be reached. A denial is an answer, and raises nothing.
        """
        call = call_message(tool, arguments, fingerprint, secrets.token_urlsafe(24))
        request = tools_pb2.AuthorizeActionRequest(task_id=self.task_id, call=call)
        answer = await self._connection.call(lambda line: line.authorize, request, within=CALL_TIMEOUT)
        return authorization_of(tool, answer.authorization)

    async def authorize_plan(
        self, calls: Sequence[tuple[str, Mapping[str, Any]]], *, stop_at_refusal: bool = True
    ) -> list[Authorization]:
        """Ask for several calls in order, each after those before it; at most 50.

        Raises:
            As `authorize`.
        """
        request = tools_pb2.AuthorizeActionsRequest(
            task_id=self.task_id,
            calls=[call_message(tool, given, b"", secrets.token_urlsafe(24)) for tool, given in calls],
            stop_at_refusal=stop_at_refusal,
        )
        answer = await self._connection.call(lambda line: line.authorize_all, request, within=CALL_TIMEOUT)
        return authorizations_of([tool for tool, _ in calls], answer.authorizations)

    def call(
        self, tool: str, arguments: Mapping[str, Any] | None = None, *, fingerprint: bytes = b""
    ) -> ToolCall:
        """A block around a tool call: `async with task.call("send-mail", {...}) as call`.

        Entering asks the broker, and raises `Denied` where it does not allow the call; leaving reports how it went.
        """
        return ToolCall(lambda: self.authorize(tool, arguments, fingerprint=fingerprint), self.report)

    async def report(self, action_id: str, outcome: CallOutcome | str) -> None:
        """Say how an allowed call went.

        Raises:
            BrokerError: not an action of this instance's, or the broker cannot be reached.
        """
        request = tools_pb2.ReportOutcomeRequest(
            action_id=action_id, outcome=f"ACTION_OUTCOME_{CallOutcome(outcome)}"
        )
        await self._connection.call(lambda line: line.report, request, within=CALL_TIMEOUT)

    async def release(self, credential: LeasedCredential) -> None:
        """Give a credential back; returns when the backend refuses it, or the broker goes on without us.

        Raises:
            BrokerError: the broker cannot be reached; the task's end takes it back all the same.
        """
        await self._release(credential.lease_id)

    async def renew(self, credential: LeasedCredential, increment: timedelta | None = None) -> None:
        """Extend a credential at once; the broker does so by itself while the task lives.

        Args:
            credential: one of this task's.
            increment: the wanted time to live from now; the default is the role's.

        Raises:
            LeaseNotActive: it is revoked, or cannot be extended any further.
            BrokerError: the broker cannot be reached.
        """
        request = credentials_pb2.RenewCredentialRequest(lease_id=credential.lease_id)
        if increment is not None:
            request.increment.FromTimedelta(increment)
        answer = await self._connection.call(lambda line: line.renew, request, within=CALL_TIMEOUT)
        self._attached.heard_of(answer.lease)

    async def complete(self, outcome: Outcome | str = Outcome.SUCCEEDED, reason: str = "") -> None:
        """End the task before its block does. The first outcome stays.

        Returns when the backends refuse what it held, or when the broker goes on revoking without us (`state` says
        which: ENDED or ENDING).

        Args:
            outcome: SUCCEEDED, FAILED or CANCELLED.
            reason: why, in words, at most 1,000 characters. It is audited: no secrets.

        Raises:
            BrokerError: the broker cannot be reached; the dead man's switch ends the task then.
        """
        self._completing = True
        request = tasks_pb2.CompleteTaskRequest(
            task_id=self.task_id,
            outcome=f"TASK_OUTCOME_{Outcome(outcome)}",
            reason=reason[:_MOST_REASON],
        )
        answer = await self._connection.call(lambda line: line.complete, request, within=COMPLETE_TIMEOUT)
        self._attached.heard(answer.task)
        self._end()

    def say_outcome(self, outcome: Outcome | str, reason: str = "") -> None:
        """Say how it went, for when the block is left normally: without it, that means SUCCEEDED.

        Args:
            outcome: SUCCEEDED, FAILED or CANCELLED.
            reason: why, in words, at most 1,000 characters. It is audited: no secrets.
        """
        self._said = (Outcome(outcome), reason)

    def events(self) -> AsyncIterator[TaskEvent]:
        """What happens to the task, from now on, until it has ended or its block is left.

        Best effort: what happens while the stream to the broker is broken is not told again.
        """
        return self._attached.events()

    async def __aenter__(self) -> Self:
        if self._attachment is not None:
            message = "a task is entered once: declare another with broker.task(...)"
            raise RuntimeError(message)
        if self._deadline is not None:
            delta = isinstance(self._deadline, timedelta)
            at = datetime.now(UTC) + self._deadline if delta else self._deadline  # type: ignore[operator]
            self._declaration.deadline.FromDatetime(at)  # type: ignore[arg-type]
        answer = await self._connection.call(
            lambda line: line.declare, self._declaration, within=CALL_TIMEOUT
        )
        self._body = asyncio.current_task()
        self._cancelling_before = self._body.cancelling() if self._body is not None else 0
        self._attachment = Attachment(self._connection, answer.task, self._end)
        self._attachment.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        body, self._body = self._body, None
        try:
            others = await self._take_back_cancellation(body)
            if not self.ended.is_set():
                await self._complete_quietly(kind)
        finally:
            self._completing = True
            self._end()
            await self._attached.stop()
        if self._cancelled_body and (kind is None or issubclass(kind, asyncio.CancelledError)):
            if others:  # somebody else wants this stopped as well, and must see that it does
                raise asyncio.CancelledError
            raise self._ended_error() from None

    async def _take_back_cancellation(self, body: asyncio.Task[object] | None) -> bool:
        """Undo our own cancellation of the body; say whether others have cancelled it, too."""
        if body is None or not self._cancelled_body:
            return False
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)  # were it still on its way, it would arrive somewhere later
        return body.uncancel() > self._cancelling_before

    async def _complete_quietly(self, kind: type[BaseException] | None) -> None:
        """Complete, whatever left the block; never hides what that was."""
        if kind is None:
            outcome, reason = self._said
        elif issubclass(kind, asyncio.CancelledError | KeyboardInterrupt):
            outcome, reason = Outcome.CANCELLED, kind.__name__
        else:
            outcome, reason = Outcome.FAILED, kind.__name__  # its text could hold a secret
        work = asyncio.ensure_future(self.complete(outcome, reason))
        work.add_done_callback(self._report)
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait({work})
            raise
        except Exception:  # noqa: BLE001 - reported; what left the block is what counts
            return

    def _report(self, work: asyncio.Future[None]) -> None:
        if work.cancelled() or (error := work.exception()) is None:
            return
        what = str(error) if isinstance(error, BrokerError) else type(error).__name__
        logger.warning(
            "task %s could not be completed (%s); the broker ends it by itself when its heartbeat is missed",
            self.task_id,
            what,
        )

    async def _acquire(
        self, role: str, within: timedelta, fingerprint: bytes
    ) -> credentials_pb2.AcquireCredentialResponse:
        end = asyncio.get_running_loop().time() + within.total_seconds()
        while True:
            left = timedelta(seconds=end - asyncio.get_running_loop().time())
            request = credentials_pb2.AcquireCredentialRequest(
                task_id=self.task_id,
                role=role,
                idempotency_key=secrets.token_urlsafe(24),
                fingerprint=fingerprint,
            )
            try:
                return await self._connection.call(lambda line: line.acquire, request, within=left)
            except IdempotencyConflict as error:
                lost = error.metadata.get("lease_id")
                if error.reason != "IDEMPOTENT_RESULT_GONE" or lost is None:
                    raise
                # The answer was lost on its way and is not kept: give that lease back, and ask for another.
                await self._release(lost)

    async def _release(self, lease_id: str) -> None:
        request = credentials_pb2.ReleaseCredentialRequest(lease_id=lease_id)
        answer = await self._connection.call(lambda line: line.release, request, within=CALL_TIMEOUT)
        self._attached.heard_of(answer.lease)

    def _end(self) -> None:
        """The task is ending: tell whoever waits, and cancel the body unless it was the body that ended it."""
        if self.ended.is_set():
            return
        self.ended.set()
        now = asyncio.get_running_loop().time()
        for pending in list(self._pending):
            pending.reschedule(now)
        if self._cancel_on_end and self._body is not None and not self._completing:
            self._cancelled_body = True
            self._body.cancel(f"task {self.task_id} was ended by the broker")

    def _ended_error(self) -> TaskEnded:
        cause = self.end_cause
        return TaskEnded(
            f"task {self.task_id} has ended{f' ({cause})' if cause else ''}",
            reason="TASK_NOT_ACTIVE",
            metadata={"end_cause": cause} if cause else {},
        )

    @property
    def _attached(self) -> Attachment:
        if self._attachment is None:
            message = "use it in a block: async with broker.task(...) as task"
            raise RuntimeError(message)
        return self._attachment
