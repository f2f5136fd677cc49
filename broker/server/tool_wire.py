"""ToolService's requests, bounded, and its answers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Final

from broker.api.v1 import tools_pb2
from broker.domain.actions import ActionOutcome
from broker.domain.catalog import NO_OBLIGATIONS, Obligations, Tool
from broker.domain.errors import DenialClass
from broker.domain.identifiers import ActionId, TaskId
from broker.server.bounds import IDENTIFIER, KEY, Problems, task_id
from broker.server.wire import timestamp
from broker.usecases.authorize_action import Authorization
from broker.usecases.judging import Call

MAX_ARGUMENTS: Final = 16 * 1024
MAX_CALLS: Final = 50
_DEEPEST: Final = 32
_LARGEST: Final = 2**63 - 1
"""Policies count with 64 bits."""

_OUTCOMES: Final = {
    tools_pb2.ACTION_OUTCOME_SUCCEEDED: ActionOutcome.SUCCEEDED,
    tools_pb2.ACTION_OUTCOME_FAILED: ActionOutcome.FAILED,
    tools_pb2.ACTION_OUTCOME_NOT_DONE: ActionOutcome.NOT_DONE,
}
_OUTCOME_MESSAGES: Final = {
    ActionOutcome.OPEN: tools_pb2.ACTION_OUTCOME_OPEN,
    **{outcome: message for message, outcome in _OUTCOMES.items()},
}
_CLASSES: Final = {
    None: tools_pb2.DENIAL_CLASS_UNSPECIFIED,
    DenialClass.STRUCTURAL: tools_pb2.DENIAL_CLASS_STRUCTURAL,
    DenialClass.GRANTABLE: tools_pb2.DENIAL_CLASS_GRANTABLE,
    DenialClass.TRANSIENT: tools_pb2.DENIAL_CLASS_TRANSIENT,
}


class _NotPlainError(ValueError):
    """JSON that two readers could understand differently, or not at all."""


def one_call(request: tools_pb2.AuthorizeActionRequest) -> tuple[TaskId, Call]:
    """AuthorizeActionRequest, bounded."""
    problems = Problems()
    found = _call(request.call, "call", problems)
    problems.raise_any()
    return task_id(request.task_id), found


def several_calls(request: tools_pb2.AuthorizeActionsRequest) -> tuple[TaskId, list[Call]]:
    """AuthorizeActionsRequest, bounded."""
    problems = Problems()
    problems.check(1 <= len(request.calls) <= MAX_CALLS, "calls", f"1 to {MAX_CALLS}")
    found = [_call(call, f"calls[{index}]", problems) for index, call in enumerate(request.calls[:MAX_CALLS])]
    problems.raise_any()
    return task_id(request.task_id), found


def outcome(request: tools_pb2.ReportOutcomeRequest) -> tuple[ActionId, ActionOutcome]:
    """ReportOutcomeRequest, bounded."""
    problems = Problems()
    problems.check(
        bool(IDENTIFIER.fullmatch(request.action_id)),
        "action_id",
        "give the id that AuthorizeAction returned",
    )
    found = _OUTCOMES.get(request.outcome)
    problems.check(found is not None, "outcome", "SUCCEEDED, FAILED or NOT_DONE")
    problems.raise_any()
    return ActionId(request.action_id), found or ActionOutcome.FAILED


def tool_message(tool: Tool) -> tools_pb2.Tool:
    """A tool as whoever calls it needs to know it."""
    return tools_pb2.Tool(
        name=tool.name,
        description=tool.description,
        arguments_schema=json.dumps(dict(tool.arguments), sort_keys=True),
        obligations=_obligations(tool.obligations),
    )


def authorization_message(found: Authorization) -> tools_pb2.Authorization:
    """A decision."""
    action, decision = found.action, found.decision
    return tools_pb2.Authorization(
        action_id=action.action_id,
        allowed=action.allowed,
        reason=action.reason,
        text="" if action.allowed else decision.text,
        denial_class=_CLASSES[action.denial_class],
        expected=sorted(found.expected) if found.expected else (),
        policies=decision.policies,
        obligations=_obligations(found.obligations),
        position=action.position,
        decided_at=timestamp(action.at),
        warnings=found.warnings,
    )


def outcome_message(found: ActionOutcome) -> tools_pb2.ReportOutcomeResponse:
    """What stands."""
    return tools_pb2.ReportOutcomeResponse(outcome=_OUTCOME_MESSAGES[found])


def arguments_of(text: str) -> Mapping[str, object]:
    """A JSON object, each name once, without numbers that are none.

    Raises:
        ValueError: it is something else; says what to give.
    """
    if not text:
        return {}
    try:
        found = _DECODER.decode(text)
    except _NotPlainError as error:
        raise ValueError(str(error)) from None
    except (ValueError, RecursionError):
        message = "a JSON object"
        raise ValueError(message) from None
    if not isinstance(found, dict):
        message = "a JSON object"
        raise ValueError(message)  # noqa: TRY004 - to whoever sent it, one thing
    if not _is_plain(text):
        _look_at(found)
    return found


def _call(call: tools_pb2.Call, field: str, problems: Problems) -> Call:
    problems.name(call.tool, field, "tool")
    problems.fingerprint(call.fingerprint, field, "fingerprint")
    if call.idempotency_key:
        problems.check(
            bool(KEY.fullmatch(call.idempotency_key)),
            f"{field}.idempotency_key",
            "empty, or 8 to 128 printable ASCII characters without spaces",
        )
    arguments: Mapping[str, object] = {}
    text = call.arguments
    if len(text) > MAX_ARGUMENTS or (not text.isascii() and len(text.encode()) > MAX_ARGUMENTS):
        problems.check(False, f"{field}.arguments", f"at most {MAX_ARGUMENTS // 1024} KiB")  # noqa: FBT003
    else:
        try:
            arguments = arguments_of(text)
        except ValueError as error:
            problems.check(False, f"{field}.arguments", f"give {error}")  # noqa: FBT003
    return Call(
        tool=call.tool,
        arguments=arguments,
        fingerprint=call.fingerprint,
        idempotency_key=call.idempotency_key or None,
    )


def _each_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        message = "each name once: two readers could take different ones"
        raise _NotPlainError(message)
    return found


def _no_constant(name: str) -> object:
    message = f"numbers that JSON has: no {name}"
    raise _NotPlainError(message)


def _whole(text: str) -> int:
    if len(text) > 20 or abs(int(text)) > _LARGEST:
        message = "whole numbers of at most 64 bits"
        raise _NotPlainError(message)
    return int(text)


def _finite(text: str) -> float:
    found = float(text)
    if not math.isfinite(found):
        message = "numbers that 64 bits hold"
        raise _NotPlainError(message)
    return found


def _is_plain(text: str) -> bool:
    """Whether it has neither what could nest it too deep nor what could be half of a surrogate pair."""
    return text.isascii() and "\\u" not in text and text.count("{") + text.count("[") < _DEEPEST


def _look_at(value: object) -> None:
    """See that it is not nested too deep, and that its texts can be written as UTF-8.

    Raises:
        ValueError: which of the two it is.
    """
    left = [(value, 1)]
    while left:
        one, depth = left.pop()
        if depth > _DEEPEST:
            message = f"a JSON object, nested at most {_DEEPEST} deep"
            raise ValueError(message)
        match one:
            case str():
                if not one.isascii() and any("\ud800" <= character <= "\udfff" for character in one):
                    message = "text that is whole: no half of a surrogate pair"
                    raise ValueError(message)
            case dict():
                left += [(inner, depth + 1) for pair in one.items() for inner in pair]
            case list():
                left += [(inner, depth + 1) for inner in one]
            case _:
                pass


def _obligations(found: Obligations) -> tools_pb2.Obligations | None:
    if found == NO_OBLIGATIONS:
        return None  # as whoever reads it finds it as well
    return tools_pb2.Obligations(
        redact=found.redact, limit_rows=found.limit_rows or 0, credential_role=found.credential_role or ""
    )


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_each_once, parse_constant=_no_constant, parse_int=_whole, parse_float=_finite
)
