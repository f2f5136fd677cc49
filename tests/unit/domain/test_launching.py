"""What an identity of a launched instance is, for each way in which SPIRE can know it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from broker.domain.attestation import Attestation, UnixAttestation
from broker.domain.launching import entry_of
from broker.domain.workload import Purpose
from tests.fakes.system import NOON
from tests.unit.node.samples import DOCKER, KUBERNETES, SYSTEMD, UNIX, a_class, an_identity


@pytest.mark.parametrize(
    ("attestation", "pod_uid", "wanted"),
    [
        (UNIX, "", {"unix:supplementary_gid:70000"}),
        (replace(UNIX, user="bot"), "", {"unix:supplementary_gid:70000", "unix:user:bot"}),
        (DOCKER, "", {"docker:label:tasklease.instance:bot/one"}),
        (SYSTEMD, "", {"systemd:id:bot@one.service"}),
        (
            KUBERNETES,
            "4c6f-uid",
            {"k8s:ns:agents", "k8s:sa:bot", "k8s:pod-uid:4c6f-uid", "k8s:container-name:main"},
        ),
    ],
)
def test_the_entry_asks_for_what_this_instance_alone_has(
    attestation: Attestation, pod_uid: str, wanted: set[str]
) -> None:
    of = a_class(attestation)
    entry = entry_of(of, an_identity(of), expires_at=NOON, pod_uid=pod_uid)
    assert {str(selector) for selector in entry.selectors} == wanted
    assert entry.ownership is not None
    assert entry.ownership.purpose is Purpose.LAUNCH
    assert entry.expires_at == NOON
    assert not entry.admin


def test_a_pod_without_a_uid_has_no_entry() -> None:
    of = a_class(KUBERNETES)
    with pytest.raises(ValueError, match="known by its uid"):
        entry_of(of, an_identity(of), expires_at=NOON)


def test_a_class_without_groups_has_no_entry() -> None:
    of = a_class(UnixAttestation())
    with pytest.raises(ValueError, match="no group"):
        entry_of(of, an_identity(of), expires_at=NOON)


def test_an_expiry_is_whole_seconds_as_spire_keeps_it() -> None:
    of = a_class()
    entry = entry_of(of, an_identity(of), expires_at=NOON + timedelta(microseconds=1))
    assert entry.expires_at == NOON


@pytest.mark.parametrize(
    "change",
    [
        {"attestation": replace(UNIX, user="bot")},
        {"parent_id": a_class().spiffe_id("elsewhere")},
        {"x509_svid_ttl": timedelta(minutes=1)},
        {"id_prefix": "spiffe://example.test/agent/bot/x-"},
        {"last_group": 70002},
    ],
)
def test_what_waits_is_known_to_be_made_otherwise(change: dict[str, object]) -> None:
    assert replace(a_class(), **change).recipe != a_class().recipe  # type: ignore[arg-type]


def test_what_is_no_part_of_an_entry_is_no_part_of_the_recipe() -> None:
    assert a_class(at_most=1, ready=3).recipe == a_class().recipe


def test_only_a_process_known_by_group_and_user_can_be_looked_at() -> None:
    assert a_class(UNIX).can_be_probed
    assert a_class(replace(UNIX, user="bot")).can_be_probed
    for attestation in (
        replace(UNIX, path="/bin/x"),
        replace(UNIX, sha256="0" * 64),
        DOCKER,
        SYSTEMD,
        KUBERNETES,
    ):
        assert not a_class(attestation).can_be_probed


def test_what_was_issued_may_live_as_long_as_the_longer_kind() -> None:
    assert a_class(jwt_svid_ttl=timedelta(hours=1)).longest_svid == timedelta(hours=1)
    assert a_class().longest_svid == timedelta(minutes=10)
