import datetime

from broker.api.v1 import credentials_pb2 as _credentials_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TaskState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TASK_STATE_UNSPECIFIED: _ClassVar[TaskState]
    TASK_STATE_ACTIVE: _ClassVar[TaskState]
    TASK_STATE_ENDING: _ClassVar[TaskState]
    TASK_STATE_ENDED: _ClassVar[TaskState]

class TaskOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TASK_OUTCOME_UNSPECIFIED: _ClassVar[TaskOutcome]
    TASK_OUTCOME_SUCCEEDED: _ClassVar[TaskOutcome]
    TASK_OUTCOME_FAILED: _ClassVar[TaskOutcome]
    TASK_OUTCOME_CANCELLED: _ClassVar[TaskOutcome]

class TaskEndCause(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TASK_END_CAUSE_UNSPECIFIED: _ClassVar[TaskEndCause]
    TASK_END_CAUSE_COMPLETED: _ClassVar[TaskEndCause]
    TASK_END_CAUSE_DEADLINE: _ClassVar[TaskEndCause]
    TASK_END_CAUSE_HEARTBEAT_LOST: _ClassVar[TaskEndCause]
    TASK_END_CAUSE_REVOKED: _ClassVar[TaskEndCause]
    TASK_END_CAUSE_QUARANTINED: _ClassVar[TaskEndCause]
    TASK_END_CAUSE_INSTANCE_GONE: _ClassVar[TaskEndCause]
    TASK_END_CAUSE_SVID_EXPIRED: _ClassVar[TaskEndCause]
    TASK_END_CAUSE_FINGERPRINT_CHANGED: _ClassVar[TaskEndCause]
    TASK_END_CAUSE_ANOMALY: _ClassVar[TaskEndCause]
TASK_STATE_UNSPECIFIED: TaskState
TASK_STATE_ACTIVE: TaskState
TASK_STATE_ENDING: TaskState
TASK_STATE_ENDED: TaskState
TASK_OUTCOME_UNSPECIFIED: TaskOutcome
TASK_OUTCOME_SUCCEEDED: TaskOutcome
TASK_OUTCOME_FAILED: TaskOutcome
TASK_OUTCOME_CANCELLED: TaskOutcome
TASK_END_CAUSE_UNSPECIFIED: TaskEndCause
TASK_END_CAUSE_COMPLETED: TaskEndCause
TASK_END_CAUSE_DEADLINE: TaskEndCause
TASK_END_CAUSE_HEARTBEAT_LOST: TaskEndCause
TASK_END_CAUSE_REVOKED: TaskEndCause
TASK_END_CAUSE_QUARANTINED: TaskEndCause
TASK_END_CAUSE_INSTANCE_GONE: TaskEndCause
TASK_END_CAUSE_SVID_EXPIRED: TaskEndCause
TASK_END_CAUSE_FINGERPRINT_CHANGED: TaskEndCause
TASK_END_CAUSE_ANOMALY: TaskEndCause

class Scope(_message.Message):
    __slots__ = ("roles", "tools")
    ROLES_FIELD_NUMBER: _ClassVar[int]
    TOOLS_FIELD_NUMBER: _ClassVar[int]
    roles: _containers.RepeatedScalarFieldContainer[str]
    tools: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, roles: _Optional[_Iterable[str]] = ..., tools: _Optional[_Iterable[str]] = ...) -> None: ...

class Task(_message.Message):
    __slots__ = ("task_id", "task_type", "intent", "scope", "environment", "state", "created_at", "deadline", "heartbeat_due", "heartbeat_interval", "end_cause", "outcome", "ended_at", "leases", "hold")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_TYPE_FIELD_NUMBER: _ClassVar[int]
    INTENT_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_DUE_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    END_CAUSE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    ENDED_AT_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    HOLD_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    task_type: str
    intent: str
    scope: Scope
    environment: str
    state: TaskState
    created_at: _timestamp_pb2.Timestamp
    deadline: _timestamp_pb2.Timestamp
    heartbeat_due: _timestamp_pb2.Timestamp
    heartbeat_interval: _duration_pb2.Duration
    end_cause: TaskEndCause
    outcome: TaskOutcome
    ended_at: _timestamp_pb2.Timestamp
    leases: _containers.RepeatedCompositeFieldContainer[_credentials_pb2.Lease]
    hold: str
    def __init__(self, task_id: _Optional[str] = ..., task_type: _Optional[str] = ..., intent: _Optional[str] = ..., scope: _Optional[_Union[Scope, _Mapping]] = ..., environment: _Optional[str] = ..., state: _Optional[_Union[TaskState, str]] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., deadline: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., heartbeat_due: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., heartbeat_interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., end_cause: _Optional[_Union[TaskEndCause, str]] = ..., outcome: _Optional[_Union[TaskOutcome, str]] = ..., ended_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., leases: _Optional[_Iterable[_Union[_credentials_pb2.Lease, _Mapping]]] = ..., hold: _Optional[str] = ...) -> None: ...

class DeclareTaskRequest(_message.Message):
    __slots__ = ("task_type", "intent", "scope", "environment", "deadline", "fingerprint", "idempotency_key")
    TASK_TYPE_FIELD_NUMBER: _ClassVar[int]
    INTENT_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    task_type: str
    intent: str
    scope: Scope
    environment: str
    deadline: _timestamp_pb2.Timestamp
    fingerprint: bytes
    idempotency_key: str
    def __init__(self, task_type: _Optional[str] = ..., intent: _Optional[str] = ..., scope: _Optional[_Union[Scope, _Mapping]] = ..., environment: _Optional[str] = ..., deadline: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., fingerprint: _Optional[bytes] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class DeclareTaskResponse(_message.Message):
    __slots__ = ("task",)
    TASK_FIELD_NUMBER: _ClassVar[int]
    task: Task
    def __init__(self, task: _Optional[_Union[Task, _Mapping]] = ...) -> None: ...

class GetTaskRequest(_message.Message):
    __slots__ = ("task_id",)
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    def __init__(self, task_id: _Optional[str] = ...) -> None: ...

class GetTaskResponse(_message.Message):
    __slots__ = ("task",)
    TASK_FIELD_NUMBER: _ClassVar[int]
    task: Task
    def __init__(self, task: _Optional[_Union[Task, _Mapping]] = ...) -> None: ...

class ListTasksRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "states")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    states: _containers.RepeatedScalarFieldContainer[TaskState]
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., states: _Optional[_Iterable[_Union[TaskState, str]]] = ...) -> None: ...

class ListTasksResponse(_message.Message):
    __slots__ = ("tasks", "next_page_token")
    TASKS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tasks: _containers.RepeatedCompositeFieldContainer[Task]
    next_page_token: str
    def __init__(self, tasks: _Optional[_Iterable[_Union[Task, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class HeartbeatRequest(_message.Message):
    __slots__ = ("task_id",)
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    def __init__(self, task_id: _Optional[str] = ...) -> None: ...

class HeartbeatResponse(_message.Message):
    __slots__ = ("heartbeat_due",)
    HEARTBEAT_DUE_FIELD_NUMBER: _ClassVar[int]
    heartbeat_due: _timestamp_pb2.Timestamp
    def __init__(self, heartbeat_due: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class AttachTaskRequest(_message.Message):
    __slots__ = ("task_id",)
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    def __init__(self, task_id: _Optional[str] = ...) -> None: ...

class AttachTaskResponse(_message.Message):
    __slots__ = ("kind", "at", "task", "lease", "text")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[AttachTaskResponse.Kind]
        KIND_ATTACHED: _ClassVar[AttachTaskResponse.Kind]
        KIND_KEEPALIVE: _ClassVar[AttachTaskResponse.Kind]
        KIND_LEASE_RENEWED: _ClassVar[AttachTaskResponse.Kind]
        KIND_LEASE_REVOKED: _ClassVar[AttachTaskResponse.Kind]
        KIND_TASK_ENDING: _ClassVar[AttachTaskResponse.Kind]
        KIND_TASK_ENDED: _ClassVar[AttachTaskResponse.Kind]
        KIND_WARNING: _ClassVar[AttachTaskResponse.Kind]
    KIND_UNSPECIFIED: AttachTaskResponse.Kind
    KIND_ATTACHED: AttachTaskResponse.Kind
    KIND_KEEPALIVE: AttachTaskResponse.Kind
    KIND_LEASE_RENEWED: AttachTaskResponse.Kind
    KIND_LEASE_REVOKED: AttachTaskResponse.Kind
    KIND_TASK_ENDING: AttachTaskResponse.Kind
    KIND_TASK_ENDED: AttachTaskResponse.Kind
    KIND_WARNING: AttachTaskResponse.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    kind: AttachTaskResponse.Kind
    at: _timestamp_pb2.Timestamp
    task: Task
    lease: _credentials_pb2.Lease
    text: str
    def __init__(self, kind: _Optional[_Union[AttachTaskResponse.Kind, str]] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., task: _Optional[_Union[Task, _Mapping]] = ..., lease: _Optional[_Union[_credentials_pb2.Lease, _Mapping]] = ..., text: _Optional[str] = ...) -> None: ...

class CompleteTaskRequest(_message.Message):
    __slots__ = ("task_id", "outcome", "reason")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    outcome: TaskOutcome
    reason: str
    def __init__(self, task_id: _Optional[str] = ..., outcome: _Optional[_Union[TaskOutcome, str]] = ..., reason: _Optional[str] = ...) -> None: ...

class CompleteTaskResponse(_message.Message):
    __slots__ = ("task",)
    TASK_FIELD_NUMBER: _ClassVar[int]
    task: Task
    def __init__(self, task: _Optional[_Union[Task, _Mapping]] = ...) -> None: ...
