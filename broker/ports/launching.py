"""What launching instances on a node needs: a ledger that survives crashes, and a look at what runs.

What always holds, of every ledger: a change is durable when its method returns; of several who try the same change,
one succeeds; no two identities have one number at the same time, whatever state they are in.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from broker.domain.launching import Holder, IdentityState, LaunchClass, LaunchedIdentity


class NoRoomError(Exception):
    """The class has no room for another instance now; the message says why and until when."""


class CannotStartError(Exception):
    """The instance cannot be started; the message says why and what to do."""


class InstanceLedger(Protocol):
    """The node's identities. See the module."""

    def reserve(  # noqa: PLR0913 - what is written down
        self,
        launch_class: LaunchClass,
        names: Sequence[str],
        *,
        holder: Holder,
        now: datetime,
        used: bool,
        broker: str = "",
    ) -> tuple[LaunchedIdentity, ...]:
        """Write down identities that are about to be made, each with a number of its own where the kind has them.

        `used`: they count as instances. Else they are for the pool.

        Raises:
            NoRoomError: not one has room; else as many as there is room for.
        """
        ...

    def take(
        self, agent_class: str, *, holder: Holder, now: datetime, broker: str
    ) -> LaunchedIdentity | None:
        """A ready identity of the class, from now on used by `holder`; None when there is none.

        Raises:
            NoRoomError: as many instances run as may.
        """
        ...

    def move(
        self, identity: LaunchedIdentity, to: IdentityState, *, now: datetime, **changed: object
    ) -> LaunchedIdentity | None:
        """Move an identity on, if it is still in the state in which it is given; None when it is not."""
        ...

    def renewed(self, identity: LaunchedIdentity, expires_at: datetime) -> None:
        """Its entry expires at another time."""
        ...

    def forget(self, identity: LaunchedIdentity) -> None:
        """It is cooling, and cool: its number is free."""
        ...

    def identities(
        self, *, states: Sequence[IdentityState] = (), agent_class: str = ""
    ) -> tuple[LaunchedIdentity, ...]:
        """Those in some states, of a class: all when neither is said. Oldest first."""
        ...

    def identity(self, name: str) -> LaunchedIdentity | None: ...


class Node(Protocol):
    """The processes of this machine."""

    def is_alive(self, holder: Holder) -> bool:
        """Whether exactly that process runs."""
        ...

    def groups_in_use(self) -> frozenset[int]:
        """The supplementary groups that some process has."""
        ...


class InstanceStarter(Protocol):
    """How an instance of one kind is run, and how nothing of it is left."""

    def command(self, identity: LaunchedIdentity, words: Sequence[str]) -> Command:
        """What to execute so that it is the instance.

        Raises:
            CannotStartError: it cannot be.
        """
        ...

    def end(self, identity: LaunchedIdentity) -> bool:
        """Kill all that runs as the instance; whether nothing does any more. Harmless when nothing did."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to execute, and as whom."""

    words: tuple[str, ...]
    uid: int | None = None
    """None: as who launches it."""
    gid: int | None = None
    groups: tuple[int, ...] | None = None
    environment: Mapping[str, str]


SeesServed = Callable[[LaunchClass, Sequence[LaunchedIdentity]], Awaitable[frozenset[str]]]
"""Waits until SPIRE's agent serves at least one of the identities, all of the class, to a process such as an instance
will be; returns the SPIFFE IDs that it serves, none when it took too long. What cannot be looked at from here
(`LaunchClass.can_be_probed`) is taken for served after as long as SPIRE takes to tell its agents."""
