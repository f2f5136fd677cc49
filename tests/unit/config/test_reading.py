"""YAML files that say what they seem to say; every other one is a problem with its place."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from broker.config.catalog import load_catalog
from broker.config.reading import ConfigError, parse_duration, plain, read_yaml
from broker.config.settings import load_settings
from tests.unit.config.texts import CATALOG, SETTINGS, write

UNUSABLE: dict[str, tuple[str | bytes, int, str]] = {
    "an anchor": ("a: 1\nb: &x 1\n", 2, "anchors and aliases are not taken: write it out"),
    "an alias": ("a: &x 1\nb: *x\n", 1, "anchors and aliases"),
    "an alias of nothing": ("a: *x\n", 1, "anchors and aliases"),
    "a billion laughs": ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", 1, "anchors and aliases"),
    "a merge": ("a:\n  <<: {b: 1}\n", 2, "merges (<<) are not taken: write it out"),
    "a tag of Python": (
        "a: !!python/object/apply:os.system [ls]\n",
        1,
        "tags (!) are not taken: leave it out",
    ),
    "a tag of one's own": ("a: 1\nb: !x {}\n", 2, "tags (!)"),
    "an ordered map": ("a: !!omap [b: 1]\n", 1, "tags (!)"),
    "a set": ("a: !!set {b}\n", 1, "tags (!)"),
    "bytes": ("a: !!binary aGk=\n", 1, "tags (!)"),
    "a mapping as a key": ("a:\n  b: {}\n  ? {c: {d: 1}}\n  : 2\n", 0, "is not YAML"),
    "a key twice": ("a: 1\nb: 2\na: 3\n", 3, "this key stands twice: keep one"),
    "a key twice further in": ("a:\n  b: 1\n  'b': 2\n", 3, "this key stands twice"),
    "a number and a text that look the same": (
        "a: {x: {1: a, '1': b}}\n",
        1,
        "1: a key is a text: put it in quotes",
    ),
    "a key that is a list": ("a: 1\n? [b]\n: 1\n", 2, "a key is a text"),
    "a key that is nothing": ("a: 1\n~: 1\n", 2, "a key is a text"),
    "a key that is true": ("a: 1\ntrue: 1\n", 2, "a key is a text"),
    "odd keys in a list": ("a:\n  - b: 1\n  - 2: 1\n", 3, "2: a key is a text"),
    "two documents": ("a: 1\n---\na: 2\n", 2, "is not YAML"),
    "a list": ("- a\n", 1, "must be a mapping of keys to values"),
    "a text": ("a\n", 1, "must be a mapping"),
    "nothing": ("", 1, "must be a mapping"),
    "a comment": ("# a\n", 1, "must be a mapping"),
    "an open quote": ("a: 'b\nc: d\n", 0, "is not YAML"),
    "a tab": ("a: 1\n\tb: 2\n", 2, "is not YAML"),
    "an open bracket": ("a: [1\nb: 2\n", 0, "is not YAML"),
    "another version of YAML": ("%YAML 9.9\n---\na: 1\n", 1, "is not YAML"),
    "NUL": ("a: 1\x00\n", 0, "is not YAML"),
    "no UTF-8": (b"a: \xff\n", 0, "is not UTF-8"),
    "a date that there is not": ("a: 2001-13-45\n", 0, "is not YAML"),
    "a number that is too long": ("a: " + "9" * 5000 + "\n", 0, "is not YAML"),
    "deep lists": ("a: " + "[" * 100_000, 1, "nested more than 20 deep"),
    "deep mappings": (
        "a:\n" + "".join(" " * n + "b:\n" for n in range(1, 50)),
        21,
        "nested more than 20 deep",
    ),
    "a huge file": ("a: 1\n" + "#" * (1 << 20), 0, "larger than 1 MiB: split it"),
}
"""Content, the line that is named (0: whatever the parser says, or none), and what is said of it."""


@pytest.mark.parametrize("name", UNUSABLE)
@pytest.mark.timeout(20)
def test_a_file_that_cannot_be_used_is_a_problem_with_its_place(tmp_path: Path, name: str) -> None:
    text, line, what = UNUSABLE[name]
    file = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_yaml(file)
    (problem,) = caught.value.problems
    assert problem.file == str(file)
    assert what in str(problem)
    if line:
        assert problem.line == line
        assert str(problem).startswith(f"{file}:{line}: ")
    assert str(problem) == str(caught.value)
    assert "\n" not in str(problem)


@pytest.mark.parametrize("place", ["none.yaml", "catalog.yaml/below", "x" * 300])
def test_a_place_that_cannot_be_read_says_so(tmp_path: Path, place: str) -> None:
    write(tmp_path, "a: 1\n")
    with pytest.raises(ConfigError, match=r": cannot be read: [A-Z]"):
        read_yaml(tmp_path / place)


def test_a_link_to_itself_says_so(tmp_path: Path) -> None:
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Too many levels"):
        read_yaml(tmp_path / "loop.yaml")


@pytest.mark.timeout(10)
def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.yaml")
    for path in (tmp_path / "fifo.yaml", Path("/dev/zero"), tmp_path):
        with pytest.raises(ConfigError, match="is not a file: give one"):
            read_yaml(path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=200) | st.text(alphabet="ab1:-?[]{},&*!|>'\"%@`#~<. \n\t", max_size=60).map(str.encode)
)
@example(b"? a\n? b")
@example(b"a: |\n b\n--- >\n")
def test_whatever_is_in_a_file_it_is_read_or_a_problem(tmp_path: Path, content: bytes) -> None:
    file = write(tmp_path, content)
    for load in (load_catalog, load_settings):
        with pytest.raises(ConfigError) as caught:
            load(file)
        assert caught.value.problems
        assert all(problem.file == str(file) and problem.what for problem in caught.value.problems)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_is_changed_in_a_good_file_it_is_read_or_a_problem(
    tmp_path: Path, data: st.DataObject
) -> None:
    for load, text in ((load_catalog, CATALOG), (load_settings, SETTINGS)):
        at = data.draw(st.integers(0, len(text)))
        upto = data.draw(st.integers(at, min(len(text), at + 6)))
        new = data.draw(st.text(alphabet="ab1:-?[]{},&*!|>'\"%@#~<. \n\té\x00", max_size=4))
        file = write(tmp_path, text[:at] + new + text[upto:])
        try:
            load(file)
        except ConfigError as error:
            assert all(  # noqa: PT017 - it may be read as well
                problem.file == str(file) and problem.what for problem in error.problems
            )


def test_much_beside_each_other_is_not_deep(tmp_path: Path) -> None:
    file = write(tmp_path, "".join(f"key-{number}: {{a: [1, 2]}}\n" for number in range(200)))
    assert len(read_yaml(file)) == 200


def test_values_come_out_plain(tmp_path: Path) -> None:
    file = write(tmp_path, "a: [1, 1.5, true, null, 'x', \"y\", 0x10, yes]\nb:\n  c: |\n    text\n")
    content = plain(read_yaml(file))
    assert content == {"a": [1, 1.5, True, None, "x", "y", 16, "yes"], "b": {"c": "text\n"}}
    assert [type(value) for value in content["a"]] == [int, float, bool, type(None), str, str, int, str]


@given(st.integers(0, 9999), st.integers(0, 99_999), st.integers(0, 999_999))
def test_a_duration_is_the_sum_of_its_parts(hours: int, minutes: int, seconds: int) -> None:
    wanted = timedelta(hours=hours, minutes=minutes, seconds=seconds)
    assert parse_duration(f"{hours}h{minutes}m{seconds}s") == wanted
    assert parse_duration(f"{minutes}m") == timedelta(minutes=minutes)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "s",
        "10",
        "1.5h",
        "-1s",
        "+1s",
        "1s1m",
        "1m1h",
        "1h 1m",
        "10 s",
        "10S",
        "1d",
        "٣s",
        "1s\n",
        "1" * 400 + "s",
        "PT10S",
    ],
)
def test_what_is_no_duration_says_how_one_looks(text: str) -> None:
    with pytest.raises(ValueError, match="give a duration such as 90s, 30m or 1h30m"):
        parse_duration(text)


@pytest.mark.parametrize("value", [10, 1.5, None, True, ["10s"], b"10s"])
def test_only_a_text_is_a_duration(value: object) -> None:
    with pytest.raises(ValueError, match="give a duration"):
        parse_duration(value)
