"""What operators see of leases, and do about them, through the whole door."""

from __future__ import annotations

from typing import Any

from broker.api.v1 import credentials_pb2, leases_pb2
from broker.domain.audit import AuditKind
from tests.fakes.samples import OWNER
from tests.unit.server.served import ANN, LEASES, VERA, Served


async def listed(served: Served, **fields: Any) -> leases_pb2.ListLeasesResponse:
    answer = await served.call(LEASES + "ListLeases", leases_pb2.ListLeasesRequest(**fields))
    return leases_pb2.ListLeasesResponse.FromString(answer)


async def test_everybodys_leases_are_shown_without_a_secret(served: Served) -> None:
    acquired = await served.acquired(await served.declared())
    (one,) = (await listed(served)).leases
    assert one.lease == acquired.lease
    assert one.owner == str(OWNER)
    assert one.vault_lease_id.startswith("database/creds/orders/")
    assert (one.revoke_cause, one.attempts) == ("", 0)
    for secret in acquired.secret.values():
        assert secret not in one.SerializeToString().decode("latin-1")
    request = leases_pb2.GetLeaseRequest(lease_id=one.lease.lease_id)
    answer = leases_pb2.GetLeaseResponse.FromString(await served.call(LEASES + "GetLease", request))
    assert answer.lease == one
    kinds = [record.event.kind for record in await served.store.audit_records(0, 100)]
    assert kinds.count(AuditKind.LEASE_LISTED) == 2


async def test_they_come_in_pages_and_as_asked_for(served: Served) -> None:
    task_id = await served.declared()
    for number in range(3):
        await served.acquired(task_id, key=f"key-{number}-123")
    first = await listed(served, page_size=2)
    rest = await listed(served, page_size=2, page_token=first.next_page_token)
    assert (len(first.leases), len(rest.leases), rest.next_page_token) == (2, 1, "")
    assert len((await listed(served, task_id=task_id)).leases) == 3
    assert not (await listed(served, task_id="task-other")).leases
    assert not (await listed(served, states=[credentials_pb2.LEASE_STATE_REVOKED])).leases


async def test_one_is_revoked_and_its_task_goes_on(served: Served) -> None:
    task_id = await served.declared()
    lease = (await served.acquired(task_id)).lease
    request = leases_pb2.RevokeLeaseRequest(lease_id=lease.lease_id, reason="it was seen elsewhere")
    for _ in range(2):
        answer = await served.call(LEASES + "RevokeLease", request)
        found = leases_pb2.RevokeLeaseResponse.FromString(answer).lease
        assert found.lease.state == credentials_pb2.LEASE_STATE_REVOKED
        assert found.revoke_cause == "operator"
    assert served.broker.issuer.leases == {}
    assert (await served.acquired(task_id, key="another-key")).lease.lease_id != lease.lease_id
    (event,) = [
        record.event
        for record in await served.store.audit_records(0, 100)
        if record.event.kind == AuditKind.LEASE_REVOKING
    ]
    assert event.actor == str(ANN)
    assert event.facts.items() >= {"cause": "operator", "reason": "it was seen elsewhere"}.items()


async def test_a_backend_that_is_away_is_said(served: Served) -> None:
    lease = (await served.acquired(await served.declared())).lease
    served.broker.issuer.away = True
    request = leases_pb2.RevokeLeaseRequest(lease_id=lease.lease_id, reason="now")
    answer = await served.call(LEASES + "RevokeLease", request)
    found = leases_pb2.RevokeLeaseResponse.FromString(answer).lease
    assert (found.lease.state, found.attempts) == (credentials_pb2.LEASE_STATE_REVOKING, 1)
    refusal = await served.refused(LEASES + "Reconcile", leases_pb2.ReconcileRequest(reason="look"))
    assert refusal.reason == "CREDENTIAL_BACKEND_UNAVAILABLE"


async def test_reconciling_says_what_differs_and_is_always_written_down(served: Served) -> None:
    lease = (await served.acquired(await served.declared())).lease
    served.broker.view.store = await served.store.identity()
    served.broker.issuer.leases.clear()
    for dry_run, state in ((True, "LIVE"), (False, "REVOKING")):
        request = leases_pb2.ReconcileRequest(dry_run=dry_run, reason="a restore")
        answer = leases_pb2.ReconcileResponse.FromString(await served.call(LEASES + "Reconcile", request))
        assert (answer.found, answer.leases, answer.tokens) == (1, 1, 1)
        (finding,) = answer.findings
        assert (finding.kind, finding.subject) == (leases_pb2.FINDING_KIND_LOST, lease.lease_id)
        (one,) = (await listed(served)).leases
        assert credentials_pb2.LeaseState.Name(one.lease.state) == f"LEASE_STATE_{state}"
    summaries = [
        record.event
        for record in await served.store.audit_records(0, 100)
        if record.event.kind == AuditKind.RECONCILED
    ]
    assert [event.facts["dry_run"] for event in summaries] == [True, False]
    assert {event.actor for event in summaries} == {str(ANN)}


async def test_a_viewer_looks_and_does_nothing(served: Served) -> None:
    channel = served.connect(served.authority.svid(VERA))
    await served.call(LEASES + "ListLeases", leases_pb2.ListLeasesRequest(), channel=channel)
    for method, request in (
        ("RevokeLease", leases_pb2.RevokeLeaseRequest(lease_id="lease-1", reason="x")),
        ("Reconcile", leases_pb2.ReconcileRequest(reason="x", dry_run=True)),
    ):
        refusal = await served.refused(LEASES + method, request, channel=channel)
        assert refusal.reason == "OPERATOR_ROLE_MISSING"
