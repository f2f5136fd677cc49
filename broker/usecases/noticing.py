"""What a use case says of each step that it made durable, so that an anomaly is seen while it happens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from broker.anomaly.events import Event
from broker.domain.changes import Change
from broker.domain.errors import StoreUnavailableError
from broker.domain.identifiers import TaskId
from broker.domain.spiffe import SpiffeId
from broker.usecases.caller import AskingCaller


class Notices(Protocol):
    """Takes events: usecases.notice."""

    async def __call__(
        self, event: Event, *, request_id: str = "", first: Sequence[Change] = ()
    ) -> tuple[str, ...]:
        """Notice an event before anything that it allows leaves; return warnings for the agent.

        Args:
            event: what is durable.
            request_id: the call in which it happened.
            first: what is to be given up where the task is stopped for it.

        Raises:
            TaskOnHoldError, TaskNotActiveError, InstanceQuarantinedError: what was found stops the task.
            StoreUnavailableError: it could not be seen, or not be answered: nothing may leave.
        """
        ...

    async def quietly(self, event: Event, *, request_id: str = "") -> None:
        """Notice an event after which nothing leaves. Never raises: what failed is looked at again by a round."""
        ...

    def missed(self, instance: SpiffeId) -> None:
        """A step of it may be durable that is not going to be noticed: its caller went away. Never waits, never raises."""
        ...

    async def too_late(self, caller: AskingCaller, task_id: TaskId) -> None:
        """A call names a task of the caller's that is ending or has ended. Never raises."""
        ...


class NoticedBy:
    """Implements Notices: passes everything on to whoever the wiring names, once there is one. Until then nothing passes."""

    def __init__(self, by: Notices | None = None) -> None:
        self.by = by

    async def __call__(
        self, event: Event, *, request_id: str = "", first: Sequence[Change] = ()
    ) -> tuple[str, ...]:
        """As Notices."""
        if self.by is None:
            raise StoreUnavailableError
        return await self.by(event, request_id=request_id, first=first)

    async def quietly(self, event: Event, *, request_id: str = "") -> None:
        """As Notices."""
        if self.by is not None:
            await self.by.quietly(event, request_id=request_id)

    def missed(self, instance: SpiffeId) -> None:
        """As Notices."""
        if self.by is not None:
            self.by.missed(instance)

    async def too_late(self, caller: AskingCaller, task_id: TaskId) -> None:
        """As Notices."""
        if self.by is not None:
            await self.by.too_late(caller, task_id)


class NothingNoticed:
    """Implements Notices where nobody watches: measurements, and tests of something else."""

    async def __call__(
        self,
        event: Event,  # noqa: ARG002 - Notices
        *,
        request_id: str = "",  # noqa: ARG002
        first: Sequence[Change] = (),  # noqa: ARG002
    ) -> tuple[str, ...]:
        """Nothing is found."""
        return ()

    async def quietly(self, event: Event, *, request_id: str = "") -> None:
        """Nothing is found."""

    def missed(self, instance: SpiffeId) -> None:
        """Nothing is found."""

    async def too_late(self, caller: AskingCaller, task_id: TaskId) -> None:
        """Nothing is found."""
