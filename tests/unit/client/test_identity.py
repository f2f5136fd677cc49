"""The SVID from a Workload API that does as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from broker.client import Broker, NoIdentity, WorkloadApiIdentity
from tests.unit.client.authority import AGENT_ID, Authority
from tests.unit.client.conftest import eventually
from tests.unit.client.workload_api import WorkloadApi

SOON = timedelta(seconds=8)


@pytest.fixture
def api(folder: Path) -> Iterator[WorkloadApi]:
    api = WorkloadApi(folder / "agent.sock")
    yield api
    api.break_streams()
    api.server.stop(0).wait()


@pytest.fixture
def patient(api: WorkloadApi) -> Iterator[WorkloadApiIdentity]:
    identity = WorkloadApiIdentity(api.address)
    yield identity
    identity._stop.set()
    api.break_streams()
    if identity._thread is not None:
        identity._thread.join(10)


async def test_the_svid_with_its_own_trust_domains_authorities(
    api: WorkloadApi, authority: Authority, patient: WorkloadApiIdentity
) -> None:
    given = authority.svid(AGENT_ID)
    api.give(given)
    await patient.start(SOON)
    svid = patient.svid()
    assert (svid.spiffe_id, svid.trust_domain) == (AGENT_ID, "example.test")
    assert svid.chain == given.chain
    assert svid.authorities == authority.pem
    assert svid.key.decode() not in repr(svid)
    assert "PRIVATE" not in repr(svid)


async def test_an_identity_that_comes_late_is_waited_for(
    api: WorkloadApi, authority: Authority, patient: WorkloadApiIdentity
) -> None:
    work = asyncio.create_task(patient.start(SOON))
    await eventually(lambda: api.streams >= 2)
    assert not work.done()
    api.give(authority.svid(AGENT_ID))
    await work
    assert patient.version == 1


async def test_no_entry_is_said_with_what_to_check(api: WorkloadApi, patient: WorkloadApiIdentity) -> None:
    with pytest.raises(NoIdentity, match=r"no identity issued.*registered as an agent instance"):
        await patient.start(timedelta(seconds=0.5))


async def test_no_agent_is_said_with_what_to_check(folder: Path) -> None:
    with pytest.raises(NoIdentity, match=r"no SVID from unix://.* is SPIRE's agent running"):
        await WorkloadApiIdentity(f"unix://{folder}/none.sock").start(timedelta(seconds=0.3))


async def test_an_unset_socket_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPIFFE_ENDPOINT_SOCKET", raising=False)
    monkeypatch.setenv("TASKLEASE_BROKER", "broker.test:8443")
    with pytest.raises(NoIdentity, match="SPIFFE_ENDPOINT_SOCKET is not set"):
        async with Broker.connect():
            pytest.fail("connected")


async def test_the_socket_of_the_environment_is_used(
    api: WorkloadApi, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPIFFE_ENDPOINT_SOCKET", api.address)
    api.give(authority.svid(AGENT_ID))
    identity = WorkloadApiIdentity()
    await identity.start(SOON)
    assert identity.svid().spiffe_id == AGENT_ID
    await identity.close()


async def test_a_rotation_is_noticed(
    api: WorkloadApi, authority: Authority, patient: WorkloadApiIdentity
) -> None:
    api.give(authority.svid(AGENT_ID))
    await patient.start(SOON)
    newer = authority.svid(AGENT_ID)
    await eventually(lambda: api.streams >= 2)  # it has asked once, and follows now
    api.give(newer)
    await asyncio.wait_for(patient.changed(1), 5)
    assert patient.svid().chain == newer.chain


async def test_a_source_that_died_for_good_is_replaced_and_keeps_its_svid_meanwhile(
    api: WorkloadApi, authority: Authority, patient: WorkloadApiIdentity
) -> None:
    first = authority.svid(AGENT_ID)
    api.give(first)
    await patient.start(SOON)
    await eventually(lambda: api.streams == 2 and bool(api._queues))
    api.break_streams()
    assert patient.svid().chain == first.chain
    await eventually(lambda: api.streams >= 4)  # asked anew, followed anew
    assert patient.version == 1  # the same SVID is no news
    newer = authority.svid(AGENT_ID)
    api.give(newer)
    await asyncio.wait_for(patient.changed(1), 5)
    assert patient.svid().chain == newer.chain
