"""Reads policy files: everything that is wrong is said at once, with file, policy and remedy.

What always holds: a `Policy` exists only when it has an `@id` of its own, is no template, passes the validator against the
schema, and says nothing that this broker does not understand.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cedarpy

from broker.adapters.policy.expressions import asked_paths, operators
from broker.adapters.policy.schema import Attributes
from broker.config.reading import ConfigError, Problem, files_below, suggestion
from broker.domain.errors import DenialClass

SUFFIX: Final = ".cedar"
RESERVED: Final = frozenset({"default", "error"})
"""What decisions call a default denial, and one because something went wrong."""

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
_ID_AT: Final = re.compile(r'@id\s*\(\s*"([^"\\]*)"\s*\)')
_TOO_DEEP: Final = "is too deep, as with 60 conditions joined by &&: split it, or ask a set with contains"
_ANNOTATIONS: Final = ("id", "denial", "says")
_TEXT: Final = re.compile(r'("(?:[^"\\]|\\.)*")')
_NEEDLESS: Final = re.compile(r"(?<![\w>])\(((?:context|principal|resource)(?:\.\w+)*)\)")
_MOST_BYTES: Final = 1 << 20
_LONGEST_SAYS: Final = 500
ARGUMENTS: Final = ("context", "asserted", "arguments")
_SCHEMA_TYPES: Final = {"AgentClass": "agent class", "Tool": "tool", "CredentialRole": "credential role"}


class PolicyFilesError(ConfigError):
    """The policies cannot be used; says everything that is wrong with them at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One policy of a file."""

    policy_id: str
    file: str
    line: int
    permits: bool
    denial: DenialClass
    """What a denial by it means; of forbids alone."""
    says: str
    """What the caller is told; of forbids alone."""
    tree: Mapping[str, Any]
    """Cedar's JSON form of it."""

    @property
    def place(self) -> str:
        """File and line."""
        return f"{self.file}:{self.line}" if self.line else self.file

    def as_text(self) -> str:
        """In Cedar's own words."""
        text = cedarpy.policies_from_json_str(policy_set_json({self.policy_id: self.tree}))
        return cedarpy.format_policies(tidied(text), line_width=100).strip()


def policy_set_json(trees: Mapping[str, Mapping[str, Any]]) -> str:
    """Cedar's JSON form of a set of policies; each is known to Cedar by the id under which it stands here."""
    return json.dumps({"staticPolicies": dict(trees), "templates": {}, "templateLinks": []})


def tidied(text: str) -> str:
    """Cedar text without the parentheses around mere names: `(context.labels)`. Texts within it stay as they are."""
    pieces = _TEXT.split(text)
    for number in range(0, len(pieces), 2):
        while pieces[number] != (shorter := _NEEDLESS.sub(r"\1", pieces[number])):
            pieces[number] = shorter
    return "".join(pieces)


def policy_files(folder: Path) -> list[Path]:
    """The policy files below `folder`, sorted.

    Raises:
        PolicyFilesError: there is no such folder, or it cannot be read.
    """
    try:
        return files_below(folder, SUFFIX)
    except ConfigError as error:
        raise PolicyFilesError(error.problems) from error


def read_policies(folder: Path, schema: cedarpy.Schema, attributes: Attributes) -> tuple[Policy, ...]:
    """All policies below `folder`, checked against the schema.

    Raises:
        PolicyFilesError: at least one cannot be used.
    """
    problems: list[Problem] = []
    policies: dict[str, Policy] = {}
    for path in policy_files(folder):
        text = _text(path, problems)
        if text is None:
            continue
        for policy in _policies(path, text, schema, attributes, problems):
            other = policies.setdefault(policy.policy_id, policy)
            if other is not policy:
                what = f"this id is taken by {other.file}:{other.line}: give each policy an id of its own"
                problems.append(_problem(policy.file, policy.line, policy.policy_id, what))
    if problems:
        raise PolicyFilesError(problems)
    return tuple(policies.values())


def _text(path: Path, problems: list[Problem]) -> str | None:
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            problems.append(_problem(str(path), 0, "", "is not a file: give one"))
        elif about.st_size > _MOST_BYTES:
            problems.append(_problem(str(path), 0, "", "larger than 1 MiB: split it"))
        else:
            return path.read_text(encoding="utf-8")
    except OSError as error:
        problems.append(_problem(str(path), 0, "", f"cannot be read: {error.strerror}"))
    except UnicodeDecodeError:
        problems.append(_problem(str(path), 0, "", "is not UTF-8: save it as UTF-8"))
    return None


def _policies(
    path: Path, text: str, schema: cedarpy.Schema, attributes: Attributes, problems: list[Problem]
) -> list[Policy]:
    """The policies of one file that are right by themselves."""
    file = str(path)
    try:
        parsed = json.loads(cedarpy.policies_to_json_str(text))
    except ValueError as error:
        what = f"is no Cedar: {error}: correct it; nothing of this file was looked at"
        problems.append(_problem(file, 0, "", what))
        return []
    except RecursionError:
        problems.append(_problem(file, 0, "", f"has a policy that {_TOO_DEEP}"))
        return []
    trees: dict[str, Mapping[str, Any]] = parsed["staticPolicies"]
    names = {
        key: str((tree.get("annotations") or {}).get("id") or "")
        for key, tree in {**trees, **parsed["templates"]}.items()
    }
    lines = _lines(text)
    for key in parsed["templates"]:
        what = "is a template (?principal or ?resource): write it out, once for each"
        problems.append(_problem(file, lines.get(names[key], 0), names[key] or key, what))
    if parsed["templateLinks"]:
        problems.append(_problem(file, 0, "", "has links to templates: write the policies out"))
    for key, what in _reported(text, schema):
        name = names.get(key, "")
        problems.append(
            _problem(file, lines.get(name, 0), name or key, what.replace(f"`{key}`", name or key))
        )
    policies = []
    for key, tree in trees.items():
        line = lines.get(names[key], 0)
        wrong = list(_wrong(names[key], tree, attributes))
        problems.extend(_problem(file, line, names[key] or key, what) for what in wrong)
        if wrong:
            continue
        annotations = tree["annotations"]
        policies.append(
            Policy(
                policy_id=names[key],
                file=file,
                line=line,
                permits=tree["effect"] == "permit",
                denial=DenialClass(annotations.get("denial", DenialClass.GRANTABLE.value)),
                says=annotations.get("says") or "",
                tree=tree,
            )
        )
    return policies


def _reported(text: str, schema: cedarpy.Schema) -> Iterator[tuple[str, str]]:
    """What the validator says: policy and finding."""
    result = cedarpy.validate_policies(text, schema, release_gil=True)
    for error in result.errors:
        yield error.policy_id, f"does not fit the schema: {error.error}: correct it, or guard it with `has`"
    if not result.errors and not result.validation_passed:
        yield "", "does not pass the validator, which does not say why: correct it"


def _wrong(name: str, tree: Mapping[str, Any], attributes: Attributes) -> Iterator[str]:
    """What is wrong with a policy that is valid Cedar."""
    if not _compiles(tree):
        yield _TOO_DEEP
        return
    yield from _misspelt(tree, attributes)
    annotations = tree.get("annotations") or {}
    if not name:
        yield 'has no id: write @id("...") before it'
    elif not _ID.fullmatch(name):
        yield "its id has to be of letters, digits and . _ / -, up to 128, and begin with a letter or digit: change it"
    elif name in RESERVED:
        yield "its id is one that decisions use themselves: choose another"
    yield from _wrong_annotations(tree, annotations)
    if tree.get("effect") not in {"permit", "forbid"}:
        yield "neither permits nor forbids: begin it with permit or forbid"
    if any("unknown" in found for found in operators(tree.get("conditions", []))):
        yield "uses unknown(...), which is for partial evaluation alone: remove it"


def _compiles(tree: Mapping[str, Any]) -> bool:
    """Whether Cedar takes its own JSON back: it has a limit of depth there that it does not have for text."""
    try:
        cedarpy.PolicySet.from_json_str(policy_set_json({"alone": tree}))
    except (ValueError, RecursionError):
        return False
    return True


def _wrong_annotations(tree: Mapping[str, Any], annotations: Mapping[str, str | None]) -> Iterator[str]:
    for key in annotations:
        if key not in _ANNOTATIONS:
            yield f"has an unknown annotation @{key}{suggestion(key, _ANNOTATIONS)}: remove it"
    if tree.get("effect") == "permit" and annotations.keys() & {"denial", "says"}:
        yield "permits, and so has no @denial and no @says: remove them"
    if "denial" in annotations and annotations["denial"] not in set(DenialClass):
        yield f'@denial is {annotations["denial"]!r}: give "structural", "grantable" or "transient"'
    if len(annotations.get("says") or "") > _LONGEST_SAYS:
        yield f"@says is longer than {_LONGEST_SAYS} characters: shorten it"


def _misspelt(tree: Mapping[str, Any], attributes: Attributes) -> Iterator[str]:
    """Attributes that `has` asks for and nothing has: the validator takes that for a condition that never holds."""
    for path in sorted(set(asked_paths(tree.get("conditions", [])))):
        of_call = path[:-1] == ARGUMENTS
        known = attributes.arguments if of_call else attributes.published
        if path[-1] not in known:
            whose = "no tool of the catalog" if of_call else "nothing in the schema"
            yield f"asks for {'.'.join(path)}, which {whose} has{suggestion(path[-1], known)}: correct it"


def notices(policies: Sequence[Policy], known: Mapping[str, frozenset[str]]) -> tuple[str, ...]:
    """Scopes that name what the catalog does not have: valid, and without any effect.

    `known` has the names by entity type, without the namespace.
    """
    found = []
    for policy in policies:
        for part in ("principal", "resource"):
            scope = policy.tree.get(part) or {}
            entity = scope.get("entity") or (scope.get("in") or {}).get("entity") or {}
            kind = str(entity.get("type", "")).rpartition("::")[2]
            name = str(entity.get("id", ""))
            if kind in known and name not in known[kind]:
                what = _SCHEMA_TYPES.get(kind, "task type")
                hint = suggestion(name, known[kind])
                found.append(
                    f"{policy.file}:{policy.line}: {policy.policy_id}: is about {what} {name!r}, which the catalog does "
                    f"not have{hint}: it has no effect"
                )
    return tuple(found)


def _lines(text: str) -> Mapping[str, int]:
    """At which line each id stands; without those that stand at several."""
    found: dict[str, int] = {}
    twice: set[str] = set()
    for number, line in enumerate(text.splitlines(), 1):
        for name in _ID_AT.findall(line):
            if found.setdefault(name, number) != number:
                twice.add(name)
    return {name: number for name, number in found.items() if name not in twice}


def _problem(file: str, line: int, name: str, what: str) -> Problem:
    return Problem(file=file, line=line, field=name, what=what)
