"""The catalog in files that may change while the broker runs. Implements ports.policy.CatalogSource.

All or nothing: a catalog that cannot be used is refused with a loud error, and the one before it stays.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from pathlib import Path

from broker.config.catalog import catalog_files, load_catalog
from broker.config.reading import ConfigError, fingerprint
from broker.domain.catalog import Catalog

logger = logging.getLogger(__name__)


class CatalogFiles:
    """See the module."""

    def __init__(
        self, path: Path, *, trust_domain: str | None = None, receivers: Collection[str] | None = None
    ) -> None:
        """Read the catalog for the first time; `trust_domain` and `receivers` are the broker's own (see load_catalog).

        Raises:
            ConfigError: it cannot be used.
        """
        self._path = path
        self._trust_domain = trust_domain
        self._receivers = receivers
        self._seen = self._fingerprint()
        self._catalog = self._read()

    def current(self) -> Catalog:
        """The newest catalog that could be used."""
        return self._catalog

    async def reload_if_changed(self) -> bool:
        """Take up changed files; True when the catalog is another one now."""
        seen = await asyncio.to_thread(self._fingerprint)
        if seen == self._seen:
            return False
        self._seen = seen
        try:
            catalog = await asyncio.to_thread(self._read)
        except ConfigError as error:
            logger.error(
                "the changed catalog is REFUSED, the one before it stays (%s):\n%s",
                self._catalog.digest[:12],
                error,
            )
            return False
        if catalog.digest == self._catalog.digest:
            return False
        logger.warning("catalog changed: %s is now %s", self._catalog.digest[:12], catalog.digest[:12])
        self._catalog = catalog
        return True

    def _read(self) -> Catalog:
        return load_catalog(self._path, trust_domain=self._trust_domain, receivers=self._receivers)

    def _fingerprint(self) -> str:
        return fingerprint(lambda: catalog_files(self._path), ConfigError)
