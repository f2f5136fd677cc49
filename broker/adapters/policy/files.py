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

    def __init__(self, folder: Path, catalogs: CatalogSource, *, called: str = "policies") -> None:
        """Read the policies for the first time; the log calls them `called`.

        Raises:
            PolicyFilesError: they cannot be used.
        """
        self._called = called
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
                "the %s are REFUSED (catalog %s), those before them stay (%d):\n%s",
                self._called,
                catalog.digest[:12],
                len(self._policies.policies),
                error,
            )
            return False
        logger.warning(
            "%s changed: %d are now %d, with catalog %s",
            self._called,
            len(self._policies.policies),
            len(policies.policies),
            catalog.digest[:12],
        )
        self._policies = policies
        _tell(policies)
        return True

    def _fingerprint(self) -> str:
        return fingerprint(lambda: policy_files(self._folder), PolicyFilesError)


class CandidateFiles:
    """Implements bounded.CandidateSource. A candidate that cannot be used is said in the log, and is none."""

    def __init__(self, folder: Path, catalogs: CatalogSource) -> None:
        self._folder = folder
        self._catalogs = catalogs
        self._refused = ""
        self._files: PolicyFiles | None = None
        self._open()

    def current(self) -> CedarPolicies | None:
        """The newest that can be used."""
        return None if self._files is None else self._files.current()

    async def reload_if_changed(self) -> bool:
        """Take up changed files; True when there is another candidate now."""
        if self._files is not None:
            return await self._files.reload_if_changed()
        await asyncio.to_thread(self._open)
        return self._files is not None

    def _open(self) -> None:
        try:
            self._files = PolicyFiles(self._folder, self._catalogs, called="candidate policies")
        except PolicyFilesError as error:
            if str(error) != self._refused:  # once for each thing that is wrong, and not every second
                logger.error("the candidate policies cannot be used, so none runs in the shadow:\n%s", error)
            self._refused = str(error)


def _tell(policies: CedarPolicies) -> None:
    for notice in policies.notices:
        logger.warning("policy without effect: %s", notice)
