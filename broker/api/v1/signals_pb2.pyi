import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SignalSeverity(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SIGNAL_SEVERITY_UNSPECIFIED: _ClassVar[SignalSeverity]
    SIGNAL_SEVERITY_LOW: _ClassVar[SignalSeverity]
    SIGNAL_SEVERITY_MEDIUM: _ClassVar[SignalSeverity]
    SIGNAL_SEVERITY_HIGH: _ClassVar[SignalSeverity]
    SIGNAL_SEVERITY_CRITICAL: _ClassVar[SignalSeverity]

class SignalAnswer(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SIGNAL_ANSWER_UNSPECIFIED: _ClassVar[SignalAnswer]
    SIGNAL_ANSWER_NOTE: _ClassVar[SignalAnswer]
    SIGNAL_ANSWER_WARN: _ClassVar[SignalAnswer]
    SIGNAL_ANSWER_APPROVE: _ClassVar[SignalAnswer]
    SIGNAL_ANSWER_FREEZE: _ClassVar[SignalAnswer]
    SIGNAL_ANSWER_END_TASK: _ClassVar[SignalAnswer]
    SIGNAL_ANSWER_QUARANTINE: _ClassVar[SignalAnswer]
SIGNAL_SEVERITY_UNSPECIFIED: SignalSeverity
SIGNAL_SEVERITY_LOW: SignalSeverity
SIGNAL_SEVERITY_MEDIUM: SignalSeverity
SIGNAL_SEVERITY_HIGH: SignalSeverity
SIGNAL_SEVERITY_CRITICAL: SignalSeverity
SIGNAL_ANSWER_UNSPECIFIED: SignalAnswer
SIGNAL_ANSWER_NOTE: SignalAnswer
SIGNAL_ANSWER_WARN: SignalAnswer
SIGNAL_ANSWER_APPROVE: SignalAnswer
SIGNAL_ANSWER_FREEZE: SignalAnswer
SIGNAL_ANSWER_END_TASK: SignalAnswer
SIGNAL_ANSWER_QUARANTINE: SignalAnswer

class ReportSignalRequest(_message.Message):
    __slots__ = ("event_id", "instance", "task_id", "kind", "severity", "confidence", "happened", "happened_at", "evidence")
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SEVERITY_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    HAPPENED_FIELD_NUMBER: _ClassVar[int]
    HAPPENED_AT_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    event_id: str
    instance: str
    task_id: str
    kind: str
    severity: SignalSeverity
    confidence: float
    happened: str
    happened_at: _timestamp_pb2.Timestamp
    evidence: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, event_id: _Optional[str] = ..., instance: _Optional[str] = ..., task_id: _Optional[str] = ..., kind: _Optional[str] = ..., severity: _Optional[_Union[SignalSeverity, str]] = ..., confidence: _Optional[float] = ..., happened: _Optional[str] = ..., happened_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., evidence: _Optional[_Iterable[str]] = ...) -> None: ...

class ReportSignalResponse(_message.Message):
    __slots__ = ("finding_id", "answer", "severity")
    FINDING_ID_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    SEVERITY_FIELD_NUMBER: _ClassVar[int]
    finding_id: str
    answer: SignalAnswer
    severity: SignalSeverity
    def __init__(self, finding_id: _Optional[str] = ..., answer: _Optional[_Union[SignalAnswer, str]] = ..., severity: _Optional[_Union[SignalSeverity, str]] = ...) -> None: ...
