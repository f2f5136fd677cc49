"""Reading the audit trail of a store, for commands."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from broker.adapters.store.opening import open_store
from broker.adapters.store.postgresql import PostgresStore
from broker.adapters.store.sql_store import StoreUnusableError
from broker.adapters.store.sqlite import SqliteStore
from broker.cli.output import fail
from broker.config.reading import ConfigError
from broker.config.settings import load_settings
from broker.domain.audit import AuditRecord
from broker.domain.errors import StoreUnavailableError

_Store = SqliteStore | PostgresStore
_BATCH = 1000
_NO_RECORD = (ValueError, TypeError, OverflowError, RecursionError)
"""What reading raises of a row that somebody made unreadable."""
ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="The broker's configuration file.")]
StoreOption = Annotated[str, typer.Option("--store", help="The store's URL, instead of --config.")]


def records_of(config: Path | None, store: str) -> Iterator[AuditRecord]:
    """Every record, in order; ends the command where the store cannot be read."""
    return _read(*_open(config, store))


def _open(config: Path | None, store: str) -> tuple[_Store, str]:
    try:
        if store:
            return open_store(store, read_only=True), store
        if config is None:
            fail("name the store: --config FILE or --store URL", code=2)
        settings = load_settings(config).store
        opened = open_store(
            settings.url,
            password_file=settings.password_file,
            plaintext=settings.allow_plaintext,
            read_only=True,
        )
    except (ConfigError, FileNotFoundError, StoreUnusableError, ValueError) as error:
        fail(str(error), code=2)
    return opened, settings.url


def _read(store: _Store, url: str) -> Iterator[AuditRecord]:
    after, batch = 0, _BATCH
    with asyncio.Runner() as runner:
        try:
            while True:
                try:
                    records = runner.run(store.audit_records(after, batch))
                except _NO_RECORD:
                    if batch == 1:
                        fail(f"the audit trail is NOT intact: record {after + 1}: cannot be read")
                    batch = 1  # one of the batch: which?
                    continue
                if not records:
                    return
                yield from records
                after = records[-1].sequence
        except StoreUnavailableError:
            fail(f"{url} cannot be read: is it a store of Tasklease's?")
        finally:
            runner.run(store.close())
