"""Where something unforeseen happened: its type and place, and nothing of its text, which could hold anything."""

from __future__ import annotations


def where(error: BaseException) -> str:
    """Say it in one line, for the log."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    if place is None:
        return type(error).__name__
    return f"{type(error).__name__} at {place.tb_frame.f_code.co_qualname}:{place.tb_lineno}"
