r"""Identities of launched instances: the life that each has on its node, and the entry that it has at SPIRE.

    preparing -> ready -> used -> retiring -> cooling -> (forgotten)
        \---------\---------^

What always holds: an identity is used once; its number (the group of a process) belongs to it from before SPIRE is
asked for an entry until every SVID that can have been issued under that entry has expired, and no process has it any
more. Every entry expires at SPIRE unless it is renewed: what a node that is gone left behind goes by itself.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from broker.domain.attestation import (
    Attestation,
    DockerAttestation,
    KubernetesAttestation,
    SystemdAttestation,
    UnixAttestation,
    expand,
    selectors,
)
from broker.domain.spiffe import SpiffeId
from broker.domain.workload import EntryId, Ownership, Purpose, Selector, WorkloadEntry

UNUSED_FOR: Final = timedelta(minutes=10)
"""An entry that waits in the pool expires after this, unless the pool renews it."""

USED_FOR: Final = timedelta(hours=1)
"""An entry of a running instance expires after this, unless whoever watches over it renews it."""

TAKEN_BEFORE: Final = timedelta(minutes=1)
"""A waiting identity whose entry expires sooner is not handed out any more."""

SETTLING: Final = timedelta(seconds=30)
"""How long SPIRE may go on issuing after an entry was deleted: server's cache, agent's sync, clocks that differ."""


class IdentityState(StrEnum):
    """Where an identity is in its life."""

    PREPARING = "preparing"
    """Its number is reserved; SPIRE may or may not have an entry."""
    READY = "ready"
    """SPIRE's agent was seen to serve its SVID. Nobody uses it."""
    USED = "used"
    """An instance runs with it, or is about to."""
    RETIRING = "retiring"
    """The instance has ended. SPIRE may still have the entry."""
    COOLING = "cooling"
    """SPIRE has no entry. SVIDs issued under it may still be valid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A process, by what no other process ever has: its id and when it started, in the kernel's ticks."""

    pid: int
    started: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchClass:
    """What launching instances of an agent class needs to know of it."""

    name: str
    attestation: Attestation
    id_prefix: str
    """SPIFFE ID of an instance, up to its name."""
    id_suffix: str
    parent_id: SpiffeId
    x509_svid_ttl: timedelta
    jwt_svid_ttl: timedelta
    at_most: int
    """Instances that may be launched at the same time."""
    ready: int
    """Identities that are kept ready."""
    first_group: int = 0
    last_group: int = -1
    """Groups of those that are launched: the class's range after the ones that are registered ahead."""
    user: str = ""

    def spiffe_id(self, name: str) -> SpiffeId:
        """The SPIFFE ID of an instance of that name."""
        return SpiffeId.parse(f"{self.id_prefix}{name}{self.id_suffix}")

    @property
    def kind(self) -> str:
        """How its instances are attested, in the catalog's words."""
        match self.attestation:
            case UnixAttestation():
                return "unix"
            case DockerAttestation():
                return "docker"
            case KubernetesAttestation():
                return "kubernetes"
            case SystemdAttestation():
                return "systemd"

    def handle(self, name: str) -> str:
        """What an instance of that name is known by on the machine, where it is not a number."""
        match self.attestation:
            case DockerAttestation(label=label):
                return f"{label}={self.name}/{name}"
            case KubernetesAttestation(namespace=namespace, pod_name=pod_name):
                return f"{namespace}/{expand(pod_name, agent_class=self.name, instance=name)}"
            case SystemdAttestation(unit=unit):
                return expand(unit, agent_class=self.name, instance=name)
            case UnixAttestation():
                return ""

    @property
    def can_be_probed(self) -> bool:
        """Whether another process can be what SPIRE knows an instance by: not where that is a container, or a program."""
        match self.attestation:
            case UnixAttestation(path=path, sha256=sha256):
                return path is None and sha256 is None
            case _:
                return False

    @property
    def recipe(self) -> str:
        """What entries of it are made of, as a digest: one that waits and was made otherwise is replaced."""
        made_of = (self.attestation, self.id_prefix, self.id_suffix, str(self.parent_id), self.user)
        lifetimes = (self.x509_svid_ttl, self.jwt_svid_ttl, self.first_group, self.last_group)
        return hashlib.sha256(repr((made_of, lifetimes)).encode()).hexdigest()[:16]

    @property
    def longest_svid(self) -> timedelta:
        """How long what was issued may outlive its entry."""
        return max(self.x509_svid_ttl, self.jwt_svid_ttl)


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchedIdentity:
    """One identity, as the node's ledger has it."""

    name: str
    agent_class: str
    spiffe_id: str
    entry_id: EntryId
    kind: str
    """`unix`, `docker`, `kubernetes` or `systemd`."""
    group: int | None
    """Its number, where the kind has numbers."""
    state: IdentityState
    since: datetime
    svid_lifetime: timedelta
    """How long what was issued may outlive the entry."""
    user: str = ""
    handle: str = ""
    """What else the kind knows the instance by: a container's name, a unit's, a pod's."""
    expires_at: datetime | None = None
    """When SPIRE drops the entry by itself."""
    holder: Holder | None = None
    """Who makes it or uses it; nobody while it is ready."""
    free_at: datetime | None = None
    """When the last SVID issued under it has expired; while it is cooling."""
    recipe: str = ""
    """`LaunchClass.recipe` when it was made."""
    broker: str = ""
    """Where the end of the instance is to be reported; empty: nowhere, or done."""


def entry_of(
    launch_class: LaunchClass,
    identity: LaunchedIdentity,
    *,
    expires_at: datetime,
    pod_uid: str = "",
) -> WorkloadEntry:
    """The registration entry of an identity.

    Raises:
        ValueError: nothing in the class's attestation tells it from others.
    """
    spiffe_id = SpiffeId.parse(identity.spiffe_id)
    return WorkloadEntry(
        entry_id=identity.entry_id,
        spiffe_id=spiffe_id,
        parent_id=launch_class.parent_id,
        selectors=launched_selectors(
            launch_class.attestation,
            agent_class=launch_class.name,
            instance=identity.name,
            group=identity.group,
            pod_uid=pod_uid,
        ),
        x509_svid_ttl=launch_class.x509_svid_ttl,
        jwt_svid_ttl=launch_class.jwt_svid_ttl,
        expires_at=expires_at.replace(microsecond=0),
    )


def launched_selectors(
    attestation: Attestation, *, agent_class: str, instance: str, group: int | None = None, pod_uid: str = ""
) -> frozenset[Selector]:
    """What the entry of a launched instance asks of the workload: as for those registered ahead, but a pod's uid.

    Raises:
        ValueError: nothing tells this instance from others.
    """
    match attestation:
        case KubernetesAttestation():
            if not pod_uid:
                message = "a pod that is launched is known by its uid, and there is none yet"
                raise ValueError(message)
            words = {
                "ns": attestation.namespace,
                "sa": attestation.service_account,
                "pod-uid": pod_uid,
                "container-name": attestation.container,
            }
            return frozenset(
                Selector(kind="k8s", value=f"{name}:{value}") for name, value in words.items() if value
            )
        case _:
            groups = getattr(attestation, "groups", None)
            number = group - groups.first if group is not None and groups is not None else 0
            return selectors(attestation, agent_class=agent_class, instance=instance, number=number)


def entry_id_of(agent_class: str, spiffe_id: SpiffeId) -> EntryId:
    """The id of a launched instance's entry (docs/adr/0008)."""
    instance = spiffe_id.path.rpartition("/")[2]
    return Ownership(purpose=Purpose.LAUNCH, agent_class=agent_class, instance=instance).entry_id
