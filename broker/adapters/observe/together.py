"""Several observers as one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Final

from broker.domain.errors import BrokerError
from broker.ports.observing import OK, Kind, Observer, Outcome


class Observers:
    """Implements ports.observing.Observer. Says of work that raised how it ended, unless it was said."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers
        self.reads_carriers: Final = any(one.reads_carriers for one in observers)

    @contextmanager
    def watch(
        self, kind: Kind, name: str, *, task_id: str = "", carrier: Mapping[str, str] | None = None
    ) -> Iterator[Outcome]:
        """See ports.observing."""
        if len(self._observers) == 1:
            with self._observers[0].watch(kind, name, task_id=task_id, carrier=carrier) as outcome:
                try:
                    yield outcome
                except BaseException as error:
                    _say(outcome, error)
                    raise
            return
        outcome = Outcome()
        with ExitStack() as stack:
            theirs = [
                stack.enter_context(one.watch(kind, name, task_id=task_id, carrier=carrier))
                for one in self._observers
            ]
            try:
                yield outcome
            except BaseException as error:
                _say(outcome, error)
                raise
            finally:
                for one in theirs:
                    one.value = outcome.value


def _say(outcome: Outcome, error: BaseException) -> None:
    if outcome.value == OK:
        outcome.value = error.reason if isinstance(error, BrokerError) else type(error).__name__
