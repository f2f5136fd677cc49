"""Writes the table of transitions into ARCHITECTURE.md, or says that it is not current (`--check`)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from broker.domain.lifecycle import as_markdown

FILE: Final = Path(__file__).resolve().parents[1] / "ARCHITECTURE.md"
BEGIN: Final = "<!-- lifecycle: written by tools/lifecycle.py -->\n"
END: Final = "<!-- /lifecycle -->\n"


def main() -> int:
    """Write, or check."""
    text = FILE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    wanted = f"{before}{BEGIN}{as_markdown()}\n{END}{after}"
    if "--check" not in sys.argv:
        FILE.write_text(wanted, encoding="utf-8")
        return 0
    if text != wanted:
        print("ARCHITECTURE.md: the table of transitions is not current: make gen")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
