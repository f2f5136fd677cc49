"""A network of two hosts: this one, and a namespace in which one replica runs. The cable between them can be pulled.

In between is a switch, in a namespace of its own, and the cable is pulled there: both hosts keep their addresses and routes,
and what they send gets lost. (Without its route, this host would send it to whoever is next on the way out.)
"""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from broker.devstack.broker_process import Far
from tests.debian import command


class Network:
    """See the module; made by `network`."""

    def __init__(self) -> None:
        self._ip = str(command("ip", "iproute2"))
        mark = secrets.token_hex(3)
        self.namespace = f"tasklease-{mark}"
        net = f"10.{secrets.randbelow(200) + 30}.{secrets.randbelow(250) + 1}"
        self.here, self.there = f"{net}.1", f"{net}.2"
        self._switch = f"tasklease-{mark}-switch"
        self._name = f"tl-{mark}"
        self._doors: Doors | None = None

    @property
    def far(self) -> Far:
        """The other host."""
        return Far(within=(self._ip, "netns", "exec", self.namespace), here=self.here, there=self.there)

    def open_doors(self, ports: list[int]) -> None:
        """Let the other host in to ports of this one's that listen on loopback alone."""
        self._doors = Doors(self.here, ports)
        self._doors.open()

    def set_up(self) -> None:
        self._run("netns", "add", self._switch)
        self._run("netns", "add", self.namespace)
        self._run("-n", self._switch, "link", "add", "switch", "type", "bridge")
        self._run("-n", self._switch, "link", "set", "switch", "up")
        self._run("link", "add", self._name, "type", "veth", "peer", "name", "near", "netns", self._switch)
        self._run(
            "-n", self.namespace, "link", "add", "cable", "type", "veth", "peer", "name", "far", "netns", self._switch
        )  # fmt: skip
        for port in ("near", "far"):
            self._run("-n", self._switch, "link", "set", port, "master", "switch", "up")
        self._run("address", "add", f"{self.here}/30", "dev", self._name)
        self._run("link", "set", self._name, "up")
        self._run("-n", self.namespace, "address", "add", f"{self.there}/30", "dev", "cable")
        self._run("-n", self.namespace, "link", "set", "cable", "up")
        self._run("-n", self.namespace, "link", "set", "lo", "up")

    def take_down(self) -> None:
        if self._doors is not None:
            self._doors.close()
        self._run("netns", "delete", self.namespace)
        self._run("netns", "delete", self._switch)

    @contextmanager
    def cut(self) -> Iterator[None]:
        """Nothing passes; nobody is told."""
        self._run("-n", self._switch, "link", "set", "far", "nomaster")
        try:
            yield
        finally:
            self._run("-n", self._switch, "link", "set", "far", "master", "switch")

    def _run(self, *words: str) -> None:
        subprocess.run([self._ip, *words], check=True, capture_output=True, text=True)


class Doors:
    """Lets the other host in to ports that listen on loopback alone."""

    def __init__(self, host: str, ports: list[int]) -> None:
        self._host = host
        self._ports = ports
        self._loop = asyncio.new_event_loop()
        self._open = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def open(self) -> None:
        self._thread.start()
        assert self._open.wait(10)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        servers = [
            self._loop.run_until_complete(asyncio.start_server(self._passing_to(port), self._host, port))
            for port in self._ports
        ]
        self._open.set()
        self._loop.run_forever()
        for server in servers:
            server.close()
        self._loop.set_exception_handler(lambda *_: None)  # what was passing is cut off
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.run_until_complete(asyncio.sleep(0.1))  # transports close in the loop's next turns
        self._loop.close()

    @staticmethod
    def _passing_to(port: int):  # type: ignore[no-untyped-def]  # noqa: ANN205 - what start_server wants
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there, back = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(_pass_on(reader, back), _pass_on(there, writer))

        return serve


async def _pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    except OSError:
        pass  # one side went away: so does the other
    finally:
        sink.close()


@contextmanager
def network() -> Iterator[Network]:
    """Two hosts, for as long as the block lasts."""
    hosts = Network()
    hosts.set_up()
    try:
        yield hosts
    finally:
        hosts.take_down()
