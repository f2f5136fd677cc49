"""Tools, as an agent calls them: each call is authorized before it is made, and its outcome reported after it.

What always holds: what is not allowed is not entered (`ToolCall` raises `Denied` first); a call that raised is reported as
failed, without a word of the exception.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

from broker.api.v1 import tools_pb2
from broker.client.errors import BrokerError, DenialClass, Denied, TaskOnHold

logger = logging.getLogger(__name__)

_CLASSES = {
    tools_pb2.DENIAL_CLASS_STRUCTURAL: DenialClass.STRUCTURAL,
    tools_pb2.DENIAL_CLASS_GRANTABLE: DenialClass.GRANTABLE,
    tools_pb2.DENIAL_CLASS_TRANSIENT: DenialClass.TRANSIENT,
}


class CallOutcome(StrEnum):
    """How an allowed call went."""

    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    NOT_DONE = "NOT_DONE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Obligations:
    """What whoever runs the tool has to do with what it returns, or needs for it."""

    redact: tuple[str, ...] = ()
    """Fields of the result that the model must not see."""
    limit_rows: int | None = None
    credential_role: str | None = None
    """The role to acquire for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A tool that the task may call now."""

    name: str
    description: str
    arguments_schema: Mapping[str, Any]
    """JSON Schema of its arguments."""
    obligations: Obligations


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorization:
    """A decision about one call."""

    action_id: str
    tool: str
    allowed: bool
    reason: str
    text: str
    denial_class: DenialClass | None
    expected: tuple[str, ...]
    """Steps that may come instead, where this one was out of turn."""
    policies: tuple[str, ...]
    obligations: Obligations
    warnings: tuple[str, ...] = ()
    """What was found because of this call, in words: what is allowed may be done, and does not look like the task's work."""

    def demand(self) -> Self:
        """Return it when it allows.

        Raises:
            Denied: it does not (TaskOnHold: because of what was found); `denial_class` says whether to stop, to ask or to wait.
        """
        if self.allowed:
            return self
        metadata = {"action_id": self.action_id, "expected": ",".join(self.expected)}
        if self.denial_class is not None:
            metadata["denial_class"] = self.denial_class.value
        text = f"{self.tool}: {self.text}"
        kind = TaskOnHold if self.reason == "TASK_ON_HOLD" else Denied
        raise kind(text, reason=self.reason, metadata=metadata)


class ToolCall:
    """A context manager around one allowed call: reports how it went.

    Inside, `say_outcome` says that it was not done, or failed without an exception.
    """

    def __init__(
        self,
        authorize: Callable[[], Awaitable[Authorization]],
        report: Callable[[str, CallOutcome], Awaitable[None]],
    ) -> None:
        self._authorize = authorize
        self._report = report
        self._said = CallOutcome.SUCCEEDED
        self._authorization: Authorization | None = None

    @property
    def authorization(self) -> Authorization:
        """The decision."""
        if self._authorization is None:
            message = "use it in a block: async with task.call(...) as call"
            raise RuntimeError(message)
        return self._authorization

    @property
    def obligations(self) -> Obligations:
        """What has to be done with what the tool returns."""
        return self.authorization.obligations

    def say_outcome(self, outcome: CallOutcome | str) -> None:
        """Say how it went, where no exception does."""
        self._said = CallOutcome(outcome)

    async def __aenter__(self) -> Self:
        self._authorization = (await self._authorize()).demand()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        outcome = self._said if kind is None else CallOutcome.FAILED
        try:
            await asyncio.shield(self._report(self.authorization.action_id, outcome))
        except BrokerError as failure:
            logger.warning(
                "the outcome of a call of %s is not reported: %s", self.authorization.tool, failure
            )


def call_message(
    tool: str, arguments: Mapping[str, Any] | None, fingerprint: bytes, idempotency_key: str
) -> tools_pb2.Call:
    """A call as a message.

    Raises:
        ValueError: the arguments are not JSON.
    """
    text = "" if not arguments else json.dumps(dict(arguments), allow_nan=False)
    return tools_pb2.Call(tool=tool, arguments=text, fingerprint=fingerprint, idempotency_key=idempotency_key)


def tool_of(message: tools_pb2.Tool) -> Tool:
    """A message as a tool."""
    return Tool(
        name=message.name,
        description=message.description,
        arguments_schema=json.loads(message.arguments_schema or "{}"),
        obligations=_obligations(message.obligations),
    )


def authorization_of(tool: str, message: tools_pb2.Authorization) -> Authorization:
    """A message as a decision; what is not said to be allowed is not."""
    return Authorization(
        action_id=message.action_id,
        tool=tool,
        allowed=message.allowed is True,
        reason=message.reason,
        text=message.text,
        denial_class=_CLASSES.get(message.denial_class),
        expected=tuple(message.expected),
        policies=tuple(message.policies),
        obligations=_obligations(message.obligations),
        warnings=tuple(message.warnings),
    )


def authorizations_of(
    tools: Sequence[str], messages: Sequence[tools_pb2.Authorization]
) -> list[Authorization]:
    """Messages as decisions, fewer than there were calls where the broker stopped at a refusal."""
    return [authorization_of(tool, one) for tool, one in zip(tools, messages, strict=False)]


def _obligations(message: tools_pb2.Obligations) -> Obligations:
    return Obligations(
        redact=tuple(message.redact),
        limit_rows=message.limit_rows or None,
        credential_role=message.credential_role or None,
    )
