"""Shares with their intervals."""

from __future__ import annotations

import pytest

from broker.domain.proportions import Proportion


@pytest.mark.parametrize(
    ("hits", "of", "share", "low", "high"),
    [
        (0, 0, 0.0, 0.0, 1.0),
        (0, 10, 0.0, 0.0, 0.2775),
        (10, 10, 1.0, 0.7225, 1.0),
        (1, 2, 0.5, 0.0945, 0.9055),
        (50, 100, 0.5, 0.4038, 0.5962),
    ],
)
def test_the_interval_is_wilsons(hits: int, of: int, share: float, low: float, high: float) -> None:
    found = Proportion(hits=hits, of=of)
    assert found.share == share
    assert found.interval == pytest.approx((low, high), abs=1e-4)
