"""The chains of tasks, in memory and in the store, and one decision at a time for each task.

What always holds: a decision is made on the whole chain. Within this process a task's decisions take turns; across replicas
the position of the next action is a precondition of its commit, so that one that was decided on less is decided again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from broker.domain.actions import NO_ACTIONS, Action, Chain
from broker.domain.errors import InstanceQuarantinedError, StoreUnavailableError, TaskNotActiveError
from broker.domain.identifiers import TaskId
from broker.ports.store import Conflict, ConflictError, Store
from broker.usecases.ownership import on_hold
from broker.usecases.turns import Turns

_TRIES: Final = 5
"""How often a decision is made again because another replica was faster."""

_MOST_KEPT: Final = 5_000
_PAGE: Final = 1_000
Result = TypeVar("Result")


class Chains:
    """See the module. Of one event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: OrderedDict[TaskId, Chain] = OrderedDict()
        self._turns: Turns[TaskId] = Turns()

    async def decided(self, task_id: TaskId, decide: Callable[[], Awaitable[Result]]) -> Result:
        """What `decide` decides and commits, in the task's turn; again when another replica was faster.

        Raises:
            InstanceQuarantinedError, TaskNotActiveError, TaskOnHoldError: since `decide` looked.
            StoreUnavailableError: others are faster each time.
            Whatever `decide` raises, but for ConflictError.
        """
        async with self._turns.of(task_id):
            for _ in range(_TRIES):
                try:
                    return await decide()
                except ConflictError as error:
                    match error.conflict:
                        case Conflict.CHAIN_MOVED_ON:
                            self._kept.pop(task_id, None)
                        case Conflict.OWNER_QUARANTINED:
                            raise InstanceQuarantinedError from error
                        case Conflict.TASK_ON_HOLD:
                            raise await on_hold(self._store, task_id) from error
                        case _:
                            raise TaskNotActiveError from error
        raise StoreUnavailableError

    async def up_to(self, task_id: TaskId, length: int) -> Chain:
        """The chain, which has at least `length` actions.

        Raises:
            StoreUnavailableError: it cannot be read.
        """
        chain = self._kept.pop(task_id, NO_ACTIONS)
        while chain.length < length:
            page = await self._store.actions_of(task_id, chain.length, _PAGE)
            if not page:
                break
            for action in page:
                chain = chain.after(action)
        self._keep(task_id, chain)
        return chain

    def add(self, action: Action) -> None:
        """Note one that is durable."""
        chain = self._kept.pop(action.task_id, NO_ACTIONS)
        if action.position == chain.length + 1:
            self._keep(action.task_id, chain.after(action))

    def _keep(self, task_id: TaskId, chain: Chain) -> None:
        self._kept[task_id] = chain
        while len(self._kept) > _MOST_KEPT:
            self._kept.popitem(last=False)
