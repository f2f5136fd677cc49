"""Classes and identities as launching sees them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from broker.domain.attestation import (
    Attestation,
    DockerAttestation,
    Groups,
    KubernetesAttestation,
    SystemdAttestation,
    UnixAttestation,
)
from broker.domain.launching import Holder, IdentityState, LaunchClass, LaunchedIdentity, entry_id_of
from broker.domain.spiffe import SpiffeId
from tests.fakes.system import NOON

ME = Holder(pid=4711, started="boot.1")
OTHER = Holder(pid=4712, started="boot.2")
UNIX = UnixAttestation(groups=Groups(first=70000, last=70003))
DOCKER = DockerAttestation()
KUBERNETES = KubernetesAttestation(namespace="agents", service_account="bot", container="main")
SYSTEMD = SystemdAttestation()


def a_class(attestation: Attestation = UNIX, **changed: Any) -> LaunchClass:
    fields: dict[str, Any] = {
        "name": "bot",
        "attestation": attestation,
        "id_prefix": "spiffe://example.test/agent/bot/",
        "id_suffix": "",
        "parent_id": SpiffeId.parse("spiffe://example.test/spire/agent/node"),
        "x509_svid_ttl": timedelta(minutes=10),
        "jwt_svid_ttl": timedelta(minutes=5),
        "at_most": 3,
        "ready": 1,
    }
    if isinstance(attestation, UnixAttestation) and attestation.groups is not None:
        fields |= {"first_group": attestation.groups.first, "last_group": attestation.groups.last}
    return LaunchClass(**(fields | changed))


def an_identity(of: LaunchClass | None = None, name: str = "one", **changed: Any) -> LaunchedIdentity:
    of = of or a_class()
    spiffe_id = of.spiffe_id(name)
    fields: dict[str, Any] = {
        "name": name,
        "agent_class": of.name,
        "spiffe_id": str(spiffe_id),
        "entry_id": entry_id_of(of.name, spiffe_id),
        "kind": of.kind,
        "group": of.first_group or None,
        "state": IdentityState.USED,
        "since": NOON,
        "svid_lifetime": of.longest_svid,
        "handle": of.handle(name),
        "holder": ME,
    }
    return LaunchedIdentity(**(fields | changed))
