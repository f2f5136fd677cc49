"""Vault's door: what the brokers ask it passes through here, and is answered with 500 when that is wanted."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_NOT_PASSED_ON = frozenset({"connection", "keep-alive", "transfer-encoding", "host", "content-length"})


class VaultDoor:
    """On loopback; `vault`, set before anybody comes, says where Vault is at the time."""

    def __init__(self) -> None:
        door = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Nobody wants to know."""

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except OSError:
                    self.close_connection = True

            def do_GET(self) -> None:
                door._pass(self)

            do_POST = do_PUT = do_DELETE = do_LIST = do_HEAD = do_GET  # noqa: N815

        self.vault: Callable[[], str] = str
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.broken = False
        self.delay = 0.0
        """Seconds before an answer is passed on."""
        self.refused = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def open(self) -> Iterator[VaultDoor]:
        self._thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()

    def _pass(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        headers = {
            name: value for name, value in request.headers.items() if name.lower() not in _NOT_PASSED_ON
        }
        if self.broken:
            self.refused += 1
            self._answer(request, 500, {"Content-Type": "application/json"}, b'{"errors":["internal error"]}')
            return
        time.sleep(self.delay)
        where = urlsplit(self.vault())
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)
        try:
            connection.request(request.command, request.path, body or None, headers)
            answer = connection.getresponse()
            self._answer(request, answer.status, dict(answer.getheaders()), answer.read())
        except OSError:
            request.close_connection = True  # as if nobody were there
        finally:
            connection.close()

    @staticmethod
    def _answer(request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes) -> None:
        request.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in _NOT_PASSED_ON:
                request.send_header(name, value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)
