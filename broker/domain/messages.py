"""Messages to systems outside: made durable with what they tell of, delivered until they are taken or given up."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from broker.domain.identifiers import MessageId


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One of them, for one receiver."""

    message_id: MessageId
    receiver: str
    """A name of the settings."""
    kind: str
    """What it tells of: `finding` or `answered`."""
    body: str
    """JSON, without secrets (rule R6): what is told, from which each receiver's own form is made."""
    created_at: datetime
    attempts: int = 0
    next_attempt_at: datetime
