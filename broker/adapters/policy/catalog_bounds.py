"""Decides by the catalog alone: what is not listed is denied (rule R5).

Responsible for the bounds that every decision has, whatever else is consulted: agent class, task type,
environment, roles, declared scope. Each verdict names the catalog entries that determined it.
"""

from __future__ import annotations

from broker.domain.catalog import Catalog
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
from broker.domain.task import Task


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
        beyond = sorted(
            role
            for role in context.scope.roles
            if role not in task_type.roles or role not in catalog.credential_roles
        )
        if beyond:
            return _deny(
                f"task-type/{task_type.name}",
                RoleNotAllowedError.reason,
                f"task type {task_type.name!r} has no role {beyond[0]!r}",
            )
        beyond = sorted(
            tool for tool in context.scope.tools if tool not in task_type.tools or tool not in catalog.tools
        )
        if beyond:
            return _deny(
                f"task-type/{task_type.name}",
                ToolNotAllowedError.reason,
                f"task type {task_type.name!r} has no tool {beyond[0]!r}",
            )
        return _allow(f"agent-class/{agent_class.name}", f"task-type/{task_type.name}")

    def decide_acquisition(self, context: AcquireContext, catalog: Catalog) -> Decision:
        """Allow a role of the declared scope that the catalog, as it is now, still gives the task's type."""
        task = context.task
        refused = self._refused_task(task, catalog)
        if refused is not None:
            return refused
        if context.role_name not in task.scope.roles:
            return _deny(
                "scope",
                RoleNotAllowedError.reason,
                f"role {context.role_name!r} is not in the scope that the task declared",
            )
        if context.role is None or context.role_name not in catalog.task_types[task.task_type].roles:
            return _deny(
                f"task-type/{task.task_type}",
                RoleNotAllowedError.reason,
                f"role {context.role_name!r} is no longer one of task type {task.task_type!r}",
            )
        return _allow(f"task-type/{task.task_type}", f"credential-role/{context.role_name}", "scope")

    def decide_call(self, context: CallContext, catalog: Catalog) -> Decision:
        """Allow a tool of the declared scope that the catalog, as it is now, still gives the task's type."""
        task = context.task
        refused = self._refused_task(task, catalog)
        if refused is not None:
            return refused
        if context.tool_name not in task.scope.tools:
            return _deny(
                "scope",
                ToolNotAllowedError.reason,
                f"tool {context.tool_name!r} is not in the scope that the task declared",
            )
        if context.tool is None or context.tool_name not in catalog.task_types[task.task_type].tools:
            return _deny(
                f"task-type/{task.task_type}",
                ToolNotAllowedError.reason,
                f"tool {context.tool_name!r} is no longer one of task type {task.task_type!r}",
            )
        return _allow(f"task-type/{task.task_type}", f"tool/{context.tool_name}", "scope")

    def could_allow_call(self, context: CallContext, catalog: Catalog) -> bool:
        """The catalog does not look at arguments."""
        return self.decide_call(context, catalog).allowed

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
