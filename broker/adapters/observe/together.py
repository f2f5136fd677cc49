"""Several observers as one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Final

from broker.ports.observing import Kind, Observer, Outcome


class Observers:
    """Implements ports.observing.Observer."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers
        self.reads_carriers: Final = any(one.reads_carriers for one in observers)

    @contextmanager
    def watch(
        self, kind: Kind, name: str, *, task_id: str = "", carrier: Mapping[str, str] | None = None
    ) -> Iterator[Outcome]:
        """See ports.observing."""
        outcome = Outcome()
        with ExitStack() as stack:
            theirs = [
                stack.enter_context(one.watch(kind, name, task_id=task_id, carrier=carrier))
                for one in self._observers
            ]
            try:
                yield outcome
            finally:
                for one in theirs:
                    one.value = outcome.value
