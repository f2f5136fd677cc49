"""What was learned of task types, as it is stored, for whoever judges by it.

What always holds: a stored model that cannot be read is judged as if nothing was learned, and never written over.
"""

from __future__ import annotations

import json
import logging
from datetime import datetime, timedelta
from typing import Final

from broker.anomaly.learning import NOTHING_LEARNED, Model, ModelError, as_data, from_data
from broker.ports.store import Store
from broker.ports.system import Clock

logger = logging.getLogger(__name__)

KEPT: Final = timedelta(seconds=30)
"""For how long a model in memory is judged by before it is looked for again."""


class Usual:
    """The stored model, kept in memory for a while. Of one event loop."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._read_at: datetime | None = None
        self._version = 0
        self._model = NOTHING_LEARNED

    async def current(self) -> Model:
        """The one to judge by; the same object as long as nothing was learned.

        Raises:
            StoreUnavailableError: it cannot be read.
        """
        now = self._clock.now()
        if self._read_at is not None and timedelta() <= now - self._read_at < KEPT:
            return self._model
        stored = await self._store.model()
        if stored is not None and stored.version != self._version:
            try:
                self._model = read(stored.data)
            except ModelError as error:
                logger.error("what was learned cannot be read, and is not judged by: %s", error)
            self._version = stored.version
        self._read_at = now
        return self._model


def read(data: str) -> Model:
    """What `written` gave.

    Raises:
        ModelError: it is something else.
    """
    try:
        parsed = json.loads(data)
    except ValueError as error:
        message = "the model: not JSON"
        raise ModelError(message) from error
    return from_data(parsed)


def written(model: Model) -> str:
    """As text, in one form."""
    return json.dumps(as_data(model), sort_keys=True, separators=(",", ":"))
