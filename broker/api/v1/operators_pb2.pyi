import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class QuarantineTarget(_message.Message):
    __slots__ = ("instance", "agent_class", "trust_domain")
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    AGENT_CLASS_FIELD_NUMBER: _ClassVar[int]
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    instance: str
    agent_class: str
    trust_domain: str
    def __init__(self, instance: _Optional[str] = ..., agent_class: _Optional[str] = ..., trust_domain: _Optional[str] = ...) -> None: ...

class Quarantine(_message.Message):
    __slots__ = ("target", "imposed_by", "reason", "since", "unfinished_tasks")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    IMPOSED_BY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    UNFINISHED_TASKS_FIELD_NUMBER: _ClassVar[int]
    target: QuarantineTarget
    imposed_by: str
    reason: str
    since: _timestamp_pb2.Timestamp
    unfinished_tasks: int
    def __init__(self, target: _Optional[_Union[QuarantineTarget, _Mapping]] = ..., imposed_by: _Optional[str] = ..., reason: _Optional[str] = ..., since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., unfinished_tasks: _Optional[int] = ...) -> None: ...

class QuarantineRequest(_message.Message):
    __slots__ = ("target", "reason")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    target: QuarantineTarget
    reason: str
    def __init__(self, target: _Optional[_Union[QuarantineTarget, _Mapping]] = ..., reason: _Optional[str] = ...) -> None: ...

class QuarantineResponse(_message.Message):
    __slots__ = ("quarantine", "tasks_found")
    QUARANTINE_FIELD_NUMBER: _ClassVar[int]
    TASKS_FOUND_FIELD_NUMBER: _ClassVar[int]
    quarantine: Quarantine
    tasks_found: int
    def __init__(self, quarantine: _Optional[_Union[Quarantine, _Mapping]] = ..., tasks_found: _Optional[int] = ...) -> None: ...

class ReleaseRequest(_message.Message):
    __slots__ = ("target", "reason")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    target: QuarantineTarget
    reason: str
    def __init__(self, target: _Optional[_Union[QuarantineTarget, _Mapping]] = ..., reason: _Optional[str] = ...) -> None: ...

class ReleaseResponse(_message.Message):
    __slots__ = ("still_standing",)
    STILL_STANDING_FIELD_NUMBER: _ClassVar[int]
    still_standing: _containers.RepeatedCompositeFieldContainer[Quarantine]
    def __init__(self, still_standing: _Optional[_Iterable[_Union[Quarantine, _Mapping]]] = ...) -> None: ...

class ListQuarantinesRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListQuarantinesResponse(_message.Message):
    __slots__ = ("quarantines", "next_page_token")
    QUARANTINES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    quarantines: _containers.RepeatedCompositeFieldContainer[Quarantine]
    next_page_token: str
    def __init__(self, quarantines: _Optional[_Iterable[_Union[Quarantine, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...
