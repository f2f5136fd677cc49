"""Patterns of steps: what they allow, what they say when they are none, and that no text keeps the broker busy."""

from __future__ import annotations

import copy
import itertools
import pickle
import re
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from broker.domain.chain_pattern import ANYTHING, MAX_STATES, ChainPattern, PatternError, compile_pattern

LETTERS = "abc"
"""Names in the patterns that are compared with `re`; `z` is any other one."""
ALPHABET = (*LETTERS, "z")
LONGEST = 6
WORDS = ["".join(word) for size in range(LONGEST + 1) for word in itertools.product(ALPHABET, repeat=size)]

# What is allowed -------------------------------------------------------------------------------------------


def fits(pattern: ChainPattern, steps: list[str]) -> bool:
    return all(pattern.allows(pattern.after(steps[:number]), step) for number, step in enumerate(steps))


@pytest.mark.parametrize(
    ("text", "chain", "following", "complete"),
    [
        ("a b c", "", {"a"}, False),
        ("a b c", "a", {"b"}, False),
        ("a b c", "a b c", set(), True),
        ("a | b", "", {"a", "b"}, False),
        ("a | b c", "b", {"c"}, False),
        ("a*", "a a a", {"a"}, True),
        ("a+ b", "a", {"a", "b"}, False),
        ("a? b", "", {"a", "b"}, False),
        ("a{2}", "a", {"a"}, False),
        ("a{2}", "a a", set(), True),
        ("a{1,3} b", "a a a", {"b"}, False),
        ("a{ 1 , 3 } b", "a a", {"a", "b"}, False),
        ("a{0,2}", "", {"a"}, True),
        ("a{2,} b", "a a a", {"a", "b"}, False),
        ("(a b)+", "a b", {"a"}, True),
        ("(a|b)*c", "b a", {"a", "b", "c"}, False),
        ("a . b", "a", {"a", "b", "."}, False),
        ("a . b", "a x", {"b"}, False),
        (".", "", {"."}, False),
        ("read-orders .* send-mail", "read-orders x", {"read-orders", "send-mail", "."}, False),
        ("a(b)c", "a b", {"c"}, False),
        ("\ta\r\n b ", "a", {"b"}, False),
        ("a\nb", "a", {"b"}, False),
        ("0a- b", "0a-", {"b"}, False),
        ("a.*", "a q", {"a", "."}, True),
    ],
)
def test_what_may_follow(text: str, chain: str, following: set[str], *, complete: bool) -> None:
    pattern = compile_pattern(text)
    state = pattern.after(chain.split())
    assert fits(pattern, chain.split())
    assert pattern.expected(state) == following
    assert pattern.may_end(state) is complete
    for name in following - {"."}:
        assert pattern.allows(state, name)
    assert pattern.allows(state, "any-other") is ("." in following)


@pytest.mark.parametrize("chain", ["b", "a a", "a b c", "x", "a b a b x", "A", "a b "])
def test_a_chain_that_does_not_fit_is_followed_by_nothing(chain: str) -> None:
    pattern = compile_pattern("(a b)+")
    steps = chain.split(" ")
    assert not fits(pattern, steps)
    for more in ([], ["a"], ["a", "b"]):
        state = pattern.after([*steps, *more])
        assert pattern.expected(state) == frozenset()
        assert not pattern.may_end(state)
        for step in ("a", "b", "x", "", "."):
            assert not pattern.allows(state, step)
            assert not pattern.can_still_come(state, step)


@pytest.mark.parametrize("chain", ["", "a", "x y z", "a " * 1000])
def test_anything_goes_where_nothing_is_said(chain: str) -> None:
    state = ANYTHING.after(chain.split())
    assert ANYTHING.allows(state, "a")
    assert ANYTHING.can_still_come(state, "a")
    assert ANYTHING.may_end(state)
    assert ANYTHING.expected(state) == {"."}
    assert ANYTHING.names == frozenset()


@pytest.mark.parametrize(
    ("text", "chain", "later", "never"),
    [
        ("a b c", "", "a b c", "d"),
        ("a b c", "a", "b c", "a d"),
        ("a b c", "a b c", "", "a b c d"),
        ("(a b)* c", "a", "a b c", "d"),
        ("(a b)* c", "c", "", "a b c"),
        ("a (b | c d)", "a b", "", "a b c d"),
        ("a (b | c . e)", "a c", "a b c d e x", ""),
        ("a (b | c . e)", "a c x", "e", "a b c x"),
    ],
)
def test_what_can_still_come(text: str, chain: str, later: str, never: str) -> None:
    pattern = compile_pattern(text)
    state = pattern.after(chain.split())
    assert all(pattern.can_still_come(state, step) for step in later.split())
    assert not any(pattern.can_still_come(state, step) for step in never.split())


def test_names_are_those_that_occur() -> None:
    assert compile_pattern("a (b-1 | c)* . a{2}").names == {"a", "b-1", "c"}


def test_patterns_are_equal_by_their_text() -> None:
    one, same, other = compile_pattern("a b"), compile_pattern("a b"), compile_pattern("a  b")
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert repr(one) == "ChainPattern(text='a b')"
    assert compile_pattern(".*") == ANYTHING
    with pytest.raises(AttributeError):
        one.text = "b a"  # type: ignore[misc]


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])  # noqa: S301
def test_a_copy_is_as_good(duplicate: type[ChainPattern]) -> None:
    pattern = compile_pattern("a (b | .)* c{2}")
    copied = duplicate(pattern)  # type: ignore[arg-type]
    assert copied == pattern
    for chain in (["a"], ["a", "b", "c", "c"], ["b"]):
        assert copied.after(chain) == pattern.after(chain)
        assert copied.expected(copied.after(chain)) == pattern.expected(pattern.after(chain))


# What is no pattern ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "column 1: a step is missing: write its name, or . for any"),
        ("  ", "column 3: a step is missing"),
        ("a |", "column 4: a step is missing"),
        ("| a", "column 1: a step is missing"),
        ("a || b", "column 4: a step is missing"),
        ("a ()", "column 4: a step is missing"),
        ("a (b", "column 3: this ( is never closed: write )"),
        ("a b)", "column 4: this ) closes nothing: remove it"),
        ("* a", "column 1: * repeats nothing: write a step or a group before it"),
        ("a (+)", "column 4: + repeats nothing"),
        ("{2}", "column 1: {2} repeats nothing"),
        ("a*+", "column 3: this repeats a repetition: put ( ) around"),
        ("a{2} {3}", "column 6: this repeats a repetition"),
        ("a{2", "column 2: this { is never closed: write {2}, {1,3} or {2,}"),
        ("a 2}", "column 4: this } closes nothing"),
        ("a{}", "column 2: {} is no repetition: write {2}, {1,3} or {2,}"),
        ("a{,3}", "column 2: {,3} is no repetition"),
        ("a{x}", "column 2: {x} is no repetition"),
        ("a{\u0662}", "column 2: {\u0662} is no repetition"),
        ("a{-1}", "column 2: {-1} is no repetition"),
        ("a{101}", "column 2: {101} is more than 100 times: write at most 100, or * or +"),
        ("a{1,101}", "column 2: {1,101} is more than 100 times"),
        ("a{101,}", "column 2: {101,} is more than 100 times"),
        ("a{" + "9" * 1900 + "}", "column 2: {9"),
        ("a{3,1}", "column 2: {3,1} has its numbers the wrong way round: write {1,3}"),
        ("a{0}", "column 2: {0} is never: remove it"),
        ("a{0,0}", "column 2: {0,0} is never: remove it"),
        ("Read", "column 1: 'R' has no meaning here: names are of a-z, 0-9 and -"),
        ("a -b", "column 3: '-' has no meaning here"),
        ("a_b", "column 2: '_' has no meaning here"),
        ("a, b", "column 2: ',' has no meaning here"),
        ("a\u00a0b", "column 2: '\\xa0' has no meaning here"),
        ("a\u0435", "column 2: '\u0435' has no meaning here"),
        ("x a.b", "column 4: a . between names is any step: put spaces around it"),
        ("a\n(b |\n c d e*?)", "line 3, column 8: this repeats a repetition"),
        ("a " + "b" * 65, "column 3: the name is longer than 64 characters"),
        ("a " * 1001, "column 2001: the pattern is longer than 2000 characters: shorten it"),
        ("(" * 21 + "a" + ")" * 21, "column 21: more than 20 groups in one another: leave some ( ) out"),
        ("(a b{30}){90}", "column 10: written out the pattern has more than 2000 steps: repeat less"),
        ("a{100} " * 21, "column 141: written out the pattern has more than 2000 steps"),
        ("|".join(["a{100}"] * 21), "column 140: written out the pattern has more than 2000 steps"),
        ("(a|b)* a (a|b){20}", "column 15: the pattern has more than 2000 states"),
        (".* a" + " ." * 20, "column 2: the pattern has more than 2000 states"),
    ],
)
def test_what_is_no_pattern_is_said_with_its_place(text: str, said: str) -> None:
    with pytest.raises(PatternError) as caught:
        compile_pattern(text)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    "text",
    [
        "a" * 64,
        ("a " * 1000)[:2000],
        "(" * 20 + "a" + ")" * 20,
        "a{100}",
        "a{100,}",
        "a{0,100}",
        "(a b{18}){100}",
        "(a|b)* a (a|b){9}",
        "(" + "|".join(f"t{number}" for number in range(300)) + "){100}",
        " .a",
        "a .b",
        "a. b",
    ],
)
def test_what_is_just_within_the_bounds_is_taken(text: str) -> None:
    assert compile_pattern(text).text == text


# Compared with Python's own ----------------------------------------------------------------------------------


def _texts() -> st.SearchStrategy[tuple[str, str]]:
    """A pattern of ours, and the same for `re`."""
    step = st.sampled_from([(letter, letter) for letter in LETTERS] + [(".", "[abcz]")])

    def larger(smaller: st.SearchStrategy[tuple[str, str]]) -> st.SearchStrategy[tuple[str, str]]:
        def repeated(one: tuple[str, str], least: int, more: int) -> list[tuple[str, str]]:
            counts = ["*", "+", "?", f"{{{least},}}", f"{{{max(least, 1)}}}", f"{{{least},{least + more}}}"]
            return [(f"({one[0]}){count}", f"(?:{one[1]}){count}") for count in counts]

        return st.one_of(
            st.lists(smaller, min_size=2, max_size=4).map(
                lambda parts: (
                    f"({' '.join(one[0] for one in parts)})",
                    f"(?:{''.join(one[1] for one in parts)})",
                )
            ),
            st.lists(smaller, min_size=2, max_size=3).map(
                lambda parts: (
                    f"({' | '.join(one[0] for one in parts)})",
                    f"(?:{'|'.join(one[1] for one in parts)})",
                )
            ),
            st.tuples(smaller, st.integers(0, 2), st.integers(1, 2)).flatmap(
                lambda chosen: st.sampled_from(repeated(*chosen))
            ),
        )

    return st.recursive(step, larger, max_leaves=9)


@settings(max_examples=400, deadline=None)
@given(_texts())
@example(("((a)? b){1,2} .", "(?:(?:a)?b){1,2}[abcz]"))
@example(("((a)?){2,3} b", "(?:(?:a)?){2,3}b"))
@example(("((a)* (b)*){2,}", "(?:(?:a)*(?:b)*){2,}"))
def test_it_says_what_pythons_regular_expressions_say(texts: tuple[str, str]) -> None:
    """By brute force. What begins a short match is known from short words alone, so only that direction is asked of
    chains that are not complete; the other one is asked of the automaton, which has to keep its promise of an end."""
    ours, pythons = compile_pattern(texts[0]), re.compile(texts[1])
    matches = {word for word in WORDS if pythons.fullmatch(word)}
    assert {word for word in WORDS if ours.may_end(ours.after(word))} == matches
    begun = {word[:size] for word in matches for size in range(len(word) + 1)}
    for word in WORDS[: len(ALPHABET) ** 4]:
        fit = fits(ours, list(word))
        if word in begun:
            assert fit, word
        elif fit:
            assert _completed(ours, pythons, word), word


def _completed(ours: ChainPattern, pythons: re.Pattern[str], word: str) -> bool:
    """Whether some way on is one that `re` takes as a whole."""
    waiting, seen = [word], {ours.after(word)}
    for now in waiting:
        if ours.may_end(ours.after(now)):
            return pythons.fullmatch(now) is not None
        for step in ALPHABET:
            state = ours.after(now + step)
            if ours.allows(ours.after(now), step) and state not in seen:
                seen.add(state)
                waiting.append(now + step)
    return False


@settings(max_examples=100, deadline=None)
@given(_texts(), st.text(ALPHABET, max_size=6))
def test_its_answers_agree_with_each_other(texts: tuple[str, str], word: str) -> None:
    pattern = compile_pattern(texts[0])
    state = pattern.after(word)
    expected = pattern.expected(state)
    allowed = {step for step in ALPHABET if pattern.allows(state, step)}
    assert {"." if step not in pattern.names else step for step in allowed} == expected
    assert pattern.may_end(state) or allowed or not fits(pattern, list(word))

    fitting = [word] if fits(pattern, list(word)) else []
    seen = {state}
    for chain in fitting:
        more = [chain + step for step in ALPHABET if pattern.allows(pattern.after(chain), step)]
        fitting += [one for one in more if pattern.after(one) not in seen]
        seen |= {pattern.after(one) for one in more}
    for step in ALPHABET:
        comes = any(pattern.allows(pattern.after(chain), step) for chain in fitting)
        assert pattern.can_still_come(state, step) is comes


# Hostile texts -----------------------------------------------------------------------------------------------

HOSTILE = [
    "(.{0,100}){0,20}",
    "((.{0,44})?){44}",
    "(.?){100} " * 20,
    "(a?){100}" * 19,
    "(a .?){100}(b c?){100}",
    "(" * 20 + "a" + ")*" * 20,
    "(" * 20 + "a?" + "){100}" * 20,
    "(" * 20 + ".|a" + "|b){2}" * 20,
    "(((" + " ".join(f"{number:x}?" for number in range(0x100, 0x100 + 380)) + "){5})*)",
    "(" + "|".join(f"{number:x} x" for number in range(0x100, 0x100 + 300)) + " .?)*.{5}",
    "(" + "|".join(f"{number:x}*" for number in range(0x100, 0x100 + 390)) + "){5}",
    "a?" * 1000,
    "a|" * 999 + "a",
    "(" * 2000,
    "{" * 2000,
    "{1" * 1000,
    "a " * 100_000,
]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_keeps_it_busy(text: str) -> None:
    began = time.process_time()
    try:
        pattern = compile_pattern(text)
    except PatternError:
        pattern = ANYTHING
    assert time.process_time() - began < 3
    began = time.process_time()
    pattern.can_still_come(pattern.after(["a"] * 5), "never")
    assert time.process_time() - began < 1


@settings(max_examples=300, deadline=2000)
@given(st.text("ab.|()*+?{},129 \n-", max_size=60))
def test_any_text_is_a_pattern_or_said_to_be_none(text: str) -> None:
    try:
        pattern = compile_pattern(text)
    except PatternError as error:
        said = str(error)
    else:
        said = ""
        assert len(pattern._others) <= MAX_STATES
        assert pattern.expected(pattern.after([])) or pattern.may_end(pattern.after([]))
    assert not said or re.match(r"(line \d+, )?column \d+: ", said)


def test_a_thousand_steps_are_looked_at_at_once() -> None:
    pattern = compile_pattern("(read (change | send .){1,3})* finish?")
    steps = ["read", "change", "send", "anything"] * 250
    assert fits(pattern, steps[:8])
    spent = []
    for _ in range(20):
        began = time.perf_counter()
        pattern.after(steps)
        spent.append(time.perf_counter() - began)
    assert min(spent) < 0.0005
