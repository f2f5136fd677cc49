"""Make identities for instances that are launched, and end them (docs/adr/0011).

    L1  reserved: durable on the node, with a number that nobody else has
    L2  SPIRE has the entry; it expires there unless it is renewed
    L3  SPIRE's agent was seen to serve the SVID to a process with that number: ready, or used at once
    L4  the instance has ended: durable; from here on nothing takes it back
    L5  all that ran as the instance is killed, and the entry deleted at SPIRE: cooling
    L6  every SVID issued under it has expired and no process has its number: forgotten, the number is free

A crash after L1, L2 or L3 leaves an identity whose holder is dead: `KeepNode` goes on with L4. After L4 or L5 it goes
on with L5 or L6. Doing a step twice is harmless.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from broker.domain.launching import (
    SETTLING,
    UNUSED_FOR,
    USED_FOR,
    Holder,
    IdentityState,
    LaunchClass,
    LaunchedIdentity,
    entry_of,
)
from broker.ports.launching import CannotStartError, InstanceLedger, InstanceStarter, SeesServed
from broker.ports.registry import Outcome, RegistryUnavailableError, WorkloadRegistry
from broker.ports.system import Clock

logger = logging.getLogger(__name__)

PATIENCE: Final = timedelta(seconds=60)
"""How long SPIRE may take until its agent serves a new entry."""


class MakeIdentities:
    """L1 to L3."""

    def __init__(
        self,
        *,
        ledger: InstanceLedger,
        registry: WorkloadRegistry,
        sees_served: SeesServed,
        clock: Clock,
        new_name: Callable[[], str],
    ) -> None:
        self._ledger = ledger
        self._registry = registry
        self._sees_served = sees_served
        self._clock = clock
        self._new_name = new_name

    async def __call__(  # noqa: PLR0913 - what an identity is made of
        self,
        launch_class: LaunchClass,
        count: int,
        *,
        holder: Holder,
        used: bool,
        broker: str = "",
        pod_uid: Callable[[LaunchedIdentity], Awaitable[str]] | None = None,
    ) -> tuple[LaunchedIdentity, ...]:
        """Make up to `count` identities; those that come to nothing are retiring afterwards.

        Args:
            launch_class: of what class.
            count: how many.
            holder: who makes them, and uses them if they are `used`.
            used: for an instance that is about to be started; else for the pool.
            broker: where the end of a used one is reported.
            pod_uid: makes the pod of an identity, where SPIRE knows the instance by what it has only then.

        Raises:
            NoRoomError: nothing was made.
            CannotStartError: none came to anything; says why.
        """
        reserved = self._ledger.reserve(
            launch_class,
            [self._new_name() for _ in range(count)],
            holder=holder,
            now=self._clock.now(),
            used=used,
            broker=broker,
        )  # L1
        waiting: dict[str, LaunchedIdentity] = {one.spiffe_id: one for one in reserved}
        made: list[LaunchedIdentity] = []
        why = f"SPIRE's agent did not serve it within {PATIENCE.total_seconds():.0f} s: is it the class's parent?"
        try:
            expires_at = self._clock.now() + (USED_FOR if used else UNUSED_FOR)
            refused = await self._create(launch_class, reserved, expires_at, pod_uid)  # L2
            for spiffe_id, trouble in refused.items():
                self._retire(waiting.pop(spiffe_id))
                why = trouble
            state = IdentityState.USED if used else IdentityState.READY
            end = self._clock.now() + PATIENCE
            while waiting and self._clock.now() < end:
                served = await self._sees_served(launch_class, tuple(waiting.values()))
                for spiffe_id in served & waiting.keys():  # L3
                    identity = waiting.pop(spiffe_id)
                    kept = {"holder": holder if used else None, "expires_at": expires_at}
                    if moved := self._ledger.move(identity, state, now=self._clock.now(), **kept):
                        made.append(moved)
                for identity in self._taken_from_us(
                    waiting.values()
                ):  # its entry is gone: it will never be served
                    del waiting[identity.spiffe_id]
                    why = "it was ended while it was made"
        finally:
            for identity in waiting.values():
                self._retire(identity)
        if not made:
            message = f"no identity of {launch_class.name} could be made: {why}"
            raise CannotStartError(message)
        return tuple(made)

    async def _create(
        self,
        launch_class: LaunchClass,
        reserved: Sequence[LaunchedIdentity],
        expires_at: datetime,
        pod_uid: Callable[[LaunchedIdentity], Awaitable[str]] | None,
    ) -> dict[str, str]:
        """Which were not made, and why."""
        try:
            entries = [
                entry_of(
                    launch_class, one, expires_at=expires_at, pod_uid=await pod_uid(one) if pod_uid else ""
                )
                for one in reserved
            ]
        except ValueError as error:
            raise CannotStartError(str(error)) from error
        results = await self._registry.create(entries)
        return {
            one.spiffe_id: result.why or result.outcome.value
            for one, result in zip(reserved, results, strict=True)
            if result.outcome is not Outcome.DONE
        }

    def _taken_from_us(self, waiting: Iterable[LaunchedIdentity]) -> list[LaunchedIdentity]:
        still = {one.name for one in self._ledger.identities(states=[IdentityState.PREPARING])}
        return [one for one in waiting if one.name not in still]

    def _retire(self, identity: LaunchedIdentity) -> None:
        self._ledger.move(identity, IdentityState.RETIRING, now=self._clock.now())


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What became of an identity that was to be ended."""

    identity: LaunchedIdentity
    trouble: str = ""
    """Why its entry may still be there; empty when it is gone and nothing runs."""


class EndIdentities:
    """L4 to L6."""

    def __init__(
        self,
        *,
        ledger: InstanceLedger,
        registry: WorkloadRegistry,
        starter_of: Callable[[str], InstanceStarter],
        report: Callable[[LaunchedIdentity], Awaitable[None]],
        clock: Clock,
    ) -> None:
        self._ledger = ledger
        self._registry = registry
        self._starter_of = starter_of
        self._report = report
        self._clock = clock

    async def __call__(self, identities: Sequence[LaunchedIdentity]) -> list[Ended]:
        """End identities, whatever state they are in; each once more is harmless."""
        retiring = []
        for one in identities:
            if one.state is IdentityState.RETIRING:
                retiring.append(one)
            elif one.state is not IdentityState.COOLING:
                moved = self._ledger.move(one, IdentityState.RETIRING, now=self._clock.now())  # L4
                if moved is not None:
                    retiring.append(moved)
        if not retiring:
            return []
        stopped = {one.name: self._starter_of(one.kind).end(one) for one in retiring}
        try:
            results = await self._registry.delete([one.entry_id for one in retiring])
        except RegistryUnavailableError as error:
            return [Ended(identity=one, trouble=str(error)) for one in retiring]
        ended = []
        for one, result in zip(retiring, results, strict=True):
            if result.outcome not in {Outcome.DONE, Outcome.GONE}:
                ended.append(Ended(identity=one, trouble=result.why or result.outcome.value))
                continue
            await self._report(one)
            trouble = "" if stopped[one.name] else "something still runs as the instance"
            if not trouble:
                now = self._clock.now()
                free_at = now + one.svid_lifetime + SETTLING
                kept = {"free_at": free_at, "holder": None, "broker": ""}
                self._ledger.move(one, IdentityState.COOLING, now=now, **kept)  # L5
            ended.append(Ended(identity=one, trouble=trouble))
        return ended
