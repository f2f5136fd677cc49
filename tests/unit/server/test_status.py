"""Every error of the tree as a status, against what the wire's comments promise."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from broker.api.v1 import errors_pb2, tasks_pb2
from broker.domain import errors
from broker.domain.errors import BrokerError
from tests.unit.server.errors import leaves, sample
from tests.unit.server.served import TASKS, Served

PROTO = Path(__file__).parents[3] / "proto/broker/api/v1/errors.proto"
PREFIX = "ERROR_REASON_"
PROMISED = {
    reason: code
    for code, reason in re.findall(
        r"// ([A-Z_]+): [^=]*?\n  ERROR_REASON_([A-Z_]+) = \d+;", PROTO.read_text()
    )
}
"""Status code of each reason, as errors.proto's comments say."""


def test_the_wires_reasons_are_the_trees_reasons() -> None:
    wire = {name.removeprefix(PREFIX) for name in errors_pb2.ErrorReason.DESCRIPTOR.values_by_name} - {
        "UNSPECIFIED"
    }
    assert wire == {kind.reason for kind in leaves()} | {"INTERNAL"}
    assert set(PROMISED) == wire


@pytest.mark.parametrize("kind", leaves())
async def test_an_error_is_answered_as_the_wire_promises(
    served: Served, monkeypatch: pytest.MonkeyPatch, kind: type[BrokerError]
) -> None:
    error = sample(kind)

    async def fail(_task_id: str) -> None:
        raise error

    monkeypatch.setattr(served.store, "task", fail)
    refusal = await served.refused(TASKS + "GetTask", tasks_pb2.GetTaskRequest(task_id="task-1"))
    assert refusal.code is grpc.StatusCode[PROMISED[kind.reason]]
    assert (refusal.domain, refusal.reason) == ("tasklease.broker", kind.reason)
    assert refusal.text == error.text
    assert refusal.metadata["request_id"].startswith("req-")
    assert refusal.retry_after == error.retry_after
    wanted = {"some.field": "another value"} if kind is errors.FieldInvalidError else {}
    assert refusal.fields == wanted
    assert set(refusal.metadata) == {
        "request_id",
        *error.metadata,
        *(["denial_class"] if issubclass(kind, errors.DeniedError) else []),
    }


async def test_a_decisions_own_denial_class_goes_before_its_errors(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_task_id: str) -> None:
        text = "later"
        raise errors.PolicyDeniedError(text, metadata={"denial_class": "transient"})

    monkeypatch.setattr(served.store, "task", fail)
    refusal = await served.refused(TASKS + "GetTask", tasks_pb2.GetTaskRequest(task_id="task-1"))
    assert refusal.metadata["denial_class"] == "transient"


def test_what_will_be_better_soon_says_when() -> None:
    later = (errors.StoreUnavailableError, errors.CredentialBackendUnavailableError, errors.ShuttingDownError)
    for kind in later:
        assert kind().retry_after == timedelta(seconds=1)
