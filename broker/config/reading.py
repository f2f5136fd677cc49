"""YAML files as plain data that remembers its lines, and problems that say where they are.

What always holds: a file says what it seems to say. Anchors, aliases, merges, tags, keys that are no texts and keys
that stand twice are refused; so are files over 1 MiB and deep nesting, which take long to read.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent, Event, ScalarEvent

_MOST_BYTES: Final = 1 << 20
_DEEPEST: Final = 20
_ABOUT_FIELD: Final = re.compile(r"([a-z_]+): (.+)", re.DOTALL)
_DURATION: Final = re.compile(r"(?:([0-9]{1,4})h)?(?:([0-9]{1,5})m)?(?:([0-9]{1,6})s)?")


T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong: where, what, and what to do."""

    file: str
    line: int
    field: str
    what: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.field}: {self.what}" if self.field else f"{place}: {self.what}"


class ConfigError(Exception):
    """A file cannot be used; says everything that is wrong with it at once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


def fingerprint(find: Callable[[], Iterable[Path]], refusal: type[Exception]) -> str:
    """Tells one state of the files that `find` finds from another; one that is refused or cannot be read is a state as well."""
    digest = hashlib.sha256()
    try:
        for file in find():
            content = file.read_bytes()
            digest.update(f"{file}\n{len(content)}\n".encode())
            digest.update(content)
    except (OSError, refusal) as error:
        digest.update(type(error).__name__.encode())
    return digest.hexdigest()


def files_below(folder: Path, suffix: str) -> list[Path]:
    """The files below `folder` whose names end so, sorted. What begins with a dot is skipped, as in Kubernetes' mounts.

    Raises:
        ConfigError: there is no such folder, or something below cannot be looked into.
    """
    if not folder.is_dir():
        what = "there is no such folder: make it, or correct the path"
        raise ConfigError([Problem(file=str(folder), line=0, field="", what=what)])
    problems: list[Problem] = []

    def unreadable(error: OSError) -> None:
        what = f"cannot be read: {error.strerror}: nothing may be left out"
        problems.append(Problem(file=str(error.filename), line=0, field="", what=what))

    found: list[Path] = []
    for place, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        linked = [Path(place, name) for name in folders if Path(place, name).is_symlink()]
        what = "is a link to a folder: put the folder itself here, or links to its files"
        problems.extend(Problem(file=str(path), line=0, field="", what=what) for path in linked)
        found += [Path(place, name) for name in files if name.endswith(suffix) and not name.startswith(".")]
    if problems:
        raise ConfigError(problems)
    return sorted(found)


def all_of(paths: Iterable[Path], read: Callable[[Path], Iterable[T]]) -> list[T]:
    """What `read` finds in each of the files, in order.

    Raises:
        ConfigError: one cannot be used; says everything that is wrong with all of them.
    """
    problems: list[Problem] = []
    found: list[T] = []
    for path in paths:
        try:
            found.extend(read(path))
        except ConfigError as error:
            problems.extend(error.problems)
    if problems:
        raise ConfigError(problems)
    return found


def read_yaml(path: Path) -> CommentedMap:
    """Read one file whose top level is a mapping.

    Raises:
        ConfigError: it cannot be read, is no YAML, or is not a mapping.
    """
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise ConfigError([Problem(file=str(path), line=0, field="", what="is not a file: give one")])
        if about.st_size > _MOST_BYTES:
            raise ConfigError([Problem(file=str(path), line=0, field="", what="larger than 1 MiB: split it")])
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        what = f"cannot be read: {error.strerror}"
        raise ConfigError([Problem(file=str(path), line=0, field="", what=what)]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([Problem(file=str(path), line=0, field="", what="is not UTF-8")]) from error
    yaml = YAML(typ="rt")
    yaml.allow_duplicate_keys = False
    try:
        problems = _tricks(path, yaml.parse(text))
        content = None if problems else yaml.load(text)
    except DuplicateKeyError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        what = "this key stands twice: keep one"
        raise ConfigError([Problem(file=str(path), line=line, field="", what=what)]) from error
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        what = f"is not YAML: {error.problem}"
        raise ConfigError([Problem(file=str(path), line=line, field="", what=what)]) from error
    except (YAMLError, ValueError, RecursionError, TypeError) as error:  # a mapping as a key is a TypeError
        raise ConfigError([Problem(file=str(path), line=0, field="", what="is not YAML")]) from error
    problems = problems or _odd_keys(path, content)
    if problems:
        raise ConfigError(problems)
    if not isinstance(content, CommentedMap):
        raise ConfigError(
            [Problem(file=str(path), line=1, field="", what="must be a mapping of keys to values")]
        )
    return content


def _tricks(path: Path, events: Iterable[Event]) -> list[Problem]:
    """The first thing that makes a file say something else than it seems to, or take long."""
    depth = 0
    for event in events:
        what = ""
        if getattr(event, "anchor", None):
            what = "anchors and aliases are not taken: write it out"
        elif isinstance(event, ScalarEvent) and event.value == "<<" and event.style is None:
            what = "merges (<<) are not taken: write it out"
        elif getattr(event, "tag", None):
            what = "tags (!) are not taken: leave it out"
        elif isinstance(event, CollectionStartEvent):
            depth += 1
            if depth > _DEEPEST:
                what = f"nested more than {_DEEPEST} deep: nothing here needs that"
        elif isinstance(event, CollectionEndEvent):
            depth -= 1
        if what:
            return [Problem(file=str(path), line=event.start_mark.line + 1, field="", what=what)]
    return []


def _odd_keys(path: Path, node: object) -> list[Problem]:
    """Keys that are no texts: `1` and `"1"` would be one and the same further on."""
    if isinstance(node, CommentedSeq):
        return [problem for item in node for problem in _odd_keys(path, item)]
    if not isinstance(node, CommentedMap):
        return []
    what = "a key is a text: put it in quotes"
    odd = [
        Problem(file=str(path), line=node.lc.key(key)[0] + 1, field=str(key), what=what)
        for key in node
        if not isinstance(key, str)
    ]
    return odd + [problem for value in node.values() for problem in _odd_keys(path, value)]


def plain(node: Any) -> Any:  # noqa: ANN401 - any YAML
    """The same data without lines."""
    if isinstance(node, CommentedMap):
        return {str(key): plain(value) for key, value in node.items()}
    if isinstance(node, CommentedSeq):
        return [plain(value) for value in node]
    if isinstance(node, bool) or node is None:
        return node
    for kind in (int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node


def line_of(node: Any, path: Iterable[str | int]) -> int:  # noqa: ANN401 - any YAML
    """The line at which the value under `path` begins, or the nearest enclosing one that is known."""
    line = 1
    for step in path:
        if isinstance(node, CommentedMap) and step in node:
            line = node.lc.key(step)[0] + 1
            node = node[step]
        elif isinstance(node, CommentedSeq) and isinstance(step, int) and step < len(node):
            line = node.lc.item(step)[0] + 1
            node = node[step]
        else:
            break
    return line


def problems_of(
    error: ValidationError, file: Path, node: CommentedMap, known: Sequence[str] = ()
) -> list[Problem]:
    """Pydantic's findings, each with file, line and remedy."""
    found = []
    for item in error.errors(include_url=False, include_input=False):
        location = _place(node, [step for step in item["loc"] if step != "[key]"])
        message = item["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
        if item["type"] == "extra_forbidden":
            name = str(location[-1])
            message = f"unknown key{suggestion(name, known)}: remove it"
        elif item["type"] == "missing":
            message = "is missing: add it"
        elif item["type"] == "union_tag_not_found":
            location.append("kind")
            message = "is missing: add it"
        elif item["type"] == "union_tag_invalid":
            location.append("kind")
            message = f"give one of {item['ctx']['expected_tags']}"
        elif item["type"] == "value_error" and (about := _ABOUT_FIELD.match(message)):
            location.append(about[1])  # said of several fields together: it stands at the first
            message = about[2]
        found.append(
            Problem(
                file=str(file),
                line=line_of(node, location),
                field=".".join(map(str, location)),
                what=message[:1].lower() + message[1:],
            )
        )
    return found


def _place(node: Any, location: Sequence[str | int]) -> list[str | int]:  # noqa: ANN401 - any YAML
    """The location as the file has it: without the names by which pydantic tells kinds of one thing apart."""
    place: list[str | int] = []
    for step in location:
        if isinstance(node, CommentedMap) and step not in node and node.get("kind") == step:
            continue
        place.append(step)
        try:
            node = node[step]
        except (KeyError, IndexError, TypeError):
            node = None
    return place


def suggestion(name: str, known: Iterable[str]) -> str:
    """`, did you mean 'x'?` when one of `known` is close to `name`."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def parse_duration(value: object) -> timedelta:
    """`90s`, `30m`, `1h30m` as a timedelta.

    Raises:
        ValueError: it is not a duration.
    """
    if isinstance(value, timedelta):
        return value
    if isinstance(value, str) and value and (parts := _DURATION.fullmatch(value)):
        hours, minutes, seconds = (int(part or 0) for part in parts.groups())
        return timedelta(hours=hours, minutes=minutes, seconds=seconds)
    message = "give a duration such as 90s, 30m or 1h30m"
    raise ValueError(message)
