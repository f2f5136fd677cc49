"""`tasklease serve`."""

from __future__ import annotations

import gc
import resource
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop

from broker import bootstrap
from broker.adapters.policy.reading import PolicyFilesError
from broker.adapters.spire.identity import NoIdentityError
from broker.adapters.store.migrating import SchemaVersionError
from broker.adapters.store.sql_store import StoreUnusableError
from broker.adapters.store.sqlite import StoreInUseError
from broker.adapters.system.steps import KillAtStep
from broker.cli.output import fail
from broker.config.reading import ConfigError
from broker.config.settings import Settings, load_settings
from broker.logs import set_up_logging
from broker.server.serving import CannotListenError

_COLLECT_AFTER = (50_000, 20, 50)
"""Objects made before the garbage collector looks (Python's default is 700), and how often it looks further. What a call
leaves behind is freed by its reference count; each needless look at all that lives is a pause of every call under way."""


def serve(
    config: Annotated[Path, typer.Option("--config", "-c", help="The broker's configuration file (YAML).")],
    crash_at: Annotated[
        str, typer.Option(help="For crash tests: SIGKILL at this step (NAME or NAME:COUNT).", hidden=True)
    ] = "",
) -> None:
    """Run the broker until SIGTERM or SIGINT."""
    steps = None
    if crash_at:
        step, _, count = crash_at.partition(":")
        steps = KillAtStep(step, count=int(count or 1))
    try:
        run(config, lambda settings: bootstrap.serve(settings, steps=steps))
    except (
        CannotListenError,
        ConfigError,
        PolicyFilesError,
        NoIdentityError,
        OSError,
        SchemaVersionError,
        StoreInUseError,
        StoreUnusableError,
        ValueError,
    ) as error:
        fail(str(error), code=2)


def run(config: Path, serving: Callable[[Settings], Coroutine[Any, Any, None]]) -> None:
    """Prepare this process as a broker's, and have it do what `serving` says, with the settings of the file.

    Raises:
        ConfigError: the settings are wrong; and whatever `serving` raises.
    """
    settings = load_settings(config)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold secrets (rule R6)
    set_up_logging(style=settings.log.format, level=settings.log.level)
    gc.set_threshold(*_COLLECT_AFTER)
    uvloop.run(serving(settings))
