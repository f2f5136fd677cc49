"""What the stores in SQL have in common: a writer, and a few threads that read.

The writer takes whatever commits are waiting, applies each in a savepoint of its own inside one transaction, makes them
durable together, and only then answers. Where that happens is each database's own (loop_writer.py, thread_writer.py).

What always holds: `commit` returns after the data is durable, or raises and nothing of it is applied; a database that
fails makes StoreUnavailableError, and the store works again when the database does.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from typing import Any, ClassVar, Final, TypeVar

from broker.adapters.store import anomaly_sql, chain_sql, lease_pages, message_sql, reading, writing
from broker.adapters.store.committing import Applied, Commit, Writer
from broker.adapters.store.session import Session, WritingSession
from broker.domain.actions import Action
from broker.domain.audit import AuditRecord, ChainHead
from broker.domain.changes import Change
from broker.domain.errors import StoreUnavailableError
from broker.domain.findings import RecordedFinding
from broker.domain.identifiers import ActionId, FindingId, LeaseId, TaskId, TokenAccessor
from broker.domain.lease import Lease
from broker.domain.messages import Message
from broker.domain.quarantine import Quarantine, QuarantineTarget
from broker.domain.sightings import Sighting
from broker.domain.spiffe import SpiffeId
from broker.domain.task import Task, TaskState
from broker.ports.store import (
    ActionFacts,
    ConflictError,
    FindingFilter,
    FindingPage,
    LeaseCounts,
    LeaseFilter,
    LeasePage,
    QuarantinePage,
    QuarantineStatus,
    StoredModel,
    StoreFigures,
    TaskPage,
)

logger = logging.getLogger(__name__)

_READERS: Final = 4
Result = TypeVar("Result")


class StoreUnusableError(Exception):
    """The database cannot be made or reached, or is not a store; says which and why."""


class SqlStore(ABC):
    """See the module. Implements what ports.store.Store has but for taking work."""

    errors: ClassVar[type[Exception]]
    """What the driver raises."""

    bad_values: ClassVar[tuple[type[Exception], ...]]
    """What it raises for a value that it does not take: the fault of one commit, and not of its neighbours."""

    def __init__(self, *, writes: bool) -> None:
        self._writes = writes
        self._writer: Writer | None = None
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="store-read")
        self._local = threading.local()
        self._sessions: list[WritingSession] = []
        self._closing = False
        self.writable = True
        """Whether the last write worked."""
        self.readable = True
        """Whether the last read worked."""

    def start(self) -> None:
        """Begin to write, now that the database is known to be usable."""
        if self._writes:
            self._writer = self._make_writer()

    # What each database does in its own way ----------------------------------------------------------------

    @abstractmethod
    def _open_session(self) -> WritingSession:
        """Connect."""

    def _open_writing_session(self) -> WritingSession:
        """Connect, for the writer."""
        return self._open_session()

    @abstractmethod
    def _make_writer(self) -> Writer:
        """Whoever makes commits durable here."""

    @abstractmethod
    def _head_of_chain(self, session: Session) -> ChainHead | None:
        """The newest audit record, in a transaction that writes."""

    def _applied(  # noqa: B027 - not all have something to add
        self, session: Session, changes: Sequence[Change], head: ChainHead | None
    ) -> None:
        """Once in each transaction, before its end: all that was applied, and the newest audit record after it."""

    def _settled(self, head: ChainHead | None) -> None:  # noqa: B027 - as above
        """After the end of a transaction: the newest audit record, or that nothing is known."""

    def _let_go(self) -> None:  # noqa: B027 - as above
        """At the very end."""

    # The port ----------------------------------------------------------------------------------------------

    async def commit(self, changes: Sequence[Change]) -> None:
        """Apply all `changes` or none, durably. A caller that is cancelled does not undo it."""
        if self._writer is None or self._closing or not self._writer.works:
            raise StoreUnavailableError
        loop = asyncio.get_running_loop()
        commit = Commit(changes, loop, loop.create_future())
        self._writer.add(commit)
        await self._bounded(commit.done)

    async def try_again(self) -> bool:
        """Whether it works: where the last write or read did not, another is tried, which changes nothing."""
        with suppress(StoreUnavailableError):
            if not self.readable:
                await self.audit_head()
            if not self.writable:
                await self.commit([])
        return self.writable and self.readable

    async def task(self, task_id: TaskId) -> Task | None:
        """One task."""
        return await self._read(reading.task, task_id)

    async def task_by_key(self, owner: SpiffeId, idempotency_key: str) -> Task | None:
        """The owner's task under a key."""
        return await self._read(reading.task_by_key, owner, idempotency_key)

    async def tasks_of(
        self, owner: SpiffeId, *, states: AbstractSet[TaskState], page_size: int, page_token: str
    ) -> TaskPage:
        """One page of an owner's tasks, newest first."""
        return await self._read(reading.tasks_of, owner, states, page_size, page_token)

    async def lease(self, lease_id: LeaseId) -> Lease | None:
        """One lease."""
        return await self._read(reading.lease, lease_id)

    async def leases_of(self, task_id: TaskId) -> tuple[Lease, ...]:
        """A task's leases, oldest first."""
        return await self._read(reading.leases_of, task_id)

    async def lease_counts(self, task_id: TaskId) -> LeaseCounts:
        """How many leases a task has."""
        return await self._read(reading.lease_counts, task_id)

    async def task_tokens(self, task_id: TaskId) -> tuple[TokenAccessor, ...]:
        """Accessors of a task's tokens."""
        return await self._read(reading.task_tokens_of, task_id)

    async def action_facts(
        self, task_id: TaskId, now: datetime, limit: int, *, key: str | None = None
    ) -> ActionFacts:
        """What a decision about a task needs."""
        return await self._read(chain_sql.facts_with_key, task_id, now, limit, key)

    async def actions_of(self, task_id: TaskId, after: int, limit: int) -> tuple[Action, ...]:
        """A task's chain in order."""
        return await self._read(chain_sql.actions_of, task_id, after, limit)

    async def action(self, action_id: ActionId) -> Action | None:
        """One action."""
        return await self._read(chain_sql.action, action_id)

    async def identity(self) -> str:
        """What tells this store from every other."""
        return await self._read(lease_pages.identity)

    async def lease_page(self, wanted: LeaseFilter, *, page_size: int, page_token: str) -> LeasePage:
        """One page of everybody's leases."""
        return await self._read(lease_pages.lease_page, wanted, page_size, page_token)

    async def task_of_token(self, accessor: TokenAccessor) -> Task | None:
        """The task of a token."""
        return await self._read(lease_pages.task_of_token, accessor)

    async def figures(self) -> StoreFigures:
        """How much there is of what is not final."""
        return await self._read(reading.figures)

    async def finding(self, finding_id: FindingId) -> RecordedFinding | None:
        """One finding."""
        return await self._read(anomaly_sql.finding, finding_id)

    async def finding_page(self, wanted: FindingFilter, *, page_size: int, page_token: str) -> FindingPage:
        """One page of findings, newest first."""
        return await self._read(anomaly_sql.finding_page, wanted, page_size, page_token)

    async def findings_after(self, number: int, limit: int) -> tuple[RecordedFinding, ...]:
        """Findings in order."""
        return await self._read(anomaly_sql.after, number, limit)

    async def newest_finding(self) -> int:
        """The highest number."""
        return await self._read(anomaly_sql.newest)

    async def unanswered_findings(self, limit: int) -> tuple[RecordedFinding, ...]:
        """Findings whose answer has not taken effect in full."""
        return await self._read(anomaly_sql.unanswered, limit)

    async def findings_of_task(self, task_id: TaskId, limit: int) -> tuple[RecordedFinding, ...]:
        """Findings about a task."""
        return await self._read(anomaly_sql.of_task, task_id, limit)

    async def active_owners(self, after: str, limit: int) -> tuple[SpiffeId, ...]:
        """Instances with an active task."""
        return await self._read(anomaly_sql.active_owners, after, limit)

    async def model(self) -> StoredModel | None:
        """What was learned."""
        return await self._read(anomaly_sql.model)

    async def sightings_of(self, instance: SpiffeId) -> tuple[Sighting, ...]:
        """The newest sightings of an instance."""
        return await self._read(anomaly_sql.sightings_of, instance)

    async def message_counts(self) -> Mapping[str, int]:
        """How many messages wait for each receiver."""
        return await self._read(message_sql.counts)

    async def messages_to(self, receiver: str, limit: int) -> tuple[Message, ...]:
        """Messages to a receiver, due or not."""
        return await self._read(message_sql.to, receiver, limit)

    async def quarantines(self) -> tuple[Quarantine, ...]:
        """Every quarantine."""
        return await self._read(reading.quarantines)

    async def quarantine(self, target: QuarantineTarget) -> QuarantineStatus | None:
        """The quarantine of one target."""
        return await self._read(reading.quarantine, target)

    async def quarantine_page(self, *, page_size: int, page_token: str) -> QuarantinePage:
        """One page of quarantines."""
        return await self._read(reading.quarantine_page, page_size, page_token)

    async def quarantined_tasks(self, limit: int) -> tuple[Task, ...]:
        """Active tasks whose owner is quarantined."""
        return await self._read(reading.quarantined_tasks, limit)

    async def audit_records(self, after: int, limit: int) -> tuple[AuditRecord, ...]:
        """Audit records in order."""
        return await self._read(reading.audit_records_after, after, limit)

    async def audit_head(self) -> ChainHead | None:
        """The newest audit record's place and hash."""
        return await self._read(reading.audit_head)

    async def close(self) -> None:
        """Finish what was committed, then let go of the database."""
        self._closing = True  # what came after the end of the queue would never be answered
        if self._writer is not None:
            await self._writer.close()
        await asyncio.to_thread(self._readers.shutdown)
        for session in self._sessions:
            session.close()
        self._let_go()

    async def _bounded(self, work: asyncio.Future[Result]) -> Result:
        """Wait for what a thread does."""
        return await work

    async def _read(self, read: Callable[..., Result], *arguments: Any) -> Result:  # noqa: ANN401 - passed on
        loop = asyncio.get_running_loop()
        return await self._bounded(loop.run_in_executor(self._readers, self._read_here, read, arguments))

    def _read_here(self, read: Callable[..., Result], arguments: tuple[Any, ...]) -> Result:
        session: WritingSession | None = getattr(self._local, "session", None)
        kept = session is not None
        while True:
            try:
                if session is None:
                    session = self._open_session()
                    self._local.session = session
                    self._sessions.append(session)
                found = read(session, *arguments)
            except self.errors as error:
                again = kept and session is not None and session.lost  # it may have ended long ago
                self._local.session = None
                if session is not None:
                    self._sessions.remove(session)
                    self._discard(session)
                    session = None
                if again:
                    kept = False
                    continue
                self.readable = False
                logger.error("store: a read failed: %s", self._kind(error))
                raise StoreUnavailableError from None
            else:
                self.readable = True
                return found

    # What a writer asks (committing.Writes) ------------------------------------------------------------------

    def begun(self, session: WritingSession | None) -> WritingSession:
        """A session with a transaction: a new one where there is none, or where the old one's connection was lost."""
        if session is not None:
            try:
                session.begin()
            except self.errors:
                if not session.lost:
                    raise
                self._discard(session)
            else:
                return session
        session = self._open_writing_session()
        try:
            session.begin()
        except BaseException:
            self._discard(session)
            raise
        return session

    def apply(self, session: WritingSession, batch: Sequence[Commit]) -> Applied | None:
        """Apply a batch, each commit in a savepoint of its own."""
        before = self._head_of_chain(session)
        if len(batch) == 1:
            try:
                head = writing.apply(session, batch[0].changes, before)
            except (ConflictError, *self.bad_values) as error:  # type: ignore[misc]  # all are exceptions
                session.script("ROLLBACK")
                batch[0].refusal = self._refusal(error)
                return None
        else:
            session.script("SAVEPOINT batch")
            try:
                head = before
                for commit in batch:
                    head = writing.apply(session, commit.changes, head)
            except (ConflictError, *self.bad_values):  # type: ignore[misc]  # as above
                session.script("ROLLBACK TO batch")
                head = self._apply_each(session, batch, before)
        applied = [change for commit in batch if commit.refusal is None for change in commit.changes]
        if not self.writable:  # a commit without changes would not show whether the disk takes one
            session.change(writing.NOTHING)
        self._applied(session, applied, head)
        return Applied(head, applied)

    def _apply_each(
        self, session: WritingSession, batch: Sequence[Commit], head: ChainHead | None
    ) -> ChainHead | None:
        """With a savepoint for each, after it turned out that one of them is refused; most of the time none is."""
        for commit in batch:
            session.script("SAVEPOINT one")
            try:
                head = writing.apply(session, commit.changes, head)
            except (ConflictError, *self.bad_values) as error:  # type: ignore[misc]  # all are exceptions
                session.script("ROLLBACK TO one")
                commit.refusal = self._refusal(error)
            session.script("RELEASE one")
        return head

    def durable(self, applied: Applied) -> None:
        """It was committed."""
        self.writable = True
        self._settled(applied.head)

    def unsettled(self) -> None:
        """Nothing is known of the end of the chain."""
        self._settled(None)

    def failed(self, batch: Sequence[Commit], session: WritingSession | None, error: Exception) -> None:
        """Nothing of it is applied, and nothing is known of the database."""
        logger.error("store: a write failed: %s", self._kind(error))
        for commit in batch:
            commit.refusal = StoreUnavailableError()
        self._settled(None)
        self.writable = False
        if session is not None:
            self._discard(session)

    @staticmethod
    def _refusal(error: Exception) -> Exception:
        if isinstance(error, ConflictError):
            return error
        logger.error("store: a value cannot be stored: %s", type(error).__name__)
        return StoreUnavailableError()

    def _discard(self, session: WritingSession) -> None:
        try:
            session.close()
        except self.errors:
            logger.warning("store: a broken connection could not be closed")

    def _kind(self, error: Exception) -> str:
        """What went wrong: a driver's own words name tables and the disk, never a value."""
        return f"{type(error).__name__}: {error}" if isinstance(error, self.errors) else type(error).__name__
