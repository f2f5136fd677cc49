"""The AuthZEN door's endpoints: from requests to use cases and back.

An evaluation is an `AuthorizeAction`: whoever asks will let the call go, so it is a link of the task's chain, and
audited. Searches decide nothing. An agent instance asks for itself, and what it asks for somebody else is answered as what
does not exist (rule R7); an enforcer asks for instances of the catalog, one by one at their own rate too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from broker.domain.errors import (
    ActionLimitReachedError,
    FieldInvalidError,
    IdempotencyKeyReusedError,
    NotFoundError,
    TaskNotActiveError,
    TaskNotFoundError,
)
from broker.domain.operators import OperatorRole
from broker.domain.peer import VerifiedPeer
from broker.domain.spiffe import SpiffeId
from broker.ports.system import Clock
from broker.server import authzen_wire
from broker.server.authzen_wire import Evaluation, Search
from broker.server.https.endpoints import Body, Endpoint, Visit
from broker.server.rate_limit import RateLimit
from broker.usecases.authorize_action import AuthorizeAction
from broker.usecases.caller import AskingCaller, Caller
from broker.usecases.enforce_for import EnforceFor
from broker.usecases.list_tools import ListTools

EVALUATION: Final = "/access/v1/evaluation"
EVALUATIONS: Final = "/access/v1/evaluations"
RESOURCE_SEARCH: Final = "/access/v1/search/resource"
ACTION_SEARCH: Final = "/access/v1/search/action"
METADATA: Final = "/.well-known/authzen-configuration"

_ENFORCING: Final = frozenset({OperatorRole.ENFORCER})
_OF_ONE_EVALUATION: Final = (
    NotFoundError,
    TaskNotActiveError,
    FieldInvalidError,
    IdempotencyKeyReusedError,
    ActionLimitReachedError,
)
"""What says something of one evaluation alone; anything else ends the request."""


class Authzen:
    """See the module."""

    def __init__(
        self,
        *,
        authorize: AuthorizeAction,
        list_tools: ListTools,
        enforce_for: EnforceFor,
        rate_limit: RateLimit,
        clock: Clock,
    ) -> None:
        self._authorize = authorize
        self._list_tools = list_tools
        self._enforce_for = enforce_for
        self._rate_limit = rate_limit
        self._clock = clock

    def endpoints(self) -> tuple[Endpoint, ...]:
        """The door's table."""
        table = (
            ("POST", EVALUATION, "Authzen/Evaluation", 1, self._evaluation),
            ("POST", EVALUATIONS, "Authzen/Evaluations", 8, self._evaluations),
            ("POST", RESOURCE_SEARCH, "Authzen/ResourceSearch", 2, self._resource_search),
            ("POST", ACTION_SEARCH, "Authzen/ActionSearch", 2, self._action_search),
            ("GET", METADATA, "Authzen/Configuration", 1, _metadata),
        )
        return tuple(
            Endpoint(
                method="GET" if method == "GET" else "POST",
                path=path,
                name=name,
                cost=cost,
                roles=_ENFORCING,
                serve=serve,
                outline=authzen_wire.outline,
            )
            for method, path, name, cost, serve in table
        )

    async def _evaluation(self, visit: Visit, body: Body) -> Body:
        wanted = authzen_wire.evaluation(body)
        (caller,) = self._callers(visit, [wanted])
        return authzen_wire.decision(await self._authorize(caller, wanted.task_id, wanted.call))

    async def _evaluations(self, visit: Visit, body: Body) -> Body:
        if not authzen_wire.has_several(body):
            return await self._evaluation(visit, body)
        wanted, semantic = authzen_wire.evaluations(body)
        answers = []
        for caller, one in zip(self._callers(visit, wanted), wanted, strict=True):
            answer = await self._one_of_several(visit, caller, one)
            answers.append(answer)
            if semantic.stops_after(answer["decision"] is True):
                break
        return {"evaluations": answers}

    async def _one_of_several(
        self, visit: Visit, caller: AskingCaller, wanted: Evaluation
    ) -> dict[str, object]:
        try:
            return authzen_wire.decision(await self._authorize(caller, wanted.task_id, wanted.call))
        except _OF_ONE_EVALUATION as error:
            await visit.record_refusal(error)
            return authzen_wire.undecided(error)

    async def _resource_search(self, visit: Visit, body: Body) -> Body:
        wanted = authzen_wire.resource_search(body)
        (caller,) = self._callers(visit, [wanted])
        return authzen_wire.resources(await self._list_tools(caller, wanted.task_id))

    async def _action_search(self, visit: Visit, body: Body) -> Body:
        wanted = authzen_wire.action_search(body)
        (caller,) = self._callers(visit, [wanted])
        tools = await self._list_tools(caller, wanted.task_id)
        return authzen_wire.actions(callable_now=any(tool.name == wanted.tool for tool in tools))

    def _callers(self, visit: Visit, wanted: Iterable[Evaluation | Search]) -> list[AskingCaller]:
        """Who asks, for each of what is wanted; everybody is looked at before anything is decided.

        Raises:
            TaskNotFoundError: an instance asks for another one.
            AgentClassUnknownError, InstanceQuarantinedError: an enforcer asks for whom nothing is decided.
            RateLimitedError: too much was asked for one of them.
        """
        found: dict[SpiffeId, AskingCaller] = {}
        subjects = [one.subject for one in wanted]
        for subject in dict.fromkeys(subjects):
            found[subject] = self._caller(visit, subject)
        return [found[subject] for subject in subjects]

    def _caller(self, visit: Visit, subject: SpiffeId) -> AskingCaller:
        if isinstance(visit.who, VerifiedPeer):
            if visit.who.spiffe_id != subject:
                raise TaskNotFoundError
            return Caller(peer=visit.who, request_id=visit.request_id, time_left=visit.time_left)
        caller = self._enforce_for(visit.who, subject, request_id=visit.request_id, time_left=visit.time_left)
        self._rate_limit.take(subject, visit.cost, self._clock.now())
        return caller


async def _metadata(visit: Visit, _body: Body) -> Body:
    """Where what is offered is: subjects cannot be searched for."""
    here = f"https://{visit.origin}"
    return {
        "policy_decision_point": here,
        "access_evaluation_endpoint": here + EVALUATION,
        "access_evaluations_endpoint": here + EVALUATIONS,
        "search_resource_endpoint": here + RESOURCE_SEARCH,
        "search_action_endpoint": here + ACTION_SEARCH,
    }
