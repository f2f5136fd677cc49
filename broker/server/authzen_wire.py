"""AuthZEN's requests, bounded, and its answers (OpenID AuthZEN Authorization API 1.0).

What a call is: subject `instance`, action `call` with the tool's arguments as its property `arguments`, resource `tool`,
context `task` and, where they are used, `fingerprint` and `idempotency_key`. Other keys of a subject, a resource or a
context are not looked at. Other properties of an action are refused: they could be arguments that the decision would be
made without.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from broker.domain.catalog import Obligations, Tool
from broker.domain.errors import BrokerError
from broker.domain.identifiers import TaskId
from broker.domain.spiffe import AgentIdentity, InvalidSpiffeIdError, SpiffeId
from broker.server.bounds import IDENTIFIER, KEY, MAX_FINGERPRINT, Problems
from broker.server.https.answers import as_body
from broker.server.https.endpoints import Body
from broker.server.tool_wire import MAX_ARGUMENTS, MAX_CALLS
from broker.usecases.authorize_action import Authorization
from broker.usecases.judging import Call

SUBJECT_TYPE: Final = "instance"
RESOURCE_TYPE: Final = "tool"
ACTION_NAME: Final = "call"
_PARTS: Final = ("subject", "action", "resource", "context")
_NOTHING: Final[Mapping[str, object]] = {}
_NOBODY: Final = SpiffeId(trust_domain="", path="")
_LONGEST_OUTLINE: Final = 200


class Semantic(StrEnum):
    """How several evaluations follow each other."""

    EXECUTE_ALL = "execute_all"
    DENY_ON_FIRST_DENY = "deny_on_first_deny"
    PERMIT_ON_FIRST_PERMIT = "permit_on_first_permit"

    def stops_after(self, decision: bool) -> bool:  # noqa: FBT001 - one decision
        """Whether nothing more is decided."""
        match self:
            case Semantic.EXECUTE_ALL:
                return False
            case Semantic.DENY_ON_FIRST_DENY:
                return not decision
            case Semantic.PERMIT_ON_FIRST_PERMIT:
                return decision


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One question: may this instance make this call in this task now."""

    subject: SpiffeId
    task_id: TaskId
    call: Call


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What of its tools an instance may call in this task now; `tool` where one was named."""

    subject: SpiffeId
    task_id: TaskId
    tool: str = ""


def evaluation(body: Body) -> Evaluation:
    """An Access Evaluation request.

    Raises:
        FieldInvalidError: each field that is not as it has to be.
    """
    problems = Problems()
    found = _evaluation(body, "", problems)
    problems.raise_any()
    return found


def evaluations(body: Body) -> tuple[list[Evaluation], Semantic]:
    """An Access Evaluations request: what an evaluation leaves out is taken from the top, each key as a whole.

    Raises:
        FieldInvalidError: each field that is not as it has to be; nothing was decided.
    """
    problems = Problems()
    listed = body["evaluations"]
    if not isinstance(listed, list) or len(listed) > MAX_CALLS:
        problems.check(False, "evaluations", f"a list of at most {MAX_CALLS}")  # noqa: FBT003
        listed = []
    above = {part: body[part] for part in _PARTS if part in body}
    found = []
    for index, one in enumerate(listed):
        at = f"evaluations[{index}]"
        problems.check(isinstance(one, dict), at, "an object")
        found.append(_evaluation(above | one if isinstance(one, dict) else above, f"{at}.", problems))
    semantic = _semantic(_object(body, "options", "", problems, needed=False), problems)
    problems.raise_any()
    return found, semantic


def has_several(body: Body) -> bool:
    """Whether an Access Evaluations request is one: without evaluations it is a single one, says the standard."""
    return body.get("evaluations", []) != []


def resource_search(body: Body) -> Search:
    """A Resource Search request.

    Raises:
        FieldInvalidError: each field that is not as it has to be.
    """
    problems = Problems()
    subject = _subject(body, "", problems)
    _action(body, "", problems)
    _typed(body, "resource", RESOURCE_TYPE, "", problems)
    task_id = _task_id(_object(body, "context", "", problems), "", problems)
    _page(body, problems)
    problems.raise_any()
    return Search(subject=subject, task_id=task_id)


def action_search(body: Body) -> Search:
    """An Action Search request.

    Raises:
        FieldInvalidError: each field that is not as it has to be.
    """
    problems = Problems()
    subject = _subject(body, "", problems)
    tool = _tool(body, "", problems)
    task_id = _task_id(_object(body, "context", "", problems), "", problems)
    _page(body, problems)
    problems.raise_any()
    return Search(subject=subject, task_id=task_id, tool=tool)


def outline(body: Body) -> str:
    """Who, what and in which task, for the record of a refusal. Nothing else of what was sent, least of all arguments."""
    several = body.get("evaluations")
    parts = [body, *(several[:MAX_CALLS] if isinstance(several, list) else [])]
    found = [
        {
            name: text[:_LONGEST_OUTLINE]
            for name, part, key in (
                ("subject", "subject", "id"),
                ("resource", "resource", "id"),
                ("task", "context", "task"),
            )
            if isinstance(inner := one.get(part), dict) and isinstance(text := inner.get(key), str)
        }
        for one in parts
        if isinstance(one, dict)
    ]
    return json.dumps([one for one in found if one])


def decision(found: Authorization) -> dict[str, object]:
    """A decision: what gRPC's answer says, and no more."""
    action = found.action
    context: dict[str, object] = {
        "action_id": action.action_id,
        "position": action.position,
        "decided_at": action.at.isoformat(),
        "policies": list(found.decision.policies),
    }
    if action.allowed:
        context["obligations"] = _obligations(found.obligations)
    else:
        denial_class = action.denial_class
        context["reason"] = action.reason
        context["text"] = found.decision.text
        context["denial_class"] = "" if denial_class is None else denial_class.value
        context["expected"] = sorted(found.expected)
    if found.warnings:
        context["warnings"] = list(found.warnings)
    return {"decision": action.allowed, "context": context}


def undecided(error: BrokerError) -> dict[str, object]:
    """One of several evaluations that could not be decided: not allowed, and why."""
    return {"decision": False, "context": {"error": as_body(error)}}


def resources(tools: tuple[Tool, ...]) -> dict[str, object]:
    """Tools, as the results of a search."""
    return {"results": [{"type": RESOURCE_TYPE, "id": tool.name} for tool in tools]}


def actions(*, callable_now: bool) -> dict[str, object]:
    """What may be done with one tool."""
    return {"results": [{"name": ACTION_NAME}] if callable_now else []}


def _evaluation(body: Body, at: str, problems: Problems) -> Evaluation:
    subject = _subject(body, at, problems)
    action = _action(body, at, problems)
    tool = _tool(body, at, problems)
    context = _object(body, "context", at, problems)
    key = _text(context, "idempotency_key", f"{at}context", problems)
    problems.check(
        not key or bool(KEY.fullmatch(key)),
        f"{at}context.idempotency_key",
        "leave it out, or 8 to 128 printable ASCII characters without spaces",
    )
    return Evaluation(
        subject=subject,
        task_id=_task_id(context, at, problems),
        call=Call(
            tool=tool,
            arguments=_arguments(action, at, problems),
            fingerprint=_fingerprint(context, at, problems),
            idempotency_key=key or None,
        ),
    )


def _subject(body: Body, at: str, problems: Problems) -> SpiffeId:
    subject = _typed(body, "subject", SUBJECT_TYPE, at, problems)
    remedy = "spiffe://<trust domain>/agent/<class>/<instance>"
    try:
        spiffe_id = SpiffeId.parse(_text(subject, "id", f"{at}subject", problems))
    except InvalidSpiffeIdError:
        problems.check(False, f"{at}subject.id", remedy)  # noqa: FBT003
        return _NOBODY
    problems.check(AgentIdentity.of(spiffe_id) is not None, f"{at}subject.id", remedy)
    return spiffe_id


def _action(body: Body, at: str, problems: Problems) -> Body:
    action = _object(body, "action", at, problems)
    problems.check(action.get("name") == ACTION_NAME, f"{at}action.name", ACTION_NAME)
    return action


def _tool(body: Body, at: str, problems: Problems) -> str:
    resource = _typed(body, "resource", RESOURCE_TYPE, at, problems)
    tool = _text(resource, "id", f"{at}resource", problems)
    problems.name(tool, f"{at}resource.id")
    return tool


def _arguments(action: Body, at: str, problems: Problems) -> Mapping[str, object]:
    properties = _object(action, "properties", f"{at}action.", problems, needed=False)
    field = f"{at}action.properties"
    problems.check(
        properties.keys() <= {"arguments"}, field, "arguments alone: put the call's arguments in there"
    )
    arguments = _object(properties, "arguments", f"{field}.", problems, needed=False)
    size = len(json.dumps(arguments, separators=(",", ":"), ensure_ascii=False).encode())
    problems.check(size <= MAX_ARGUMENTS, f"{field}.arguments", f"at most {MAX_ARGUMENTS // 1024} KiB")
    return arguments


def _task_id(context: Body, at: str, problems: Problems) -> TaskId:
    task_id = _text(context, "task", f"{at}context", problems)
    problems.check(
        bool(IDENTIFIER.fullmatch(task_id)), f"{at}context.task", "give the id that DeclareTask returned"
    )
    return TaskId(task_id)


def _fingerprint(context: Body, at: str, problems: Problems) -> bytes:
    text = _text(context, "fingerprint", f"{at}context", problems)
    try:
        found = bytes.fromhex(text) if text.isalnum() else b""
    except ValueError:
        found = b""
    good = not text or 0 < len(found) <= MAX_FINGERPRINT
    problems.check(
        good, f"{at}context.fingerprint", f"leave it out, or at most {MAX_FINGERPRINT} bytes in hex"
    )
    return found


def _semantic(options: Body, problems: Problems) -> Semantic:
    given = options.get("evaluations_semantic", Semantic.EXECUTE_ALL.value)
    if isinstance(given, str) and given in list(Semantic):
        return Semantic(given)
    problems.check(False, "options.evaluations_semantic", ", ".join(Semantic))  # noqa: FBT003
    return Semantic.EXECUTE_ALL


def _page(body: Body, problems: Problems) -> None:
    page = _object(body, "page", "", problems, needed=False)
    problems.check(not page.get("token"), "page.token", "leave it out: there is one page")


def _typed(body: Body, part: str, kind: str, at: str, problems: Problems) -> Body:
    found = _object(body, part, at, problems)
    problems.check(found.get("type") == kind, f"{at}{part}.type", kind)
    return found


def _object(body: Body, key: str, at: str, problems: Problems, *, needed: bool = True) -> Body:
    found = body.get(key)
    if isinstance(found, dict):
        return found
    problems.check(key not in body and not needed, f"{at}{key}", "an object")
    return _NOTHING


def _text(part: Body, key: str, at: str, problems: Problems) -> str:
    """The text there; empty when there is none: whether there may be none is its reader's business."""
    found = part.get(key, "")
    if isinstance(found, str):
        return found
    problems.check(False, f"{at}.{key}", "a text")  # noqa: FBT003
    return ""


def _obligations(found: Obligations) -> dict[str, object]:
    said: dict[str, object] = {
        "redact": list(found.redact),
        "limit_rows": found.limit_rows,
        "credential_role": found.credential_role,
    }
    return {name: value for name, value in said.items() if value}
