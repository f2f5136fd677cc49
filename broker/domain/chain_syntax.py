"""How a pattern of steps is written: its text, read into a tree. broker.domain.chain_pattern says what it means."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

MAX_LENGTH: Final = 2000
MAX_NAME: Final = 64
MAX_TIMES: Final = 100
MAX_NESTING: Final = 20
MAX_WRITTEN_OUT: Final = 2000
"""Steps that a pattern has when each repetition is written out."""
ANY_STEP: Final = "."

_TOKEN: Final = re.compile(
    r"(?P<blank>[ \t\r\n]+)|(?P<name>[a-z0-9][a-z0-9-]*)|(?P<repeat>[*+?]|\{[^{}]*\})|(?P<mark>[.|()])"
)
_DOTTED: Final = re.compile(r"(?<=[a-z0-9-])\.(?=[a-z0-9])")
_TIMES: Final = re.compile(r"\{[ ]*([0-9]+)[ ]*(?:(,)[ ]*([0-9]*)[ ]*)?\}")


class PatternError(ValueError):
    """The text is no pattern; says where and what to write."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step: any of these names; `.` among them for every name."""

    names: frozenset[str]
    size: int = 1


@dataclass(frozen=True, slots=True)
class InTurn:
    """One after the other."""

    parts: tuple[Node, ...]
    size: int


@dataclass(frozen=True, slots=True)
class OneOf:
    """Any one of them."""

    parts: tuple[Node, ...]
    size: int


@dataclass(frozen=True, slots=True)
class Repeat:
    """One part, at least and at most so often; None for without end."""

    part: Node
    least: int
    most: int | None
    size: int

    @property
    def copies(self) -> int:
        """How often the part is there when it is written out."""
        return max(self.least, 1) if self.most is None else self.most


Node = Step | InTurn | OneOf | Repeat
"""Each stands for one step at least: there is no way to write nothing."""


@dataclass(frozen=True, slots=True)
class Syntax:
    """A text that was read."""

    root: Node
    names: frozenset[str]
    widest: int
    """Where its greatest repetition is; 0 without one."""


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int


def error_at(text: str, at: int, what: str) -> PatternError:
    """An error that says where."""
    line, column = text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
    where = f"column {column}" if "\n" not in text else f"line {line}, column {column}"
    return PatternError(f"{where}: {what}")


def parse(text: str) -> Syntax:
    """Read a pattern.

    Raises:
        PatternError: it is none, or it is greater than the bounds of this module.
    """
    if len(text) > MAX_LENGTH:
        raise error_at(
            text,
            MAX_LENGTH,
            f"the pattern is longer than {MAX_LENGTH} characters: shorten it, {{1,3}} repeats",
        )
    return _Parser(text).whole()


def _tokens(text: str) -> list[_Token]:
    found: list[_Token] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise error_at(text, at, _what_is_wrong_with(text[at]))
        kind = match.lastgroup or ""
        if kind == "name" and len(match[0]) > MAX_NAME:
            raise error_at(
                text, at, f"the name is longer than {MAX_NAME} characters: write a tool's or a role's"
            )
        if _DOTTED.match(text, at):
            what = "a . between names is any step: put spaces around it; names have no dots"
            raise error_at(text, at, what)
        if kind != "blank":
            found.append(_Token(match[0] if kind == "mark" else kind, match[0], at))
        at = match.end()
    return [*found, _Token("end", "", at)]


def _what_is_wrong_with(character: str) -> str:
    if character == "{":
        return "this { is never closed: write {2}, {1,3} or {2,}"
    if character == "}":
        return "this } closes nothing: remove it, or write {2}, {1,3} or {2,}"
    return (
        f"{character!r} has no meaning here: names are of a-z, 0-9 and -, and begin with a letter or digit; "
        "besides there are spaces . | ( ) * + ? and {1,3}"
    )


class _Parser:
    """By recursive descent."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = _tokens(text)
        self._next = 0
        self._names: set[str] = set()
        self._widest = (0, 0)

    def whole(self) -> Syntax:
        root = self._choice(0)
        token = self._peek()
        if token.kind == ")":
            raise self._error(token, "this ) closes nothing: remove it, or write ( where its group begins")
        return Syntax(root, frozenset(self._names), self._widest[1])

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._tokens[self._next]
        self._next += 1
        return token

    def _error(self, token: _Token, what: str) -> PatternError:
        return error_at(self._text, token.at, what)

    def _bounded(self, size: int, token: _Token) -> int:
        if size > MAX_WRITTEN_OUT:
            what = (
                f"written out the pattern has more than {MAX_WRITTEN_OUT} steps: repeat less, or use * or +"
            )
            raise self._error(token, what)
        return size

    def _choice(self, depth: int) -> Node:
        parts = [self._sequence(depth)]
        while self._peek().kind == "|":
            token = self._take()
            parts.append(self._sequence(depth))
            self._bounded(sum(part.size for part in parts), token)
        return _one_of(parts)

    def _sequence(self, depth: int) -> Node:
        parts: list[Node] = []
        size = 0
        while (token := self._peek()).kind not in {"|", ")", "end"}:
            parts.append(self._repeated(depth))
            size = self._bounded(size + parts[-1].size, token)
        if not parts:
            what = (
                "a step is missing: write its name, or . for any; ? after a step or group makes it optional"
            )
            raise self._error(token, what)
        return parts[0] if len(parts) == 1 else InTurn(tuple(parts), size)

    def _repeated(self, depth: int) -> Node:
        part = self._single(depth)
        token = self._peek()
        if token.kind != "repeat":
            return part
        self._take()
        least, most = self._times(token)
        if self._peek().kind == "repeat":
            raise self._error(
                self._peek(), "this repeats a repetition: put ( ) around what is before it, or remove it"
            )
        found = Repeat(part, least, most, 0)
        size = self._bounded(part.size * found.copies, token)
        self._widest = max(self._widest, (found.copies, token.at), key=lambda one: one[0])
        return Repeat(part, least, most, size)

    def _single(self, depth: int) -> Node:
        token = self._take()
        if token.kind == "name":
            self._names.add(token.text)
        if token.kind in {"name", ANY_STEP}:
            return Step(frozenset({token.text}))
        if token.kind == "repeat":
            raise self._error(token, f"{token.text} repeats nothing: write a step or a group before it")
        if depth == MAX_NESTING:
            raise self._error(token, f"more than {MAX_NESTING} groups in one another: leave some ( ) out")
        inside = self._choice(depth + 1)
        if self._take().kind != ")":
            raise self._error(token, "this ( is never closed: write ) where its group ends")
        return inside

    def _times(self, token: _Token) -> tuple[int, int | None]:
        if token.text in {"*", "+", "?"}:
            return int(token.text == "+"), 1 if token.text == "?" else None
        match = _TIMES.fullmatch(token.text)
        if match is None:
            raise self._error(token, f"{token.text} is no repetition: write {{2}}, {{1,3}} or {{2,}}")
        least = int(match[1])
        most = int(match[3]) if match[3] else None if match[2] else least
        if max(least, most or 0) > MAX_TIMES:
            what = f"{token.text} is more than {MAX_TIMES} times: write at most {MAX_TIMES}, or * or +"
            raise self._error(token, what)
        if most == 0:
            raise self._error(token, f"{token.text} is never: remove it together with what it repeats")
        if most is not None and least > most:
            raise self._error(
                token, f"{token.text} has its numbers the wrong way round: write {{{most},{least}}}"
            )
        return least, most


def _one_of(parts: Sequence[Node]) -> Node:
    """A choice; single steps among its parts become one step of several names."""
    steps = [part for part in parts if isinstance(part, Step)]
    others: list[Node] = [part for part in parts if not isinstance(part, Step)]
    if steps:
        others.append(Step(frozenset[str]().union(*(one.names for one in steps))))
    return others[0] if len(others) == 1 else OneOf(tuple(others), sum(part.size for part in others))
