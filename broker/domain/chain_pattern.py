"""A regular expression over the names of steps, as a finite automaton.

    sequence   a b c
    choice     a | b
    repeats    a*  a+  a?  a{2}  a{1,3}  a{2,}
    groups     (a b)+
    any step   .

Built once, when the catalog is read; asking it takes time in proportion to the steps alone. A chain that fits is always the
beginning of a complete one: no pattern can be written that leads somewhere without an end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, reduce
from itertools import compress
from operator import or_
from typing import Final

from broker.domain.chain_syntax import (
    ANY_STEP,
    InTurn,
    Node,
    OneOf,
    PatternError,
    Repeat,
    Step,
    error_at,
    parse,
)

__all__ = ["ANYTHING", "MAX_STATES", "ChainPattern", "PatternError", "compile_pattern"]

MAX_STATES: Final = 2000
_BEGINNING: Final = 0
_DEAD: Final = 1
"""Nothing may follow, and the chain is not complete either."""
_END: Final = 1
"""As a place: where a complete chain arrives."""


@dataclass(frozen=True, slots=True)
class ChainPattern:
    """See the module. Its states are numbers that mean something to the same text alone.

    Raises:
        PatternError: the text is no pattern, or makes too great an automaton.
    """

    text: str
    names: frozenset[str] = field(init=False, compare=False, repr=False)
    """Those that occur in it."""
    _moves: tuple[Mapping[str, int], ...] = field(init=False, compare=False, repr=False)
    """For each state, where a name leads, if not where every other one does."""
    _others: tuple[int, ...] = field(init=False, compare=False, repr=False)
    _complete: frozenset[int] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        syntax = parse(self.text)
        places = _Places()
        whole = places.lay(syntax.root)
        places.link(whole.ends, _END)
        states = _States(places, whole.begins | (_END if whole.skippable else 0))
        if not states.build():
            what = (
                f"the pattern has more than {MAX_STATES} states, because it is long or leaves many ways open at once: "
                "lower its repetitions, or begin them with a step that does not occur before them"
            )
            raise error_at(self.text, syntax.widest, what)
        object.__setattr__(self, "names", syntax.names)
        object.__setattr__(self, "_moves", tuple(states.moves))
        object.__setattr__(self, "_others", tuple(states.others))
        complete = frozenset(number for number, ahead in enumerate(states.ahead) if ahead & _END)
        object.__setattr__(self, "_complete", complete)

    def after(self, steps: Sequence[str]) -> int:
        """The state after these steps, from the beginning. Where they do not fit nothing may follow."""
        state, moves, others = _BEGINNING, self._moves, self._others
        for step in steps:
            state = moves[state].get(step, others[state])
        return state

    def allows(self, state: int, step: str) -> bool:
        """Whether `step` may come next."""
        return self._moves[state].get(step, self._others[state]) != _DEAD

    def may_end(self, state: int) -> bool:
        """Whether the chain is complete as it is."""
        return state in self._complete

    def expected(self, state: int) -> frozenset[str]:
        """What may come next, by name; `.` as well when any other name may."""
        found = {name for name in self.names if self.allows(state, name)}
        return frozenset(found if self._others[state] == _DEAD else {*found, ANY_STEP})

    def can_still_come(self, state: int, step: str) -> bool:
        """Whether `step` may come at this or any later moment."""
        seen, waiting = {state, _DEAD}, [state]
        while waiting:
            now = waiting.pop()
            if self.allows(now, step):
                return True
            following = {self._others[now], *self._moves[now].values()} - seen
            seen |= following
            waiting.extend(following)
        return False


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of the pattern, laid out."""

    begins: int
    """Places where it begins, as bits."""
    ends: tuple[int, ...]
    skippable: bool


class _Places:
    """The pattern written out: each of its steps is a place (Glushkov's construction).

    Every place leads to the end in the end, because every part of a pattern is one step at least, and has its own end.
    """

    def __init__(self) -> None:
        self.names: list[frozenset[str]] = [frozenset()]
        self.follow: list[int] = [0]
        """For each place those that may come next, as bits. Place 0 is the end."""

    def link(self, ends: Sequence[int], begins: int) -> None:
        for place in ends:
            self.follow[place] |= begins

    def lay(self, node: Node) -> _Piece:
        match node:
            case Step():
                place = len(self.names)
                self.names.append(node.names)
                self.follow.append(0)
                return _Piece(1 << place, (place,), skippable=False)
            case OneOf():
                pieces = [self.lay(part) for part in node.parts]
                begins = reduce(or_, (piece.begins for piece in pieces))
                ends = tuple(place for piece in pieces for place in piece.ends)
                return _Piece(begins, ends, any(piece.skippable for piece in pieces))
            case InTurn():
                return self._in_turn(node)
            case Repeat():
                return self._repeat(node)

    def _in_turn(self, node: InTurn) -> _Piece:
        whole = _Piece(0, (), skippable=True)
        for part in node.parts:
            piece = self.lay(part)
            self.link(whole.ends, piece.begins)
            begins = whole.begins | piece.begins if whole.skippable else whole.begins
            ends = (*whole.ends, *piece.ends) if piece.skippable else piece.ends
            whole = _Piece(begins, ends, whole.skippable and piece.skippable)
        return whole

    def _repeat(self, node: Repeat) -> _Piece:
        """Copies in a row. Those that are skipped are always the last ones, so that each follows its neighbour alone."""
        pieces = [self.lay(node.part) for _ in range(node.copies)]
        least = 0 if pieces[0].skippable else node.least
        for number, piece in enumerate(pieces[1:]):
            self.link(pieces[number].ends, piece.begins)
        if node.most is None:
            self.link(pieces[-1].ends, pieces[-1].begins)
        ends = tuple(place for piece in pieces[max(least, 1) - 1 :] for place in piece.ends)
        return _Piece(pieces[0].begins, ends, skippable=least == 0)


class _States:
    """The deterministic automaton: a state is the set of places that may come next."""

    def __init__(self, places: _Places, beginning: int) -> None:
        self.ahead: list[int] = [beginning, 0]
        """For each state its places."""
        self.moves: list[dict[str, int]] = []
        self.others: list[int] = []
        self._follow = places.follow
        self._numbers: dict[int, int] = {beginning: _BEGINNING, 0: _DEAD}
        self._reached: dict[int, int] = {}
        readers: dict[str, int] = {}
        for place, names in enumerate(places.names):
            for name in names:
                readers[name] = readers.get(name, 0) | 1 << place
        self._every = readers.pop(ANY_STEP, 0)
        self._readers = {name: places | self._every for name, places in readers.items()}

    def build(self) -> bool:
        """Whether it is small enough."""
        for ahead in self.ahead:  # grows meanwhile
            other = self._after(ahead & self._every)
            moves = {name: self._after(ahead & places) for name, places in self._readers.items()}
            self.moves.append({name: state for name, state in moves.items() if state != other})
            self.others.append(other)
            if len(self.ahead) > MAX_STATES:
                return False
        return True

    def _after(self, read: int) -> int:
        """The state after one of these places was read."""
        state = self._reached.get(read)
        if state is None:
            chosen = map(int, bin(read)[:1:-1])  # its bits, lowest first
            ahead = reduce(or_, compress(self._follow, chosen), 0)
            state = self._numbers.setdefault(ahead, len(self.ahead))
            if state == len(self.ahead):
                self.ahead.append(ahead)
            self._reached[read] = state
        return state


@lru_cache(maxsize=256)
def compile_pattern(text: str) -> ChainPattern:
    """The pattern that `text` writes; the same text is compiled once.

    Raises:
        PatternError: it is none, or too great; says where and what to write.
    """
    return ChainPattern(text)


ANYTHING: Final = compile_pattern(".*")
