"""Findings in the words of others: which entries of MITRE ATLAS and OWASP's lists a detector's findings belong to.

The entries are data (mapping.toml beside this module), so that they can follow new editions of the lists. Who reads the file is
somebody else: this only makes sense of its text.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from broker.anomaly.findings import DetectorName

FILE: Final = "mapping.toml"
"""Its name in this package."""
_VERSION: Final = 1


class MappingError(ValueError):
    """The text is no mapping; says what is wrong with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entries:
    """Those of one detector: identifiers."""

    atlas: tuple[str, ...]
    owasp_agentic: tuple[str, ...]
    owasp_nhi: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingMapping:
    """Those of every detector, and what the identifiers are called."""

    entries: Mapping[DetectorName, Entries]
    names: Mapping[str, str]


def read_mapping(text: str) -> FindingMapping:
    """Read the file's text.

    Raises:
        MappingError: it is no TOML, of another version, or lacks a detector or a name.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = "not TOML"
        raise MappingError(message) from error
    if data.get("version") != _VERSION:
        message = f"version: only {_VERSION} is read here"
        raise MappingError(message)
    names = data.get("names", {})
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        message = "names: a table of texts is wanted"
        raise MappingError(message)
    entries = {name: _entries(name, data.get(name.value)) for name in DetectorName}
    for name, one in entries.items():
        for identifier in (*one.atlas, *one.owasp_agentic, *one.owasp_nhi):
            if identifier not in names:
                message = f"{name.value}: an identifier has no name below [names]"
                raise MappingError(message)
    return FindingMapping(entries=entries, names=names)


def _entries(name: DetectorName, table: object) -> Entries:
    if not isinstance(table, dict):
        message = f"{name.value}: a table is wanted"
        raise MappingError(message)
    return Entries(
        atlas=_identifiers(name, table, "atlas"),
        owasp_agentic=_identifiers(name, table, "owasp_agentic"),
        owasp_nhi=_identifiers(name, table, "owasp_nhi"),
    )


def _identifiers(name: DetectorName, table: Mapping[str, object], key: str) -> tuple[str, ...]:
    found = table.get(key)
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        message = f"{name.value}.{key}: a list of identifiers is wanted"
        raise MappingError(message)
    return tuple(found)
