from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class ReportEndedRequest(_message.Message):
    __slots__ = ("spiffe_id",)
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    spiffe_id: str
    def __init__(self, spiffe_id: _Optional[str] = ...) -> None: ...

class ReportEndedResponse(_message.Message):
    __slots__ = ("tasks_found", "unfinished_tasks")
    TASKS_FOUND_FIELD_NUMBER: _ClassVar[int]
    UNFINISHED_TASKS_FIELD_NUMBER: _ClassVar[int]
    tasks_found: int
    unfinished_tasks: int
    def __init__(self, tasks_found: _Optional[int] = ..., unfinished_tasks: _Optional[int] = ...) -> None: ...
