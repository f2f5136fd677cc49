"""Checks what no linter knows: leaked names, dead links, untested rules, commands that do not exist.

Looks at tracked files only, reads nothing else and changes nothing. What the text *says* is left to review.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parents[1]
RULES: Final = range(1, 8)
"""The rules of the design that must each have a negative test by now."""

FORBIDDEN: Final = (
    # Written in pieces, so that this file does not find itself.
    ("a path of one machine", re.compile(r"(?<![\w.$}])/(?:wor" + r"k|roo" + r"t|opt/whe" + r"els)(?:/|\b)")),
    (
        "a package index",
        re.compile(
            "--(?:extra-)?index" + "-url|--find" + r"-links(?!$)[ =]\S|(?:files\.)?python" + r"hosted\.org"
        ),
    ),
)
LINK: Final = re.compile(r"\]\(([^)\s#]+)(?:#[^)]*)?\)")
COMMAND: Final = re.compile(r"^\s*(?:\$ )?tasklease((?: [a-z][a-z-]*)+)", re.MULTILINE)


def tracked() -> list[Path]:
    """The files that git knows and that still exist."""
    done = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    return [path for name in done.stdout.split("\0") if name and (path := REPOSITORY / name).is_file()]


def leaked_names(paths: list[Path]) -> Iterator[str]:
    """Lines that name a package index or a path of the machine they were written on."""
    for path in paths:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(lines, start=1):
            for what, pattern in FORBIDDEN:
                if pattern.search(line):
                    yield f"{path.relative_to(REPOSITORY)}:{number}: {what}"


def dead_links(paths: list[Path]) -> Iterator[str]:
    """Relative links in Markdown that lead nowhere."""
    for path in paths:
        if path.suffix != ".md":
            continue
        for target in LINK.findall(path.read_text(encoding="utf-8")):
            if (
                "://" not in target
                and not target.startswith("mailto:")
                and not (path.parent / target).exists()
            ):
                yield f"{path.relative_to(REPOSITORY)}: no such file: {target}"


def rules_without_test(paths: list[Path]) -> Iterator[str]:
    """Rules that no file under tests/threats is named after, or whose files hold no test."""
    threats = REPOSITORY / "tests" / "threats"
    for rule in RULES:
        files = [path for path in paths if path.parent == threats and path.name.startswith(f"test_r{rule}_")]
        if not any(re.search(r"def test_", path.read_text(encoding="utf-8")) for path in files):
            yield f"rule R{rule} has no test: tests/threats/test_r{rule}_*.py"


def unknown_commands() -> Iterator[str]:
    """Commands that README.md shows at the start of a line and that `tasklease` does not have."""
    from typer.main import get_command  # noqa: PLC0415 - only this check needs the command line

    from broker.cli.main import assemble  # noqa: PLC0415

    root = get_command(assemble())
    for words in set(COMMAND.findall((REPOSITORY / "README.md").read_text(encoding="utf-8"))):
        command = root
        for word in words.split():
            commands: dict[str, object] | None = getattr(command, "commands", None)
            if commands is None:
                break
            if word not in commands:
                yield f"README.md: there is no command: tasklease{words}"
                break
            command = commands[word]  # type: ignore[assignment]


def main() -> int:
    """Print what was found; 1 when there is anything."""
    paths = tracked()
    found = [*leaked_names(paths), *dead_links(paths), *rules_without_test(paths), *unknown_commands()]
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
