"""The broker's own SVIDs and bundles, from a Workload API that does as it is told."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import pytest
from cryptography import x509

from broker.adapters.spire import identity as module
from broker.adapters.spire import supervising
from broker.adapters.spire.identity import NoIdentityError, WorkloadIdentity
from broker.domain.spiffe import SpiffeId
from tests.unit.client.authority import AGENT_ID, BROKER_ID, TRUST_DOMAIN, Authority
from tests.unit.client.conftest import eventually
from tests.unit.spire.conftest import SpireAgent

SOON = timedelta(seconds=8)
OWN = SpiffeId.parse(BROKER_ID)


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def identity(agent: SpireAgent, monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkloadIdentity]:
    monkeypatch.setattr(supervising, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(supervising, "LONGEST_PAUSE", 0.5)
    monkeypatch.setattr(supervising, "CHECK_EVERY", 0.05)
    identity = WorkloadIdentity(endpoint_socket=agent.address, expected_id=OWN)
    yield identity
    agent.break_streams()
    identity.close()
    assert not identity._source.thread.is_alive()


async def follows(agent: SpireAgent) -> None:
    await eventually(lambda: bool(agent._queues))


async def test_the_first_svid_and_the_bundle_of_its_trust_domain(
    agent: SpireAgent, authority: Authority, identity: WorkloadIdentity
) -> None:
    given = authority.broker_svid()
    agent.give(given)
    await identity.start(patience=SOON)
    assert identity.svid.spiffe_id == OWN
    assert identity.svid.chain_pem == given.chain
    leaf = x509.load_pem_x509_certificate(given.chain)
    assert identity.svid.expires_at == leaf.not_valid_after_utc
    bundle = identity.bundle(TRUST_DOMAIN)
    assert bundle is not None
    assert bundle.pem == identity.all_roots_pem() == authority.pem
    assert identity.bundle("other.test") is None


async def test_the_key_shows_in_no_repr(
    agent: SpireAgent, authority: Authority, identity: WorkloadIdentity
) -> None:
    agent.give(authority.broker_svid())
    await identity.start(patience=SOON)
    assert "PRIVATE KEY" in identity.svid.key_pem.reveal()
    assert "PRIVATE" not in repr(identity.svid)


async def test_a_federated_trust_domain_has_a_bundle_of_its_own(
    agent: SpireAgent, authority: Authority, identity: WorkloadIdentity
) -> None:
    theirs = Authority()
    agent.federated["other.test"] = theirs
    agent.give(authority.broker_svid())
    await identity.start(patience=SOON)
    own, other = identity.bundle(TRUST_DOMAIN), identity.bundle("other.test")
    assert own is not None
    assert other is not None
    assert (own.pem, other.pem) == (authority.pem, theirs.pem)
    assert own.digest != other.digest
    # The TLS layer gets all of them; the verifier asks for one at a time.
    assert identity.all_roots_pem() in {own.pem + other.pem, other.pem + own.pem}


async def test_a_rotation_brings_a_new_svid_and_a_new_version(
    agent: SpireAgent, authority: Authority, identity: WorkloadIdentity
) -> None:
    agent.give(authority.broker_svid())
    await identity.start(patience=SOON)
    before = identity.version
    await follows(agent)
    newer = authority.broker_svid()
    agent.give(newer)
    await eventually(lambda: identity.version > before)
    assert identity.svid.chain_pem == newer.chain


async def test_a_replaced_authority_leaves_the_bundle(
    agent: SpireAgent, authority: Authority, identity: WorkloadIdentity
) -> None:
    agent.give(authority.broker_svid())
    await identity.start(patience=SOON)
    old = identity.bundle(TRUST_DOMAIN)
    await follows(agent)
    successor = Authority()
    agent.give(successor.broker_svid())
    await eventually(lambda: identity.bundle(TRUST_DOMAIN) != old)
    new = identity.bundle(TRUST_DOMAIN)
    assert old is not None
    assert new is not None
    assert new.pem == successor.pem
    assert new.digest != old.digest


async def test_a_source_that_died_for_good_is_replaced_and_what_was_known_stays_meanwhile(
    agent: SpireAgent, authority: Authority, identity: WorkloadIdentity
) -> None:
    first = authority.broker_svid()
    agent.give(first)
    await identity.start(patience=SOON)
    await follows(agent)
    streams = agent.streams
    agent.break_streams()
    assert identity.svid.chain_pem == first.chain
    assert identity.bundle(TRUST_DOMAIN) is not None
    await eventually(lambda: agent.streams > streams and bool(agent._queues))
    newer = authority.broker_svid()
    agent.give(newer)
    await eventually(lambda: identity.svid.chain_pem == newer.chain)


async def test_an_entry_that_comes_late_is_waited_for(
    agent: SpireAgent, authority: Authority, identity: WorkloadIdentity
) -> None:
    work = asyncio.create_task(identity.start(patience=SOON))
    await eventually(lambda: agent.streams >= 2)
    assert not work.done()
    agent.give(authority.broker_svid())
    await work


async def test_without_an_entry_it_is_said_what_to_look_at(identity: WorkloadIdentity) -> None:
    with pytest.raises(NoIdentityError, match="does an entry with this process's selectors exist"):
        await identity.start(patience=timedelta(seconds=0.5))
    with pytest.raises(NoIdentityError):
        _ = identity.svid
    assert not identity.healthy(datetime.now(UTC))


async def test_without_an_agent_it_is_said_what_to_look_at(folder: Path) -> None:
    identity = WorkloadIdentity(endpoint_socket=f"unix://{folder}/none.sock", expected_id=OWN)
    with pytest.raises(NoIdentityError, match="Is the SPIRE agent running"):
        await identity.start(patience=timedelta(seconds=0.3))
    identity.close()


async def test_an_svid_of_somebody_else_is_refused_at_the_start(
    agent: SpireAgent, authority: Authority, identity: WorkloadIdentity
) -> None:
    agent.give(authority.svid(AGENT_ID))
    with pytest.raises(NoIdentityError, match=f"{AGENT_ID}, the configuration says {BROKER_ID}"):
        await identity.start(patience=SOON)


async def test_where_several_entries_match_the_brokers_own_is_taken(
    agent: SpireAgent, authority: Authority, identity: WorkloadIdentity
) -> None:
    agent.others.append(authority.svid(AGENT_ID))
    agent.give(authority.broker_svid())
    await identity.start(patience=SOON)
    assert identity.svid.spiffe_id == OWN


async def test_the_broker_never_becomes_somebody_else_later(
    agent: SpireAgent, authority: Authority, identity: WorkloadIdentity
) -> None:
    own = authority.broker_svid()
    agent.give(own)
    await identity.start(patience=SOON)
    await follows(agent)
    streams = agent.streams
    agent.give(authority.svid(AGENT_ID))
    await eventually(lambda: agent.streams > streams)  # the source was given up, and asked for again
    assert identity.svid.chain_pem == own.chain
    newer = authority.broker_svid()
    agent.give(newer)
    await eventually(lambda: identity.svid.chain_pem == newer.chain)


async def test_healthy_ends_with_the_svid(
    agent: SpireAgent, authority: Authority, identity: WorkloadIdentity
) -> None:
    agent.give(authority.broker_svid())
    await identity.start(patience=SOON)
    end = identity.svid.expires_at
    assert identity.healthy(end - timedelta(seconds=1))
    assert not identity.healthy(end)


async def test_a_jwt_svid_is_the_brokers_own_and_for_the_audience(
    agent: SpireAgent, authority: Authority, identity: WorkloadIdentity
) -> None:
    agent.give(authority.broker_svid())
    token = await identity.fetch_jwt_svid("vault")
    assert agent.jwt_requests == [(BROKER_ID, ["vault"])]
    claims = jwt.decode(token.reveal(), options={"verify_signature": False})
    assert (claims["sub"], claims["aud"]) == (BROKER_ID, ["vault"])
    assert token.reveal() not in repr(token)


async def test_a_jwt_svid_that_spire_refuses_is_no_identity(identity: WorkloadIdentity) -> None:
    with pytest.raises(NoIdentityError, match="no JWT-SVID for vault"):
        await identity.fetch_jwt_svid("vault")


async def test_an_agent_that_hangs_does_not_hang_the_log_in(
    agent: SpireAgent, identity: WorkloadIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_JWT_TIMEOUT", 0.2)
    agent.hanging = threading.Event()
    try:
        with pytest.raises(NoIdentityError, match="no JWT-SVID for vault"):
            await asyncio.wait_for(identity.fetch_jwt_svid("vault"), 8)
    finally:
        agent.hanging.set()
