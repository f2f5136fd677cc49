"""Messages of any kind, made from their descriptors: valid on the wire, extreme in content."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

STRINGS = st.one_of(
    st.text(max_size=80),  # of all of Unicode but surrogates, which no client can send
    st.sampled_from(
        (
            "", "\x00", "\n", "\u202eevil", "\ufeff", "\U0010ffff", "a" * 65, "a" * 5000, "ü" * 1001, "../../etc",
            "%s%n{0}${jndi}", "' OR 1=1 --", "-", "0", "*", "a" * 64,
            # what leads further in
            "task-00000000000000000000000001", "lease-00000000000000000000000002", "orders", "customers", "reconcile",
            "production", "key-12345", "broker.api.v1.TaskService", "broker/api/v1/tasks.proto",
            "google.protobuf.FieldOptions",
        )
    ),
)  # fmt: skip


def _integers(least: int, most: int) -> st.SearchStrategy[int]:
    ends = st.sampled_from((least, least + 1, -1 if least else 0, 0, 1, 999_999_999, most - 1, most))
    return ends | st.integers(least, most)


INT32 = _integers(-(2**31), 2**31 - 1)
INT64 = _integers(-(2**63), 2**63 - 1)
SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_STRING: STRINGS,
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=80) | st.just(b"\xff" * 5000),
    FieldDescriptor.TYPE_INT32: INT32,
    FieldDescriptor.TYPE_INT64: INT64,
    FieldDescriptor.TYPE_UINT32: _integers(0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: _integers(0, 2**64 - 1),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_DOUBLE: st.floats(),
    FieldDescriptor.TYPE_ENUM: st.integers(-2, 6) | INT32,
}


def messages_of(descriptor: Descriptor) -> st.SearchStrategy[Message]:
    """Any message of that type; a field that has no strategy above is a KeyError, not a gap."""
    make = GetMessageClass(descriptor)
    fields = {field.name: _values_of(field) for field in descriptor.fields}
    some = st.fixed_dictionaries({}, optional=fields)
    return some.map(lambda content: _without_rivals(descriptor, content)).map(lambda content: make(**content))


def _values_of(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        entry = field.message_type.fields_by_name
        return st.dictionaries(_values_of(entry["key"]), _values_of(entry["value"]), max_size=5)
    one = SCALARS[field.type] if field.message_type is None else messages_of(field.message_type)
    if not field.is_repeated:
        return one
    return st.lists(one, max_size=5) | one.flatmap(
        lambda value: st.integers(60, 200).map(lambda n: [value] * n)
    )


def _without_rivals(descriptor: Descriptor, content: dict[str, Any]) -> dict[str, Any]:
    """At most one field of each oneof."""
    for group in descriptor.oneofs:
        names = [field.name for field in group.fields if field.name in content]
        for name in names[1:]:
            del content[name]
    return content


def bytes_like(descriptor: Descriptor) -> st.SearchStrategy[bytes]:
    """Bytes: of a message, of one that was damaged, or of nothing."""
    good = messages_of(descriptor).map(lambda message: message.SerializeToString(deterministic=True))
    return (
        good | st.builds(_damaged, good, st.integers(0, 2**16), st.integers(0, 255)) | st.binary(max_size=200)
    )


def _damaged(data: bytes, place: int, value: int) -> bytes:
    at = place % (len(data) + 1)
    match value % 3:
        case 0:  # cut off
            return data[:at]
        case 1:  # something in between
            return data[:at] + bytes([value]) + data[at:]
        case _:  # something changed
            return data[:at] + bytes([value]) + data[at + 1 :]
