"""Every word of the domain has its word on the wire, and nothing goes out that is not the owner's."""

from __future__ import annotations

from datetime import timedelta

import pytest

from broker.api.v1 import credentials_pb2, tasks_pb2
from broker.domain.catalog import NO_OBLIGATIONS
from broker.domain.decision import Decision, Verdict
from broker.domain.findings import Hold
from broker.domain.identifiers import VaultLeaseId
from broker.domain.lease import LeaseState
from broker.domain.task import EndCause, Outcome, TaskState
from broker.server import authzen_wire, tool_wire, wire
from broker.usecases.acquire_credential import Acquired
from broker.usecases.authorize_action import Authorization
from broker.usecases.task_events import EventKind
from tests.fakes.samples import ACCESSOR, a_lease, a_role, a_task, an_action, an_end
from tests.fakes.system import NOON


def words(enum: type[EventKind | EndCause | Hold | LeaseState | Outcome | TaskState]) -> set[str]:
    return {member.name for member in enum}


@pytest.mark.parametrize("state", LeaseState)
def test_a_leases_state_keeps_its_name(state: LeaseState) -> None:
    message = wire.lease_message(a_lease(state=state))
    assert credentials_pb2.LeaseState.Name(message.state) == f"LEASE_STATE_{state.name}"


@pytest.mark.parametrize("state", TaskState)
def test_a_tasks_state_keeps_its_name(state: TaskState) -> None:
    message = wire.task_message(a_task(state=state))
    assert tasks_pb2.TaskState.Name(message.state) == f"TASK_STATE_{state.name}"


@pytest.mark.parametrize("cause", EndCause)
def test_why_a_task_ended_keeps_its_name(cause: EndCause) -> None:
    message = wire.task_message(a_task(end=an_end(cause)))
    assert tasks_pb2.TaskEndCause.Name(message.end_cause) == f"TASK_END_CAUSE_{cause.name}"
    assert message.outcome == tasks_pb2.TASK_OUTCOME_UNSPECIFIED


@pytest.mark.parametrize("outcome", Outcome)
def test_how_it_went_keeps_its_name(outcome: Outcome) -> None:
    message = wire.task_message(a_task(end=an_end(EndCause.COMPLETED, outcome=outcome)))
    assert tasks_pb2.TaskOutcome.Name(message.outcome) == f"TASK_OUTCOME_{outcome.name}"


@pytest.mark.parametrize("kind", EventKind)
def test_an_event_keeps_its_name(kind: EventKind) -> None:
    name = tasks_pb2.AttachTaskResponse.Kind.Name(wire.EVENT_KINDS[kind])
    assert name == f"KIND_{kind.name}"


def test_the_wire_has_no_state_that_the_domain_has_not() -> None:
    for names, prefix, enum in (
        (credentials_pb2.LeaseState.keys(), "LEASE_STATE_", LeaseState),
        (tasks_pb2.TaskState.keys(), "TASK_STATE_", TaskState),
        (tasks_pb2.TaskEndCause.keys(), "TASK_END_CAUSE_", EndCause),
        (tasks_pb2.TaskOutcome.keys(), "TASK_OUTCOME_", Outcome),
        (tasks_pb2.TaskHold.keys(), "TASK_HOLD_", Hold),
    ):
        assert {name.removeprefix(prefix) for name in names} == words(enum) | {"UNSPECIFIED"}


def test_accessor_and_vault_lease_id_stay_with_the_broker() -> None:
    lease = a_lease(vault_lease_id=VaultLeaseId("database/creds/orders/abc"), state=LeaseState.LIVE)
    sent = wire.task_message(a_task(), [lease]).SerializeToString()
    assert b"database/creds" not in sent
    assert ACCESSOR.encode() not in sent


def test_what_was_found_with_an_acquisition_comes_with_its_credential() -> None:
    acquired = Acquired(
        lease=a_lease(), secret={}, destination=a_role().destination, warnings=("one thing", "another")
    )
    assert list(wire.acquired_message(acquired).warnings) == ["one thing", "another"]


def test_what_was_found_with_a_call_comes_with_its_decision_by_either_door() -> None:
    def decided(*warnings: str) -> Authorization:
        return Authorization(
            action=an_action(),
            decision=Decision(verdict=Verdict.ALLOW, policies=("cedar:yes",)),
            expected=frozenset(),
            obligations=NO_OBLIGATIONS,
            warnings=warnings,
        )

    assert list(tool_wire.authorization_message(decided("one thing")).warnings) == ["one thing"]
    context = authzen_wire.decision(decided("one thing"))["context"]
    assert isinstance(context, dict)
    assert context["warnings"] == ["one thing"]
    assert "warnings" not in str(authzen_wire.decision(decided()))


def test_times_that_are_not_known_are_not_set() -> None:
    message = wire.lease_message(a_lease())
    assert not any(message.HasField(field) for field in ("issued_at", "expires_at", "revoked_at"))
    message = wire.lease_message(a_lease(expires_at=NOON + timedelta(microseconds=5)))
    assert message.expires_at.nanos == 5000
