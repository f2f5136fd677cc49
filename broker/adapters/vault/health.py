"""Whether Vault answers, unsealed: asked of Vault, without a token."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from broker.adapters.vault.connection import VaultCallError, VaultConnection

_PATIENCE: Final = timedelta(seconds=2)


class VaultHealth:
    """What the last look found."""

    def __init__(self, connection: VaultConnection) -> None:
        self._connection = connection
        self.up = False

    async def look(self) -> None:
        """Look once. A standby counts: it passes on what it is asked."""
        try:
            await self._connection.call(
                "get",
                "sys/health?standbyok=true&perfstandbyok=true",
                token=None,
                timeout=_PATIENCE,
                pool=self._connection.renewing,
            )
        except VaultCallError:
            self.up = False
        else:
            self.up = True
