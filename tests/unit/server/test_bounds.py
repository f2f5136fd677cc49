"""The bounds of every field of every request, over the wire: what is refused changes nothing."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from broker.api.v1 import credentials_pb2, tasks_pb2, tools_pb2
from tests.fakes.samples import OTHER
from tests.unit.server.served import CREDENTIALS, TASKS, TOOLS, Refusal, Served

TASK_ID = "task-00000000000000000000000001"
LEASE_ID = "lease-00000000000000000000000002"
ACTION_ID = "action-00000000000000000000000001"
NAMES = (
    "",
    "x" * 65,
    "Orders",
    "orders_read",
    "orders readonly",
    "ördërs",
    "orders\n",
    "../orders",
    "a\x00b",
)
KEYS = ("short-7", "k" * 129, "with a space", "schlüssel-1", "tab\tbed-key", "nul\x00-key-1", "new\nline-key")
CONTROL = ("a\x00b", "\x1b[31mred", "del\x7f", "vt\x0b")
LAST = 253_402_300_799
"""The last second of the year 9999."""

GOOD: dict[str, dict[str, Any]] = {
    "DeclareTask": {"task_type": "reconcile", "intent": "tests", "scope": {"roles": ["orders"]}},
    "GetTask": {"task_id": TASK_ID},
    "ListTasks": {},
    "Heartbeat": {"task_id": TASK_ID},
    "AttachTask": {"task_id": TASK_ID},
    "CompleteTask": {"task_id": TASK_ID, "outcome": tasks_pb2.TASK_OUTCOME_SUCCEEDED},
    "ListTools": {"task_id": TASK_ID},
    "AuthorizeAction": {"task_id": TASK_ID, "call": {"tool": "read-orders"}},
    "AuthorizeActions": {"task_id": TASK_ID, "calls": [{"tool": "read-orders"}]},
    "ReportOutcome": {"action_id": ACTION_ID, "outcome": tools_pb2.ACTION_OUTCOME_SUCCEEDED},
    "AcquireCredential": {"task_id": TASK_ID, "role": "orders", "idempotency_key": "key-12345"},
    "RenewCredential": {"lease_id": LEASE_ID},
    "ReleaseCredential": {"lease_id": LEASE_ID},
}

BAD_CALLS: list[tuple[Any, str]] = [
    *(({"tool": name}, "call.tool") for name in NAMES),
    ({"tool": "read-orders", "fingerprint": b"x" * 65}, "call.fingerprint"),
    *(({"tool": "read-orders", "idempotency_key": key}, "call.idempotency_key") for key in KEYS),
    *(
        ({"tool": "read-orders", "arguments": arguments}, "call.arguments")
        for arguments in (
            "{",
            "[]",
            "1",
            "null",
            '"text"',
            '{"a": 1, "a": 2}',
            '{"a": {"b": 1, "b": 1}}',
            '{"a": NaN}',
            '{"a": 1e999}',
            '{"a": -Infinity}',
            '{"a": 9223372036854775808}',
            '{"a": ' + "9" * 5000 + "}",
            '{"a": "\\ud800"}',
            '{"\\udc00": 1}',
            '{"a": [["\\udfff"]]}',
            '{"a": ' + "[" * 40 + "]" * 40 + "}",
            "[" * 16_000,
            '{"a": "' + "x" * 16_384 + '"}',
            '{"a": "' + "ü" * 8_192 + '"}',
            "{} {}",
        )
    ),
]

BAD: dict[tuple[str, str], list[tuple[Any, str]]] = {
    ("DeclareTask", "task_type"): [(name, "task_type") for name in NAMES],
    ("DeclareTask", "intent"): [(bad, "intent") for bad in ("", "x" * 1001, "ü" * 1001, *CONTROL)],
    ("DeclareTask", "scope"): [
        ({"roles": ["orders"] * 65}, "scope.roles"),
        *(({"roles": ["orders", name]}, "scope.roles[1]") for name in NAMES),
    ],
    ("DeclareTask", "environment"): [(name, "environment") for name in NAMES if name],
    ("DeclareTask", "deadline"): [
        (Timestamp(seconds=seconds, nanos=nanos), "deadline")
        for seconds, nanos in (
            (0, 0),  # long ago
            (LAST, 0),  # much later than the task type allows
            (LAST + 1, 0),
            (-62_135_596_801, 0),
            (2**63 - 1, 0),
            (-(2**63), 0),
            (1, -1),
            (1, 2**31 - 1),
        )
    ],
    ("DeclareTask", "fingerprint"): [(b"x" * 65, "fingerprint")],
    ("AcquireCredential", "fingerprint"): [(b"x" * 65, "fingerprint")],
    ("DeclareTask", "idempotency_key"): [(key, "idempotency_key") for key in KEYS],
    ("GetTask", "task_id"): [(name, "task_id") for name in NAMES],
    ("ListTasks", "page_size"): [(size, "page_size") for size in (-1, 201, 2**31 - 1, -(2**31))],
    ("ListTasks", "page_token"): [
        (token, "page_token") for token in ("x", "x" * 513, "dGFzay0xOjAw", "====", "ü", "\x00", "a" * 512)
    ],
    ("ListTasks", "states"): [
        (states, "states") for states in ([0], [4], [-1], [2**31 - 1], [1, 1], [1, 2, 3, 1], [1] * 1000)
    ],
    ("Heartbeat", "task_id"): [(name, "task_id") for name in NAMES],
    ("AttachTask", "task_id"): [(name, "task_id") for name in NAMES],
    ("CompleteTask", "task_id"): [(name, "task_id") for name in NAMES],
    ("CompleteTask", "outcome"): [(outcome, "outcome") for outcome in (0, 4, -1, 2**31 - 1)],
    ("CompleteTask", "reason"): [(bad, "reason") for bad in ("x" * 1001, *CONTROL)],
    ("ListTools", "task_id"): [(name, "task_id") for name in NAMES],
    ("AuthorizeAction", "task_id"): [(name, "task_id") for name in NAMES],
    ("AuthorizeAction", "call"): BAD_CALLS,
    ("AuthorizeActions", "task_id"): [(name, "task_id") for name in NAMES],
    ("AuthorizeActions", "calls"): [
        ([], "calls"),
        ([{"tool": "read-orders"}] * 51, "calls"),
        *(([{"tool": "read-orders"}, call], field.replace("call", "calls[1]")) for call, field in BAD_CALLS),
    ],
    ("AuthorizeActions", "stop_at_refusal"): [],
    ("ReportOutcome", "action_id"): [(name, "action_id") for name in NAMES],
    ("ReportOutcome", "outcome"): [(outcome, "outcome") for outcome in (0, 1, 5, -1, 2**31 - 1)],
    ("AcquireCredential", "task_id"): [(name, "task_id") for name in NAMES],
    ("AcquireCredential", "role"): [(name, "role") for name in NAMES],
    ("AcquireCredential", "idempotency_key"): [(key, "idempotency_key") for key in ("", *KEYS)],
    ("RenewCredential", "lease_id"): [(name, "lease_id") for name in NAMES],
    ("RenewCredential", "increment"): [
        (Duration(seconds=seconds, nanos=nanos), "increment")
        for seconds, nanos in (
            (0, 0),
            (0, 999_999_999),
            (-1, 0),
            (86_400, 1_000),
            (2**63 - 1, 0),
            (-(2**63), 0),
            (10, -1),
            (10, 2**31 - 1),
        )
    ],
    ("ReleaseCredential", "lease_id"): [(name, "lease_id") for name in NAMES],
}
"""Of each request's field: values that are refused, and the violation that says so."""

AT_THE_BOUND: list[tuple[str, dict[str, Any]]] = [
    ("DeclareTask", {"task_type": "x" * 64}),
    ("DeclareTask", {"intent": "ü" * 1000}),
    ("DeclareTask", {"intent": "line\nline\tline"}),
    ("DeclareTask", {"scope": {"roles": [f"role-{number}" for number in range(64)]}}),
    ("DeclareTask", {"scope": {"roles": ["x" * 64]}}),
    ("DeclareTask", {"environment": "x" * 64}),
    ("DeclareTask", {"fingerprint": b"x" * 64}),
    ("AcquireCredential", {"fingerprint": b"x" * 64}),
    ("DeclareTask", {"idempotency_key": "!" * 8}),
    ("DeclareTask", {"idempotency_key": "~" * 128}),
    ("GetTask", {"task_id": "x" * 64}),
    ("ListTasks", {"page_size": 200, "states": [1, 2, 3]}),
    ("CompleteTask", {"reason": "x" * 1000}),
    ("AcquireCredential", {"role": "x" * 64, "idempotency_key": "k" * 128}),
    ("RenewCredential", {"increment": Duration(seconds=1)}),
    ("RenewCredential", {"increment": Duration(seconds=86_400)}),
]


def request_of(rpc: str, **changed: Any) -> tuple[str, Message]:
    """The RPC's full name, and a good request but for what is changed."""
    services = ((tasks_pb2, TASKS), (credentials_pb2, CREDENTIALS), (tools_pb2, TOOLS))
    modules: list[tuple[Any, str]] = [(one, name) for one, name in services if hasattr(one, f"{rpc}Request")]
    ((module, service),) = modules
    return service + rpc, getattr(module, f"{rpc}Request")(**GOOD[rpc] | changed)


async def answer(served: Served, method: str, request: Message) -> Refusal | None:
    """How it was refused; None when it was not."""
    try:
        if method.endswith("AttachTask"):
            stream = served.stream(method, request)
            await stream.read()
            stream.cancel()
        else:
            await served.call(method, request)
    except grpc.RpcError as error:
        return Refusal.of(error)
    return None


def test_every_field_of_every_request_has_bounds() -> None:
    services = [
        module.DESCRIPTOR.services_by_name[name]
        for module, name in (
            (tasks_pb2, "TaskService"),
            (credentials_pb2, "CredentialService"),
            (tools_pb2, "ToolService"),
        )
    ]
    fields = {
        (method.name, field.name)
        for service in services
        for method in service.methods
        for field in method.input_type.fields
    }
    assert set(BAD) == fields


@pytest.mark.parametrize(("rpc", "field"), BAD)
async def test_a_field_beyond_its_bounds_is_named_and_changes_nothing(
    served: Served, rpc: str, field: str
) -> None:
    assert await served.declared() == TASK_ID
    assert (await served.acquired(TASK_ID)).lease.lease_id == LEASE_ID
    before, calls = await served.state(), len(served.issuer.calls)
    for value, violation in BAD[rpc, field]:
        refusal = await answer(served, *request_of(rpc, **{field: value}))
        assert refusal is not None, value
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID"), value
        assert list(refusal.fields) == [violation], value
        assert refusal.fields[violation] in refusal.text
        assert await served.state() == before, value
        assert len(served.issuer.calls) == calls, value


@pytest.mark.parametrize(("rpc", "changed"), AT_THE_BOUND)
async def test_a_field_at_its_bound_is_taken(served: Served, rpc: str, changed: dict[str, Any]) -> None:
    await served.acquired(await served.declared())
    refusal = await answer(served, *request_of(rpc, **changed))
    assert refusal is None or refusal.reason != "FIELD_INVALID"


@pytest.mark.parametrize("rpc", GOOD)
async def test_a_good_request_is_answered(served: Served, rpc: str) -> None:
    await served.acquired(await served.declared())
    assert await answer(served, *request_of(rpc)) is None


async def test_all_that_is_wrong_is_said_at_once(served: Served) -> None:
    method, request = request_of(
        "DeclareTask", task_type="", intent="", environment="NO", idempotency_key="k", fingerprint=b"x" * 65
    )
    refusal = await served.refused(method, request)
    assert set(refusal.fields) == {"task_type", "intent", "environment", "idempotency_key", "fingerprint"}


async def test_a_refusal_of_very_much_stays_small_enough_to_arrive(served: Served) -> None:
    method, request = request_of("DeclareTask", scope={"roles": ["NO"] * 64})
    refusal = await served.refused(method, request)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")
    assert list(refusal.fields) == [f"scope.roles[{number}]" for number in range(10)]


async def test_a_page_token_is_bound_to_its_caller(served: Served) -> None:
    for _ in range(2):
        await served.declared()
    method, request = request_of("ListTasks", page_size=1)
    page = tasks_pb2.ListTasksResponse.FromString(await served.call(method, request))
    method, request = request_of("ListTasks", page_size=1, page_token=page.next_page_token)
    rest = tasks_pb2.ListTasksResponse.FromString(await served.call(method, request))
    assert [task.task_id for task in (*page.tasks, *rest.tasks)] == [TASK_ID[:-1] + "2", TASK_ID]
    other = served.connect(served.authority.svid(spiffe_id=OTHER))
    refusal = await served.refused(method, request, channel=other)
    assert list(refusal.fields) == ["page_token"]


async def test_a_deadline_within_the_task_types_maximum_is_taken_as_it_is(served: Served) -> None:
    deadline = Timestamp()
    deadline.FromDatetime(served.clock.now() + timedelta(minutes=59))
    method, request = request_of("DeclareTask", deadline=deadline)
    declared = tasks_pb2.DeclareTaskResponse.FromString(await served.call(method, request))
    assert declared.task.deadline == deadline
