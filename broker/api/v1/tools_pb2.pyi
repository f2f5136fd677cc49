import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DenialClass(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DENIAL_CLASS_UNSPECIFIED: _ClassVar[DenialClass]
    DENIAL_CLASS_STRUCTURAL: _ClassVar[DenialClass]
    DENIAL_CLASS_GRANTABLE: _ClassVar[DenialClass]
    DENIAL_CLASS_TRANSIENT: _ClassVar[DenialClass]

class ActionOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ACTION_OUTCOME_UNSPECIFIED: _ClassVar[ActionOutcome]
    ACTION_OUTCOME_OPEN: _ClassVar[ActionOutcome]
    ACTION_OUTCOME_SUCCEEDED: _ClassVar[ActionOutcome]
    ACTION_OUTCOME_FAILED: _ClassVar[ActionOutcome]
    ACTION_OUTCOME_NOT_DONE: _ClassVar[ActionOutcome]
DENIAL_CLASS_UNSPECIFIED: DenialClass
DENIAL_CLASS_STRUCTURAL: DenialClass
DENIAL_CLASS_GRANTABLE: DenialClass
DENIAL_CLASS_TRANSIENT: DenialClass
ACTION_OUTCOME_UNSPECIFIED: ActionOutcome
ACTION_OUTCOME_OPEN: ActionOutcome
ACTION_OUTCOME_SUCCEEDED: ActionOutcome
ACTION_OUTCOME_FAILED: ActionOutcome
ACTION_OUTCOME_NOT_DONE: ActionOutcome

class Obligations(_message.Message):
    __slots__ = ("redact", "limit_rows", "credential_role")
    REDACT_FIELD_NUMBER: _ClassVar[int]
    LIMIT_ROWS_FIELD_NUMBER: _ClassVar[int]
    CREDENTIAL_ROLE_FIELD_NUMBER: _ClassVar[int]
    redact: _containers.RepeatedScalarFieldContainer[str]
    limit_rows: int
    credential_role: str
    def __init__(self, redact: _Optional[_Iterable[str]] = ..., limit_rows: _Optional[int] = ..., credential_role: _Optional[str] = ...) -> None: ...

class Tool(_message.Message):
    __slots__ = ("name", "description", "arguments_schema", "obligations")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    OBLIGATIONS_FIELD_NUMBER: _ClassVar[int]
    name: str
    description: str
    arguments_schema: str
    obligations: Obligations
    def __init__(self, name: _Optional[str] = ..., description: _Optional[str] = ..., arguments_schema: _Optional[str] = ..., obligations: _Optional[_Union[Obligations, _Mapping]] = ...) -> None: ...

class Authorization(_message.Message):
    __slots__ = ("action_id", "allowed", "reason", "text", "denial_class", "expected", "policies", "obligations", "position", "decided_at", "warnings")
    ACTION_ID_FIELD_NUMBER: _ClassVar[int]
    ALLOWED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    DENIAL_CLASS_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FIELD_NUMBER: _ClassVar[int]
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    OBLIGATIONS_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    DECIDED_AT_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    action_id: str
    allowed: bool
    reason: str
    text: str
    denial_class: DenialClass
    expected: _containers.RepeatedScalarFieldContainer[str]
    policies: _containers.RepeatedScalarFieldContainer[str]
    obligations: Obligations
    position: int
    decided_at: _timestamp_pb2.Timestamp
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, action_id: _Optional[str] = ..., allowed: _Optional[bool] = ..., reason: _Optional[str] = ..., text: _Optional[str] = ..., denial_class: _Optional[_Union[DenialClass, str]] = ..., expected: _Optional[_Iterable[str]] = ..., policies: _Optional[_Iterable[str]] = ..., obligations: _Optional[_Union[Obligations, _Mapping]] = ..., position: _Optional[int] = ..., decided_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class Call(_message.Message):
    __slots__ = ("tool", "arguments", "fingerprint", "idempotency_key")
    TOOL_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    tool: str
    arguments: str
    fingerprint: bytes
    idempotency_key: str
    def __init__(self, tool: _Optional[str] = ..., arguments: _Optional[str] = ..., fingerprint: _Optional[bytes] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class ListToolsRequest(_message.Message):
    __slots__ = ("task_id",)
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    def __init__(self, task_id: _Optional[str] = ...) -> None: ...

class ListToolsResponse(_message.Message):
    __slots__ = ("tools",)
    TOOLS_FIELD_NUMBER: _ClassVar[int]
    tools: _containers.RepeatedCompositeFieldContainer[Tool]
    def __init__(self, tools: _Optional[_Iterable[_Union[Tool, _Mapping]]] = ...) -> None: ...

class AuthorizeActionRequest(_message.Message):
    __slots__ = ("task_id", "call")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    CALL_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    call: Call
    def __init__(self, task_id: _Optional[str] = ..., call: _Optional[_Union[Call, _Mapping]] = ...) -> None: ...

class AuthorizeActionResponse(_message.Message):
    __slots__ = ("authorization",)
    AUTHORIZATION_FIELD_NUMBER: _ClassVar[int]
    authorization: Authorization
    def __init__(self, authorization: _Optional[_Union[Authorization, _Mapping]] = ...) -> None: ...

class AuthorizeActionsRequest(_message.Message):
    __slots__ = ("task_id", "calls", "stop_at_refusal")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    STOP_AT_REFUSAL_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    calls: _containers.RepeatedCompositeFieldContainer[Call]
    stop_at_refusal: bool
    def __init__(self, task_id: _Optional[str] = ..., calls: _Optional[_Iterable[_Union[Call, _Mapping]]] = ..., stop_at_refusal: _Optional[bool] = ...) -> None: ...

class AuthorizeActionsResponse(_message.Message):
    __slots__ = ("authorizations",)
    AUTHORIZATIONS_FIELD_NUMBER: _ClassVar[int]
    authorizations: _containers.RepeatedCompositeFieldContainer[Authorization]
    def __init__(self, authorizations: _Optional[_Iterable[_Union[Authorization, _Mapping]]] = ...) -> None: ...

class ReportOutcomeRequest(_message.Message):
    __slots__ = ("action_id", "outcome")
    ACTION_ID_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    action_id: str
    outcome: ActionOutcome
    def __init__(self, action_id: _Optional[str] = ..., outcome: _Optional[_Union[ActionOutcome, str]] = ...) -> None: ...

class ReportOutcomeResponse(_message.Message):
    __slots__ = ("outcome",)
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    outcome: ActionOutcome
    def __init__(self, outcome: _Optional[_Union[ActionOutcome, str]] = ...) -> None: ...
