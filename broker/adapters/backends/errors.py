"""Why a backend cannot be looked at."""

from __future__ import annotations


class CannotLookError(Exception):
    """The backend answers, but not what was asked. The text is ours, and safe to log."""
