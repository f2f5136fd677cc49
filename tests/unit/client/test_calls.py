"""Calls: repeated where that helps, bounded in time, refused in types."""

from __future__ import annotations

import asyncio
import logging
import pickle
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest

from broker.api.v1 import credentials_pb2, tasks_pb2
from broker.client import (
    Broker,
    BrokerError,
    DenialClass,
    Denied,
    IdempotencyConflict,
    InvalidRequest,
    LeaseNotActive,
    LimitReached,
    NotConnected,
    NotFound,
    TaskEnded,
    TaskOnHold,
    Unauthenticated,
    Unavailable,
)
from tests.unit.client.authority import AGENT_ID, BROKER_ID, Authority
from tests.unit.client.conftest import PATIENCE, TurningIdentity, eventually
from tests.unit.client.fake_broker import PASSWORD, FakeBroker, hang, refusal

SHORT = timedelta(seconds=0.4)
Code = grpc.StatusCode


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (Code.UNAUTHENTICATED, "SVID_INVALID", Unauthenticated),
        (Code.PERMISSION_DENIED, "ROLE_NOT_ALLOWED", Denied),
        (Code.PERMISSION_DENIED, "TASK_ON_HOLD", TaskOnHold),
        (Code.NOT_FOUND, "TASK_NOT_FOUND", NotFound),
        (Code.INVALID_ARGUMENT, "FIELD_INVALID", InvalidRequest),
        (Code.ALREADY_EXISTS, "IDEMPOTENCY_KEY_REUSED", IdempotencyConflict),
        (Code.FAILED_PRECONDITION, "TASK_NOT_ACTIVE", TaskEnded),
        (Code.FAILED_PRECONDITION, "LEASE_NOT_RENEWABLE", LeaseNotActive),
        (Code.RESOURCE_EXHAUSTED, "LEASE_LIMIT_REACHED", LimitReached),
        (Code.UNAVAILABLE, "CREDENTIAL_BACKEND_UNAVAILABLE", Unavailable),
        (Code.DEADLINE_EXCEEDED, "CALL_DEADLINE_EXCEEDED", Unavailable),
        (Code.INTERNAL, "INTERNAL", BrokerError),
        (Code.PERMISSION_DENIED, "A_REASON_OF_TOMORROW", Denied),
        (Code.PERMISSION_DENIED, "", Denied),
    ],
)
async def test_each_reason_has_its_type(
    broker: Broker, fake: FakeBroker, code: grpc.StatusCode, reason: str, kind: type[BrokerError]
) -> None:
    fake.steps["acquire"].extend(refusal(code, reason) for _ in range(20))
    async with broker.task("reconcile", intent="tests", roles=["orders"]) as task:
        with pytest.raises(BrokerError) as caught:
            await task.acquire("orders", within=SHORT)
    assert type(caught.value) is kind
    assert caught.value.reason == reason
    assert caught.value.request_id == ("req-1" if reason else "")


async def test_a_denial_says_what_it_means(broker: Broker, fake: FakeBroker) -> None:
    fake.steps["acquire"].append(
        refusal(Code.PERMISSION_DENIED, "POLICY_DENIED", metadata={"denial_class": "grantable"})
    )
    async with broker.task("reconcile", intent="tests", roles=["orders"]) as task:
        with pytest.raises(Denied, match=r"refused \[POLICY_DENIED\] \(request req-1\)") as caught:
            await task.acquire("orders")
    assert caught.value.denial_class is DenialClass.GRANTABLE
    assert len(fake.calls["acquire"]) == 1


async def test_fields_at_fault_are_named_with_their_remedy(broker: Broker, fake: FakeBroker) -> None:
    fake.steps["acquire"].append(
        refusal(Code.INVALID_ARGUMENT, "FIELD_INVALID", fields={"role": "1 to 64 characters"})
    )
    async with broker.task("reconcile", intent="tests") as task:
        with pytest.raises(InvalidRequest, match="role: 1 to 64 characters") as caught:
            await task.acquire("")
    assert caught.value.fields == {"role": "1 to 64 characters"}


async def test_what_is_unavailable_is_tried_again_under_the_same_key(
    broker: Broker, fake: FakeBroker
) -> None:
    fake.steps["acquire"].extend([refusal(Code.UNAVAILABLE, "STORE_UNAVAILABLE")] * 2)
    fake.steps["declare"].append(refusal(Code.UNAVAILABLE, "STORE_UNAVAILABLE"))
    async with broker.task("reconcile", intent="tests", roles=["orders"]) as task:
        assert (await task.acquire("orders")).lease_id == "lease-1"
        assert (await task.acquire("orders")).lease_id == "lease-2"
    keys = [request.idempotency_key for request in fake.calls["acquire"]]
    assert keys[0] == keys[1] == keys[2] != keys[3]
    declared = [request.idempotency_key for request in fake.calls["declare"]]
    assert declared[0] == declared[1] != keys[0]


async def test_the_wait_that_the_broker_asks_for_is_kept(broker: Broker, fake: FakeBroker) -> None:
    fake.steps["acquire"].append(
        refusal(Code.RESOURCE_EXHAUSTED, "RATE_LIMITED", retry_after=timedelta(seconds=0.5))
    )
    async with broker.task("reconcile", intent="tests", roles=["orders"]) as task:
        began = time.monotonic()
        await task.acquire("orders")
        assert time.monotonic() - began >= 0.5


async def test_a_wait_beyond_the_deadline_is_not_begun(broker: Broker, fake: FakeBroker) -> None:
    fake.steps["acquire"].append(
        refusal(Code.RESOURCE_EXHAUSTED, "RATE_LIMITED", retry_after=timedelta(seconds=30))
    )
    async with broker.task("reconcile", intent="tests", roles=["orders"]) as task:
        began = time.monotonic()
        with pytest.raises(LimitReached) as caught:
            await task.acquire("orders", within=timedelta(seconds=2))
        assert time.monotonic() - began < 1
    assert caught.value.retry_after == timedelta(seconds=30)


async def test_a_broker_that_does_not_answer_is_not_waited_for_longer(
    broker: Broker, fake: FakeBroker
) -> None:
    fake.steps["acquire"].append(hang())
    async with broker.task("reconcile", intent="tests", roles=["orders"]) as task:
        began = time.monotonic()
        with pytest.raises(Unavailable, match="did not answer in time"):
            await task.acquire("orders", within=SHORT)
        assert time.monotonic() - began < 2


async def test_a_restart_of_the_broker_in_between_is_not_noticed(broker: Broker, fake: FakeBroker) -> None:
    async with broker.task("reconcile", intent="tests", roles=["orders"]) as task:
        await fake.stop()
        work = asyncio.create_task(task.acquire("orders"))
        await asyncio.sleep(0.3)
        assert not work.done()
        await fake.start()
        assert (await asyncio.wait_for(work, 5)).role == "orders"


async def test_an_impostor_after_a_restart_gets_nothing(
    broker: Broker, fake: FakeBroker, authority: Authority
) -> None:
    async with broker.task("reconcile", intent="tests", roles=["orders"], cancel_on_end=False) as task:
        await task.acquire("orders")
        await fake.stop()
        await fake.start(authority.broker_svid("spiffe://example.test/somebody/else"))
        with pytest.raises(NotConnected, match="somebody/else"):
            await task.acquire("orders")
        assert len(fake.calls["acquire"]) == 1
        await fake.stop()
        await fake.start()


async def test_an_answer_that_is_gone_is_given_back_and_asked_for_anew(
    broker: Broker, fake: FakeBroker
) -> None:
    gone = refusal(Code.ABORTED, "IDEMPOTENT_RESULT_GONE", metadata={"lease_id": "lease-lost"})
    fake.steps["acquire"].append(gone)
    async with broker.task("reconcile", intent="tests", roles=["orders"]) as task:
        assert (await task.acquire("orders")).lease_id == "lease-1"
    assert [request.lease_id for request in fake.calls["release"]] == ["lease-lost"]
    first, second = [request.idempotency_key for request in fake.calls["acquire"]]
    assert first != second


@pytest.mark.parametrize(
    ("spiffe_id", "says"),
    [
        ("spiffe://example.test/agent/invoice-bot/two", "agent/invoice-bot/two"),
        ("spiffe://other.test/tasklease/broker", "other.test"),
    ],
)
async def test_whoever_is_not_the_broker_is_refused_at_once(
    authority: Authority, fake: FakeBroker, identity: TurningIdentity, spiffe_id: str, says: str
) -> None:
    await fake.stop()
    await fake.start(authority.broker_svid(spiffe_id))
    began = time.monotonic()
    with pytest.raises(NotConnected, match=says):
        async with Broker.connect(fake.address, identity=identity, patience=PATIENCE):
            pytest.fail("connected")
    assert time.monotonic() - began < 2
    assert not fake.calls


async def test_the_brokers_id_without_its_dns_name_is_refused(
    authority: Authority, fake: FakeBroker, identity: TurningIdentity
) -> None:
    await fake.stop()
    await fake.start(authority.svid(BROKER_ID, dns_names=("elsewhere",)))
    with pytest.raises(NotConnected, match="Hostname mismatch"):
        async with Broker.connect(fake.address, identity=identity, patience=PATIENCE):
            pytest.fail("connected")


async def test_another_authoritys_broker_is_refused(
    folder: object, fake: FakeBroker, authority: Authority
) -> None:
    foreign = Authority()
    agent = foreign.svid(AGENT_ID)
    with pytest.raises(NotConnected, match="no broker of"):
        async with Broker.connect(fake.address, identity=TurningIdentity(agent), patience=PATIENCE):
            pytest.fail("connected")


async def test_the_expected_id_may_be_given(
    authority: Authority, fake: FakeBroker, identity: TurningIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = "spiffe://example.test/brokers/two"
    await fake.stop()
    await fake.start(authority.broker_svid(other))
    async with Broker.connect(fake.address, identity=identity, broker_id=other, patience=PATIENCE) as broker:
        assert broker.spiffe_id == AGENT_ID
    monkeypatch.setenv("TASKLEASE_BROKER_ID", other)
    monkeypatch.setenv("TASKLEASE_BROKER", fake.address)
    async with Broker.connect(identity=identity, patience=PATIENCE) as broker:
        assert broker.spiffe_id == AGENT_ID


async def test_nobody_at_the_address_is_said_after_the_patience(identity: TurningIdentity) -> None:
    with pytest.raises(NotConnected, match=r"nobody answers at unix:/tmp/none\.sock"):
        async with Broker.connect("unix:/tmp/none.sock", identity=identity, patience=SHORT):
            pytest.fail("connected")


async def test_a_broker_that_comes_up_late_is_waited_for(
    authority: Authority, fake: FakeBroker, identity: TurningIdentity
) -> None:
    await fake.stop()

    async def late() -> None:
        await asyncio.sleep(0.4)
        await fake.start()

    work = asyncio.create_task(late())
    async with Broker.connect(fake.address, identity=identity, patience=PATIENCE) as broker:
        assert broker.spiffe_id == AGENT_ID
    await work


@pytest.mark.parametrize("address", ["localhost", "localhost:http", ":8443"])
async def test_what_is_no_address_is_said_at_once(identity: TurningIdentity, address: str) -> None:
    with pytest.raises(NotConnected, match="give host:port"):
        async with Broker.connect(address, identity=identity, patience=PATIENCE):
            pytest.fail("connected")


def test_no_address_at_all_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TASKLEASE_BROKER", raising=False)
    with pytest.raises(NotConnected, match="TASKLEASE_BROKER"):
        Broker.connect()


async def test_the_key_never_touches_a_disk(
    fake: FakeBroker, identity: TurningIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the ssl module reads the key from has no name in any file system."""
    import ssl

    read: list[str] = []
    load = ssl.SSLContext.load_cert_chain

    def watched(self: ssl.SSLContext, certfile: str) -> None:
        read.append(certfile)
        load(self, certfile)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", watched)
    async with Broker.connect(fake.address, identity=identity, patience=PATIENCE):
        pass
    assert read
    assert all(name.startswith("/proc/self/fd/") for name in read)


async def test_tasks_are_listed_over_pages_and_looked_at(broker: Broker, fake: FakeBroker) -> None:
    assert [task.task_id for task in await broker.list_tasks()] == ["task-1", "task-1"]
    assert (await broker.get_task("task-1")).state == tasks_pb2.TASK_STATE_ACTIVE
    assert [request.page_token for request in fake.calls["list"]] == ["", "more"]


async def test_a_closed_connection_says_so(fake: FakeBroker, identity: TurningIdentity) -> None:
    async with Broker.connect(fake.address, identity=identity, patience=PATIENCE) as broker:
        pass
    with pytest.raises(NotConnected, match="block was left"):
        await broker.list_tasks()


async def test_a_credential_is_kept_current(broker: Broker, fake: FakeBroker) -> None:
    async with broker.task("reconcile", intent="tests", roles=["orders"]) as task:
        credential = await task.acquire("orders")
        assert credential.expires_at.year == 2030
        await task.renew(credential)
        assert credential.expires_at.year == 2031
        await fake.until(lambda: fake.attached == 1)
        event = fake.lease(1, state=credentials_pb2.LEASE_STATE_LIVE)
        event.expires_at.FromDatetime(datetime(2032, 1, 1, tzinfo=UTC))
        await fake.tell("LEASE_RENEWED", lease=event)
        await eventually(lambda: credential.expires_at.year == 2032)
        assert not credential.revoked
        await credential.release()
        assert credential.revoked


async def test_after_a_gap_in_the_events_the_leases_are_looked_at(broker: Broker, fake: FakeBroker) -> None:
    async with broker.task("reconcile", intent="tests", roles=["orders"]) as task:
        credential = await task.acquire("orders")
        await fake.until(lambda: fake.attached == 1)
        fake.task.leases.append(fake.lease(1, state=credentials_pb2.LEASE_STATE_REVOKED))
        fake.streams[0].put_nowait(None)
        await eventually(lambda: credential.revoked)


async def test_a_credential_gives_itself_back(broker: Broker, fake: FakeBroker) -> None:
    async with broker.task("reconcile", intent="tests", roles=["orders"]) as task:
        async with await task.acquire("orders") as credential:
            assert not fake.calls["release"]
        assert [request.lease_id for request in fake.calls["release"]] == [credential.lease_id]
        assert credential.revoked


async def test_all_credentials_are_revoked_when_the_task_has_ended(broker: Broker) -> None:
    async with broker.task("reconcile", intent="tests", roles=["orders"]) as task:
        credential = await task.acquire("orders")
    assert credential.revoked
    assert task.state == "ENDED"


async def test_nothing_that_is_printed_logged_or_pickled_holds_the_secret(
    broker: Broker, fake: FakeBroker, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        async with broker.task("reconcile", intent="tests", roles=["orders"]) as task:
            credential = await task.acquire("orders")
            secret = credential["password"]
            logging.getLogger("test").info("%s %r %s", credential, credential, secret)
            shown = (
                f"{credential} {credential!r} {secret} {secret!r} {secret:>40} {dict(credential)} {task!r}"
            )
            for thing in (credential, secret):
                with pytest.raises(TypeError, match="pickled"):
                    pickle.dumps(thing)
    assert secret.reveal() == PASSWORD
    assert PASSWORD not in shown + caplog.text
    assert "[secret]" in caplog.text


# Several replicas ----------------------------------------------------------------------------------------------


async def test_of_several_replicas_any_that_answers_will_do(
    fake: FakeBroker, identity: TurningIdentity
) -> None:
    nobody = [f"unix:{fake.address.removeprefix('unix:')}.{number}" for number in range(3)]
    addresses = ",".join([*nobody, fake.address])
    for _ in range(5):  # they are tried in another order each time
        async with Broker.connect(addresses, identity=identity, patience=PATIENCE) as broker:
            assert await broker.list_tasks()


async def test_when_one_replica_is_gone_the_next_one_is_called(
    authority: Authority, folder: Path, identity: TurningIdentity
) -> None:
    fakes = [FakeBroker(authority, folder / f"{number}.sock") for number in range(2)]
    for one in fakes:
        await one.start()
    addresses = ", ".join(one.address for one in fakes)
    async with Broker.connect(addresses, identity=identity, patience=PATIENCE) as broker:
        await broker.list_tasks()
        first = next(one for one in fakes if one.calls["list"])
        await first.stop()
        await broker.list_tasks()
    (second,) = (one for one in fakes if one is not first)
    assert second.calls["list"]
    await second.stop()


async def test_when_no_replica_answers_one_is_named(fake: FakeBroker, identity: TurningIdentity) -> None:
    await fake.stop()
    with pytest.raises(NotConnected, match="nobody answers at"):
        async with Broker.connect(f"{fake.address},{fake.address}x", identity=identity, patience=SHORT):
            pass
