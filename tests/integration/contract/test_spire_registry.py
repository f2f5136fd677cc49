"""The registry keeps its contract with a real SPIRE server behind it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest
import pytest_asyncio

from broker.adapters.spire.registry import SpireWorkloadRegistry, open_registry
from broker.devstack import spire
from broker.devstack.stack import DevStack
from broker.devstack.state import TRUST_DOMAIN
from broker.domain.workload import WorkloadEntry
from tests.contract.registering import RegistryCases
from tests.integration.registry.spire_alone import spire_alone


class SpireBackend:
    """Implements tests.contract.registering.Backend."""

    def __init__(self, stack: DevStack, registry: SpireWorkloadRegistry) -> None:
        self.registry = registry
        self.trust_domain = TRUST_DOMAIN
        self._stack = stack

    async def plant(self, entry: WorkloadEntry) -> None:
        words = ["-entryID", entry.entry_id, "-spiffeID", str(entry.spiffe_id)]
        words += ["-parentID", str(entry.parent_id)]
        for selector in sorted(entry.selectors):
            words += ["-selector", str(selector)]
        words += ["-x509SVIDTTL", str(int(entry.x509_svid_ttl.total_seconds()))]
        words += ["-jwtSVIDTTL", str(int(entry.jwt_svid_ttl.total_seconds()))]
        await asyncio.to_thread(self._stack.spire._server, "entry", "create", *words)

    @contextmanager
    def silent(self) -> Iterator[None]:
        self._stack.stop_part(spire.SERVER)
        try:
            yield
        finally:
            self._stack.start_part(spire.SERVER)

    def empty(self) -> None:
        shown = json.loads(self._stack.spire._server("entry", "show", "-output", "json"))
        for entry in shown.get("entries", []):
            self._stack.spire.delete(entry["id"])


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevStack]:
    with spire_alone(tmp_path_factory.mktemp("registry") / "dev", agent=False) as stack:
        yield stack


class TestSpireRegistry(RegistryCases):
    @pytest_asyncio.fixture
    async def backend(self, stack: DevStack) -> AsyncIterator[SpireBackend]:
        address = f"unix://{stack.spire.server_socket}"
        async with open_registry(address, endpoint_socket="", trust_domain=TRUST_DOMAIN) as registry:
            backend = SpireBackend(stack, registry)
            backend.empty()
            yield backend
