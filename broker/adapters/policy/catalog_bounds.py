"""Decides by the catalog alone: what is not listed is denied (rule R5).

Responsible for the bounds that every decision has, whatever else is consulted: agent class, task type,
environment, roles, declared scope. Each verdict names the catalog entries that determined it.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from broker.domain.catalog import Catalog, TaskType
from broker.domain.decision import AcquireContext, CallContext, Decision, DeclareContext, Verdict
from broker.domain.errors import (
    AgentClassUnknownError,
    DenialClass,
    EnvironmentNotAllowedError,
    RoleNotAllowedError,
    TaskTypeNotAllowedError,
    ToolNotAllowedError,
)
from broker.domain.spiffe import SpiffeId
from broker.domain.task import Scope, Task


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a scope lists: roles, or tools."""

    word: str
    entry: str
    reason: str
    of_scope: Callable[[Scope], AbstractSet[str]]
    of_type: Callable[[TaskType], AbstractSet[str]]


_ROLE: Final = _Kind(
    "role",
    "credential-role",
    RoleNotAllowedError.reason,
    lambda scope: scope.roles,
    lambda task_type: task_type.roles,
)
_TOOL: Final = _Kind(
    "tool", "tool", ToolNotAllowedError.reason, lambda scope: scope.tools, lambda task_type: task_type.tools
)


class CatalogBoundsPolicy:
    """Implements ports.policy.PolicyEngine."""

    def decide_declaration(self, context: DeclareContext, catalog: Catalog) -> Decision:
        """Allow what the agent class and the task type list; deny everything else."""
        agent_class = catalog.agent_class(context.caller.trust_domain, context.agent_class)
        if agent_class is None:
            return _deny_class(context.agent_class, context.caller)
        task_type = catalog.task_types.get(context.task_type)
        if task_type is None or task_type.name not in agent_class.task_types:
            return _deny(
                f"agent-class/{context.agent_class}",
                TaskTypeNotAllowedError.reason,
                f"task type {context.task_type!r} is not one that agent class {context.agent_class!r} may declare",
            )
        if context.environment != task_type.environment:
            return _deny(
                f"task-type/{task_type.name}",
                EnvironmentNotAllowedError.reason,
                f"environment {context.environment!r} is not the one of task type {task_type.name!r}",
            )
        for what, known in ((_ROLE, catalog.credential_roles), (_TOOL, catalog.tools)):
            allowed = what.of_type(task_type) & known.keys()
            beyond = sorted(what.of_scope(context.scope) - allowed)
            if beyond:
                return _deny(
                    f"task-type/{task_type.name}",
                    what.reason,
                    f"task type {task_type.name!r} has no {what.word} {beyond[0]!r}",
                )
        return _allow(f"agent-class/{agent_class.name}", f"task-type/{task_type.name}")

    def decide_acquisition(self, context: AcquireContext, catalog: Catalog) -> Decision:
        """Allow a role of the declared scope that the catalog, as it is now, still gives the task's type."""
        return self._decide_use(
            context.task, catalog, _ROLE, context.role_name, listed=context.role is not None
        )

    def decide_call(self, context: CallContext, catalog: Catalog) -> Decision:
        """Allow a tool of the declared scope that the catalog, as it is now, still gives the task's type."""
        return self._decide_use(
            context.task, catalog, _TOOL, context.tool_name, listed=context.tool is not None
        )

    def could_allow_call(self, context: CallContext, catalog: Catalog) -> bool:
        """The catalog does not look at arguments."""
        return self.decide_call(context, catalog).allowed

    def _decide_use(self, task: Task, catalog: Catalog, what: _Kind, name: str, *, listed: bool) -> Decision:
        refused = self._refused_task(task, catalog)
        if refused is not None:
            return refused
        if name not in what.of_scope(task.scope):
            return _deny(
                "scope", what.reason, f"{what.word} {name!r} is not in the scope that the task declared"
            )
        if not listed or name not in what.of_type(catalog.task_types[task.task_type]):
            return _deny(
                f"task-type/{task.task_type}",
                what.reason,
                f"{what.word} {name!r} is no longer one of task type {task.task_type!r}",
            )
        return _allow(f"task-type/{task.task_type}", f"{what.entry}/{name}", "scope")

    @staticmethod
    def _refused_task(task: Task, catalog: Catalog) -> Decision | None:
        """Why nothing at all is allowed to the task any more."""
        agent_class = catalog.agent_class(task.owner.trust_domain, task.agent_class)
        if agent_class is None:
            return _deny_class(task.agent_class, task.owner)
        task_type = catalog.task_types.get(task.task_type)
        if task_type is None or task_type.name not in agent_class.task_types:
            return _deny(
                f"agent-class/{task.agent_class}",
                TaskTypeNotAllowedError.reason,
                f"task type {task.task_type!r} is no longer one that agent class {task.agent_class!r} may use",
            )
        if task.environment != task_type.environment:
            return _deny(
                f"task-type/{task_type.name}",
                EnvironmentNotAllowedError.reason,
                f"environment {task.environment!r} is no longer the one of task type {task_type.name!r}",
            )
        return None


@lru_cache(maxsize=1024)  # few are said again and again
def _allow(*policies: str) -> Decision:
    return Decision(verdict=Verdict.ALLOW, policies=tuple(f"catalog:{policy}" for policy in policies))


def _deny_class(name: str, instance: SpiffeId) -> Decision:
    return _deny(
        f"agent-class/{name}",
        AgentClassUnknownError.reason,
        f"the catalog has no agent class {name!r} in trust domain {instance.trust_domain}",
    )


def _deny(policy: str, reason: str, text: str) -> Decision:
    return Decision(
        verdict=Verdict.DENY,
        policies=(f"catalog:{policy}",),
        reason=reason,
        text=text,
        denial_class=DenialClass.STRUCTURAL,
    )
