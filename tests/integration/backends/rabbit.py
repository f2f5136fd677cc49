"""A RabbitMQ on loopback, with its management API, and an AMQP client that can do no more than log in."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import requests

from tests.debian import command

_SERVER: Final = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
_GUEST: Final = ("guest", "guest")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Rabbit:
    """See the module; made by `rabbit`."""

    def __init__(self, folder: Path) -> None:
        command("rabbitmq-server", "rabbitmq-server")
        self._folder = folder
        self.port, self.management, self._distribution, self._epmd = _free_ports(4)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.management}"

    def start(self) -> None:
        self._folder.mkdir(exist_ok=True)
        (self._folder / "enabled_plugins").write_text("[rabbitmq_management].")
        (self._folder / "rabbit.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            f"management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {self.management}\n"
        )
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self._folder),
            "RABBITMQ_NODENAME": f"tl{secrets.token_hex(3)}@localhost",
            "RABBITMQ_MNESIA_BASE": str(self._folder / "data"),
            "RABBITMQ_LOG_BASE": str(self._folder / "log"),
            "RABBITMQ_CONFIG_FILE": str(self._folder / "rabbit.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._folder / "enabled_plugins"),
            "RABBITMQ_DIST_PORT": str(self._distribution),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._epmd),
        }
        with (self._folder / "output").open("ab") as output:
            self._process = subprocess.Popen(
                [_SERVER], env=environment, stdout=output, stderr=output, cwd="/", start_new_session=True
            )
        end = time.monotonic() + 60
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "output").read_text()
            assert time.monotonic() < end, (self._folder / "output").read_text()
            time.sleep(0.2)

    def stop(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        # The name server that it started, which serves nobody else on that port.
        subprocess.run(
            ["epmd", "-port", str(self._epmd), "-kill"],
            env={"PATH": os.environ["PATH"], "ERL_EPMD_ADDRESS": "127.0.0.1"},
            capture_output=True,
            check=False,
        )

    def put(self, path: str, body: dict[str, str]) -> None:
        answer = requests.put(f"{self.api}/api/{path}", json=body, auth=_GUEST, timeout=10)
        assert answer.ok, answer.text

    def delete(self, path: str) -> None:
        answer = requests.delete(f"{self.api}/api/{path}", auth=_GUEST, timeout=10)
        assert answer.ok, answer.text

    def lets_in(self, name: str, password: str) -> bool:
        """Whether somebody may log in."""
        try:
            with self.logged_in(name, password):
                return True
        except ConnectionError:  # refused in words, or by hanging up
            return False

    @contextmanager
    def logged_in(self, name: str, password: str) -> Iterator[socket.socket]:
        """A connection that is open: AMQP 0-9-1 as far as `open-ok`.

        Raises:
            ConnectionRefusedError: not with this name and password.
        """
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            _frame(connection)  # start
            plain = f"\0{name}\0{password}".encode()
            start_ok = struct.pack(">HHI", 10, 11, 0) + b"\x05PLAIN" + struct.pack(">I", len(plain)) + plain
            _send(connection, start_ok + b"\x05en_US")
            tune = _frame(connection)
            if tune[:4] != struct.pack(">HH", 10, 30):
                raise ConnectionRefusedError
            _send(connection, struct.pack(">HH", 10, 31) + tune[4:10] + b"\0\0")
            _send(connection, struct.pack(">HH", 10, 40) + b"\x01/\0\0")
            if _frame(connection)[:4] != struct.pack(">HH", 10, 41):
                raise ConnectionRefusedError
            yield connection

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.api}/api/overview", auth=_GUEST, timeout=2).ok
        except requests.RequestException:
            return False


def _send(connection: socket.socket, method: bytes) -> None:
    connection.sendall(struct.pack(">BHI", 1, 0, len(method)) + method + b"\xce")


def _frame(connection: socket.socket) -> bytes:
    head = _exactly(connection, 7)
    return _exactly(connection, struct.unpack(">I", head[3:])[0] + 1)[:-1]


def _exactly(connection: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        part = connection.recv(count - len(found))
        if not part:
            raise ConnectionRefusedError
        found += part
    return found


@contextmanager
def rabbit(folder: Path) -> Iterator[Rabbit]:
    """A server for as long as the block lasts."""
    server = Rabbit(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
