"""Being watched: how long things take and how they end. What is watched never fails because of whoever watches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol, TypeAlias

from broker.domain.decision import Decision
from broker.domain.errors import BrokerError

OK: Final = "OK"


class Kind(StrEnum):
    """What is watched."""

    RPC = "rpc"
    VAULT = "vault"


@dataclass(slots=True)
class Outcome:
    """How it ended: whoever does it says so, or the exception does. A word from a small set, never a caller's."""

    value: str = OK

    def raised(self, error: BaseException) -> None:
        """Say that it ended by this, unless something was said."""
        if self.value == OK:
            self.value = error.reason if isinstance(error, BrokerError) else type(error).__name__


Decided: TypeAlias = Callable[[str, Decision], None]
"""Is told of each decision, after it is durable; of which action: `declare`, `acquire` or `call`."""


def nobody_is_told(_action: str, _decision: Decision) -> None:
    """For who counts nothing."""


class Observer(Protocol):
    """See the module."""

    @property
    def reads_carriers(self) -> bool:
        """Whether it looks at what came with a call: what nobody reads need not be put together."""
        ...

    def watch(
        self, kind: Kind, name: str, *, task_id: str = "", carrier: Mapping[str, str] | None = None
    ) -> AbstractContextManager[Outcome]:
        """Watch one piece of work.

        Args:
            kind: what it is.
            name: which: an RPC's name, or what is asked of Vault. From a small set.
            task_id: of which task, where that is known: for traces, never for metrics.
            carrier: what came with the call: `traceparent` is read, and believed for nothing but traces.
        """
        ...


class NoObserver:
    """Nobody watches."""

    reads_carriers: Final = False

    @contextmanager
    def watch(
        self,
        _kind: Kind,
        _name: str,
        *,
        task_id: str = "",  # noqa: ARG002
        carrier: Mapping[str, str] | None = None,  # noqa: ARG002
    ) -> Iterator[Outcome]:
        """See ports.observing.Observer."""
        yield Outcome()
