"""Callers of another trust domain, on real SPIRE servers: who is listed, who only looks like it, and who was."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import grpc
import psycopg
import pytest

from broker.api.v1 import tasks_pb2
from broker.demo.database import is_refusal
from tests.integration.verification.realms import (
    OURS,
    PARTNER,
    THEIRS,
    Realms,
    acquisition,
    declaration,
    until,
)


def refusal(answer: Any) -> tuple[str, str]:
    return answer.code.name, answer.reason


def declared(caller: Any, task_type: str = "partner-work") -> str:
    answer = caller.call("DeclareTask", declaration(task_type), timeout=20)
    assert answer.ok, answer
    return str(answer.message.task.task_id)


def lets_in(realms: Realms, secret: Any) -> bool:
    try:
        psycopg.connect(realms.stack.postgres.dsn(secret["username"], secret["password"])).close()
    except psycopg.OperationalError as error:
        if not is_refusal(error):
            raise
        return False
    return True


def test_an_instance_of_a_listed_trust_domain_does_its_work_like_our_own(realms: Realms) -> None:
    svid = realms.svid(THEIRS, by=realms.partner)
    with realms.calling(svid) as caller:
        task_id = declared(caller)
        credential = caller.call("AcquireCredential", acquisition(task_id), timeout=20)
        assert credential.ok, credential
        assert lets_in(realms, credential.message.secret)
        done = tasks_pb2.CompleteTaskRequest(task_id=task_id, outcome=tasks_pb2.TASK_OUTCOME_SUCCEEDED)
        assert caller.call("CompleteTask", done, timeout=30).ok
    assert not lets_in(realms, credential.message.secret)


@pytest.mark.parametrize(
    ("above", "signer", "task_type"),
    [
        (f"spiffe://{PARTNER}/agent/invoice-bot", "theirs", "reconcile-invoices"),
        (f"spiffe://{PARTNER}/agent/unlisted-bot", "theirs", "partner-work"),
        (OURS.replace("invoice-bot", "partner-bot"), "ours", "partner-work"),
    ],
    ids=["our class in their trust domain", "an unlisted class", "their class in our trust domain"],
)
def test_a_class_is_one_of_its_own_trust_domain_alone(
    realms: Realms, above: str, signer: str, task_type: str
) -> None:
    with realms.calling(realms.svid(above, by=realms.partner if signer == "theirs" else None)) as caller:
        answer = caller.call("DeclareTask", declaration(task_type))
    assert refusal(answer) == ("PERMISSION_DENIED", "AGENT_CLASS_UNKNOWN")


def test_a_federated_authority_that_signs_our_names_is_refused_by_its_leaf(realms: Realms) -> None:
    realms.federate(hostile=True)
    forged = realms.svid(OURS, by=realms.imposter)
    until(lambda: realms.knock(forged).code is not grpc.StatusCode.UNAVAILABLE, "TLS takes its authority")
    assert refusal(realms.knock(forged)) == ("UNAUTHENTICATED", "SVID_INVALID")
    assert realms.knock(realms.svid(OURS)).ok
    token = realms.token(OURS, by=realms.imposter)
    assert refusal(realms.token_knock(token)) == ("UNAUTHENTICATED", "SVID_INVALID")
    assert realms.token_knock(realms.token(OURS)).ok


def test_a_trust_domain_that_is_federated_but_not_in_the_catalog_is_unknown(realms: Realms) -> None:
    svid = realms.svid(THEIRS, by=realms.partner)
    token = realms.token(THEIRS, by=realms.partner)
    file = realms.stack.broker.catalog / "partner.yaml"
    listed = file.read_text()
    with realms.calling(svid) as caller:
        assert caller.knock().ok
        try:
            file.write_text(listed.replace(f"trust_domain: {PARTNER}", "trust_domain: somebody-else.test"))
            until(lambda: not caller.knock().ok, "refused")
            assert refusal(caller.knock()) == ("UNAUTHENTICATED", "TRUST_DOMAIN_UNKNOWN")
            assert refusal(realms.token_knock(token)) == ("UNAUTHENTICATED", "TRUST_DOMAIN_UNKNOWN")
        finally:
            file.write_text(listed)
        until(lambda: caller.knock().ok, "let in again")


def test_an_ended_federation_ends_calls_streams_and_credentials_on_open_connections(realms: Realms) -> None:
    svid = realms.svid(THEIRS, by=realms.partner)
    token = realms.token(THEIRS, by=realms.partner)
    with realms.calling(svid) as caller, realms.calling_with(f"Bearer {token}") as bearer:
        task_id = declared(caller)
        credential = caller.call("AcquireCredential", acquisition(task_id), timeout=20).message
        assert lets_in(realms, credential.secret)
        stream = caller.stream("AttachTask", tasks_pb2.AttachTaskRequest(task_id=task_id), timeout=60)
        next(iter(stream))
        assert bearer.knock().ok
        realms.end_federation()
        with pytest.raises(grpc.RpcError) as ended:
            list(stream)
        assert ended.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert refusal(caller.knock()) == ("UNAUTHENTICATED", "TRUST_DOMAIN_UNKNOWN")
        until(lambda: not bearer.knock().ok, "the token is refused")
        assert refusal(bearer.knock()) == ("UNAUTHENTICATED", "TRUST_DOMAIN_UNKNOWN")
        # Nobody keeps its task alive any more.
        until(lambda: not lets_in(realms, credential.secret), "revoked")
    until(lambda: realms.knock(svid).code is grpc.StatusCode.UNAVAILABLE, "TLS refuses its authority")
    assert realms.knock(realms.svid(OURS)).ok


def test_the_partner_rotates_its_authorities_and_the_broker_follows_without_a_restart(realms: Realms) -> None:
    pid = {part.name: part.pid for part in realms.stack.status()}["broker"]
    partner = realms.partner._server
    old = realms.svid(THEIRS, by=realms.partner)
    shown = json.loads(partner("localauthority", "x509", "show", "-output", "json"))
    prepared = json.loads(partner("localauthority", "x509", "prepare", "-output", "json"))
    realms.federate()  # both are in the bundle
    authority = prepared["prepared_authority"]["authority_id"]
    partner("localauthority", "x509", "activate", "-authorityID", authority)
    new = realms.svid(THEIRS, by=realms.partner)
    until(lambda: realms.knock(new).ok, "the new authority's SVID is taken")
    with realms.calling(old) as caller:
        assert caller.knock().ok
        former = shown["active"]["authority_id"]
        partner("localauthority", "x509", "taint", "-authorityID", former)
        partner("localauthority", "x509", "revoke", "-authorityID", former)
        realms.federate()
        until(lambda: not caller.knock().ok, "the old authority's SVID is refused")
        assert refusal(caller.knock()) == ("UNAUTHENTICATED", "SVID_INVALID")
    assert realms.knock(realms.svid(THEIRS, by=realms.partner, ttl=timedelta(minutes=1))).ok
    assert {part.name: part.pid for part in realms.stack.status()}["broker"] == pid
