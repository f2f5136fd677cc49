"""State in memory, with the preconditions of ports.store checked by the domain's own state machines."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import assert_never

from broker.domain import changes as c
from broker.domain.actions import Action
from broker.domain.audit import AuditRecord, ChainHead, append
from broker.domain.errors import (
    FieldInvalidError,
    FieldViolation,
    IllegalTransitionError,
    StoreUnavailableError,
)
from broker.domain.findings import Hold, RecordedFinding
from broker.domain.identifiers import ActionId, FindingId, LeaseId, TaskId, TokenAccessor
from broker.domain.lease import Lease, LeaseState, RevokeCause
from broker.domain.messages import Message
from broker.domain.quarantine import Quarantine, QuarantineTarget
from broker.domain.sightings import Sighting
from broker.domain.spiffe import SpiffeId
from broker.domain.task import Task, TaskState
from broker.ports.store import (
    ActionFacts,
    Conflict,
    ConflictError,
    FindingFilter,
    FindingPage,
    LeaseCounts,
    LeaseFilter,
    LeasePage,
    OwnedLease,
    QuarantinePage,
    QuarantineStatus,
    StoredModel,
    StoreFigures,
    TaskPage,
)
from tests.fakes.store_of_findings import Findings

_LAST = datetime.max.replace(tzinfo=UTC)


@dataclass(slots=True, kw_only=True)
class _State:
    tasks: dict[TaskId, Task] = field(default_factory=dict)
    leases: dict[LeaseId, Lease] = field(default_factory=dict)
    tokens: dict[TokenAccessor, TaskId] = field(default_factory=dict)
    records: list[AuditRecord] = field(default_factory=list)
    quarantines: dict[QuarantineTarget, Quarantine] = field(default_factory=dict)
    actions: dict[ActionId, Action] = field(default_factory=dict)
    findings: Findings = field(default_factory=Findings)

    def copy(self) -> _State:
        return _State(
            tasks=dict(self.tasks),
            leases=dict(self.leases),
            tokens=dict(self.tokens),
            records=list(self.records),
            quarantines=dict(self.quarantines),
            actions=dict(self.actions),
            findings=self.findings.copy(),
        )

    @property
    def head(self) -> ChainHead | None:
        if not self.records:
            return None
        return ChainHead(sequence=self.records[-1].sequence, hash=self.records[-1].hash)

    def open_leases(self, task_id: TaskId) -> list[Lease]:
        return [lease for lease in self.leases.values() if lease.task_id == task_id and _is_open(lease)]

    def tasks_under(self, target: QuarantineTarget, *states: TaskState) -> list[Task]:
        return [task for task in self.tasks.values() if task.state in states and target.concerns(task.owner)]


class FakeStore:
    """Implements ports.store.Store. While `down`, nothing works."""

    def __init__(self) -> None:
        self.down = False
        self._state = _State()
        self._before: list[tuple[type[c.Change], Callable[[], Awaitable[object] | None]]] = []

    def before(self, change: type[c.Change], action: Callable[[], Awaitable[object] | None]) -> None:
        """Do `action` once, right before the next commit that holds such a change; it may raise."""
        self._before.append((change, action))

    async def commit(self, changes: Sequence[c.Change]) -> None:
        for planned in list(self._before):
            kind, action = planned
            if any(isinstance(change, kind) for change in changes):
                self._before.remove(planned)
                result = action()
                if inspect.isawaitable(result):
                    await result
        self._check()
        draft = self._state.copy()
        for change in changes:
            _apply(draft, change)
        self._state = draft

    async def task(self, task_id: TaskId) -> Task | None:
        self._check()
        return self._state.tasks.get(task_id)

    async def task_by_key(self, owner: SpiffeId, idempotency_key: str) -> Task | None:
        self._check()
        found = (t for t in self._state.tasks.values() if t.owner == owner)
        return next((task for task in found if task.idempotency_key == idempotency_key), None)

    async def tasks_of(
        self, owner: SpiffeId, *, states: AbstractSet[TaskState], page_size: int, page_token: str
    ) -> TaskPage:
        self._check()
        mine = sorted(
            (
                task
                for task in self._state.tasks.values()
                if task.owner == owner and (not states or task.state in states)
            ),
            key=lambda task: task.task_id,
            reverse=True,
        )
        if page_token:
            whose, _, last = page_token.partition("|")
            if whose != str(owner) or not last:
                raise FieldInvalidError([FieldViolation(field="page_token", remedy="give it back as it was")])
            mine = [task for task in mine if task.task_id < last]
        page = tuple(mine[:page_size])
        more = len(mine) > page_size
        return TaskPage(tasks=page, next_token=f"{owner}|{page[-1].task_id}" if more else "")

    async def lease(self, lease_id: LeaseId) -> Lease | None:
        self._check()
        return self._state.leases.get(lease_id)

    async def leases_of(self, task_id: TaskId) -> tuple[Lease, ...]:
        found = self._leases(lambda lease: lease.task_id == task_id)
        return tuple(sorted(found, key=lambda lease: (lease.intended_at, lease.lease_id)))

    async def lease_counts(self, task_id: TaskId) -> LeaseCounts:
        leases = self._leases(lambda lease: lease.task_id == task_id)
        return LeaseCounts(ever=len(leases), unfinished=sum(map(_is_open, leases)))

    async def task_tokens(self, task_id: TaskId) -> tuple[TokenAccessor, ...]:
        self._check()
        return tuple(accessor for accessor, owner in self._state.tokens.items() if owner == task_id)

    async def action_facts(
        self, task_id: TaskId, now: datetime, limit: int, *, key: str | None = None
    ) -> ActionFacts:
        self._check()
        task = self._state.tasks.get(task_id)
        if task is None:
            return ActionFacts(task=None, length=0, denied=(), live_leases=0, oldest_lease=None)
        own = [action for action in self._state.actions.values() if action.task_id == task_id]
        denied = [
            action
            for action in self._state.actions.values()
            if action.owner == task.owner
            and action.sticks_until is not None
            and (action.sticks_until > now or action.task_id == task_id)
        ]
        leases = self._state.open_leases(task_id)
        return ActionFacts(
            task=task,
            length=max((action.position for action in own), default=0),
            denied=tuple(sorted(denied, key=lambda one: (one.at, one.position), reverse=True)[:limit]),
            live_leases=len(leases),
            oldest_lease=min((lease.issued_at for lease in leases if lease.issued_at), default=None),
            open_anomalies=self._state.findings.open_of(task_id),
            under_key=next((one for one in own if key is not None and one.idempotency_key == key), None),
            holds_key=next(
                (
                    lease
                    for lease in self._leases(lambda lease: lease.task_id == task_id)
                    if lease.idempotency_key == key and lease.holds_key
                ),
                None,
            ),
        )

    async def actions_of(self, task_id: TaskId, after: int, limit: int) -> tuple[Action, ...]:
        self._check()
        own = [one for one in self._state.actions.values() if one.task_id == task_id and one.position > after]
        return tuple(sorted(own, key=lambda one: one.position)[:limit])

    async def action(self, action_id: ActionId) -> Action | None:
        self._check()
        return self._state.actions.get(action_id)

    async def take_lapsed_tasks(self, now: datetime, limit: int) -> tuple[Task, ...]:
        self._check()
        lapsed = [task for task in self._state.tasks.values() if task.lapsed(now) is not None]
        return tuple(sorted(lapsed, key=lambda task: task.deadline)[:limit])

    async def take_ending_tasks(self, limit: int) -> tuple[Task, ...]:
        self._check()
        ending = [
            task
            for task in self._state.tasks.values()
            if task.state is TaskState.ENDING and not self._state.open_leases(task.task_id)
        ]
        return tuple(sorted(ending, key=lambda task: task.end.at if task.end else _LAST)[:limit])

    async def take_leases_due_for_renewal(self, before: datetime, limit: int) -> tuple[Lease, ...]:
        def due(lease: Lease) -> bool:
            return (
                lease.state is LeaseState.LIVE
                and lease.renewable
                and _expiry(lease) < min(before, lease.max_expires_at)
                and self._state.tasks[lease.task_id].state is TaskState.ACTIVE
            )

        return tuple(sorted(self._leases(due), key=_expiry)[:limit])

    async def take_expired_leases(self, now: datetime, limit: int) -> tuple[Lease, ...]:
        found = self._leases(lambda lease: lease.state is LeaseState.LIVE and _expiry(lease) <= now)
        return tuple(sorted(found, key=_expiry)[:limit])

    async def take_leases_to_revoke(
        self, now: datetime, limit: int, *, besides: Collection[LeaseId] = ()
    ) -> tuple[Lease, ...]:
        def waits_for_another(lease: Lease) -> bool:
            return lease.vault_lease_id is None and any(
                other.accessor == lease.accessor and other.vault_lease_id is not None
                for other in self._state.open_leases(lease.task_id)
            )

        def is_due(lease: Lease) -> bool:
            return (
                lease.state is LeaseState.REVOKING and _next(lease) <= now and lease.lease_id not in besides
            )

        due = self._leases(is_due)
        return tuple(sorted((one for one in due if not waits_for_another(one)), key=_next)[:limit])

    async def take_intended_leases(
        self, before: datetime, limit: int, *, besides: Collection[LeaseId] = ()
    ) -> tuple[Lease, ...]:
        def is_stale(lease: Lease) -> bool:
            return (
                lease.state is LeaseState.INTENDED
                and lease.intended_at <= before
                and lease.lease_id not in besides
            )

        return tuple(sorted(self._leases(is_stale), key=lambda lease: lease.intended_at)[:limit])

    async def hold(self, leases: Collection[LeaseId]) -> frozenset[LeaseId]:
        self._check()
        return frozenset(leases)

    async def take_turn(self, name: str, *, lasting: timedelta) -> bool:  # noqa: ARG002 - there is nobody else
        self._check()
        return True

    async def quarantines(self) -> tuple[Quarantine, ...]:
        self._check()
        return tuple(self._state.quarantines.values())

    async def quarantine(self, target: QuarantineTarget) -> QuarantineStatus | None:
        self._check()
        found = self._state.quarantines.get(target)
        return None if found is None else self._status(found)

    async def quarantine_page(self, *, page_size: int, page_token: str) -> QuarantinePage:
        self._check()
        names = {f"{target.kind.value}:{target.name}": target for target in self._state.quarantines}
        if page_token and page_token.partition(":")[0] not in {"instance", "class", "trust-domain"}:
            raise FieldInvalidError([FieldViolation(field="page_token", remedy="give it back as it was")])
        after = sorted(name for name in names if name > page_token)
        found = tuple(self._status(self._state.quarantines[names[name]]) for name in after[:page_size])
        more = len(after) > page_size
        return QuarantinePage(quarantines=found, next_token=after[page_size - 1] if more else "")

    async def identity(self) -> str:
        self._check()
        return "fake-store"

    async def lease_page(self, wanted: LeaseFilter, *, page_size: int, page_token: str) -> LeasePage:
        self._check()
        if page_token and page_token not in self._state.leases:
            raise FieldInvalidError(
                [FieldViolation(field="page_token", remedy="give back next_page_token as it was")]
            )
        states = wanted.states or {state for state in LeaseState if not state.is_final}
        found = [
            OwnedLease(lease=lease, owner=self._state.tasks[lease.task_id].owner)
            for lease_id, lease in sorted(self._state.leases.items())
            if lease_id > page_token
            and lease.state in states
            and wanted.task_id in {"", lease.task_id}
            and wanted.owner in {"", str(self._state.tasks[lease.task_id].owner)}
        ]
        more = len(found) > page_size
        page = tuple(found[:page_size])
        return LeasePage(leases=page, next_token=page[-1].lease.lease_id if more else "")

    async def task_of_token(self, accessor: TokenAccessor) -> Task | None:
        self._check()
        task_id = self._state.tokens.get(accessor)
        return None if task_id is None else self._state.tasks[task_id]

    async def figures(self) -> StoreFigures:
        self._check()
        leases = [lease for lease in self._state.leases.values() if not lease.state.is_final]
        tasks = [task.state for task in self._state.tasks.values() if task.state is not TaskState.ENDED]
        waiting = [lease.revoking_since for lease in leases if lease.state is LeaseState.REVOKING]
        return StoreFigures(
            tasks=Counter(tasks),
            leases=Counter(lease.state for lease in leases),
            oldest_revoking_since=min((since for since in waiting if since), default=None),
            unanswered_findings=len(await self.unanswered_findings(1_000_000)),
            messages=len(self._state.findings.messages),
        )

    async def finding(self, finding_id: FindingId) -> RecordedFinding | None:
        self._check()
        return self._state.findings.found.get(finding_id)

    async def finding_page(self, wanted: FindingFilter, *, page_size: int, page_token: str) -> FindingPage:
        self._check()
        return self._state.findings.page(wanted, page_size, page_token)

    async def findings_after(self, number: int, limit: int) -> tuple[RecordedFinding, ...]:
        return self._findings(lambda one: one.number > number, limit)

    async def newest_finding(self) -> int:
        self._check()
        return len(self._state.findings.found)

    async def unanswered_findings(self, limit: int) -> tuple[RecordedFinding, ...]:
        return self._findings(lambda one: one.answered_at is None, limit)

    async def findings_of_task(self, task_id: TaskId, limit: int) -> tuple[RecordedFinding, ...]:
        return self._findings(lambda one: one.found.task_id == task_id, limit)

    def _findings(self, wanted: Callable[[RecordedFinding], bool], limit: int) -> tuple[RecordedFinding, ...]:
        self._check()
        return tuple(one for one in self._state.findings.found.values() if wanted(one))[:limit]

    async def active_owners(self, after: str, limit: int) -> tuple[SpiffeId, ...]:
        self._check()
        owners = {task.owner for task in self._state.tasks.values() if task.state is TaskState.ACTIVE}
        return tuple(sorted((one for one in owners if str(one) > after), key=str)[:limit])

    async def model(self) -> StoredModel | None:
        self._check()
        return self._state.findings.model

    async def sightings_of(self, instance: SpiffeId) -> tuple[Sighting, ...]:
        self._check()
        return self._state.findings.sightings.get(instance, ())

    async def message_counts(self) -> Mapping[str, int]:
        self._check()
        return self._state.findings.counts()

    async def messages_to(self, receiver: str, limit: int) -> tuple[Message, ...]:
        self._check()
        return self._state.findings.to(receiver, limit)

    async def quarantined_tasks(self, limit: int) -> tuple[Task, ...]:
        self._check()
        held = self._state.quarantines
        found = [
            task
            for task in self._state.tasks.values()
            if task.state is TaskState.ACTIVE
            and not held.keys().isdisjoint(QuarantineTarget.all_of(task.owner))
        ]
        return tuple(found[:limit])

    def _status(self, quarantine: Quarantine) -> QuarantineStatus:
        tasks = self._state.tasks_under(quarantine.target, TaskState.ACTIVE, TaskState.ENDING)
        return QuarantineStatus(quarantine=quarantine, unfinished_tasks=len(tasks))

    async def audit_records(self, after: int, limit: int) -> tuple[AuditRecord, ...]:
        self._check()
        return tuple(record for record in self._state.records if record.sequence > after)[:limit]

    async def audit_head(self) -> ChainHead | None:
        self._check()
        return self._state.head

    async def close(self) -> None:
        self.down = True

    def _check(self) -> None:
        if self.down:
            raise StoreUnavailableError

    def _leases(self, wanted: Callable[[Lease], bool]) -> list[Lease]:
        self._check()
        return [lease for lease in self._state.leases.values() if wanted(lease)]


def _is_open(lease: Lease) -> bool:
    return not lease.state.is_final


def _expiry(lease: Lease) -> datetime:
    return lease.expires_at or _LAST


def _next(lease: Lease) -> datetime:
    return lease.next_attempt_at or _LAST


def _apply(state: _State, change: c.Change) -> None:  # noqa: C901 - one arm a change
    match change:
        case c.Append():
            state.records.append(append(state.head, change.event))
        case c.CreateTask():
            _create_task(state, change)
        case c.CreateLease():
            _create_lease(state, change)
        case c.FinishTask():
            _finish_task(state, change)
        case c.AddTaskToken() | c.TouchTask() | c.DetachTask() | c.EndTask():
            _change_active_task(state, change)
        case c.RecordAction():
            _record_action(state, change.action)
        case c.CloseAction():
            _close_action(state, change)
        case c.AddQuarantine():
            state.quarantines.setdefault(change.quarantine.target, change.quarantine)
        case c.RemoveQuarantine():
            _remove_quarantine(state, change.target)
        case c.HoldTask() | c.LiftHold():
            _change_hold(state, change)
        case (
            c.RecordFinding()
            | c.AnswerFinding()
            | c.MarkFinding()
            | c.SaveModel()
            | c.SeeInstance()
            | c.AddMessage()
            | c.PostponeMessage()
            | c.RemoveMessage()
        ):
            state.findings.apply(change)
        case _:
            _change_lease(state, change)


def _change_hold(state: _State, change: c.HoldTask | c.LiftHold) -> None:
    task = _active(state, change.task_id)
    if isinstance(change, c.HoldTask):
        hold = Hold.FROZEN if task.hold is Hold.FROZEN else change.hold
        state.tasks[task.task_id] = replace(task, hold=hold)
        return
    if task.hold is None:
        raise ConflictError(Conflict.HOLD_MISSING)
    state.tasks[task.task_id] = replace(task, hold=None)


def _change_active_task(
    state: _State, change: c.AddTaskToken | c.TouchTask | c.DetachTask | c.EndTask
) -> None:
    task = _active(state, change.task_id)
    match change:
        case c.AddTaskToken():
            state.tokens[change.accessor] = change.task_id
        case c.TouchTask():
            state.tasks[task.task_id] = replace(
                task, heartbeat_due=change.heartbeat_due, svid_due=change.svid_due
            )
        case c.DetachTask():
            sooner = min(task.heartbeat_due, change.heartbeat_due)
            state.tasks[task.task_id] = replace(task, heartbeat_due=sooner)
        case c.EndTask():
            state.tasks[task.task_id] = task.ending(change.end)
            for lease in state.open_leases(task.task_id):
                if lease.state is not LeaseState.REVOKING:
                    state.leases[lease.lease_id] = lease.revoking(RevokeCause.TASK_ENDED, change.end.at)
        case _:
            assert_never(change)


def _finish_task(state: _State, change: c.FinishTask) -> None:
    if state.open_leases(change.task_id):
        raise ConflictError(Conflict.TASK_HOLDS_LEASES)
    task = state.tasks.get(change.task_id)
    if task is None or task.state is not TaskState.ENDING:
        raise ConflictError(Conflict.TASK_NOT_ENDING)
    state.tasks[task.task_id] = task.finished(change.at)


def _remove_quarantine(state: _State, target: QuarantineTarget) -> None:
    if state.tasks_under(target, TaskState.ACTIVE):
        raise ConflictError(Conflict.QUARANTINE_UNFINISHED)
    if state.quarantines.pop(target, None) is None:
        raise ConflictError(Conflict.QUARANTINE_MISSING)


def _demand_welcome(state: _State, owner: SpiffeId) -> None:
    if any(target in state.quarantines for target in QuarantineTarget.all_of(owner)):
        raise ConflictError(Conflict.OWNER_QUARANTINED)


def _create_task(state: _State, change: c.CreateTask) -> None:
    task = change.task
    _demand_welcome(state, task.owner)
    own = [other for other in state.tasks.values() if other.owner == task.owner]
    if task.idempotency_key is not None and task.idempotency_key in _keys(own):
        raise ConflictError(Conflict.TASK_KEY_TAKEN)
    if sum(other.state is not TaskState.ENDED for other in own) >= change.max_live:
        raise ConflictError(Conflict.TASK_LIMIT)
    state.tasks[task.task_id] = task


def _welcome_and_active(state: _State, task_id: TaskId) -> None:
    task = _active(state, task_id)
    _demand_welcome(state, task.owner)
    if task.hold is not None:
        raise ConflictError(Conflict.TASK_ON_HOLD)


def _record_action(state: _State, action: Action) -> None:
    _welcome_and_active(state, action.task_id)
    taken = {(one.task_id, one.position) for one in state.actions.values()}
    keys = {one.idempotency_key for one in state.actions.values() if one.task_id == action.task_id}
    key_taken = action.idempotency_key is not None and action.idempotency_key in keys
    if action.action_id in state.actions or (action.task_id, action.position) in taken or key_taken:
        raise ConflictError(Conflict.CHAIN_MOVED_ON)
    state.actions[action.action_id] = action


def _close_action(state: _State, change: c.CloseAction) -> None:
    action = state.actions.get(change.action_id)
    if action is None or action.task_id != change.task_id:
        raise ConflictError(Conflict.ACTION_STATE)
    try:
        state.actions[action.action_id] = action.closed(change.outcome, change.at)
    except IllegalTransitionError as error:
        raise ConflictError(Conflict.ACTION_STATE) from error


def _create_lease(state: _State, change: c.CreateLease) -> None:
    lease = change.lease
    _welcome_and_active(state, lease.task_id)
    own = [other for other in state.leases.values() if other.task_id == lease.task_id]
    if lease.idempotency_key in _keys(other for other in own if other.holds_key):
        raise ConflictError(Conflict.LEASE_KEY_TAKEN)
    if len(state.open_leases(lease.task_id)) >= change.max_live:
        raise ConflictError(Conflict.LEASE_LIMIT)
    state.leases[lease.lease_id] = lease


def _change_lease(
    state: _State,
    change: c.IssueLease
    | c.VoidLease
    | c.ExtendLease
    | c.RevokeLease
    | c.PostponeRevocation
    | c.ConfirmRevoked,
) -> None:
    lease = state.leases.get(change.lease_id)
    if lease is None:
        raise ConflictError(
            Conflict.TASK_NOT_ACTIVE if isinstance(change, c.IssueLease) else Conflict.LEASE_STATE
        )
    try:
        match change:
            case c.IssueLease():
                _welcome_and_active(state, lease.task_id)
                lease = lease.issued(
                    vault_lease_id=change.vault_lease_id,
                    at=change.at,
                    expires_at=change.expires_at,
                    renewable=change.renewable,
                    account=change.account,
                )
            case c.VoidLease():
                lease = lease.voided(change.at)
            case c.ExtendLease():
                _demand(lease.state is LeaseState.LIVE)
                lease = replace(lease, expires_at=change.expires_at)
            case c.RevokeLease():
                lease = _revoking(lease, change)
            case c.PostponeRevocation():
                _demand(lease.state is LeaseState.REVOKING)
                lease = replace(lease, attempts=lease.attempts + 1, next_attempt_at=change.next_attempt_at)
            case c.ConfirmRevoked():
                lease = lease.revoked(change.at)
            case _:
                assert_never(change)
    except IllegalTransitionError:
        raise ConflictError(Conflict.LEASE_STATE) from None
    state.leases[lease.lease_id] = lease


def _revoking(lease: Lease, change: c.RevokeLease) -> Lease:
    if lease.state is LeaseState.REVOKING:
        _demand(lease.vault_lease_id is None and change.vault_lease_id is not None)
        return replace(lease, vault_lease_id=change.vault_lease_id)
    moved = lease.revoking(change.cause, change.at)
    return replace(moved, vault_lease_id=change.vault_lease_id or lease.vault_lease_id)


def _active(state: _State, task_id: TaskId) -> Task:
    task = state.tasks.get(task_id)
    if task is None or task.state is not TaskState.ACTIVE:
        raise ConflictError(Conflict.TASK_NOT_ACTIVE)
    return task


def _keys(those: Iterable[Task | Lease]) -> set[str | None]:
    return {one.idempotency_key for one in those}


def _demand(holds: bool) -> None:  # noqa: FBT001 - a condition
    if not holds:
        raise ConflictError(Conflict.LEASE_STATE)
