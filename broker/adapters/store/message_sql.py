"""Messages that are to be delivered: statements, and what applies and reads them."""

from __future__ import annotations

from typing import Final

from sqlalchemy import bindparam, delete, func, insert, select, update

from broker.adapters.store.rows import time_of
from broker.adapters.store.schema import messages
from broker.adapters.store.session import Row, Session, Statement
from broker.domain import changes as c
from broker.domain.identifiers import MessageId
from broker.domain.messages import Message

_BY_ID: Final = messages.c.message_id == bindparam("b_message")
_INSERT: Final = Statement(
    insert(messages),
    columns=("message_id", "receiver", "kind", "body", "created_at", "attempts", "next_attempt_at"),
)
_POSTPONE: Final = Statement(
    update(messages)
    .where(_BY_ID)
    .values(attempts=messages.c.attempts + 1, next_attempt_at=bindparam("b_next"))
)
_REMOVE: Final = Statement(delete(messages).where(_BY_ID))
_TO: Final = Statement(
    select(messages)
    .where(messages.c.receiver == bindparam("b_receiver"))
    .order_by(messages.c.created_at, messages.c.message_id)
    .limit(bindparam("b_limit"))
)
_COUNTS: Final = Statement(
    select(messages.c.receiver, func.count().label("number")).group_by(messages.c.receiver)
)
COUNT: Final = Statement(select(func.count().label("number")).select_from(messages))


def add(session: Session, message: Message) -> None:
    """One more."""
    session.change(
        _INSERT,
        message_id=message.message_id,
        receiver=message.receiver,
        kind=message.kind,
        body=message.body,
        created_at=message.created_at,
        attempts=message.attempts,
        next_attempt_at=message.next_attempt_at,
    )


def postpone(session: Session, change: c.PostponeMessage) -> None:
    """A failed attempt."""
    session.change(_POSTPONE, b_message=change.message_id, b_next=change.next_attempt_at)


def remove(session: Session, change: c.RemoveMessage) -> None:
    """One less."""
    session.change(_REMOVE, b_message=change.message_id)


def counts(session: Session) -> dict[str, int]:
    """How many wait for each receiver."""
    return {row["receiver"]: row["number"] for row in session.rows(_COUNTS)}


def to(session: Session, receiver: str, limit: int) -> tuple[Message, ...]:
    """Due or not, oldest first."""
    return tuple(map(message_of, session.rows(_TO, b_receiver=receiver, b_limit=limit)))


def message_of(row: Row) -> Message:
    """A row as a message."""
    return Message(
        message_id=MessageId(row["message_id"]),
        receiver=row["receiver"],
        kind=row["kind"],
        body=row["body"],
        created_at=time_of(row["created_at"]),
        attempts=row["attempts"],
        next_attempt_at=time_of(row["next_attempt_at"]),
    )
