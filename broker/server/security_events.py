"""POST /events: Security Event Tokens that are pushed (RFC 8935).

202 without a body says that everything is durable. 400 with `err` says that the token is not taken and need not come again;
any other status, that it may.
"""

from __future__ import annotations

import logging
from typing import Final

from broker.domain.identifiers import RequestId
from broker.domain.security_events import SetFault, SetRefusedError
from broker.server.https.open_door import OpenEndpoint, Told
from broker.usecases.receive_event import ReceiveEvent

logger = logging.getLogger(__name__)

EVENTS: Final = "/events"
_CONTENT_TYPE: Final = "application/secevent+jwt"


class SecurityEvents:
    """See the module."""

    def __init__(self, receive: ReceiveEvent) -> None:
        self._receive = receive

    def endpoint(self) -> OpenEndpoint:
        """What stands behind the door."""
        return OpenEndpoint(
            path=EVENTS, name="Signals/Events", content_type=_CONTENT_TYPE, cost=4, serve=self._push
        )

    async def _push(self, body: bytes, request_id: RequestId) -> Told:
        try:
            try:
                token = body.decode("ascii")
            except UnicodeDecodeError:
                text = "the token is no compact JWS"
                raise SetRefusedError(SetFault.INVALID_REQUEST, text) from None
            await self._receive(token, request_id=request_id)
        except SetRefusedError as error:
            logger.warning(
                "a token was refused: %s, %s (%s)", error.fault.value, error.description, request_id
            )
            return Told(status=400, body={"err": error.fault.value, "description": error.description})
        return Told(status=202)
