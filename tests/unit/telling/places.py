"""Receivers on loopback, over TLS, that answer as a test tells them to; and files that a setting can name."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from aiohttp import web
from pydantic import TypeAdapter

from broker.config.telling import OcsfSettings, ReceiverSettings, SetSettings, WebhookSettings
from broker.domain.findings import RecordedFinding
from broker.domain.identifiers import MessageId
from broker.domain.messages import Message
from broker.usecases.finding_words import body_of
from tests.fakes.samples import a_finding
from tests.fakes.system import NOON
from tests.unit.client.authority import Authority

AUTHORITY = Authority()
KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()
MESSAGE = MessageId(f"message-{7:026}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Got:
    """A request."""

    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What is answered."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


class Place:
    """A receiver; its certificate is for `name`."""

    def __init__(self, folder: Path, name: str = "localhost") -> None:
        self.answers: deque[Answer] = deque()
        self.got: list[Got] = []
        self.open = asyncio.Event()
        self.open.set()
        self._folder = folder
        self._name = name
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def start(self) -> None:
        shown = AUTHORITY.svid("spiffe://example.org/siem", dns_names=(self._name,))
        file = self._folder / f"{self._name}.pem"
        file.write_bytes(shown.key + shown.chain)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(file)
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "localhost", 0, ssl_context=tls)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            self.open.set()
            await self._runner.cleanup()

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}/events?source=tasklease"

    async def _answer(self, request: web.Request) -> web.Response:
        self.got.append(Got(path=request.path, headers=dict(request.headers), body=await request.read()))
        await self.open.wait()
        answer = self.answers.popleft() if self.answers else Answer()
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)


def write(folder: Path, name: str, content: str | bytes) -> str:
    file = folder / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(file)


def settings_of(folder: Path, url: str, **more: Any) -> WebhookSettings | OcsfSettings | SetSettings:
    """Settings as the file would have them, trusting the test's authority."""
    adapter: TypeAdapter[WebhookSettings | OcsfSettings | SetSettings] = TypeAdapter(ReceiverSettings)
    ca_file = write(folder, "ca.pem", AUTHORITY.pem)
    return adapter.validate_python({"kind": "ocsf", "url": url, "ca_file": ca_file, **more})


def a_message(kind: str = "finding", finding: RecordedFinding | None = None, at: datetime = NOON) -> Message:
    return Message(
        message_id=MESSAGE,
        receiver="soc",
        kind=kind,
        body=body_of(finding or a_finding()),
        created_at=at,
        next_attempt_at=at,
    )
