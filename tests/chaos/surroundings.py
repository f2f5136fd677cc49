"""The stack that is broken, and what stands around it so that it can be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from broker.devstack.broker_process import Surroundings
from broker.devstack.stack import DevStack
from tests.chaos.door import VaultDoor
from tests.debian import library
from tests.integration.replicas.network import Network, network
from tests.threats.world import World, wants_heartbeats


class WallClock:
    """The wall clock of every broker, which can be set (libfaketime reads the file again each second)."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set(0)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(library("libfaketimeMT.so.1", "libfaketime")),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, seconds: int) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}s\n")
        new.replace(self._file)


@dataclass(frozen=True, slots=True, kw_only=True)
class Breakable:
    """What can be broken beside the parts of the stack."""

    world: World
    door: VaultDoor
    clock: WallClock
    network: Network | None
    """Where there are two replicas, the second is on another host."""


@contextmanager
def breakable(folder: Path, *, replicas: int) -> Iterator[Breakable]:
    """The whole stack, with agents' signs of life wanted every three seconds."""
    with ExitStack() as stack:
        hosts = stack.enter_context(network()) if replicas > 1 else None
        clock = WallClock(folder / "clock")
        door = stack.enter_context(VaultDoor().open())
        around = Surroundings(
            environment=clock.environment, vault_address=door.address, far=hosts.far if hosts else None
        )
        dev = DevStack(folder / "dev", say=lambda _line: None, around=around)
        door.vault = lambda: dev.vault.address
        stack.callback(dev.down, purge=True)
        dev.up(with_broker=False, replicas=replicas)
        wants_heartbeats(dev, "3s")
        if hosts is not None:
            hosts.open_doors([dev.postgres.port, int(door.address.rpartition(":")[2])])
        dev.up()
        yield Breakable(world=World(dev, folder), door=door, clock=clock, network=hosts)
