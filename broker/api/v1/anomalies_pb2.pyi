import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FindingMark(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINDING_MARK_UNSPECIFIED: _ClassVar[FindingMark]
    FINDING_MARK_FALSE: _ClassVar[FindingMark]
    FINDING_MARK_CONFIRMED: _ClassVar[FindingMark]
FINDING_MARK_UNSPECIFIED: FindingMark
FINDING_MARK_FALSE: FindingMark
FINDING_MARK_CONFIRMED: FindingMark

class AnomalyFinding(_message.Message):
    __slots__ = ("finding_id", "detector", "rule", "severity", "confidence", "instance", "task_id", "at", "found_at", "evidence", "expected", "happened", "source", "answer", "answered_at", "mark", "marked_by", "number")
    FINDING_ID_FIELD_NUMBER: _ClassVar[int]
    DETECTOR_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    SEVERITY_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    FOUND_AT_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FIELD_NUMBER: _ClassVar[int]
    HAPPENED_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    ANSWERED_AT_FIELD_NUMBER: _ClassVar[int]
    MARK_FIELD_NUMBER: _ClassVar[int]
    MARKED_BY_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    finding_id: str
    detector: str
    rule: str
    severity: str
    confidence: float
    instance: str
    task_id: str
    at: _timestamp_pb2.Timestamp
    found_at: _timestamp_pb2.Timestamp
    evidence: _containers.RepeatedScalarFieldContainer[str]
    expected: str
    happened: str
    source: str
    answer: str
    answered_at: _timestamp_pb2.Timestamp
    mark: FindingMark
    marked_by: str
    number: int
    def __init__(self, finding_id: _Optional[str] = ..., detector: _Optional[str] = ..., rule: _Optional[str] = ..., severity: _Optional[str] = ..., confidence: _Optional[float] = ..., instance: _Optional[str] = ..., task_id: _Optional[str] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., found_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., evidence: _Optional[_Iterable[str]] = ..., expected: _Optional[str] = ..., happened: _Optional[str] = ..., source: _Optional[str] = ..., answer: _Optional[str] = ..., answered_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., mark: _Optional[_Union[FindingMark, str]] = ..., marked_by: _Optional[str] = ..., number: _Optional[int] = ...) -> None: ...

class ListFindingsRequest(_message.Message):
    __slots__ = ("detector", "instance", "task_id", "severity", "unmarked", "unanswered", "page_size", "page_token")
    DETECTOR_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    SEVERITY_FIELD_NUMBER: _ClassVar[int]
    UNMARKED_FIELD_NUMBER: _ClassVar[int]
    UNANSWERED_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    detector: str
    instance: str
    task_id: str
    severity: str
    unmarked: bool
    unanswered: bool
    page_size: int
    page_token: str
    def __init__(self, detector: _Optional[str] = ..., instance: _Optional[str] = ..., task_id: _Optional[str] = ..., severity: _Optional[str] = ..., unmarked: _Optional[bool] = ..., unanswered: _Optional[bool] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListFindingsResponse(_message.Message):
    __slots__ = ("findings", "next_page_token")
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    findings: _containers.RepeatedCompositeFieldContainer[AnomalyFinding]
    next_page_token: str
    def __init__(self, findings: _Optional[_Iterable[_Union[AnomalyFinding, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetFindingRequest(_message.Message):
    __slots__ = ("finding_id",)
    FINDING_ID_FIELD_NUMBER: _ClassVar[int]
    finding_id: str
    def __init__(self, finding_id: _Optional[str] = ...) -> None: ...

class GetFindingResponse(_message.Message):
    __slots__ = ("finding",)
    FINDING_FIELD_NUMBER: _ClassVar[int]
    finding: AnomalyFinding
    def __init__(self, finding: _Optional[_Union[AnomalyFinding, _Mapping]] = ...) -> None: ...

class MarkFindingRequest(_message.Message):
    __slots__ = ("finding_id", "mark", "reason")
    FINDING_ID_FIELD_NUMBER: _ClassVar[int]
    MARK_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    finding_id: str
    mark: FindingMark
    reason: str
    def __init__(self, finding_id: _Optional[str] = ..., mark: _Optional[_Union[FindingMark, str]] = ..., reason: _Optional[str] = ...) -> None: ...

class MarkFindingResponse(_message.Message):
    __slots__ = ("finding",)
    FINDING_FIELD_NUMBER: _ClassVar[int]
    finding: AnomalyFinding
    def __init__(self, finding: _Optional[_Union[AnomalyFinding, _Mapping]] = ...) -> None: ...

class LiftHoldRequest(_message.Message):
    __slots__ = ("task_id", "reason")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    reason: str
    def __init__(self, task_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class LiftHoldResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchFindingsRequest(_message.Message):
    __slots__ = ("after",)
    AFTER_FIELD_NUMBER: _ClassVar[int]
    after: int
    def __init__(self, after: _Optional[int] = ...) -> None: ...

class WatchFindingsResponse(_message.Message):
    __slots__ = ("finding",)
    FINDING_FIELD_NUMBER: _ClassVar[int]
    finding: AnomalyFinding
    def __init__(self, finding: _Optional[_Union[AnomalyFinding, _Mapping]] = ...) -> None: ...
