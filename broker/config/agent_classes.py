"""The catalog's agent classes: how their instances are attested, named and counted.

What always holds of a class that is read: the SPIFFE ID of each of its instances is `/agent/<class>/<one segment>` in the
broker's own trust domain; each instance that is registered ahead has a selector that no other has.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)
from ruamel.yaml.comments import CommentedMap

from broker.config.fields import LONGEST, NAME, Duration, Name, Text, TrustDomain
from broker.config.reading import Problem, line_of
from broker.domain.attestation import (
    DOCKER_LABEL,
    FIRST_GROUP,
    LAST_GROUP,
    Attestation,
    DockerAttestation,
    Groups,
    KubernetesAttestation,
    SystemdAttestation,
    UnixAttestation,
    selectors,
)
from broker.domain.workload import Selector

MOST_INSTANCES: Final = 100_000
MOST_READY: Final = 1000
SHORTEST_SVID: Final = timedelta(seconds=10)

_ID_TEMPLATE: Final = re.compile(
    r"/agent/(?P<agent_class>[^/]+)/[A-Za-z0-9._-]{0,32}\{instance\}[A-Za-z0-9._-]{0,32}"
)
_GROUPS: Final = re.compile(r"([0-9]{1,10})-([0-9]{1,10})")


def _parse_groups(value: object) -> Groups:
    """`70000-70999`."""
    if isinstance(value, Groups):
        return value
    if not isinstance(value, str) or not (ends := _GROUPS.fullmatch(value)):
        message = "give a range of group ids, such as 70000-70999"
        raise ValueError(message)
    groups = Groups(first=int(ends[1]), last=int(ends[2]))
    if not FIRST_GROUP <= groups.first <= groups.last <= LAST_GROUP:
        message = f"from {FIRST_GROUP} on, and upwards, such as 70000-70999: those below are the system's"
        raise ValueError(message)
    return groups


def _parse_instances(value: object) -> tuple[str, ...]:
    """How many, or which: `3` is the same as `["1", "2", "3"]`."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_INSTANCES:
        return tuple(str(number) for number in range(1, value + 1))
    if isinstance(value, list | tuple) and len(value) <= MOST_INSTANCES:
        for name in value:
            if not isinstance(name, str) or not re.fullmatch(NAME, name):
                message = f"{name!r} is no name: give 1 to 64 of a-z 0-9 -, in quotes where it is a number"
                raise ValueError(message)
        if len(set(value)) < len(value):
            message = "a name stands twice: keep one"
            raise ValueError(message)
        return tuple(value)
    message = f"give how many (0 to {MOST_INSTANCES}), or a list of names"
    raise ValueError(message)


def _template(pattern: str, example: str) -> Any:  # noqa: ANN401 - what Annotated takes
    """A text with `{instance}` in it once, and `{class}` at most once."""
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        filled = value.replace("{class}", "c", 1).replace("{instance}", "i", 1)
        if "{instance}" not in value or not compiled.fullmatch(filled):
            message = f"give a text with {{instance}} in it, such as {example}"
            raise ValueError(message)
        return value

    return AfterValidator(check)


def _check_ttl(value: timedelta) -> timedelta:
    if not SHORTEST_SVID <= value <= LONGEST:
        message = "give 10s to 24h"
        raise ValueError(message)
    return value


SvidTtl = Annotated[Duration, AfterValidator(_check_ttl)]
GroupRange = Annotated[
    Groups,
    BeforeValidator(_parse_groups),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "pattern": r"^[0-9]{1,10}-[0-9]{1,10}$", "examples": ["70000-70999"]}),
]
InstanceNames = Annotated[
    tuple[str, ...],
    BeforeValidator(_parse_instances),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": MOST_INSTANCES},
                {
                    "type": "array",
                    "items": {"type": "string", "pattern": NAME},
                    "maxItems": MOST_INSTANCES,
                    "uniqueItems": True,
                },
            ]
        }
    ),
]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class UnixAttestationModel(_Model):
    """A process: one supplementary group an instance."""

    kind: Literal["unix"]
    gids: GroupRange | None = None
    group: Annotated[str, _template(r"[a-z_][a-z0-9_-]{0,30}", "agent-{instance}")] | None = None
    user: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")] | None = None
    path: Annotated[str, Field(pattern=r"^/[^\s]+$", max_length=1024)] | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.gids and self.group:
            message = "gids, group: keep one of them"
            raise ValueError(message)
        return self

    def domain(self) -> Attestation:
        """As the domain has it."""
        return UnixAttestation(
            groups=self.gids, group_name=self.group, user=self.user, path=self.path, sha256=self.sha256
        )


class DockerAttestationModel(_Model):
    """A container: one label an instance."""

    kind: Literal["docker"]
    label: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,126}[a-z0-9])?$")] = DOCKER_LABEL
    image: Annotated[str, Field(pattern=r"^[^\s]+$", max_length=512)] | None = None

    def domain(self) -> Attestation:
        """As the domain has it."""
        return DockerAttestation(label=self.label, image=self.image)


class KubernetesAttestationModel(_Model):
    """A pod."""

    kind: Literal["kubernetes"]
    namespace: Name
    service_account: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
    pod_name: Annotated[str, _template(r"[a-z0-9]([a-z0-9.-]{0,120}[a-z0-9])?", "worker-{instance}")] = (
        "{class}-{instance}"
    )
    container: Name | None = None

    def domain(self) -> Attestation:
        """As the domain has it."""
        return KubernetesAttestation(
            namespace=self.namespace,
            service_account=self.service_account,
            pod_name=self.pod_name,
            container=self.container,
        )


class SystemdAttestationModel(_Model):
    """A unit of systemd."""

    kind: Literal["systemd"]
    unit: Annotated[
        str, _template(r"[A-Za-z0-9_.@-]{1,120}\.(service|scope)", "worker@{instance}.service")
    ] = "{class}@{instance}.service"

    def domain(self) -> Attestation:
        """As the domain has it."""
        return SystemdAttestation(unit=self.unit)


AttestationModel = Annotated[
    UnixAttestationModel | DockerAttestationModel | KubernetesAttestationModel | SystemdAttestationModel,
    Field(discriminator="kind"),
]


ATTESTATIONS: Final = (
    UnixAttestationModel,
    DockerAttestationModel,
    KubernetesAttestationModel,
    SystemdAttestationModel,
)


class AgentClassModel(_Model):
    """What the instances of a class may do at most, and how SPIRE knows them."""

    description: Text = ""
    trust_domain: TrustDomain | None = None
    task_types: Annotated[list[Name], Field(max_length=200)]
    max_tasks: Annotated[int, Field(ge=1, le=10_000, strict=True)] = 8
    attestation: Annotated[AttestationModel, Field(json_schema_extra={"default": {"kind": "unix"}})] = (
        UnixAttestationModel(kind="unix")
    )
    spiffe_id: Annotated[str, Field(max_length=256)] = "/agent/{class}/{instance}"
    x509_svid_ttl: Annotated[SvidTtl, Field(json_schema_extra={"default": "10m"})] = timedelta(minutes=10)
    jwt_svid_ttl: Annotated[SvidTtl, Field(json_schema_extra={"default": "5m"})] = timedelta(minutes=5)
    instances: InstanceNames = ()
    max_instances: Annotated[int, Field(ge=1, le=MOST_INSTANCES, strict=True)] = 100
    ready: Annotated[int, Field(ge=0, le=MOST_READY, strict=True)] = 0
    parent: Annotated[str, Field(pattern=r"^/[A-Za-z0-9._/-]+$", max_length=512)] | None = None

    @model_validator(mode="after")
    def _room(self) -> Self:
        many = len(self.instances)
        if many and self.trust_domain is not None:
            message = (
                "instances: those of another trust domain are registered there: leave them out, or trust_domain if it "
                "is the broker's own"
            )
            raise ValueError(message)
        if many > self.max_instances:
            message = f"instances: these are {many}, max_instances allows {self.max_instances}: raise it"
            raise ValueError(message)
        unix = self.attestation
        if self.ready and isinstance(unix, UnixAttestationModel) and not unix.gids:
            message = (
                "ready: what is told apart by a group is made ahead only by number: give attestation gids, such as "
                "70000-70999, or leave ready out"
            )
            raise ValueError(message)
        if self.ready and isinstance(unix, KubernetesAttestationModel):
            message = (
                "ready: a pod has its uid only when it is made, so nothing can wait for it: leave ready out"
            )
            raise ValueError(message)
        if not isinstance(unix, UnixAttestationModel):
            return self
        if many and not unix.gids and not unix.group:
            message = (
                "instances: nothing tells them apart: give attestation gids, such as 70000-70999, or a group such as "
                "agent-{instance}"
            )
            raise ValueError(message)
        if unix.gids and self.instances != _parse_instances(many):
            message = (
                "instances: gids go by number, so say how many; with names, give attestation a group such as "
                "agent-{instance} instead"
            )
            raise ValueError(message)
        if unix.gids and len(unix.gids) < self.max_instances:
            message = (
                f"attestation: gids has room for {len(unix.gids)}, max_instances allows {self.max_instances}: "
                "widen the one or lower the other"
            )
            raise ValueError(message)
        if unix.gids and len(unix.gids) < self.max_instances + self.ready:
            message = (
                f"attestation: gids has room for {len(unix.gids)}, max_instances and ready are "
                f"{self.max_instances + self.ready}: widen the one or lower the others"
            )
            raise ValueError(message)
        return self


Files = Sequence[tuple[Path, CommentedMap, Mapping[str, AgentClassModel]]]
"""The catalog's files, each with its lines and its agent classes."""


def misplaced(files: Files) -> list[Problem]:
    """SPIFFE IDs that would not be those of instances of their class, and parents that are no agents."""
    problems = []
    for file, node, classes in files:
        for name, agent_class in classes.items():
            for field, what in (
                ("spiffe_id", _wrong_id(name, agent_class.spiffe_id)),
                ("parent", _wrong_parent(agent_class.parent)),
            ):
                if what:
                    location = ("agent_classes", name, field)
                    problems.append(
                        Problem(
                            file=str(file), line=line_of(node, location), field=".".join(location), what=what
                        )
                    )
    return problems


def _wrong_id(name: str, template: str) -> str:
    if template.startswith("spiffe://"):
        return "give the path alone: the trust domain is the broker's own, and no other"
    parts = _ID_TEMPLATE.fullmatch(template)
    if parts is None:
        return (
            "give /agent/{class}/ and one segment of A-Z a-z 0-9 . _ - that has {instance} in it once, such as "
            "/agent/{class}/eu-{instance}"
        )
    if parts["agent_class"] not in {"{class}", name}:
        return f"{parts['agent_class']!r} is another class: say {{class}}, or {name}"
    return ""


def _wrong_parent(path: str | None) -> str:
    if path and any(segment in {"", ".", ".."} for segment in path[1:].split("/")):
        return "no empty or relative segments: give the path of an agent's SPIFFE ID"
    if path == "/spire/server":
        return "is SPIRE's server: entries below it are for nodes; give the path of an agent's SPIFFE ID"
    return ""


def confused(files: Files) -> list[Problem]:
    """Instances of two classes that SPIRE could take for one another."""
    problems = []
    owner_of: dict[frozenset[Selector], str] = {}
    ranges: list[tuple[Groups, str]] = []
    for file, node, classes in files:
        for name, agent_class in classes.items():

            def problem(
                what: str, *, file: Path = file, node: CommentedMap = node, name: str = name
            ) -> Problem:
                location = ("agent_classes", name, "attestation")
                return Problem(
                    file=str(file), line=line_of(node, location), field=".".join(location), what=what
                )

            attestation = agent_class.attestation
            if isinstance(attestation, UnixAttestationModel) and (groups := attestation.gids):
                problems += [
                    problem(f"gids {groups} meet those of {other} ({taken}): give each class its own")
                    for taken, other in ranges
                    if groups.first <= taken.last and taken.first <= groups.last
                ]
                ranges.append((groups, name))
            for number, instance in enumerate(agent_class.instances):
                wanted = selectors(attestation.domain(), agent_class=name, instance=instance, number=number)
                other = owner_of.setdefault(_telling(wanted), name)
                if other != name:
                    problems.append(
                        problem(
                            f"instance {instance} would be an instance of {other} as well: both ask for "
                            f"{' '.join(sorted(map(str, _telling(wanted))))}"
                        )
                    )
                    break
    return problems


_NARROWING: Final = ("user:", "path:", "sha256:", "image_id:", "container-name:", "sa:")


def _telling(wanted: frozenset[Selector]) -> frozenset[Selector]:
    """Those by which instances are told apart, without those that only say who can be one at all."""
    return frozenset(one for one in wanted if not one.value.startswith(_NARROWING))
