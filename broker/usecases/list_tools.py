"""List what a task may call now: of its scope, allowed with some arguments at least, not denied before, and in its turn."""

from __future__ import annotations

from broker.domain.actions import digest_of
from broker.domain.catalog import Tool
from broker.domain.decision import CallContext, Fingerprint
from broker.domain.errors import ActionLimitReachedError
from broker.domain.identifiers import TaskId
from broker.ports.policy import CatalogSource, PolicyEngine
from broker.ports.store import Store
from broker.ports.system import Clock
from broker.usecases.caller import AskingCaller
from broker.usecases.chains import Chains
from broker.usecases.ownership import own_active_task
from broker.usecases.ruling import demand_room


class ListTools:
    """See the module. What it lists can still be refused with other arguments than the policies like."""

    def __init__(
        self,
        *,
        store: Store,
        catalogs: CatalogSource,
        policy: PolicyEngine,
        chains: Chains,
        clock: Clock,
    ) -> None:
        self._store = store
        self._catalogs = catalogs
        self._policy = policy
        self._chains = chains
        self._clock = clock

    async def __call__(self, caller: AskingCaller, task_id: TaskId) -> tuple[Tool, ...]:
        """Return the tools by name.

        Raises:
            TaskNotFoundError: not a task of the caller's, or of whom it asks for.
            TaskNotActiveError: the task is ending or has ended.
        """
        now = self._clock.now()
        task, facts = await own_active_task(self._store, caller.subject, task_id, now)
        catalog = self._catalogs.current()
        task_type = catalog.task_types.get(task.task_type)
        if task_type is None:
            return ()
        try:
            demand_room(facts.length, len(facts.denied), task_type)
        except ActionLimitReachedError:
            return ()
        chain = await self._chains.up_to(task_id, facts.length)

        def may_come(tool: Tool) -> bool:
            effect = tool.effect({})
            exact = "{" not in tool.resource
            for earlier in facts.denied:
                if earlier.denies(task_id, effect, now) and (exact or earlier.effect.contains(effect)):
                    return False
            if task_type.chain.objection(chain, tool.name, now) is not None:
                return False
            context = CallContext(
                caller=caller.subject,
                task=task,
                tool_name=tool.name,
                tool=tool,
                arguments={},
                arguments_digest=digest_of({}),
                effect=effect,
                fingerprint=Fingerprint.ABSENT,
                live_leases=facts.live_leases,
                earlier_denials=chain.denials,
                at=now,
                chain=chain,
                oldest_lease=facts.oldest_lease,
                open_anomalies=facts.open_anomalies,
            )
            try:
                return self._policy.could_allow_call(context, catalog)
            except Exception:  # noqa: BLE001 - whatever it is, it is not allowed (rule R5)
                return False

        found = (catalog.tools.get(name) for name in sorted(task.scope.tools))
        return tuple(tool for tool in found if tool is not None and may_come(tool))
