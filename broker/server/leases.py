"""LeaseService: from messages to use cases and back."""

from __future__ import annotations

from typing import Any, Final

import grpc

from broker.api.v1 import leases_pb2, leases_pb2_grpc
from broker.server import bounds, wire
from broker.server.gate import admitted_operator
from broker.usecases.operate_leases import OperateLeases
from broker.usecases.reconcile import OnBehalfOf, Reconcile

Context = grpc.aio.ServicerContext[Any, Any]
_MOST_FINDINGS: Final = 1000


class LeaseServicer(leases_pb2_grpc.LeaseServiceServicer):
    """Behind the gate: the caller is an operator with a role of the RPC's, the bytes are a message."""

    def __init__(self, *, leases: OperateLeases, reconcile: Reconcile) -> None:
        self._leases = leases
        self._reconcile = reconcile

    async def ListLeases(  # noqa: N802 - the wire's name
        self, request: leases_pb2.ListLeasesRequest, _context: Context
    ) -> leases_pb2.ListLeasesResponse:
        """Look at everybody's."""
        wanted, page_size, page_token = bounds.lease_listing(request)
        page = await self._leases.page(
            admitted_operator(), wanted, page_size=page_size, page_token=page_token
        )
        return leases_pb2.ListLeasesResponse(
            leases=[wire.lease_record(one) for one in page.leases], next_page_token=page.next_token
        )

    async def GetLease(  # noqa: N802
        self, request: leases_pb2.GetLeaseRequest, _context: Context
    ) -> leases_pb2.GetLeaseResponse:
        """Look at one."""
        found = await self._leases.one(admitted_operator(), bounds.lease_id(request.lease_id))
        return leases_pb2.GetLeaseResponse(lease=wire.lease_record(found))

    async def RevokeLease(  # noqa: N802
        self, request: leases_pb2.RevokeLeaseRequest, _context: Context
    ) -> leases_pb2.RevokeLeaseResponse:
        """Revoke one; answers when the backend refuses it, or says that it does not yet."""
        lease_id, reason = bounds.lease_id(request.lease_id), bounds.reason(request.reason)
        found = await self._leases.revoke(admitted_operator(), lease_id, reason)
        return leases_pb2.RevokeLeaseResponse(lease=wire.lease_record(found))

    async def Reconcile(  # noqa: N802
        self, request: leases_pb2.ReconcileRequest, _context: Context
    ) -> leases_pb2.ReconcileResponse:
        """Compare the store with the backend."""
        reason, caller = bounds.reason(request.reason), admitted_operator()
        by = OnBehalfOf(
            actor=str(caller.operator.spiffe_id), request_id=caller.request_id, reason=reason, asked_for=True
        )
        found = await self._reconcile(by=by, dry_run=request.dry_run)
        return leases_pb2.ReconcileResponse(
            findings=[wire.finding_message(one) for one in found.findings[:_MOST_FINDINGS]],
            found=len(found.findings),
            leases=found.leases,
            tokens=found.tokens,
            not_looked_at=found.not_looked_at,
        )
