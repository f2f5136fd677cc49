"""Looks into Cedar's JSON form of expressions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def operators(node: object) -> Iterator[frozenset[str]]:
    """The operators of each node of an expression; names of records' attributes are none."""
    if isinstance(node, list):
        for item in node:
            yield from operators(item)
    elif isinstance(node, dict):
        record = node.get("Record")
        if len(node) == 1 and isinstance(record, dict):
            yield from operators(list(record.values()))
            return
        if node.keys() != {"Value"}:
            yield frozenset(node)
            yield from operators(list(node.values()))


def read_paths(node: object) -> Iterator[tuple[str, ...]]:
    """Each attribute that an expression reads or asks for, as a path from its variable."""
    path = _path(node)
    if path is not None:
        yield path
    else:
        for item in _children(node):
            yield from read_paths(item)


def asked_paths(node: object) -> Iterator[tuple[str, ...]]:
    """Each attribute that an expression asks for with `has`."""
    match node:
        case {"has": {"attr": str()}}:
            path = _path(node)
            if path is not None:
                yield path
    for item in _children(node):
        yield from asked_paths(item)


def conjuncts(body: Any) -> Iterator[Any]:  # noqa: ANN401 - Cedar's JSON
    """`a && b && c` as its parts."""
    match body:
        case {"&&": {"left": left, "right": right}}:
            yield from conjuncts(left)
            yield from conjuncts(right)
        case _:
            yield body


def _children(node: object) -> list[Any]:
    if isinstance(node, list):
        return node
    return list(node.values()) if isinstance(node, dict) else []


def _path(node: object) -> tuple[str, ...] | None:
    match node:
        case {"Var": str(name)}:
            return (name,)
        case {".": {"left": left, "attr": str(attribute)}} | {"has": {"left": left, "attr": str(attribute)}}:
            before = _path(left)
        case _:
            return None
    return None if before is None else (*before, attribute)
