"""Policies in files that may change while the broker runs.

All or nothing: policies that cannot be used are refused with a loud error, and those before them stay. A changed catalog
changes the schema, and so makes them be read again.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from broker.adapters.policy.cedar import CedarPolicies
from broker.adapters.policy.reading import PolicyFilesError, policy_files
from broker.config.reading import fingerprint
from broker.ports.policy import CatalogSource

logger = logging.getLogger(__name__)


class FixedPolicies:
    """Implements bounded.PolicySource: the same ones at any time."""

    def __init__(self, policies: CedarPolicies) -> None:
        self._policies = policies

    def current(self) -> CedarPolicies:
        """Those."""
        return self._policies


class PolicyFiles:
    """See the module."""

    def __init__(self, folder: Path, catalogs: CatalogSource) -> None:
        """Read the policies for the first time.

        Raises:
            PolicyFilesError: they cannot be used.
        """
        self._folder = folder
        self._catalogs = catalogs
        catalog = catalogs.current()
        self._seen = (self._fingerprint(), catalog.digest)
        self._policies = CedarPolicies.load(folder, catalog)
        _tell(self._policies)

    def current(self) -> CedarPolicies:
        """The newest policies that could be used."""
        return self._policies

    async def reload_if_changed(self) -> bool:
        """Take up changed files or a changed catalog; True when other policies, or another schema, hold now."""
        catalog = self._catalogs.current()
        seen = (await asyncio.to_thread(self._fingerprint), catalog.digest)
        if seen == self._seen:
            return False
        self._seen = seen
        try:
            policies = await asyncio.to_thread(CedarPolicies.load, self._folder, catalog)
        except PolicyFilesError as error:
            logger.error(
                "the policies are REFUSED (catalog %s), those before them stay (%d):\n%s",
                catalog.digest[:12],
                len(self._policies.policies),
                error,
            )
            return False
        logger.warning(
            "policies changed: %d are now %d, with catalog %s",
            len(self._policies.policies),
            len(policies.policies),
            catalog.digest[:12],
        )
        self._policies = policies
        _tell(policies)
        return True

    def _fingerprint(self) -> str:
        return fingerprint(lambda: policy_files(self._folder), PolicyFilesError)


def _tell(policies: CedarPolicies) -> None:
    for notice in policies.notices:
        logger.warning("policy without effect: %s", notice)
