"""Wires the doors beside the broker's own: for JWT-SVIDs, and for AuthZEN."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final

from broker.adapters.spire.https_tls import https_context
from broker.adapters.spire.identity import WorkloadIdentity
from broker.adapters.spire.jwt_bundles import JwtBundle, JwtBundles
from broker.adapters.spire.jwt_verifier import JwtSvidVerifier
from broker.config.settings import Settings
from broker.ports.identity import Quarantine
from broker.ports.system import Clock
from broker.server.authzen import Authzen
from broker.server.gate import JwtDoor
from broker.server.https.door import HttpsDoor
from broker.server.https.endpoints import Endpoint

logger = logging.getLogger(__name__)

FOR_FIRST_SVID: Final = timedelta(seconds=60)
"""How long the first identity, and the first bundles, are waited for."""


async def open_jwt_door(
    settings: Settings,
    stack: contextlib.AsyncExitStack,
    is_listed: Callable[[str], bool],
    quarantine: Quarantine,
    clock: Clock,
) -> JwtDoor | None:
    """The second way in, where the settings want one."""
    taken = settings.jwt_svids
    if taken is None:
        return None
    bundles = JwtBundles(endpoint_socket=settings.endpoint_socket)
    stack.callback(bundles.close)
    await bundles.start(patience=FOR_FIRST_SVID)

    def bundle_of(trust_domain: str) -> JwtBundle | None:
        return bundles.bundle(trust_domain) if is_listed(trust_domain) else None

    return JwtDoor(
        verifier=JwtSvidVerifier(
            audience=taken.audience,
            max_validity=taken.max_validity,
            bundle_of=bundle_of,
            quarantine=quarantine,
            clock=clock,
        ),
        methods=frozenset(f"/broker.api.v1.{method}" for method in taken.methods),
    )


async def open_authzen_door(
    settings: Settings,
    stack: contextlib.AsyncExitStack,
    identity: WorkloadIdentity,
    authzen: Authzen,
    door_of: Callable[[Sequence[Endpoint]], HttpsDoor],
) -> HttpsDoor | None:
    """The door for AuthZEN, open, where the settings want one."""
    if settings.authzen is None:
        return None
    door = door_of(authzen.endpoints())
    await door.start("authzen.listen", settings.authzen.listen, https_context(identity))
    stack.push_async_callback(door.stop, timedelta())
    logger.info("AuthZEN on port %d", door.port)
    return door
