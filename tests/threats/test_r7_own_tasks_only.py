"""R7: an instance sees and touches only its own; anything else is NOT_FOUND, in the words of what does not exist."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import descriptor

from broker.api.v1 import credentials_pb2, tasks_pb2
from broker.demo.callers import Answer, Caller
from tests.threats.world import ROLE, World, key

# Good values for every other field of a request that names a task or a lease.
OTHERS: dict[str, Any] = {
    "role": ROLE,
    "idempotency_key": "trespass-1",
    "outcome": tasks_pb2.TASK_OUTCOME_SUCCEEDED,
}
METHODS = [
    method
    for module, service in ((tasks_pb2, "TaskService"), (credentials_pb2, "CredentialService"))
    for method in module.DESCRIPTOR.services_by_name[service].methods
    if {"task_id", "lease_id"} & set(method.input_type.fields_by_name)
]


def _ask(caller: Caller, method: descriptor.MethodDescriptor, task_id: str, lease_id: str) -> Answer:
    from google.protobuf import message_factory

    fields = {"task_id": task_id, "lease_id": lease_id, **OTHERS}
    known = {name: value for name, value in fields.items() if name in method.input_type.fields_by_name}
    request = message_factory.GetMessageClass(method.input_type)(**known)
    if method.name != "AttachTask":
        return caller.call(method.name, request)
    from broker.demo.callers import attempt

    return attempt(lambda: next(caller.stream(method.name, request)))


@pytest.mark.parametrize("method", METHODS, ids=[method.name for method in METHODS])
def test_somebody_elses_is_as_if_it_did_not_exist(world: World, method: descriptor.MethodDescriptor) -> None:
    owner, thief = world.svid(), world.svid()
    with world.calling(owner) as mine, world.calling(thief) as theirs:
        task_id = world.declare(mine)
        with world.alive(owner, task_id):
            credential = world.acquire(mine, task_id)
            before = world.rows("SELECT * FROM leases WHERE task_id = ?", task_id)
            stolen = _ask(theirs, method, task_id, credential.lease.lease_id)
            nothing = _ask(theirs, method, "task-" + "0" * 26, "lease-" + "0" * 26)
            assert stolen.code.name == "NOT_FOUND"
            assert (stolen.code, stolen.reason, stolen.text) == (nothing.code, nothing.reason, nothing.text)
            assert world.rows("SELECT * FROM leases WHERE task_id = ?", task_id) == before
            assert world.task(mine, task_id).state == tasks_pb2.TASK_STATE_ACTIVE
            assert world.lets_in(credential)


def test_lists_hold_ones_own_alone(world: World) -> None:
    owner, thief = world.svid(), world.svid()
    with world.calling(owner) as mine, world.calling(thief) as theirs:
        task_ids = {world.declare(mine) for _ in range(3)}
        page = mine.call("ListTasks", tasks_pb2.ListTasksRequest(page_size=2)).message
        assert {task.task_id for task in page.tasks} < task_ids
        answer = theirs.call("ListTasks", tasks_pb2.ListTasksRequest(page_token=page.next_page_token))
        assert not answer.ok or not answer.message.tasks, "another's page token opens nothing"


def test_another_instance_does_not_get_a_secret_by_its_idempotency_key(world: World) -> None:
    owner, thief = world.svid(), world.svid()
    chosen = key()
    with world.calling(owner) as mine, world.calling(thief) as theirs:
        task_id = world.declare(mine)
        with world.alive(owner, task_id):
            assert world.try_acquire(mine, task_id, idempotency_key=chosen).ok
            answer = world.try_acquire(theirs, task_id, idempotency_key=chosen)
            assert answer.code.name == "NOT_FOUND"
            own = world.declare(theirs)
            other = world.try_acquire(theirs, own, idempotency_key=chosen)
            assert other.ok, "a key is known within one's own task only"


def test_a_declaration_under_anothers_idempotency_key_is_a_task_of_ones_own(world: World) -> None:
    chosen = key()
    with world.calling() as mine, world.calling() as theirs:
        first = world.try_declare(mine, idempotency_key=chosen).message.task.task_id
        second = world.try_declare(theirs, idempotency_key=chosen).message.task.task_id
    assert first != second
