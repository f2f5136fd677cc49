"""Tells the broker that an instance has ended, with the SVID of this process: a registrar's."""

from __future__ import annotations


async def report_ended(broker: str, spiffe_id: str) -> str:  # noqa: ARG001
    """Report; returns why it could not be, empty when it was."""
    return "not yet"
