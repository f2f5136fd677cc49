"""How SPIRE tells one instance of an agent class from another: the selectors that an instance's entry has.

What always holds: each instance has one selector that no other instance of any class has (`config.catalog` sees to it
that ranges and templates do not meet); the others only narrow who can be an instance at all.

Templates know two words, `{class}` and `{instance}`; `config.catalog` refuses any other brace.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from broker.domain.workload import Selector

DOCKER_LABEL: Final = "tasklease.instance"
FIRST_GROUP: Final = 1000
"""Groups below it are the system's: being in one is power of its own."""

LAST_GROUP: Final = 4_294_967_293


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """A range of group ids, both ends taken. The first ones belong to the instances that are registered ahead, by
    their number; the rest is for those that are launched."""

    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first + 1

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnixAttestation:
    """A process: one supplementary group an instance, by number from a range or by name."""

    groups: Groups | None = None
    group_name: str | None = None
    user: str | None = None
    path: str | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerAttestation:
    """A container: one label an instance, `<label>=<class>/<instance>`."""

    label: str = DOCKER_LABEL
    image: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesAttestation:
    """A pod: by its name where it is registered ahead, by its uid where it is launched."""

    namespace: str
    service_account: str
    pod_name: str = "{class}-{instance}"
    container: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemdAttestation:
    """A unit of systemd."""

    unit: str = "{class}@{instance}.service"


Attestation = UnixAttestation | DockerAttestation | KubernetesAttestation | SystemdAttestation

DEFAULT_ATTESTATION: Final = UnixAttestation()
"""A class that says nothing: processes, each with a group that whoever launches it chooses."""


def expand(template: str, *, agent_class: str, instance: str) -> str:
    """The template with both words filled in."""
    return template.replace("{class}", agent_class).replace("{instance}", instance)


def selectors(
    attestation: Attestation, *, agent_class: str, instance: str, number: int
) -> frozenset[Selector]:
    """What the entry of an instance that is registered ahead asks of the workload.

    Args:
        attestation: the class's.
        agent_class: its name.
        instance: the instance's name, as the catalog has it.
        number: which of the class's instances it is, from 0.

    Raises:
        ValueError: nothing in the attestation tells that instance from others.
    """

    def filled(template: str) -> str:
        return expand(template, agent_class=agent_class, instance=instance)

    match attestation:
        case UnixAttestation(groups=groups, group_name=group_name):
            words = {"user": attestation.user, "path": attestation.path, "sha256": attestation.sha256}
            if group_name is not None:
                words["supplementary_group"] = filled(group_name)
            elif groups is not None and number < len(groups):
                words["supplementary_gid"] = str(groups.first + number)
            else:
                message = f"there is no group for instance {instance!r}"
                raise ValueError(message)
            return _selectors("unix", words)
        case DockerAttestation():
            return _selectors(
                "docker",
                {f"label:{attestation.label}": f"{agent_class}/{instance}", "image_id": attestation.image},
            )
        case KubernetesAttestation():
            return _selectors(
                "k8s",
                {
                    "ns": attestation.namespace,
                    "sa": attestation.service_account,
                    "pod-name": filled(attestation.pod_name),
                    "container-name": attestation.container,
                },
            )
        case SystemdAttestation():
            return _selectors("systemd", {"id": filled(attestation.unit)})


def _selectors(kind: str, words: dict[str, str | None]) -> frozenset[Selector]:
    return frozenset(
        Selector(kind=kind, value=f"{name}:{value}") for name, value in words.items() if value is not None
    )
