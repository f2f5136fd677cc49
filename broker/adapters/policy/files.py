"""Policies in files that may change while the broker runs.

All or nothing: policies that cannot be used are refused with a loud error, and those before them stay. What arguments
policies may look at depends on the catalog, so another catalog means reading them again.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from pathlib import Path

from broker.adapters.policy.cedar import CedarPolicies, PolicyFilesError
from broker.ports.policy import CatalogSource

logger = logging.getLogger(__name__)


class PolicyFiles:
    """See the module."""

    def __init__(self, folder: Path, catalogs: CatalogSource) -> None:
        """Read the policies for the first time.

        Raises:
            PolicyFilesError: they cannot be used.
        """
        self._folder = folder
        self._catalogs = catalogs
        self._seen = self._fingerprint()
        self._policies = CedarPolicies.load(folder, catalogs.current())

    def current(self) -> CedarPolicies:
        """The newest policies that could be used."""
        return self._policies

    async def reload_if_changed(self) -> bool:
        """Take up changed files, or another catalog; True when the policies are others now."""
        seen = await asyncio.to_thread(self._fingerprint)
        if seen == self._seen:
            return False
        self._seen = seen
        try:
            policies = await asyncio.to_thread(CedarPolicies.load, self._folder, self._catalogs.current())
        except PolicyFilesError as error:
            logger.error("the changed policies are REFUSED, those before them stay:\n%s", error)
            return False
        logger.warning("policies changed: %d now", len(policies.policies))
        self._policies = policies
        return True

    def _fingerprint(self) -> str:
        digest = hashlib.sha256(self._catalogs.current().digest.encode())
        try:
            for file in sorted(self._folder.rglob("*.cedar")):
                digest.update(f"{file}\n".encode())
                digest.update(file.read_bytes())
        except OSError as error:
            digest.update(type(error).__name__.encode())
        return digest.hexdigest()
