"""Tools in the SDK: authorized before, reported after, and what is not allowed is not entered."""

from __future__ import annotations

import asyncio
import json

import grpc
import pytest

from broker.api.v1 import tools_pb2
from broker.client import (
    Broker,
    CallOutcome,
    DenialClass,
    Denied,
    Identity,
    InvalidRequest,
    Obligations,
    SyncBroker,
    TaskOnHold,
)
from tests.unit.client.conftest import PATIENCE
from tests.unit.client.fake_broker import FakeBroker, refusal

DENIED = tools_pb2.Authorization(
    action_id="action-9",
    reason="EFFECT_DENIED",
    text="was denied before",
    denial_class=tools_pb2.DENIAL_CLASS_STRUCTURAL,
    expected=["browse"],
    policies=["denied:action-1"],
)
UNAVAILABLE = refusal(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")


def outcomes(fake: FakeBroker) -> list[tuple[str, str]]:
    return [
        (one.action_id, tools_pb2.ActionOutcome.Name(one.outcome).removeprefix("ACTION_OUTCOME_"))
        for one in fake.calls["report"]
    ]


async def test_roles_and_tools_are_the_scope(broker: Broker, fake: FakeBroker) -> None:
    async with broker.task("reconcile", intent="tests", tools=["browse"]):
        pass
    async with broker.task("reconcile", intent="tests", roles=["orders"], tools=["browse"]):
        pass
    async with broker.task("reconcile", intent="tests"):
        pass
    scopes = [
        (list(one.scope.roles), list(one.scope.tools)) if one.HasField("scope") else None
        for one in fake.calls["declare"]
    ]
    assert scopes == [([], ["browse"]), (["orders"], ["browse"]), None]
    with pytest.raises(TypeError, match="lists of names"):
        broker.task("reconcile", intent="tests", tools="browse")


async def test_the_tools_come_with_their_schemas(broker: Broker) -> None:
    async with broker.task("reconcile", intent="tests") as task:
        (tool,) = await task.tools()
    assert (tool.name, tool.description) == ("browse", "Look around")
    assert tool.arguments_schema == {"type": "object", "additionalProperties": False}
    assert tool.obligations == Obligations()


async def test_a_call_is_authorized_with_its_arguments_and_reported(broker: Broker, fake: FakeBroker) -> None:
    async with broker.task("reconcile", intent="tests") as task:
        async with task.call("send", {"to": "ä", "n": 2}, fingerprint=b"f") as call:
            assert call.obligations == Obligations(redact=("iban",), limit_rows=10, credential_role="orders")
        async with task.call("browse") as call:
            call.say_outcome("NOT_DONE")
        with pytest.raises(ZeroDivisionError):
            async with task.call("browse"):
                raise ZeroDivisionError
    first = fake.calls["authorize"][0].call
    assert (first.tool, json.loads(first.arguments), first.fingerprint) == ("send", {"to": "ä", "n": 2}, b"f")
    assert len({one.call.idempotency_key for one in fake.calls["authorize"]}) == 3
    assert [outcome for _, outcome in outcomes(fake)] == ["SUCCEEDED", "NOT_DONE", "FAILED"]


async def test_what_is_denied_is_not_entered(broker: Broker, fake: FakeBroker) -> None:
    fake.denies = DENIED
    entered = False
    async with broker.task("reconcile", intent="tests") as task:
        with pytest.raises(Denied, match="send: was denied before") as caught:
            async with task.call("send"):
                entered = True
        found = await task.authorize("send")
    assert not entered
    assert (caught.value.reason, caught.value.denial_class) == ("EFFECT_DENIED", DenialClass.STRUCTURAL)
    assert caught.value.metadata["expected"] == "browse"
    assert (found.allowed, found.expected, found.policies) == (False, ("browse",), ("denied:action-1",))
    assert outcomes(fake) == []


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (tools_pb2.DENIAL_CLASS_GRANTABLE, DenialClass.GRANTABLE),
        (tools_pb2.DENIAL_CLASS_STRUCTURAL, DenialClass.STRUCTURAL),
    ],
)
async def test_a_task_on_hold_is_a_denial_of_its_own(
    broker: Broker, fake: FakeBroker, sent: tools_pb2.DenialClass, expected: DenialClass
) -> None:
    fake.denies = tools_pb2.Authorization(
        action_id="action-9", reason="TASK_ON_HOLD", text="waits", denial_class=sent
    )
    async with broker.task("reconcile", intent="tests") as task:
        with pytest.raises(TaskOnHold, match="send: waits") as caught:
            async with task.call("send"):
                pass
    assert isinstance(caught.value, Denied)
    assert caught.value.denial_class is expected


async def test_warnings_come_with_the_credential_that_they_are_about(
    broker: Broker, fake: FakeBroker
) -> None:
    async with broker.task("reconcile", intent="tests") as task:
        assert (await task.acquire("orders")).warnings == ()
        fake.warnings = ("a burst of credentials",)
        assert (await task.acquire("orders")).warnings == fake.warnings


async def test_warnings_come_with_the_call_that_they_are_about(broker: Broker, fake: FakeBroker) -> None:
    fake.denies = tools_pb2.Authorization(action_id="action-9", allowed=True, warnings=["a burst of calls"])
    async with broker.task("reconcile", intent="tests") as task, task.call("browse") as call:
        assert call.authorization.warnings == ("a burst of calls",)


async def test_a_repeated_request_is_the_same_call(broker: Broker, fake: FakeBroker) -> None:
    fake.steps["authorize"].append(UNAVAILABLE)
    async with broker.task("reconcile", intent="tests") as task:
        assert (await task.authorize("browse")).allowed
    assert len({one.call.idempotency_key for one in fake.calls["authorize"]}) == 1
    assert len(fake.calls["authorize"]) == 2


async def test_an_outcome_that_cannot_be_reported_hides_no_exception(
    broker: Broker, fake: FakeBroker, caplog: pytest.LogCaptureFixture
) -> None:
    fake.steps["report"].append(refusal(grpc.StatusCode.NOT_FOUND, "ACTION_NOT_FOUND"))
    async with broker.task("reconcile", intent="tests") as task:
        with pytest.raises(ZeroDivisionError):
            async with task.call("browse"):
                raise ZeroDivisionError
    assert "the outcome of a call of browse is not reported" in caplog.text


async def test_a_cancelled_call_has_failed(broker: Broker, fake: FakeBroker) -> None:
    async with broker.task("reconcile", intent="tests") as task:

        async def work() -> None:
            async with task.call("browse"):
                await asyncio.sleep(60)

        working = asyncio.create_task(work())
        await fake.until(lambda: bool(fake.calls["authorize"]))
        await asyncio.sleep(0.1)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
    assert [outcome for _, outcome in outcomes(fake)] == ["FAILED"]


async def test_a_plan_is_one_request(broker: Broker, fake: FakeBroker) -> None:
    async with broker.task("reconcile", intent="tests") as task:
        found = await task.authorize_plan([("browse", {}), ("send", {"to": "x"})])
        assert [(one.tool, one.allowed) for one in found] == [("browse", True), ("send", True)]
        fake.denies = DENIED
        found = await task.authorize_plan([("browse", {}), ("send", {})], stop_at_refusal=False)
        assert [(one.tool, one.allowed) for one in found] == [("browse", False)]
        await task.report("action-7", CallOutcome.FAILED)
    assert [one.stop_at_refusal for one in fake.calls["authorize_all"]] == [True, False]
    assert outcomes(fake) == [("action-7", "FAILED")]


async def test_wrong_arguments_are_said_by_field(broker: Broker, fake: FakeBroker) -> None:
    step = refusal(grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID", fields={"arguments.to": "give a text"})
    fake.steps["authorize"].append(step)
    async with broker.task("reconcile", intent="tests") as task:
        with pytest.raises(InvalidRequest) as caught:
            await task.authorize("send", {"to": 1})
        assert caught.value.fields == {"arguments.to": "give a text"}
        with pytest.raises(ValueError, match="JSON"):
            await task.authorize("send", {"n": float("nan")})


async def test_it_is_the_same_without_await(fake: FakeBroker, identity: Identity) -> None:
    def work() -> None:
        with (
            SyncBroker.connect(fake.address, identity=identity, patience=PATIENCE) as broker,
            broker.task("reconcile", intent="tests", tools=["browse"]) as task,
        ):
            assert [tool.name for tool in task.tools()] == ["browse"]
            assert task.authorize("browse").allowed
            assert [one.allowed for one in task.authorize_plan([("browse", {})])] == [True]
            with task.call("browse") as call:
                call.say_outcome(CallOutcome.NOT_DONE)
            with pytest.raises(ZeroDivisionError), task.call("browse"):
                raise ZeroDivisionError
            task.report("action-7", "SUCCEEDED")
            fake.denies = DENIED
            with pytest.raises(Denied), task.call("browse"):
                pytest.fail("entered")

    await asyncio.to_thread(work)
    assert [outcome for _, outcome in outcomes(fake)] == ["NOT_DONE", "FAILED", "SUCCEEDED"]
