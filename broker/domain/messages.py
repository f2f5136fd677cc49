"""Messages to systems outside: made durable with what they tell of, delivered until they are taken or given up."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from broker.domain.identifiers import MessageId


class ReceiverKind(StrEnum):
    """In which form a receiver is told."""

    WEBHOOK = "webhook"
    """JSON with a signature by a shared secret."""
    OCSF = "ocsf"
    """Detection findings of the Open Cybersecurity Schema Framework."""
    SET = "set"
    """Security event tokens: what has ended, signed."""


class MessageKind(StrEnum):
    """What a message tells of."""

    FINDING = "finding"
    """Something was found."""
    ANSWERED = "answered"
    """Everything that its answer demanded has taken effect."""
    MARKED = "marked"
    """A person said that it is false, or confirmed it."""
    SESSION_REVOKED = "session-revoked"
    """The task has ended, or the instance is quarantined."""
    CREDENTIAL_CHANGE = "credential-change"
    """What was handed out to it is refused."""
    TEST = "test"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One of them, for one receiver."""

    message_id: MessageId
    receiver: str
    """A name of the settings."""
    kind: str
    """What it tells of: a value of `MessageKind`."""
    body: str
    """JSON, without secrets (rule R6): what is told, from which each receiver's own form is made."""
    created_at: datetime
    attempts: int = 0
    next_attempt_at: datetime
