"""What others say, signed."""

from __future__ import annotations

from typing import Protocol

from broker.domain.security_events import SecurityEvent


class SecurityEventVerifier(Protocol):
    """Turns a Security Event Token into what its issuer says; whoever brings it is nobody."""

    def verify(self, token: str) -> SecurityEvent:
        """Verify signature, issuer, audience and age, now.

        Raises:
            SetRefusedError: not one for this broker; the text repeats nothing of it.
        """
        ...
