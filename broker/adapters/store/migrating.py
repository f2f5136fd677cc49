"""Brings a database to the schema this code expects, and refuses one that is ahead of it and has left it behind.

Replicas are upgraded one after another, so the schema is ahead of some of them for a while. A migration therefore only adds,
what it adds may be left out by whoever does not know it, and nothing that stood is taken away before the version after. One
that cannot keep to this says so in the database (`leave_behind`), and from then on no older version begins.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, delete, insert, inspect, select

from broker.adapters.store.schema import store_facts

logger = logging.getLogger(__name__)

_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_OLDEST: Final = "oldest-version"


class SchemaVersionError(Exception):
    """The database was written by a newer Tasklease."""


def migrate(engine: Engine, *, alone: Callable[[Connection], None] = lambda _connection: None) -> None:
    """Bring the database up to date; nothing to do is quick. `alone` is called before anything is changed.

    Raises:
        SchemaVersionError: the database's version is unknown here.
    """
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    scripts = ScriptDirectory.from_config(config)
    with engine.begin() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
        if current == scripts.get_current_head():
            return
        known = {script.revision for script in scripts.walk_revisions()}
        if current is not None and current not in known:
            if _oldest(connection) in known:
                logger.warning(
                    "the database has the newer schema %s, which this version can work with", current
                )
                return
            message = (
                f"the database has schema {current!r}, which this version does not know: use a newer one"
            )
            raise SchemaVersionError(message)
        alone(connection)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def leave_behind(connection: Connection, revision: str) -> None:
    """For migrations: from here on only versions that know `revision` may begin."""
    connection.execute(delete(store_facts).where(store_facts.c.name == _OLDEST))
    connection.execute(insert(store_facts).values(name=_OLDEST, fact=revision))


def _oldest(connection: Connection) -> str | None:
    if not inspect(connection).has_table(store_facts.name):
        return None
    found: str | None = connection.scalar(select(store_facts.c.fact).where(store_facts.c.name == _OLDEST))
    return found
