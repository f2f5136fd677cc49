import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LeaseState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LEASE_STATE_UNSPECIFIED: _ClassVar[LeaseState]
    LEASE_STATE_INTENDED: _ClassVar[LeaseState]
    LEASE_STATE_LIVE: _ClassVar[LeaseState]
    LEASE_STATE_REVOKING: _ClassVar[LeaseState]
    LEASE_STATE_REVOKED: _ClassVar[LeaseState]
    LEASE_STATE_VOID: _ClassVar[LeaseState]
LEASE_STATE_UNSPECIFIED: LeaseState
LEASE_STATE_INTENDED: LeaseState
LEASE_STATE_LIVE: LeaseState
LEASE_STATE_REVOKING: LeaseState
LEASE_STATE_REVOKED: LeaseState
LEASE_STATE_VOID: LeaseState

class Lease(_message.Message):
    __slots__ = ("lease_id", "task_id", "role", "state", "issued_at", "expires_at", "revoked_at")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ISSUED_AT_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    REVOKED_AT_FIELD_NUMBER: _ClassVar[int]
    lease_id: str
    task_id: str
    role: str
    state: LeaseState
    issued_at: _timestamp_pb2.Timestamp
    expires_at: _timestamp_pb2.Timestamp
    revoked_at: _timestamp_pb2.Timestamp
    def __init__(self, lease_id: _Optional[str] = ..., task_id: _Optional[str] = ..., role: _Optional[str] = ..., state: _Optional[_Union[LeaseState, str]] = ..., issued_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., revoked_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Destination(_message.Message):
    __slots__ = ("host", "port", "scheme")
    HOST_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    SCHEME_FIELD_NUMBER: _ClassVar[int]
    host: str
    port: int
    scheme: str
    def __init__(self, host: _Optional[str] = ..., port: _Optional[int] = ..., scheme: _Optional[str] = ...) -> None: ...

class AcquireCredentialRequest(_message.Message):
    __slots__ = ("task_id", "role", "idempotency_key", "fingerprint")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    role: str
    idempotency_key: str
    fingerprint: bytes
    def __init__(self, task_id: _Optional[str] = ..., role: _Optional[str] = ..., idempotency_key: _Optional[str] = ..., fingerprint: _Optional[bytes] = ...) -> None: ...

class AcquireCredentialResponse(_message.Message):
    __slots__ = ("lease", "secret", "destination", "warnings")
    class SecretEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    LEASE_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    lease: Lease
    secret: _containers.ScalarMap[str, str]
    destination: Destination
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, lease: _Optional[_Union[Lease, _Mapping]] = ..., secret: _Optional[_Mapping[str, str]] = ..., destination: _Optional[_Union[Destination, _Mapping]] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class RenewCredentialRequest(_message.Message):
    __slots__ = ("lease_id", "increment")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    INCREMENT_FIELD_NUMBER: _ClassVar[int]
    lease_id: str
    increment: _duration_pb2.Duration
    def __init__(self, lease_id: _Optional[str] = ..., increment: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class RenewCredentialResponse(_message.Message):
    __slots__ = ("lease",)
    LEASE_FIELD_NUMBER: _ClassVar[int]
    lease: Lease
    def __init__(self, lease: _Optional[_Union[Lease, _Mapping]] = ...) -> None: ...

class ReleaseCredentialRequest(_message.Message):
    __slots__ = ("lease_id",)
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    lease_id: str
    def __init__(self, lease_id: _Optional[str] = ...) -> None: ...

class ReleaseCredentialResponse(_message.Message):
    __slots__ = ("lease",)
    LEASE_FIELD_NUMBER: _ClassVar[int]
    lease: Lease
    def __init__(self, lease: _Optional[_Union[Lease, _Mapping]] = ...) -> None: ...
