"""Take a Security Event Token: verify it, read it as a signal, report that.

What always holds: whoever brings a token is nobody, its issuer's signature counts alone; a token that was taken before is
answered as the first time (the finding follows from issuer and `jti`); what a known issuer signed and is refused is in the audit
trail before it is answered, so many a minute; what nobody known signed is not. So strangers can neither fill the trail, by
bringing a token again and again, nor use up what an issuer may report.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from broker.domain.audit import AuditEvent, AuditKind
from broker.domain.changes import Append
from broker.domain.errors import (
    AgentClassUnknownError,
    BrokerError,
    IdempotencyKeyReusedError,
    RateLimitedError,
    TaskNotFoundError,
)
from broker.domain.identifiers import RequestId
from broker.domain.security_events import SecurityEvent, SetFault, SetRefusedError, Transmitter
from broker.ports.signals import SecurityEventVerifier
from broker.ports.store import Store
from broker.ports.system import Clock
from broker.usecases.report_signal import ReportSignal
from broker.usecases.signal_budget import SignalBudget

logger = logging.getLogger(__name__)

_WRITTEN_DOWN: Final = 60
"""Refusals of one issuer's tokens in a minute; the rest is logged alone."""
_REFUSED: Final[Mapping[type[BrokerError], tuple[SetFault, str]]] = {
    AgentClassUnknownError: (
        SetFault.ACCESS_DENIED,
        "the token is about nobody that its issuer may speak of here",
    ),
    TaskNotFoundError: (SetFault.INVALID_REQUEST, "the token's session is no task of its subject"),
    IdempotencyKeyReusedError: (SetFault.INVALID_REQUEST, "the token's jti was used for something else"),
}
"""What would be refused again: the rest is for the transmitter to send once more."""


class ReceiveEvent:
    """See the module."""

    def __init__(
        self,
        *,
        verifier: SecurityEventVerifier,
        transmitters: Mapping[str, Transmitter],
        report: ReportSignal,
        store: Store,
        clock: Clock,
    ) -> None:
        """`transmitters` by their issuer: those that the verifier knows."""
        self._verifier = verifier
        self._transmitters = transmitters
        self._report = report
        self._store = store
        self._clock = clock
        self._written = SignalBudget()

    async def __call__(self, token: str, *, request_id: RequestId) -> None:
        """Take it; all of it is durable then.

        Raises:
            SetRefusedError: not taken, and not to be sent again.
            RateLimitedError, StoreUnavailableError: not taken, to be sent again.
        """
        event = self._verifier.verify(token)
        try:
            await self._take(event, request_id)
        except SetRefusedError as error:
            await self._record(event, error, request_id)
            raise

    async def _take(self, event: SecurityEvent, request_id: RequestId) -> None:
        signal = self._transmitters[event.issuer].signal_of(event, self._clock.now())
        if signal is None:
            logger.info("a token of %s has no event that counts (%s)", event.issuer, request_id)
            return
        shown = {"key_id": event.key_id, "issued_at": event.issued_at.isoformat()}
        try:
            await self._report(signal, shown=shown, request_id=request_id)
        except tuple(_REFUSED) as error:
            fault, text = _REFUSED[type(error)]
            raise SetRefusedError(fault, text) from error

    async def _record(self, event: SecurityEvent, error: SetRefusedError, request_id: RequestId) -> None:
        try:
            self._written.take(event.issuer, _WRITTEN_DOWN, self._clock.now())
        except RateLimitedError:
            logger.warning("more refused tokens of %s than are written down (%s)", event.issuer, request_id)
            return
        await self._store.commit([Append(event=self._refusal(event, error, request_id))])

    def _refusal(self, event: SecurityEvent, error: SetRefusedError, request_id: RequestId) -> AuditEvent:
        return AuditEvent(
            kind=AuditKind.SIGNAL_RECEIVED,
            at=self._clock.now(),
            actor=event.issuer,
            request_id=request_id,
            facts={
                "event": event.jti,
                "key_id": event.key_id,
                "issued_at": event.issued_at.isoformat(),
                "refused": error.fault.value,
                "why": error.description,
            },
        )
