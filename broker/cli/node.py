"""What is done for instances of this node with SPIRE's Entry API: by the pool, or by a process of its own.

    python -m broker.cli.node make --class CLASS --holder PID:STARTED ...    one identity, used by the holder
    python -m broker.cli.node end NAME ...                                    end identities
    python -m broker.cli.node renew --holder PID:STARTED                      theirs

`tasklease launch` runs the second form, so that it never loads what talks to SPIRE: its own start is what agents wait
for. Exit code 4: there is no room for another instance.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from broker.adapters.node.ledger import LedgerError, SqliteLedger
from broker.adapters.node.processes import ProcNode
from broker.adapters.node.seeing import WorkloadApiProbe
from broker.adapters.node.starters import KubernetesStarter, starter_of
from broker.adapters.spire.registry import open_registry
from broker.adapters.system.clock import SystemClock
from broker.cli.reporting import report_ended
from broker.config.catalog import load_catalog
from broker.config.reading import ConfigError
from broker.config.settings import Settings, load_settings
from broker.domain.attestation import KubernetesAttestation
from broker.domain.launching import Holder, LaunchClass, LaunchedIdentity
from broker.domain.spiffe import InvalidSpiffeIdError, SpiffeId
from broker.ports.launching import CannotStartError, NoRoomError
from broker.ports.registry import RegistryRefusedError, RegistryUnavailableError
from broker.usecases.keep_node import KeepNode
from broker.usecases.launch_classes import NotLaunchableError, launch_class, launch_classes
from broker.usecases.launch_identities import Ended, EndIdentities, MakeIdentities

NO_ROOM: Final = 4
EXPECTED: Final = (
    CannotStartError,
    ConfigError,
    InvalidSpiffeIdError,
    LedgerError,
    NoRoomError,
    NotLaunchableError,
    RegistryRefusedError,
    RegistryUnavailableError,
)
"""What a person can do something about: its text says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeWork:
    """Everything that is wired for one node."""

    settings: Settings
    ledger: SqliteLedger
    node: ProcNode
    make: MakeIdentities
    end: EndIdentities
    keep: KeepNode
    parent: SpiffeId | None

    def classes(self) -> dict[str, LaunchClass]:
        """What can be launched, as the catalog is now.

        Raises:
            ConfigError: the catalog cannot be used.
        """
        catalog = load_catalog(self.settings.catalog)
        return launch_classes(catalog, own_id=self.settings.own_id, parent=self.parent)

    async def make_one(
        self, agent_class: str, *, holder: Holder, broker: str, words: Sequence[str] = ()
    ) -> LaunchedIdentity:
        """An identity that `holder` uses from now on; its end is its own business even if it died meanwhile.

        Raises:
            NotLaunchableError, NoRoomError, CannotStartError, ConfigError, RegistryUnavailableError: there is none.
        """
        of = launch_class(
            load_catalog(self.settings.catalog), agent_class, own_id=self.settings.own_id, parent=self.parent
        )
        attestation = of.attestation

        async def pod_uid(identity: LaunchedIdentity) -> str:
            assert isinstance(attestation, KubernetesAttestation)  # noqa: S101 - asked below
            starter = KubernetesStarter(environment={})
            command = starter.make(identity, words, service_account=attestation.service_account)
            process = await asyncio.create_subprocess_exec(
                *command.words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
            )
            output, errors = await process.communicate()
            if process.returncode != 0:
                raise CannotStartError(errors.decode().strip())
            return output.decode().strip()

        is_pod = isinstance(attestation, KubernetesAttestation)
        try:
            (made,) = await self.make(
                of, 1, holder=holder, used=True, broker=broker, pod_uid=pod_uid if is_pod else None
            )
        finally:
            if not self.node.is_alive(holder):
                await self.keep.end_lost()
        return made

    async def end_named(self, names: Sequence[str]) -> list[Ended]:
        """End identities by name; unknown ones have ended."""
        found = [one for name in names if (one := self.ledger.identity(name))]
        return await self.end(found)


@asynccontextmanager
async def node_work(config: Path, state: Path, *, parent: str = "") -> AsyncIterator[NodeWork]:
    """Open everything.

    Raises:
        ConfigError, InvalidSpiffeIdError, LedgerError, RegistryUnavailableError, RegistryRefusedError: it cannot be.
        CannotStartError: it is not said where SPIRE's server is.
    """
    settings = load_settings(config)
    agent = settings.agent_id(parent)
    if not settings.registry.server:
        message = "say where SPIRE's server is: registry.server in the configuration"
        raise CannotStartError(message)
    ledger = SqliteLedger(state)
    try:
        ledger.remember("config", os.path.realpath(config))  # noqa: ASYNC240 - once, at the start
        ledger.remember("endpoint_socket", settings.endpoint_socket)
        ledger.remember("parent", parent)
        async with open_registry(
            settings.registry.server,
            endpoint_socket=settings.endpoint_socket,
            trust_domain=settings.trust_domain,
        ) as registry:
            clock, node = SystemClock(), ProcNode()

            async def report(identity: LaunchedIdentity) -> None:
                if not identity.broker:
                    return
                if trouble := await report_ended(
                    identity.broker, identity.spiffe_id, endpoint_socket=settings.endpoint_socket
                ):
                    print(
                        f"warning: the end of {identity.spiffe_id} is not reported: {trouble}; the broker ends its "
                        "tasks when their heartbeat is missing",
                        file=sys.stderr,
                    )

            make = MakeIdentities(
                ledger=ledger,
                registry=registry,
                sees_served=WorkloadApiProbe(
                    endpoint_socket=settings.endpoint_socket, settles=settings.registry.settles
                ),
                clock=clock,
                new_name=lambda: secrets.token_hex(8),
            )
            end = EndIdentities(
                ledger=ledger, registry=registry, starter_of=starter_of, report=report, clock=clock
            )
            keep = KeepNode(
                ledger=ledger,
                registry=registry,
                node=node,
                make=make,
                end=end,
                starter_of=starter_of,
                clock=clock,
            )
            yield NodeWork(
                settings=settings, ledger=ledger, node=node, make=make, end=end, keep=keep, parent=agent
            )
    finally:
        ledger.close()


async def _make(work: NodeWork, arguments: argparse.Namespace) -> int:
    made = await work.make_one(
        arguments.agent_class,
        holder=_holder(arguments.holder),
        broker=arguments.broker,
        words=arguments.words,
    )
    print(made.name)
    return 0


async def _end(work: NodeWork, arguments: argparse.Namespace) -> int:
    ended = await work.end_named(arguments.names)
    ended += await work.keep.end_lost()
    work.keep.cool_down()
    for one in ended:
        if one.trouble:
            print(
                f"warning: {one.identity.spiffe_id} is left for the next round: {one.trouble}",
                file=sys.stderr,
            )
    return 1 if any(one.trouble for one in ended if one.identity.name in arguments.names) else 0


async def _renew(work: NodeWork, arguments: argparse.Namespace) -> int:
    await work.keep.renew(work.classes(), holder=_holder(arguments.holder))
    return 0


async def _work(arguments: argparse.Namespace) -> int:
    async with node_work(arguments.config, arguments.state, parent=arguments.parent) as work:
        result: int = await arguments.work(work, arguments)
        return result


def _holder(text: str) -> Holder:
    pid, _, started = text.partition(":")
    return Holder(pid=int(pid), started=started)


def main() -> int:
    """Parse, work; trouble is one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--parent", default="")
    kinds = parser.add_subparsers(required=True)
    make = kinds.add_parser("make")
    make.add_argument("--class", dest="agent_class", required=True)
    make.add_argument("--holder", required=True)
    make.add_argument("--broker", default="")
    make.add_argument("words", nargs="*")
    make.set_defaults(work=_make)
    end = kinds.add_parser("end")
    end.add_argument("names", nargs="*")
    end.set_defaults(work=_end)
    renew = kinds.add_parser("renew")
    renew.add_argument("--holder", required=True)
    renew.set_defaults(work=_renew)
    try:
        return asyncio.run(_work(parser.parse_args()))
    except EXPECTED as error:
        print(f"error: {error}", file=sys.stderr)
        return NO_ROOM if isinstance(error, NoRoomError) else 1


if __name__ == "__main__":
    sys.exit(main())
