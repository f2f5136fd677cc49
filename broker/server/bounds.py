"""Requests, bounded: every field of every request is checked here before anything acts on it.

What is wrong with a request is said at once, each with its field and what to do (BadRequest); the first ten, since
clients take no status of more than 8 KiB. What comes out is domain types.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from broker.api.v1 import credentials_pb2, instances_pb2, leases_pb2, operators_pb2, tasks_pb2
from broker.domain.errors import FieldInvalidError, FieldViolation
from broker.domain.identifiers import LeaseId, TaskId
from broker.domain.lease import LeaseState
from broker.domain.quarantine import QuarantineTarget, TargetKind
from broker.domain.spiffe import AgentIdentity, InvalidSpiffeIdError, SpiffeId
from broker.domain.task import Outcome, Scope, TaskState
from broker.ports.store import LeaseFilter
from broker.usecases.decide_acquisition import Acquisition
from broker.usecases.declare_task import Declaration

MAX_INTENT: Final = 1000
MAX_REASON: Final = 1000
MAX_ROLES: Final = 64
MAX_FINGERPRINT: Final = 64
MAX_PAGE: Final = 200
DEFAULT_PAGE: Final = 50
MAX_TOKEN: Final = 512
MAX_QUARANTINE_TOKEN: Final = 4096  # holds a SPIFFE ID
MAX_INCREMENT: Final = timedelta(hours=24)
_MOST_VIOLATIONS: Final = 10
_NANOS: Final = 1_000_000_000

NAME: Final = re.compile(r"[a-z0-9-]{1,64}")
IDENTIFIER: Final = re.compile(r"[a-z0-9-]{1,64}")
KEY: Final = re.compile(r"[\x21-\x7e]{8,128}")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")

_STATES: Final = {
    tasks_pb2.TASK_STATE_ACTIVE: TaskState.ACTIVE,
    tasks_pb2.TASK_STATE_ENDING: TaskState.ENDING,
    tasks_pb2.TASK_STATE_ENDED: TaskState.ENDED,
}
_LEASE_STATES: Final = {
    credentials_pb2.LEASE_STATE_INTENDED: LeaseState.INTENDED,
    credentials_pb2.LEASE_STATE_LIVE: LeaseState.LIVE,
    credentials_pb2.LEASE_STATE_REVOKING: LeaseState.REVOKING,
    credentials_pb2.LEASE_STATE_REVOKED: LeaseState.REVOKED,
    credentials_pb2.LEASE_STATE_VOID: LeaseState.VOID,
}
_OUTCOMES: Final = {
    tasks_pb2.TASK_OUTCOME_SUCCEEDED: Outcome.SUCCEEDED,
    tasks_pb2.TASK_OUTCOME_FAILED: Outcome.FAILED,
    tasks_pb2.TASK_OUTCOME_CANCELLED: Outcome.CANCELLED,
}


class Problems:
    """Collects what is wrong; raises once."""

    def __init__(self) -> None:
        self._violations: list[FieldViolation] = []

    def check(self, ok: bool, field: str, remedy: str) -> None:  # noqa: FBT001 - reads as a sentence
        """Note a field that is not as it has to be."""
        if not ok:
            self._violations.append(FieldViolation(field=field, remedy=remedy))

    def name(self, value: str, *field: str) -> None:
        """As catalogs name things; the field's name in parts, put together where it is wrong."""
        if not NAME.fullmatch(value):
            self.check(False, ".".join(field), "1 to 64 characters of a-z, 0-9 and '-'")  # noqa: FBT003

    def fingerprint(self, value: bytes, *field: str) -> None:
        """A digest of whatever the agent is made of; the field's name as of `name`."""
        if len(value) > MAX_FINGERPRINT:
            self.check(False, ".".join(field), f"at most {MAX_FINGERPRINT} bytes")  # noqa: FBT003

    def text(self, value: str, field: str, *, most: int, least: int = 0) -> None:
        """Words, without control characters."""
        self.check(least <= len(value) <= most, field, f"{least} to {most} characters")
        self.check(not _CONTROL.search(value), field, "no control characters")

    def raise_any(self) -> None:
        """Say all of it.

        Raises:
            FieldInvalidError: there is something.
        """
        if self._violations:
            raise FieldInvalidError(self._violations[:_MOST_VIOLATIONS])


def task_id(value: str) -> TaskId:
    """Check the form of a task id; whether it exists is another question."""
    return TaskId(_identifier(value, "task_id", "DeclareTask"))


def lease_id(value: str) -> LeaseId:
    """Check the form of a lease id."""
    return LeaseId(_identifier(value, "lease_id", "AcquireCredential"))


def _identifier(value: str, field: str, returned_by: str) -> str:
    if not IDENTIFIER.fullmatch(value):
        raise FieldInvalidError(
            [FieldViolation(field=field, remedy=f"give the id that {returned_by} returned")]
        )
    return value


def declaration(request: tasks_pb2.DeclareTaskRequest) -> Declaration:
    """DeclareTaskRequest, bounded."""
    problems = Problems()
    problems.name(request.task_type, "task_type")
    problems.text(request.intent, "intent", least=1, most=MAX_INTENT)
    problems.check(len(request.scope.roles) <= MAX_ROLES, "scope.roles", f"at most {MAX_ROLES}")
    for index, role in enumerate(request.scope.roles[:MAX_ROLES]):
        problems.name(role, f"scope.roles[{index}]")
    problems.check(len(request.scope.tools) <= MAX_ROLES, "scope.tools", f"at most {MAX_ROLES}")
    for index, tool in enumerate(request.scope.tools[:MAX_ROLES]):
        problems.name(tool, f"scope.tools[{index}]")
    if request.environment:
        problems.name(request.environment, "environment")
    problems.fingerprint(request.fingerprint, "fingerprint")
    if request.idempotency_key:
        problems.check(
            bool(KEY.fullmatch(request.idempotency_key)),
            "idempotency_key",
            "empty, or 8 to 128 printable ASCII characters without spaces",
        )
    deadline = _time(request.deadline, "deadline", problems) if request.HasField("deadline") else None
    problems.raise_any()
    return Declaration(
        task_type=request.task_type,
        intent=request.intent,
        scope=(
            Scope(roles=frozenset(request.scope.roles), tools=frozenset(request.scope.tools))
            if request.HasField("scope")
            else None
        ),
        environment=request.environment,
        deadline=deadline,
        fingerprint=request.fingerprint,
        idempotency_key=request.idempotency_key or None,
    )


def acquisition(request: credentials_pb2.AcquireCredentialRequest) -> Acquisition:
    """AcquireCredentialRequest, bounded."""
    problems = Problems()
    problems.check(
        bool(IDENTIFIER.fullmatch(request.task_id)), "task_id", "give the id that DeclareTask returned"
    )
    problems.name(request.role, "role")
    problems.check(
        bool(KEY.fullmatch(request.idempotency_key)),
        "idempotency_key",
        "8 to 128 printable ASCII characters without spaces, new for each credential wanted",
    )
    problems.fingerprint(request.fingerprint, "fingerprint")
    problems.raise_any()
    return Acquisition(
        task_id=TaskId(request.task_id),
        role=request.role,
        idempotency_key=request.idempotency_key,
        fingerprint=request.fingerprint,
    )


def increment(request: credentials_pb2.RenewCredentialRequest) -> timedelta | None:
    """The wanted time to live; None when unset."""
    if not request.HasField("increment"):
        return None
    problems = Problems()
    wanted = _duration(request.increment)
    problems.check(
        wanted is not None and timedelta(seconds=1) <= wanted <= MAX_INCREMENT,
        "increment",
        "1 second to 24 hours",
    )
    problems.raise_any()
    return wanted


def completion(request: tasks_pb2.CompleteTaskRequest) -> tuple[TaskId, Outcome, str]:
    """CompleteTaskRequest, bounded."""
    problems = Problems()
    problems.check(
        bool(IDENTIFIER.fullmatch(request.task_id)), "task_id", "give the id that DeclareTask returned"
    )
    outcome = _OUTCOMES.get(request.outcome)
    problems.check(outcome is not None, "outcome", "SUCCEEDED, FAILED or CANCELLED")
    problems.text(request.reason, "reason", most=MAX_REASON)
    problems.raise_any()
    return TaskId(request.task_id), outcome or Outcome.FAILED, request.reason


def listing(request: tasks_pb2.ListTasksRequest) -> tuple[frozenset[TaskState], int, str]:
    """ListTasksRequest, bounded: states (empty: all), page size, page token."""
    problems = Problems()
    problems.check(0 <= request.page_size <= MAX_PAGE, "page_size", f"0 to {MAX_PAGE}")
    problems.check(len(request.page_token) <= MAX_TOKEN, "page_token", "give back next_page_token as it was")
    problems.check(
        len(set(request.states)) == len(request.states) and _STATES.keys() >= set(request.states),
        "states",
        "ACTIVE, ENDING or ENDED, each once",
    )
    problems.raise_any()
    return (
        frozenset(_STATES[state] for state in request.states),
        request.page_size or DEFAULT_PAGE,
        request.page_token,
    )


def lease_listing(request: leases_pb2.ListLeasesRequest) -> tuple[LeaseFilter, int, str]:
    """ListLeasesRequest, bounded: which, page size, page token."""
    problems = Problems()
    problems.check(0 <= request.page_size <= MAX_PAGE, "page_size", f"0 to {MAX_PAGE}")
    problems.check(len(request.page_token) <= MAX_TOKEN, "page_token", "give back next_page_token as it was")
    problems.check(
        len(set(request.states)) == len(request.states) and _LEASE_STATES.keys() >= set(request.states),
        "states",
        "INTENDED, LIVE, REVOKING, REVOKED or VOID, each once",
    )
    if request.task_id:
        problems.check(bool(IDENTIFIER.fullmatch(request.task_id)), "task_id", "a task's id")
    if request.owner:
        problems.check(
            _target(operators_pb2.QuarantineTarget(instance=request.owner)) is not None,
            "owner",
            "spiffe://<trust domain>/agent/<class>/<instance>",
        )
    problems.raise_any()
    wanted = LeaseFilter(
        states=frozenset(_LEASE_STATES[state] for state in request.states),
        task_id=request.task_id,
        owner=request.owner,
    )
    return wanted, request.page_size or DEFAULT_PAGE, request.page_token


def reason(value: str) -> str:
    """Why an operator does something."""
    problems = Problems()
    problems.text(value, "reason", least=1, most=MAX_REASON)
    problems.check(bool(value.strip()), "reason", "say why, in words")
    problems.raise_any()
    return value


def quarantine(
    request: operators_pb2.QuarantineRequest | operators_pb2.ReleaseRequest,
) -> tuple[QuarantineTarget, str]:
    """QuarantineRequest or ReleaseRequest, bounded: whom, and why."""
    problems = Problems()
    target = _target(request.target)
    problems.check(
        target is not None,
        "target",
        "exactly one of: instance (spiffe://<trust domain>/agent/<class>/<instance>), agent_class, trust_domain "
        "(without spiffe://)",
    )
    problems.text(request.reason, "reason", least=1, most=MAX_REASON)
    problems.check(bool(request.reason.strip()), "reason", "say why, in words")
    problems.raise_any()
    assert target is not None  # noqa: S101 - raised above
    return target, request.reason


def quarantine_listing(request: operators_pb2.ListQuarantinesRequest) -> tuple[int, str]:
    """ListQuarantinesRequest, bounded: page size, page token."""
    problems = Problems()
    problems.check(0 <= request.page_size <= MAX_PAGE, "page_size", f"0 to {MAX_PAGE}")
    problems.check(
        len(request.page_token) <= MAX_QUARANTINE_TOKEN, "page_token", "give back next_page_token as it was"
    )
    problems.raise_any()
    return request.page_size or DEFAULT_PAGE, request.page_token


def ended_instance(request: instances_pb2.ReportEndedRequest) -> SpiffeId:
    """ReportEndedRequest, bounded: which instance."""
    problems = Problems()
    target = _target(operators_pb2.QuarantineTarget(instance=request.spiffe_id))
    problems.check(target is not None, "spiffe_id", "spiffe://<trust domain>/agent/<class>/<instance>")
    problems.raise_any()
    assert target is not None  # noqa: S101 - raised above
    return SpiffeId.parse(target.name)


def _target(message: operators_pb2.QuarantineTarget) -> QuarantineTarget | None:
    try:
        match message.WhichOneof("target"):
            case "instance":
                instance = SpiffeId.parse(message.instance)
                good = AgentIdentity.of(instance) is not None
                return QuarantineTarget(kind=TargetKind.INSTANCE, name=str(instance)) if good else None
            case "agent_class":
                good = bool(NAME.fullmatch(message.agent_class))
                return (
                    QuarantineTarget(kind=TargetKind.AGENT_CLASS, name=message.agent_class) if good else None
                )
            case "trust_domain":
                domain = SpiffeId.parse(f"spiffe://{message.trust_domain}")
                return (
                    QuarantineTarget(kind=TargetKind.TRUST_DOMAIN, name=domain.trust_domain)
                    if not domain.path
                    else None
                )
            case _:
                return None
    except InvalidSpiffeIdError:
        return None


def _time(value: Timestamp, field: str, problems: Problems) -> datetime | None:
    try:
        return value.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        problems.check(False, field, "a time between the years 1 and 9999")  # noqa: FBT003
        return None


def _duration(value: Duration) -> timedelta | None:
    if abs(value.nanos) >= _NANOS or value.seconds * value.nanos < 0:
        return None
    try:
        return value.ToTimedelta()
    except (ValueError, OverflowError):
        return None
