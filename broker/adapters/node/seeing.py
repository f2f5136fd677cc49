"""Sees whether SPIRE's agent serves an identity, as a process that has its number, and its user: see `probe`.

Only processes can be looked at so: for containers, pods and units it waits as long as SPIRE takes at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

from broker.adapters.node import probe
from broker.domain.launching import LaunchClass, LaunchedIdentity

_AT_A_TIME: Final = 3.0
_MOST: Final = 200


class WorkloadApiProbe:
    """Implements ports.launching.SeesServed."""

    def __init__(self, *, endpoint_socket: str, settles: timedelta) -> None:
        self._socket = endpoint_socket
        self._settles = settles

    async def __call__(self, of: LaunchClass, identities: Sequence[LaunchedIdentity]) -> frozenset[str]:
        """See ports.launching."""
        if not of.can_be_probed:
            await asyncio.sleep(self._settles.total_seconds())
            return frozenset(one.spiffe_id for one in identities)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(Path(probe.__file__)), self._socket, str(_AT_A_TIME), of.user),
            *(f"{one.spiffe_id}={one.group}" for one in identities[:_MOST]),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            output, _ = await process.communicate()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise
        return frozenset(output.decode().split())
