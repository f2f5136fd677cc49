"""Time, ids and steps that a test owns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from broker.domain.identifiers import ActionId, LeaseId, MessageId, RequestId, TaskId

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class FakeClock:
    """Implements ports.system.Clock; stands still until it is told to go on."""

    def __init__(self, now: datetime = NOON) -> None:
        self._now = now
        self._sleepers: list[tuple[datetime, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        return self._now

    async def sleep(self, duration: timedelta) -> None:
        future = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._now + duration, future))
        await future

    @property
    def next_wake(self) -> datetime | None:
        """When the first of those who sleep wants to wake."""
        return min((due for due, future in self._sleepers if not future.done()), default=None)

    def advance(self, **parts: float) -> None:
        """Go on by `timedelta(**parts)` and wake whoever slept until then."""
        self._now += timedelta(**parts)
        awake = [sleeper for sleeper in self._sleepers if sleeper[0] <= self._now]
        self._sleepers = [sleeper for sleeper in self._sleepers if sleeper[0] > self._now]
        for _due, future in awake:
            if not future.done():
                future.set_result(None)


class CountingIds:
    """Implements ports.system.Ids: ids in order, and always the same fraction."""

    def __init__(self, fraction: float = 0.5) -> None:
        self._count = 0
        self._actions = 0
        self._messages = 0
        self._fraction = fraction

    def task_id(self) -> TaskId:
        return TaskId(f"task-{self._next()}")

    def action_id(self) -> ActionId:
        self._actions += 1  # apart, so that the other ids are those of a world without actions
        return ActionId(f"action-{self._actions:026}")

    def lease_id(self) -> LeaseId:
        return LeaseId(f"lease-{self._next()}")

    def request_id(self) -> RequestId:
        return RequestId(f"req-{self._next()}")

    def message_id(self) -> MessageId:
        self._messages += 1  # apart, as above
        return MessageId(f"message-{self._messages:026}")

    def fraction(self) -> float:
        return self._fraction

    def _next(self) -> str:
        self._count += 1
        return f"{self._count:026d}"


class RecordedSteps:
    """Implements ports.system.Steps: remembers them, and does at one what it was told to."""

    def __init__(self) -> None:
        self.reached_steps: list[str] = []
        self._actions: dict[str, Callable[[], None]] = {}

    def at(self, step: str, action: Callable[[], None]) -> None:
        self._actions[step] = action

    def reached(self, step: str) -> None:
        self.reached_steps.append(step)
        action = self._actions.pop(step, None)
        if action is not None:
            action()
