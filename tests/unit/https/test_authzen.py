"""What AuthZEN's questions are to the use cases, and what is answered."""

from __future__ import annotations

import json
from typing import Any

import pytest

from broker.domain.audit import AuditKind
from broker.domain.decision import CallContext, Decision, Verdict
from broker.domain.errors import DenialClass, PolicyDeniedError
from broker.domain.spiffe import SpiffeId
from broker.domain.task import TaskState
from tests.contract.quarantining import impose
from tests.fakes.samples import OTHER, OWNER
from tests.https import ACTIONS, EVALUATION, EVALUATIONS, METADATA, RESOURCES, an_evaluation
from tests.unit.https.doors import ANN, GATEWAY, Door

REMEDY = "spiffe://<trust domain>/agent/<class>/<instance>"
SECRET = "planted-4711"


def denying(name: str) -> Any:
    def decide(context: Any) -> Decision:
        if isinstance(context, CallContext) and context.tool_name == name:
            return Decision(
                verdict=Verdict.DENY,
                policies=("cedar:no",),
                reason=PolicyDeniedError.reason,
                text="not today",
                denial_class=DenialClass.GRANTABLE,
            )
        return Decision(verdict=Verdict.ALLOW, policies=("cedar:yes",))

    return decide


async def test_an_evaluation_is_a_decision_of_the_tasks_chain(door: Door) -> None:
    task = await door.task()
    reply = await door.evaluate(
        task, action={"name": "call", "properties": {"arguments": {"order_id": "7", "amount": 3}}}
    )
    assert reply.status == 200
    (action,) = await door.broker.store.actions_of(task.task_id, 0, 10)
    assert reply.body == {
        "decision": True,
        "context": {
            "action_id": action.action_id,
            "position": 1,
            "decided_at": action.at.isoformat(),
            "policies": reply.body["context"]["policies"],
            "obligations": {"redact": ["iban"], "limit_rows": 5, "credential_role": "orders"},
        },
    }
    context = door.broker.policy.asked[-1]
    assert isinstance(context, CallContext)
    assert (context.arguments, context.caller) == ({"order_id": "7", "amount": 3}, OWNER)
    event = await door.last_event()
    assert (event.kind, event.actor, event.task_id) == (AuditKind.ACTION_ALLOWED, str(OWNER), task.task_id)
    assert "subject" not in event.facts
    assert event.facts["verified_by"] == "x509-svid"


async def test_a_refusal_by_policy_is_an_answer(door: Door) -> None:
    task = await door.task()
    door.broker.policy.instead = denying("read-orders")
    reply = await door.evaluate(task)
    assert (reply.status, reply.body["decision"]) == (200, False)
    context = reply.body["context"]
    assert (context["reason"], context["denial_class"]) == ("POLICY_DENIED", "grantable")
    assert (context["text"], context["policies"], context["expected"]) == ("not today", ["cedar:no"], [])
    assert "obligations" not in context
    assert (await door.last_event()).kind == AuditKind.ACTION_DENIED


async def test_an_enforcer_asks_for_an_instance_and_both_are_written_down(door: Door) -> None:
    task = await door.task()
    reply = await door.evaluate(task, who=GATEWAY)
    assert (reply.status, reply.body["decision"]) == (200, True)
    event = await door.last_event()
    assert (event.kind, event.actor) == (AuditKind.ACTION_ALLOWED, str(GATEWAY))
    assert (event.facts["subject"], event.task_id) == (str(OWNER), task.task_id)
    (action,) = await door.broker.store.actions_of(task.task_id, 0, 10)
    assert action.owner == OWNER


async def test_the_same_key_gets_the_same_answer_whoever_asks(door: Door) -> None:
    task = await door.task()
    context = {"task": task.task_id, "idempotency_key": "key-12345"}
    first = await door.evaluate(task, context=context)
    again = await door.evaluate(task, context=context, who=GATEWAY)
    assert again.body["context"]["action_id"] == first.body["context"]["action_id"]
    other = await door.evaluate(task, context=context, resource={"type": "tool", "id": "delete-order"})
    assert (other.status, other.reason) == (409, "IDEMPOTENCY_KEY_REUSED")
    assert await door.length(task) == 1


async def test_another_fingerprint_ends_the_task(door: Door) -> None:
    task = await door.task()  # declared with 01
    same = await door.evaluate(task, context={"task": task.task_id, "fingerprint": "01"})
    assert same.body["decision"] is True
    changed = await door.evaluate(task, context={"task": task.task_id, "fingerprint": "02"})
    assert (changed.status, changed.body["context"]["reason"]) == (200, "FINGERPRINT_CHANGED")
    after = await door.evaluate(task)
    assert (after.status, after.reason) == (409, "TASK_NOT_ACTIVE")
    assert (await door.broker.task(task.task_id)).state is not TaskState.ACTIVE


@pytest.mark.parametrize("who", [OWNER, GATEWAY], ids=str)
async def test_a_task_that_is_not_the_subjects_is_as_if_it_did_not_exist(door: Door, who: SpiffeId) -> None:
    theirs = await door.task(OTHER)
    foreign = await door.post(EVALUATION, an_evaluation(str(OWNER), theirs.task_id), who=who)
    nothing = await door.post(EVALUATION, an_evaluation(str(OWNER), "task-0"), who=who)
    assert (foreign.status, foreign.reason) == (nothing.status, nothing.reason) == (404, "TASK_NOT_FOUND")
    assert foreign.body["error"]["message"] == nothing.body["error"]["message"]
    assert await door.length(theirs) == 0


@pytest.mark.parametrize("path", [EVALUATION, RESOURCES, ACTIONS])
async def test_an_instance_asks_for_itself_alone(door: Door, path: str) -> None:
    theirs = await door.task(OTHER)
    reply = await door.post(path, an_evaluation(str(OTHER), theirs.task_id), who=OWNER)
    assert (reply.status, reply.reason) == (404, "TASK_NOT_FOUND")
    assert await door.length(theirs) == 0


@pytest.mark.parametrize("who", [ANN, SpiffeId.parse("spiffe://example.test/enforcer")], ids=str)
@pytest.mark.parametrize("path", [EVALUATION, EVALUATIONS, RESOURCES, ACTIONS, METADATA])
async def test_who_is_no_enforcer_is_refused_and_written_down(door: Door, path: str, who: SpiffeId) -> None:
    task = await door.task()
    question = an_evaluation(str(OWNER), task.task_id)
    if path == METADATA:
        reply = await door.on_one(lambda one: one.get(path), who=who)
    else:
        reply = await door.post(path, question, who=who)
    reason = "OPERATOR_ROLE_MISSING" if who == ANN else "OPERATOR_UNKNOWN"
    assert (reply.status, reply.reason) == (403, reason)
    event = await door.last_event()
    assert (event.kind, event.actor) == (AuditKind.OPERATOR_REFUSED, str(who))
    assert (event.facts["rpc"], event.facts["reason"]) == (path, reason)
    assert await door.length(task) == 0


async def test_an_enforcer_asks_for_nobody_who_is_quarantined(door: Door) -> None:
    task = await door.task()
    await impose(door.broker.store)
    await door.broker.quarantine.refresh()
    reply = await door.evaluate(task, who=GATEWAY)
    assert (reply.status, reply.reason) == (403, "INSTANCE_QUARANTINED")
    event = await door.last_event()
    assert (event.kind, event.facts["reason"]) == (AuditKind.OPERATOR_REFUSED, "INSTANCE_QUARANTINED")
    (kept,) = json.loads(str(event.facts["request"]))
    assert kept == {"subject": str(OWNER), "resource": "read-orders", "task": task.task_id}
    own = await door.evaluate(task)
    assert (own.status, own.reason) == (403, "INSTANCE_QUARANTINED")


@pytest.mark.parametrize(
    "subject",
    ["spiffe://example.test/agent/unlisted/one", "spiffe://other.test/agent/invoice-bot/one"],
)
async def test_an_enforcer_asks_for_instances_of_the_catalog_alone(door: Door, subject: str) -> None:
    reply = await door.post(EVALUATION, an_evaluation(subject, "task-1"), who=GATEWAY)
    assert (reply.status, reply.reason) == (403, "AGENT_CLASS_UNKNOWN")
    assert (await door.last_event()).facts["reason"] == "AGENT_CLASS_UNKNOWN"


WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "no subject": ({"subject": None}, "subject", "an object"),
    "a subject of another type": ({"subject": {"type": "user", "id": str(OWNER)}}, "subject.type", "instance"),
    "a subject without an id": ({"subject": {"type": "instance"}}, "subject.id", REMEDY),
    "a subject that is a number": ({"subject": {"type": "instance", "id": 7}}, "subject.id", REMEDY),
    "a subject that is no agent": (
        {"subject": {"type": "instance", "id": str(GATEWAY)}}, "subject.id", REMEDY,
    ),
    "a subject that is a class": (
        {"subject": {"type": "instance", "id": "spiffe://example.test/agent/invoice-bot"}}, "subject.id", REMEDY,
    ),
    "another action": ({"action": {"name": "read"}}, "action.name", "call"),
    "no action": ({"action": []}, "action", "an object"),
    "arguments in the wrong place": (
        {"action": {"name": "call", "properties": {"order_id": "7"}}},
        "action.properties", "arguments alone: put the call's arguments in there",
    ),
    "arguments that are a list": (
        {"action": {"name": "call", "properties": {"arguments": []}}}, "action.properties.arguments", "an object",
    ),
    "arguments that are too large": (
        {"action": {"name": "call", "properties": {"arguments": {"to": "x" * 16384}}}},
        "action.properties.arguments", "at most 16 KiB",
    ),
    "another resource": ({"resource": {"type": "file", "id": "read-orders"}}, "resource.type", "tool"),
    "a tool that is no name": (
        {"resource": {"type": "tool", "id": "Read Orders"}}, "resource.id", "1 to 64 characters of a-z, 0-9 and '-'",
    ),
    "no context": ({"context": 1}, "context", "an object"),
    "no task": ({"context": {}}, "context.task", "give the id that DeclareTask returned"),
    "a fingerprint that is no hex": (
        {"context": {"task": "task-1", "fingerprint": "0x"}}, "context.fingerprint",
        "leave it out, or at most 64 bytes in hex",
    ),
    "a fingerprint that is too long": (
        {"context": {"task": "task-1", "fingerprint": "00" * 65}}, "context.fingerprint",
        "leave it out, or at most 64 bytes in hex",
    ),
    "a key that is too short": (
        {"context": {"task": "task-1", "idempotency_key": "key"}}, "context.idempotency_key",
        "leave it out, or 8 to 128 printable ASCII characters without spaces",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("several", [False, True])
async def test_a_field_that_is_wrong_is_named(door: Door, case: str, several: bool) -> None:  # noqa: FBT001
    changed, field, remedy = WRONG[case]
    question = an_evaluation(str(OWNER), "task-1") | changed
    if several:
        task = await door.task()
        good = an_evaluation(str(OWNER), task.task_id)
        reply = await door.post(EVALUATIONS, {"evaluations": [good, question]})
        assert await door.length(task) == 0, "nothing is decided before all of it can be"
    else:
        reply = await door.post(EVALUATION, question)
    assert (reply.status, reply.reason) == (400, "FIELD_INVALID")
    assert reply.fields[f"evaluations[1].{field}" if several else field] == remedy


async def test_arguments_that_the_tool_does_not_take_are_named_and_not_repeated(door: Door) -> None:
    task = await door.task()
    reply = await door.evaluate(
        task, action={"name": "call", "properties": {"arguments": {"amount": SECRET}}}, who=GATEWAY
    )
    assert (reply.status, reply.reason) == (400, "FIELD_INVALID")
    assert SECRET not in json.dumps(reply.body)
    event = await door.last_event()
    assert event.facts["reason"] == "FIELD_INVALID"
    assert SECRET not in json.dumps(dict(event.facts))
    assert await door.length(task) == 0


async def test_what_else_a_request_carries_is_not_looked_at(door: Door) -> None:
    task = await door.task()
    question = an_evaluation(str(OWNER), task.task_id)
    question["subject"]["properties"] = {"admin": True}
    question["context"]["time"] = "noon"
    reply = await door.post(EVALUATION, question | {"more": 1})
    assert reply.body["decision"] is True


async def test_evaluations_take_what_they_leave_out_from_the_top(door: Door) -> None:
    task = await door.task()
    top = an_evaluation(str(OWNER), task.task_id)
    del top["resource"]
    one = {"resource": {"type": "tool", "id": "read-orders"}}
    other = {
        "resource": {"type": "tool", "id": "delete-order"},
        "action": {"name": "call", "properties": {"arguments": {"order_id": "7"}}},
    }
    reply = await door.post(EVALUATIONS, top | {"evaluations": [one, other]})
    assert [answer["decision"] for answer in reply.body["evaluations"]] == [True, True]
    chain = await door.broker.store.actions_of(task.task_id, 0, 10)
    assert [action.name for action in chain] == ["read-orders", "delete-order"]


async def test_what_an_evaluation_says_replaces_the_whole_part(door: Door) -> None:
    task = await door.task()
    top = an_evaluation(str(OWNER), task.task_id)
    reply = await door.post(EVALUATIONS, top | {"evaluations": [{"context": {"fingerprint": "01"}}]})
    assert reply.fields == {"evaluations[0].context.task": "give the id that DeclareTask returned"}


@pytest.mark.parametrize("more", [{}, {"evaluations": []}])
async def test_without_evaluations_it_is_a_single_one(door: Door, more: dict[str, Any]) -> None:
    task = await door.task()
    reply = await door.post(EVALUATIONS, an_evaluation(str(OWNER), task.task_id) | more)
    assert (reply.status, reply.body["decision"]) == (200, True)


@pytest.mark.parametrize(
    ("semantic", "decided"),
    [
        (None, [True, False, True]),
        ("execute_all", [True, False, True]),
        ("deny_on_first_deny", [True, False]),
        ("permit_on_first_permit", [True]),
    ],
)
async def test_semantics(door: Door, semantic: str | None, decided: list[bool]) -> None:
    task = await door.task()
    door.broker.policy.instead = denying("delete-order")
    tools = ["read-orders", "delete-order", "read-orders"]
    body: dict[str, Any] = {"evaluations": [an_evaluation(str(OWNER), task.task_id, tool) for tool in tools]}
    if semantic:
        body["options"] = {"evaluations_semantic": semantic}
    reply = await door.post(EVALUATIONS, body)
    assert [one["decision"] for one in reply.body["evaluations"]] == decided
    assert await door.length(task) == len(decided)


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"evaluations": {}}, "evaluations"),
        ({"evaluations": None}, "evaluations"),
        ({"evaluations": [{}] * 51}, "evaluations"),
        ({"evaluations": [1]}, "evaluations[0]"),
        ({"evaluations": [{}], "options": []}, "options"),
        (
            {"evaluations": [{}], "options": {"evaluations_semantic": "some"}},
            "options.evaluations_semantic",
        ),
        (
            {"evaluations": [{}], "options": {"evaluations_semantic": ["execute_all"]}},
            "options.evaluations_semantic",
        ),
    ],
)
async def test_evaluations_are_bounded(door: Door, more: dict[str, Any], field: str) -> None:
    task = await door.task()
    reply = await door.post(EVALUATIONS, an_evaluation(str(OWNER), task.task_id) | more)
    assert reply.status == 400
    assert field in reply.fields
    assert await door.length(task) == 0


async def test_one_that_cannot_be_decided_is_not_allowed_and_says_why(door: Door) -> None:
    task = await door.task()
    bad = an_evaluation(str(OWNER), "task-0")
    good = an_evaluation(str(OWNER), task.task_id)
    reply = await door.post(EVALUATIONS, {"evaluations": [bad, good]}, who=GATEWAY)
    first, second = reply.body["evaluations"]
    assert (first["decision"], first["context"]["error"]["status"]) == (False, 404)
    assert first["context"]["error"]["reason"] == "TASK_NOT_FOUND"
    assert second["decision"] is True
    kinds = await door.broker.kinds()
    assert kinds[-2:] == [AuditKind.OPERATOR_REFUSED, AuditKind.ACTION_ALLOWED]


async def test_an_instance_that_asks_for_another_among_several_gets_none_decided(door: Door) -> None:
    task, theirs = await door.task(), await door.task(OTHER)
    questions = [an_evaluation(str(OWNER), task.task_id), an_evaluation(str(OTHER), theirs.task_id)]
    reply = await door.post(EVALUATIONS, {"evaluations": questions})
    assert (reply.status, reply.reason) == (404, "TASK_NOT_FOUND")
    assert await door.length(task) == await door.length(theirs) == 0


@pytest.mark.parametrize("who", [OWNER, GATEWAY], ids=str)
async def test_searches_find_what_may_be_called_and_decide_nothing(door: Door, who: SpiffeId) -> None:
    task = await door.task()
    door.broker.policy.instead = denying("delete-order")
    before = await door.broker.kinds()
    question = an_evaluation(str(OWNER), task.task_id)
    found = await door.post(RESOURCES, question | {"resource": {"type": "tool"}}, who=who)
    assert found.body == {"results": [{"type": "tool", "id": "read-orders"}]}
    for tool, names in (("read-orders", ["call"]), ("delete-order", []), ("no-such-tool", [])):
        answer = await door.post(ACTIONS, an_evaluation(str(OWNER), task.task_id, tool), who=who)
        assert [one["name"] for one in answer.body["results"]] == names
    assert await door.length(task) == 0
    assert await door.broker.kinds() == before


@pytest.mark.parametrize("path", [RESOURCES, ACTIONS])
async def test_searches_have_one_page_and_want_a_task(door: Door, path: str) -> None:
    question = an_evaluation(str(OWNER), "task-0")
    assert (await door.post(path, question)).status == 404
    reply = await door.post(path, question | {"context": {}, "page": {"token": "next"}})
    assert set(reply.fields) == {"context.task", "page.token"}


async def test_the_configuration_names_what_is_offered(door: Door) -> None:
    reply = await door.on_one(lambda one: one.get(METADATA))
    here = "https://tasklease-broker"
    assert reply.body == {
        "policy_decision_point": here,
        "access_evaluation_endpoint": here + EVALUATION,
        "access_evaluations_endpoint": here + EVALUATIONS,
        "search_resource_endpoint": here + RESOURCES,
        "search_action_endpoint": here + ACTIONS,
    }
