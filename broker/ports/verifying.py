"""Asking a backend itself whether it refuses what was revoked."""

from __future__ import annotations

from datetime import timedelta
from typing import Protocol

from broker.domain.catalog import CredentialRole


class RevocationVerifier(Protocol):
    """The backends, as somebody who may look and nothing else."""

    async def refuses(self, verifier: CredentialRole, account: str, *, timeout: timedelta) -> bool:
        """Whether the backend at `verifier`'s destination lets nobody in as `account`, and has nobody in as it.

        Args:
            verifier: the role with whose credentials is asked (`CredentialRole.verified_by`).
            account: as whom the backend knew the credential (`Lease.account`).
            timeout: of all of it.

        Raises:
            CredentialBackendUnavailableError: it cannot be asked.
        """
        ...
