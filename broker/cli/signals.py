"""`tasklease signals`: try who outside is told, and print the keys that they need."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer

from broker.adapters.signals.building import receivers_of
from broker.adapters.signals.event_tokens import SigningKey
from broker.adapters.signals.posting import BadReceiverFileError
from broker.adapters.system.clock import FollowingClock
from broker.adapters.system.ids import RandomIds
from broker.cli.output import fail, out
from broker.config.reading import ConfigError, suggestion
from broker.config.settings import Settings, load_settings
from broker.config.telling import SetSettings
from broker.domain.messages import Message
from broker.ports.telling import Delivery, Fate, NamedReceiver
from broker.usecases.tell_others import a_test_message

app = typer.Typer(
    help="Try who outside is told of findings, and print the keys that they need.", no_args_is_help=True
)

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="The broker's configuration.")]


@app.command()
def test(
    receiver: Annotated[str, typer.Argument(help="A receiver's name, below `tell` in the configuration.")],
    config: ConfigOption,
) -> None:
    """Send one test message, and say what came back; exit code 0 when it was taken."""
    settings = _settings(config)
    if receiver not in settings.tell:
        near = suggestion(receiver, settings.tell)
        fail(f"no receiver of that name below `tell`{near}", code=2)
    clock = FollowingClock.of_wall()
    try:
        named = receivers_of({receiver: settings.tell[receiver]}, clock)[receiver]
    except ConfigError as error:
        fail(str(error), code=2)
    message = a_test_message(receiver, settings.own_id, clock.now(), RandomIds().message_id())
    delivery = asyncio.run(_sent(named, message))
    if delivery.fate is not Fate.TAKEN:
        fail(f"not taken: {delivery.what}")
    out.print(f"[green]taken[/]: {delivery.what}; message {message.message_id}")


@app.command()
def keys(config: ConfigOption) -> None:
    """Print the public keys of security event tokens, as a JSON Web Key Set for their receivers."""
    found: dict[str, dict[str, str]] = {}
    for name, receiver in _settings(config).tell.items():
        if isinstance(receiver, SetSettings):
            try:
                jwk = SigningKey(receiver).jwk
            except BadReceiverFileError as error:
                fail(f"tell.{name}: {error}", code=2)
            if found.setdefault(jwk["kid"], jwk) != jwk:
                fail(f"tell.{name}: key_id is that of another key: give each key its own", code=2)
    print(json.dumps({"keys": list(found.values())}, indent=2))


async def _sent(named: NamedReceiver, message: Message) -> Delivery:
    try:
        return await named.receiver.deliver(message)
    finally:
        await named.receiver.close()


def _settings(config: Path) -> Settings:
    try:
        return load_settings(config)
    except ConfigError as error:
        fail(str(error), code=2)
