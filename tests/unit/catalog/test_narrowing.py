"""Entries that are taken out of a catalog's lists; everything else stays, to the character."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.adapters.catalog.narrowing import Removal, narrowed

TEXT = """\
version: 1 # of the format
task_types:
  one:
    tools: [a, b, c] # three
    roles: [] # none
  two:
    tools: [a,
      b, # the second
      c]
  three:
    tools:
      - a # first
      # about the second
      - b
    roles:
      - r
"""


def removal(owner: str, name: str, listing: str = "tools") -> Removal:
    return Removal(section="task_types", owner=owner, listing=listing, name=name)


@pytest.mark.parametrize(
    ("removals", "before", "after"),
    [
        ([removal("one", "b")], "[a, b, c] # three", "[a, c] # three"),
        ([removal("one", "a"), removal("one", "b"), removal("one", "c")], "[a, b, c] # three", "[] # three"),
        ([removal("two", "b")], "[a,\n      b, # the second\n      c]", "[a, c]"),
        ([removal("three", "a")], "      - a # first\n", ""),
        ([removal("three", "r", "roles")], "    roles:\n      - r\n", "    roles: []\n"),
    ],
)
def test_an_entry_goes(tmp_path: Path, removals: list[Removal], before: str, after: str) -> None:
    file = tmp_path / "catalog.yaml"
    file.write_text(TEXT)
    text, done = narrowed(file, removals)
    assert done == removals
    assert text == TEXT.replace(before, after)


def test_what_is_not_there_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "catalog.yaml"
    file.write_text(TEXT)
    unknown = [
        removal("one", "x"),
        removal("nobody", "a"),
        removal("one", "a", "environment"),
        removal("one", "a", "roles"),
    ]
    assert narrowed(file, unknown) == (TEXT, [])
