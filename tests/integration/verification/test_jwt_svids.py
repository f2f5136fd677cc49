"""The second way in: a JWT-SVID of a real SPIRE, for callers behind a proxy that ends TLS."""

from __future__ import annotations

import base64
import json
import sqlite3
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from broker.api.v1 import credentials_pb2, tasks_pb2
from broker.demo.callers import calling
from tests.integration.verification.realms import (
    OURS,
    Realms,
    TerminatingProxy,
    acquisition,
    declaration,
    until,
)
from tests.integration.verification.test_federation import declared, lets_in, refusal


def test_a_caller_behind_a_proxy_does_its_work_and_the_audit_trail_says_how_it_was_verified(
    realms: Realms, tmp_path: Path
) -> None:
    certificate, key, _bundle = realms.stack.spire.mint(
        f"{OURS}/proxy", ttl=timedelta(minutes=5), folder=tmp_path, dns_names=["tasklease-broker"]
    )
    proxy = TerminatingProxy((certificate, key), realms.jwt_address, realms.own_authorities())
    token = realms.token(OURS)
    try:
        with realms.calling_with(f"Bearer {token}", address=proxy.address) as caller:
            task_id = declared(caller, "reconcile-invoices")
            credential = caller.call("AcquireCredential", acquisition(task_id), timeout=20)
            assert credential.ok, credential
            assert lets_in(realms, credential.message.secret)
            done = tasks_pb2.CompleteTaskRequest(task_id=task_id, outcome=tasks_pb2.TASK_OUTCOME_SUCCEEDED)
            assert caller.call("CompleteTask", done, timeout=30).ok
        assert proxy.passed == 1
    finally:
        proxy.close()
    with closing(sqlite3.connect(realms.stack.broker.folder / "broker.db")) as store:
        rows = store.execute("SELECT kind, actor, facts FROM audit_records WHERE task_id = ?", [task_id])
        records = {kind: (actor, facts) for kind, actor, facts in rows}
    subject = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))["sub"]
    for kind in ("task.declared", "credential.intended", "credential.issued", "task.ending"):
        actor, facts = records[kind]
        assert actor == subject
        assert json.loads(facts)["verified_by"] == "jwt-svid"
        assert token not in facts
        assert token.split(".")[2] not in facts


@pytest.mark.parametrize(
    ("authorization", "reason"),
    [
        ((), "SVID_MISSING"),
        (("Bearer {ours}", "Bearer {ours}"), "SVID_INVALID"),
        (("Bearer {ours}", "Bearer {other}"), "SVID_INVALID"),
        (("Basic {ours}",), "SVID_INVALID"),
        (("{ours}",), "SVID_INVALID"),
        (("Bearer {ours}, Bearer {other}",), "SVID_INVALID"),
        (("Bearer  {ours}",), "SVID_INVALID"),
        (("Bearer",), "SVID_INVALID"),
        (("Bearer {audience}",), "SVID_INVALID"),
        (("Bearer {long}",), "SVID_INVALID"),
        (("Bearer {foreign}",), "SVID_INVALID"),
    ],
    ids=[
        "no header", "the same twice", "two", "another scheme", "no scheme", "two in one", "two spaces",
        "no token", "for another audience", "valid for longer than is taken", "a foreign authority of our name",
    ],
)  # fmt: skip
def test_what_is_not_one_good_token_is_refused(
    realms: Realms, authorization: tuple[str, ...], reason: str
) -> None:
    tokens = {
        "ours": realms.token(OURS),
        "other": realms.token(OURS),
        "audience": realms.token(OURS, audience="vault"),
        "long": realms.token(OURS, ttl=timedelta(minutes=11)),
        "foreign": realms.token(OURS, by=realms.imposter),
    }
    assert realms.token_knock(tokens["ours"]).ok
    with realms.calling_with(*(value.format(**tokens) for value in authorization)) as caller:
        assert refusal(caller.knock()) == ("UNAUTHENTICATED", reason)


def test_an_rpc_that_is_not_listed_is_refused_whoever_calls(realms: Realms) -> None:
    with realms.calling_with(f"Bearer {realms.token(OURS)}") as caller:
        for rpc, request in (
            ("GetTask", tasks_pb2.GetTaskRequest(task_id="task-00000000000000000000000001")),
            ("RenewCredential", credentials_pb2.RenewCredentialRequest()),
        ):
            assert refusal(caller.call(rpc, request)) == ("UNIMPLEMENTED", "RPC_UNKNOWN")


def test_a_stream_and_the_calls_of_a_connection_end_when_the_token_does(realms: Realms) -> None:
    token = realms.token(OURS, ttl=timedelta(seconds=5))
    end = time.monotonic() + 5
    with realms.calling_with(f"Bearer {token}") as caller:
        task_id = declared(caller, "reconcile-invoices")
        stream = caller.method("AttachTask")(tasks_pb2.AttachTaskRequest(task_id=task_id), 60)
        with pytest.raises(grpc.RpcError) as ended:
            list(stream)
        assert time.monotonic() < end + 3, "still attached with an expired token"
        assert ended.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert refusal(caller.knock()) == ("UNAUTHENTICATED", "SVID_EXPIRED")


def test_a_token_is_nothing_where_certificates_are_asked_for(realms: Realms) -> None:
    victim = realms.token(OURS)
    with realms.calling_with(f"Bearer {victim}", address=realms.stack.broker.address) as caller:
        assert caller.knock().code is grpc.StatusCode.UNAVAILABLE  # no handshake without a certificate
    thief = realms.svid(OURS)
    credentials = grpc.ssl_channel_credentials(thief.authorities, thief.key, thief.chain)
    options = [("grpc.ssl_target_name_override", "tasklease-broker")]
    with realms.calling_with(f"Bearer {victim}") as caller:
        task_id = declared(caller, "reconcile-invoices")
    with grpc.secure_channel(realms.stack.broker.address, credentials, options) as channel:
        from broker.api.v1 import tasks_pb2_grpc

        stub = tasks_pb2_grpc.TaskServiceStub(channel)  # type: ignore[no-untyped-call]
        with pytest.raises(grpc.RpcError) as refused:
            stub.GetTask(
                tasks_pb2.GetTaskRequest(task_id=task_id),
                metadata=[("authorization", f"Bearer {victim}")],
                timeout=5,
            )
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_certificate_is_nothing_where_tokens_are_asked_for(realms: Realms) -> None:
    svid = realms.svid(OURS)
    assert realms.knock(svid).ok
    with calling(realms.jwt_address, authorities=svid.authorities, svid=svid) as caller:
        assert refusal(caller.knock()) == ("UNAUTHENTICATED", "SVID_MISSING")


def test_a_quarantined_instance_is_refused_with_a_good_token(realms: Realms) -> None:
    token = realms.token(OURS)
    subject = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))["sub"]
    with realms.calling_with(f"Bearer {token}") as caller:
        assert caller.knock().ok
        with closing(sqlite3.connect(realms.stack.broker.folder / "broker.db", timeout=10)) as store:
            store.execute(
                "INSERT INTO quarantines (kind, name, since, imposed_by, reason) "
                "VALUES ('instance', ?, 0, 'spiffe://dev.tasklease.test/operator/test', 'test')",
                [subject],
            )
            store.commit()
        until(lambda: not caller.knock().ok, "refused")
        assert refusal(caller.knock()) == ("PERMISSION_DENIED", "INSTANCE_QUARANTINED")


def test_a_token_acts_for_its_subject_alone(realms: Realms) -> None:
    with realms.calling_with(f"Bearer {realms.token(OURS)}") as victim:
        task_id = declared(victim, "reconcile-invoices")
    with realms.calling_with(f"Bearer {realms.token(OURS)}") as thief:
        request = tasks_pb2.CompleteTaskRequest(task_id=task_id, outcome=tasks_pb2.TASK_OUTCOME_SUCCEEDED)
        assert thief.call("CompleteTask", request).reason == "TASK_NOT_FOUND"
        assert thief.call("AcquireCredential", acquisition(task_id)).reason == "TASK_NOT_FOUND"
        assert refusal(thief.call("DeclareTask", declaration("partner-work"))) == (
            "PERMISSION_DENIED",
            "TASK_TYPE_NOT_ALLOWED",
        )
