"""Webhooks, signed as Standard Webhooks 1.0 says: HMAC-SHA256 over id, time and body.

What always holds: a message is sent with the same id each time, so that who gets it twice can tell; with two secrets it is signed
with both, so that a secret can be replaced without a gap.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any, Final

from broker.adapters.signals.posting import BadReceiverFileError, Poster, secret_of
from broker.config.telling import WebhookSettings
from broker.domain.messages import Message
from broker.ports.system import Clock
from broker.ports.telling import Delivery, Fate
from broker.usecases.finding_words import finding_in

_PREFIX: Final = "whsec_"
_LEAST_BYTES: Final = 24
_MOST_BYTES: Final = 64


class Webhook:
    """Implements ports.telling.Receiver."""

    def __init__(self, settings: WebhookSettings, clock: Clock) -> None:
        """Check the settings' files.

        Raises:
            BadReceiverFileError: one cannot be used.
        """
        old = settings.old_secret_file
        self._files: tuple[Path, ...] = (settings.secret_file, *([old] if old else []))
        self._poster = Poster(settings, clock)
        self._clock = clock
        self._keys()

    async def deliver(self, message: Message) -> Delivery:
        """See ports.telling."""
        try:
            keys = await asyncio.to_thread(self._keys)
        except BadReceiverFileError as error:
            return Delivery(fate=Fate.FAILED, what=str(error))
        body = json.dumps(webhook_body(message), separators=(",", ":")).encode()
        time = str(int(self._clock.now().timestamp()))
        signed = b".".join((message.message_id.encode(), time.encode(), body))
        signatures = (base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode() for key in keys)
        headers = {
            "Content-Type": "application/json",
            "webhook-id": message.message_id,
            "webhook-timestamp": time,
            "webhook-signature": " ".join(f"v1,{one}" for one in signatures),
        }
        return (await self._poster.post(body, headers)).delivery

    async def close(self) -> None:
        """See ports.telling."""
        await self._poster.close()

    def _keys(self) -> list[bytes]:
        return [_key_of(path) for path in self._files]


def webhook_body(message: Message) -> dict[str, Any]:
    """The body, in the form that Standard Webhooks recommends."""
    return {
        "type": f"finding.{message.kind}",
        "timestamp": message.created_at.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "data": finding_in(message),
    }


def _key_of(path: Path) -> bytes:
    text = secret_of(path)
    try:
        key = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not text.startswith(_PREFIX) or not _LEAST_BYTES <= len(key) <= _MOST_BYTES:
        message = f"{path} must hold {_PREFIX} and {_LEAST_BYTES} to {_MOST_BYTES} bytes in base 64"
        raise BadReceiverFileError(message)
    return key
