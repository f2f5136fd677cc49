"""A quick dataclass is an ordinary one: what it takes, refuses and is equal to."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, dataclass, field, replace
from typing import Any

import pytest

from broker.domain.quick import quick


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Quick:
    one: int
    two: str = "two"
    three: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ordinary:
    one: int
    two: str = "two"
    three: tuple[int, ...] | None = None


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Positive:
    number: int

    def __post_init__(self) -> None:
        if self.number < 1:
            message = "positive"
            raise ValueError(message)


@pytest.mark.parametrize("given", [{"one": 1}, {"one": 1, "two": "x"}, {"three": (1,), "one": 2}])
def test_it_has_what_the_ordinary_one_has(given: dict[str, Any]) -> None:
    quickly, ordinary = Quick(**given), Ordinary(**given)
    assert repr(quickly) == repr(ordinary).replace("Ordinary", "Quick")
    assert hash(quickly) == hash(ordinary)
    assert quickly == Quick(**given)
    assert quickly != replace(quickly, one=99)
    assert replace(quickly, two="y") == Quick(**{**given, "two": "y"})
    assert copy.deepcopy(quickly) == quickly
    assert pickle.loads(pickle.dumps(quickly)) == quickly  # noqa: S301 - its own
    assert type(quickly) is Quick


def test_it_stays_as_it_was_made() -> None:
    found = Quick(one=1)
    with pytest.raises(FrozenInstanceError):
        found.one = 2  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        del found.one
    with pytest.raises((AttributeError, TypeError)):
        found.other = 3  # type: ignore[attr-defined]
    assert found == Quick(one=1)


@pytest.mark.parametrize("make", [Quick, lambda: Quick(1), lambda: Quick(one=1, four=4)])  # type: ignore[call-arg]
def test_it_takes_what_the_ordinary_one_takes(make: Any) -> None:
    with pytest.raises(TypeError):
        make()


def test_a_default_that_is_made_anew_is_made_for_each() -> None:
    @quick
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Anew:
        one: list[int] = field(default_factory=list)

    first, second = Anew(), Anew()
    assert first.one == []
    assert first.one is not second.one
    assert Anew(one=[1]).one == [1]


def test_what_looks_at_it_afterwards_still_does() -> None:
    assert Positive(number=1).number == 1
    with pytest.raises(ValueError, match="positive"):
        Positive(number=0)


def test_what_it_cannot_be_is_said() -> None:
    with pytest.raises(TypeError, match="no plain frozen dataclass"):

        @quick
        @dataclass(slots=True, kw_only=True)
        class Open:
            one: int

    with pytest.raises(TypeError, match="no plain frozen dataclass"):

        @quick
        @dataclass(frozen=True, slots=True)
        class Positional:
            one: int

    with pytest.raises(TypeError):

        @quick
        class Nothing:
            pass
