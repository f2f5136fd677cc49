"""A store in which the traces have happened, for whoever reads the trail."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

from broker.adapters.policy.bounded import BoundedPolicy
from broker.adapters.policy.traces import Trace
from broker.adapters.policy.tracing import run_trace
from broker.adapters.store.sqlite import SqliteStore
from broker.domain.catalog import Catalog
from tests.fakes.issuer import FakeIssuer
from tests.fakes.system import CountingIds, FakeClock
from tests.scenarios.worlds import OnTheStore
from tests.unit.usecases.wiring import Broker


def a_recorded_store(file: Path, traces: Iterable[Trace], policy: BoundedPolicy, catalog: Catalog) -> str:
    """The store's URL. Each trace a day after the one before, so that nothing of one sticks in the next."""

    async def happen() -> None:
        store: Any = SqliteStore.open(f"sqlite:///{file}")
        broker = Broker(store, FakeIssuer(), FakeClock(), CountingIds(), catalog)
        try:
            for number, trace in enumerate(traces):
                begins = trace.model.begins + timedelta(days=number)
                moved = Trace(
                    file=trace.file,
                    line=trace.line,
                    model=trace.model.model_copy(update={"begins": begins, "instance": f"i-{number}"}),
                    lines=trace.lines,
                )
                await run_trace(moved, OnTheStore(broker, policy, catalog), catalog)
        finally:
            await store.close()

    asyncio.run(happen())
    return f"sqlite:///{file}"
