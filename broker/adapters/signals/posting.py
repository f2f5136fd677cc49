"""One way to post to a receiver: bounded in time and size, to the address of the settings and nowhere else.

What always holds: a redirect is not followed, a certificate is checked, the environment's proxies mean nothing, no cookie is kept,
and no more than 4 KiB of an answer are read. Secrets are read for each request, so that a changed file counts at once.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final

import aiohttp

from broker.config.telling import OcsfSettings, SetSettings, WebhookSettings
from broker.ports.system import Clock
from broker.ports.telling import Delivery, Fate

_MOST_ANSWER: Final = 4096
_MOST_SECRET: Final = 8192
_AT_ONCE: Final = 4
_LATER: Final = {401, 403, 404, 405, 407, 408, 409, 410, 421, 423, 424, 425, 426, 429}
"""Of those below 500: what somebody can put right, so that the same message is taken then."""


class BadReceiverFileError(Exception):
    """A file of the settings cannot be used; says which and why, and nothing of what is in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What came back."""

    delivery: Delivery
    status: int = 0
    body: bytes = b""


class Poster:
    """Posts to one receiver. Of one event loop."""

    def __init__(self, settings: WebhookSettings | OcsfSettings | SetSettings, clock: Clock) -> None:
        """Check the settings' files.

        Raises:
            BadReceiverFileError: one cannot be used.
        """
        self._url = settings.url
        self._timeout = settings.timeout
        self._headers = {one.name: one.value_file for one in settings.headers}
        self._clock = clock
        try:
            self._tls = ssl.create_default_context(cafile=settings.ca_file)
        except (OSError, ValueError) as error:
            message = f"ca_file: {settings.ca_file} cannot be used: {type(error).__name__}"
            raise BadReceiverFileError(message) from error
        self._tls.minimum_version = ssl.TLSVersion.TLSv1_2
        self._session: aiohttp.ClientSession | None = None
        for path in self._headers.values():
            secret_of(path)

    async def post(self, body: bytes, headers: Mapping[str, str]) -> Answered:
        """Try once; never raises."""
        try:
            more = await asyncio.to_thread(self._more)
        except BadReceiverFileError as error:
            return Answered(delivery=Delivery(fate=Fate.FAILED, what=str(error)))
        try:
            async with self._open().post(
                self._url, data=body, headers={**more, **headers}, allow_redirects=False
            ) as response:
                answer = await response.content.read(_MOST_ANSWER)
                delivery = self._delivery(response.status, response.headers.get("Retry-After", ""))
                return Answered(delivery=delivery, status=response.status, body=answer)
        except Exception as error:  # noqa: BLE001 - whatever a foreign server makes of it
            return Answered(delivery=Delivery(fate=Fate.FAILED, what=_what(error)))

    async def close(self) -> None:
        """Close its connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._tls, limit=_AT_ONCE),
                timeout=aiohttp.ClientTimeout(total=self._timeout.total_seconds()),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "tasklease"},
                auto_decompress=False,
                trust_env=False,
                read_bufsize=_MOST_ANSWER,
            )
        return self._session

    def _more(self) -> dict[str, str]:
        return {name: secret_of(path) for name, path in self._headers.items()}

    def _delivery(self, status: int, retry_after: str) -> Delivery:
        what = f"status {status}"
        if 200 <= status < 300:
            return Delivery(fate=Fate.TAKEN, what=what)
        if 300 <= status < 400:
            return Delivery(fate=Fate.FAILED, what=f"{what}: a redirect, which is not followed")
        if 400 <= status < 500 and status not in _LATER:
            return Delivery(fate=Fate.REFUSED, what=what)
        return Delivery(fate=Fate.FAILED, what=what, retry_after=self._asked(retry_after))

    def _asked(self, retry_after: str) -> timedelta | None:
        """Seconds, or a moment; None where it is neither."""
        text = retry_after.strip()
        if text.isascii() and text.isdecimal() and len(text) < 9:
            return timedelta(seconds=int(text))
        try:
            moment: datetime = parsedate_to_datetime(text)
        except (ValueError, TypeError, IndexError):
            return None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return max(moment - self._clock.now(), timedelta())


def secret_of(path: Path) -> str:
    """The one line that a file holds.

    Raises:
        BadReceiverFileError: there is none, or more.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_SECRET + 1).decode("ascii").strip()
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}"
        raise BadReceiverFileError(message) from error
    except UnicodeDecodeError as error:
        message = f"{path} has something else than ASCII in it"
        raise BadReceiverFileError(message) from error.with_traceback(None)
    if not text or len(text) > _MOST_SECRET or not text.isprintable():
        message = f"{path} must hold one line"
        raise BadReceiverFileError(message)
    return text


def _what(error: Exception) -> str:
    """Words of ours: those of the libraries may repeat what a server sent."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return "its certificate is not trusted"
        case aiohttp.ClientSSLError():
            return "no TLS connection can be made"
        case TimeoutError():
            return "no answer in time"
        case aiohttp.ClientConnectorError():
            return "cannot be connected to"
        case _:
            return f"the request failed: {type(error).__name__}"
