"""Labels: what was read and who wrote it, each level with those below it."""

from __future__ import annotations

from itertools import pairwise

import pytest

from broker.domain.classification import Classification
from broker.domain.flows import UNTRUSTED, Origin, Reads, Writes, labels_of


@pytest.mark.parametrize(
    ("classification", "labels"),
    [
        (Classification.PUBLIC, set()),
        (Classification.INTERNAL, {"read.internal"}),
        (Classification.CONFIDENTIAL, {"read.internal", "read.confidential"}),
        (Classification.RESTRICTED, {"read.internal", "read.confidential", "read.restricted"}),
    ],
)
def test_who_reads_something_has_read_what_is_below_it(
    classification: Classification, labels: set[str]
) -> None:
    assert labels_of(Reads(classification=classification)) == labels
    untrusted = Reads(classification=classification, origin=Origin.UNTRUSTED)
    assert labels_of(untrusted) == labels | {UNTRUSTED}


@pytest.mark.parametrize("origin", Origin)
def test_more_sensitive_data_never_means_fewer_labels(origin: Origin) -> None:
    for less, more in pairwise(Classification):
        assert labels_of(Reads(classification=less, origin=origin)) < labels_of(
            Reads(classification=more, origin=origin)
        )


def test_what_is_not_said_is_public_and_trusted() -> None:
    assert labels_of(Reads()) == frozenset()


def test_writes_go_from_least_to_most() -> None:
    assert list(Writes) == [Writes.NOTHING, Writes.INTERNAL, Writes.EXTERNAL, Writes.DESTRUCTIVE]
