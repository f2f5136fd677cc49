"""Close an allowed action: how it went, as the agent says."""

from __future__ import annotations

from broker.domain.actions import Action, ActionOutcome
from broker.domain.audit import AuditEvent, AuditKind
from broker.domain.changes import Append, CloseAction
from broker.domain.errors import ActionNotFoundError, BrokerError, FieldInvalidError, FieldViolation
from broker.domain.identifiers import ActionId
from broker.ports.store import ConflictError, Store
from broker.ports.system import Clock
from broker.usecases.caller import Caller
from broker.usecases.noticing import Notices
from broker.usecases.task_work import closed_event


class ReportOutcome:
    """See the module."""

    def __init__(self, *, store: Store, clock: Clock, notice: Notices) -> None:
        self._store = store
        self._clock = clock
        self._notice = notice

    async def __call__(self, caller: Caller, action_id: ActionId, outcome: ActionOutcome) -> Action:
        """Return the closed action. Saying the same again is harmless.

        Raises:
            ActionNotFoundError: not an action of the caller's.
            FieldInvalidError: it was refused, or another outcome was reported before.
            StoreUnavailableError: nothing changed.
        """
        action = await self._own(caller, action_id)
        now = self._clock.now()
        event = AuditEvent(
            kind=AuditKind.ACTION_CLOSED,
            at=now,
            actor=str(caller.peer.spiffe_id),
            task_id=action.task_id,
            request_id=caller.request_id,
            facts={"action": action_id, "outcome": outcome.value, **caller.peer.as_facts()},
        )
        change = CloseAction(action_id=action_id, task_id=action.task_id, outcome=outcome, at=now)
        try:
            await self._store.commit([change, Append(event=event)])
        except ConflictError as error:
            action = await self._own(caller, action_id)
            if not action.allowed:
                remedy = "is of an action that was refused: nothing was to be done"
                raise FieldInvalidError([FieldViolation(field="action_id", remedy=remedy)]) from error
            if action.outcome is not outcome:
                remedy = f"{action.outcome.value} was reported before, and stays"
                raise FieldInvalidError([FieldViolation(field="outcome", remedy=remedy)]) from error
            return action
        closed = action.closed(outcome, now)
        await self._tell_of(closed, caller)
        return closed

    async def _tell_of(self, action: Action, caller: Caller) -> None:
        """Have it noticed. Nothing leaves because of it: what cannot be noticed now is, by a round."""
        try:
            task = await self._store.task(action.task_id)
        except BrokerError:
            task = None
        if task is not None:
            await self._notice.quietly(closed_event(action, task), request_id=caller.request_id)

    async def _own(self, caller: Caller, action_id: ActionId) -> Action:
        action = await self._store.action(action_id)
        if action is None or action.owner != caller.peer.spiffe_id:  # rule R7
            raise ActionNotFoundError
        return action
