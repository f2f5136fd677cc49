"""An HTTP server on loopback that answers as it is told, and remembers what it was asked."""

from __future__ import annotations

import json
import ssl
import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any

    @property
    def token(self) -> str | None:
        return self.headers.get("x-vault-token")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer; without a status the connection is closed instead."""

    status: int | None = 200
    body: Any = None
    raw: bytes | None = None
    headers: Mapping[str, str] | None = None
    after: threading.Event | None = None


HANG_UP = Answer(status=None)


def refusal(status: int, *errors: str) -> Answer:
    return Answer(status=status, body={"errors": list(errors)})


class TinyVault:
    """See the module."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.asked: list[Asked] = []
        self._answers: defaultdict[str, list[Answer]] = defaultdict(list)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._scheme = "http" if tls is None else "https"
        if tls is not None:
            # The handshake is the business of the thread that serves the connection.
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def address(self) -> str:
        return f"{self._scheme}://localhost:{self._server.server_address[1]}"

    def on(self, path: str, *answers: Answer) -> None:
        """Answer `path` (below /v1/) with these in order; the last one stays."""
        self._answers[f"/v1/{path}"] = list(answers)

    def on_path(self, path: str) -> list[Asked]:
        """What `path` was asked so far."""
        return [asked for asked in self.asked if asked.path == f"/v1/{path}"]

    def take(self, asked: Asked) -> Answer:
        self.asked.append(asked)
        answers = self._answers[asked.path]
        if not answers:
            return refusal(404)
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _handler(vault: TinyVault) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _serve(self) -> None:
            content = self.rfile.read(int(self.headers.get("content-length", 0)))
            asked = Asked(
                method=self.command,
                path=self.path,
                headers={name.lower(): value for name, value in self.headers.items()},
                body=json.loads(content) if content else None,
            )
            answer = vault.take(asked)
            if answer.after is not None:
                answer.after.wait(30)
            if answer.status is None:
                self.close_connection = True
                return
            raw = answer.raw if answer.raw is not None else b""
            if answer.body is not None:
                raw = json.dumps(answer.body).encode()
            try:
                self.send_response(answer.status)
                for name, value in (answer.headers or {}).items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)
            except OSError:  # the client gave up
                self.close_connection = True

        do_GET = do_POST = do_PUT = _serve  # noqa: N815 - the standard library's names

        def log_request(self, *_: object) -> None:
            """Stay silent."""

    return Handler
