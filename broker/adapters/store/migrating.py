"""Brings a database to the schema this code expects, and refuses one that is ahead of it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine

_MIGRATIONS: Final = Path(__file__).parent / "migrations"


class SchemaVersionError(Exception):
    """The database was written by a newer Tasklease."""


def migrate(engine: Engine) -> None:
    """Bring the database up to date; nothing to do is quick.

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
        if current is not None and current not in {script.revision for script in scripts.walk_revisions()}:
            message = (
                f"the database has schema {current!r}, which this version does not know: use a newer one"
            )
            raise SchemaVersionError(message)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
