"""CredentialService: from messages to use cases and back."""

from __future__ import annotations

from typing import Any

import grpc

from broker.api.v1 import credentials_pb2, credentials_pb2_grpc
from broker.server import bounds, wire
from broker.server.gate import admitted
from broker.usecases.acquire_credential import AcquireCredential
from broker.usecases.release_credential import ReleaseCredential
from broker.usecases.renew_lease import RenewLease

Context = grpc.aio.ServicerContext[Any, Any]


class CredentialServicer(credentials_pb2_grpc.CredentialServiceServicer):
    """Behind the gate: the caller is verified, the bytes are a message."""

    def __init__(self, *, acquire: AcquireCredential, renew: RenewLease, release: ReleaseCredential) -> None:
        self._acquire = acquire
        self._renew = renew
        self._release = release

    async def AcquireCredential(  # noqa: N802 - the wire's name
        self, request: credentials_pb2.AcquireCredentialRequest, _context: Context
    ) -> credentials_pb2.AcquireCredentialResponse:
        """Hand out one credential."""
        acquired = await self._acquire(admitted().caller, bounds.acquisition(request))
        return wire.acquired_message(acquired)

    async def RenewCredential(  # noqa: N802
        self, request: credentials_pb2.RenewCredentialRequest, _context: Context
    ) -> credentials_pb2.RenewCredentialResponse:
        """Extend a lease at once."""
        lease = await self._renew.for_owner(
            admitted().caller, bounds.lease_id(request.lease_id), bounds.increment(request)
        )
        return credentials_pb2.RenewCredentialResponse(lease=wire.lease_message(lease))

    async def ReleaseCredential(  # noqa: N802
        self, request: credentials_pb2.ReleaseCredentialRequest, _context: Context
    ) -> credentials_pb2.ReleaseCredentialResponse:
        """Take a credential back early."""
        lease = await self._release(admitted().caller, bounds.lease_id(request.lease_id))
        return credentials_pb2.ReleaseCredentialResponse(lease=wire.lease_message(lease))
