"""Takes entries out of lists of a catalog file, and leaves every other character as it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml.comments import CommentedMap, CommentedSeq

from broker.config.reading import read_yaml


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """One entry of one list: `agent_classes`, `invoice-bot`, `task_types`, `reconcile`."""

    section: str
    owner: str
    listing: str
    name: str


def narrowed(path: Path, removals: Iterable[Removal]) -> tuple[str, list[Removal]]:
    """The file's text without those of `removals` that stand in it, and which these are.

    Raises:
        ConfigError: it is no YAML.
    """
    node = read_yaml(path)
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    done: list[Removal] = []
    by_list: dict[tuple[str, str, str], list[Removal]] = {}
    for removal in removals:
        by_list.setdefault((removal.section, removal.owner, removal.listing), []).append(removal)
    edits: list[tuple[int, int, str]] = []
    for place, wanted in by_list.items():
        found = _list_at(node, place)
        if found is None:
            continue
        names = {removal.name for removal in wanted}
        taken = {index for index, name in enumerate(found) if name in names}
        edits += _without(found, taken, lines)
        done += [removal for removal in wanted if removal.name in {found[index] for index in taken}]
    for begin, end, instead in sorted(edits, reverse=True):
        lines[begin:end] = [instead] if instead else []
    return "".join(lines), done


def _list_at(node: CommentedMap, place: tuple[str, str, str]) -> CommentedSeq | None:
    found: object = node
    for step in place:
        if not isinstance(found, CommentedMap) or step not in found:
            return None
        found = found[step]
    return found if isinstance(found, CommentedSeq) else None


def _without(found: CommentedSeq, taken: set[int], lines: list[str]) -> list[tuple[int, int, str]]:
    """Lines to be replaced: from, up to, and what stands there then."""
    if not taken:
        return []
    kept = [str(name) for index, name in enumerate(found) if index not in taken]
    if not found.fa.flow_style():
        whole = [(found.lc.item(index)[0], found.lc.item(index)[0] + 1, "") for index in sorted(taken)]
        if kept:
            return whole
        # An empty block is nothing at all: say that the list is empty, where its key stands.
        key = whole[0][0] - 1
        return [(key, key + 1, lines[key].rstrip("\n").rstrip() + " []\n"), *whole]
    begin, column = found.lc.line, found.lc.col
    end = found.lc.item(len(found) - 1)[0]
    while "]" not in lines[end]:
        end += 1
    after = lines[end][lines[end].rindex("]") + 1 :] if end > begin else _after(lines[begin], column)
    return [(begin, end + 1, f"{lines[begin][:column]}[{', '.join(kept)}]{after}")]


def _after(line: str, column: int) -> str:
    """What follows the list that begins at `column`: names have no brackets in them."""
    return line[line.index("]", column) + 1 :]
