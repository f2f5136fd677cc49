"""ToolService: from messages to use cases and back."""

from __future__ import annotations

from typing import Any

import grpc

from broker.api.v1 import tools_pb2, tools_pb2_grpc
from broker.server import bounds, tool_wire
from broker.server.gate import admitted
from broker.usecases.authorize_action import AuthorizeAction
from broker.usecases.list_tools import ListTools
from broker.usecases.report_outcome import ReportOutcome

Context = grpc.aio.ServicerContext[Any, Any]


class ToolServicer(tools_pb2_grpc.ToolServiceServicer):
    """Behind the gate: the caller is verified, the bytes are a message."""

    def __init__(
        self, *, list_tools: ListTools, authorize: AuthorizeAction, report_outcome: ReportOutcome
    ) -> None:
        self._list_tools = list_tools
        self._authorize = authorize
        self._report_outcome = report_outcome

    async def ListTools(  # noqa: N802 - the wire's name
        self, request: tools_pb2.ListToolsRequest, _context: Context
    ) -> tools_pb2.ListToolsResponse:
        """What may be called now."""
        found = await self._list_tools(admitted().caller, bounds.task_id(request.task_id))
        return tools_pb2.ListToolsResponse(tools=[tool_wire.tool_message(tool) for tool in found])

    async def AuthorizeAction(  # noqa: N802
        self, request: tools_pb2.AuthorizeActionRequest, _context: Context
    ) -> tools_pb2.AuthorizeActionResponse:
        """Decide one call."""
        task_id, call = tool_wire.one_call(request)
        found = await self._authorize(admitted().caller, task_id, call)
        return tools_pb2.AuthorizeActionResponse(authorization=tool_wire.authorization_message(found))

    async def AuthorizeActions(  # noqa: N802
        self, request: tools_pb2.AuthorizeActionsRequest, _context: Context
    ) -> tools_pb2.AuthorizeActionsResponse:
        """Decide several in order."""
        task_id, calls = tool_wire.several_calls(request)
        found = await self._authorize.plan(
            admitted().caller, task_id, calls, stop_at_refusal=request.stop_at_refusal
        )
        return tools_pb2.AuthorizeActionsResponse(
            authorizations=[tool_wire.authorization_message(one) for one in found]
        )

    async def ReportOutcome(  # noqa: N802
        self, request: tools_pb2.ReportOutcomeRequest, _context: Context
    ) -> tools_pb2.ReportOutcomeResponse:
        """Close an action."""
        action_id, outcome = tool_wire.outcome(request)
        found = await self._report_outcome(admitted().caller, action_id, outcome)
        return tool_wire.outcome_message(found.outcome)
