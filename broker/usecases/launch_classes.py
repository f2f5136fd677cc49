"""Which agent classes instances can be launched of on this node, and how: from the catalog, pure."""

from __future__ import annotations

from typing import Final

from broker.domain.attestation import UnixAttestation
from broker.domain.catalog import AgentClass, Catalog
from broker.domain.launching import LaunchClass
from broker.domain.spiffe import SpiffeId
from broker.usecases.plan_workloads import instance_id

_NAME: Final = "0"


class NotLaunchableError(Exception):
    """Instances of the class cannot be launched; says why."""


def launch_classes(catalog: Catalog, *, own_id: SpiffeId, parent: SpiffeId | None) -> dict[str, LaunchClass]:
    """Those that can be launched."""
    found = {}
    for agent_class in catalog.agent_classes.values():
        try:
            found[agent_class.name] = _launch_class(agent_class, own_id=own_id, parent=parent)
        except NotLaunchableError:
            continue
    return found


def launch_class(catalog: Catalog, name: str, *, own_id: SpiffeId, parent: SpiffeId | None) -> LaunchClass:
    """The class of that name.

    Raises:
        NotLaunchableError: it is unlisted (R5), or not to be launched here.
    """
    agent_class = catalog.agent_classes.get(name)
    if agent_class is None:
        message = f"the catalog has no agent class {name!r}"
        raise NotLaunchableError(message)
    return _launch_class(agent_class, own_id=own_id, parent=parent)


def _launch_class(agent_class: AgentClass, *, own_id: SpiffeId, parent: SpiffeId | None) -> LaunchClass:
    name = agent_class.name
    if agent_class.trust_domain not in {None, own_id.trust_domain}:
        message = f"instances of {name} are of {agent_class.trust_domain}: they are launched there"
        raise NotLaunchableError(message)
    if agent_class.parent:
        parent = SpiffeId.parse(f"spiffe://{own_id.trust_domain}{agent_class.parent}")
    if parent is None:
        message = (
            f"agent_classes.{name}: no parent: say which SPIRE agent runs on this node, by registry.parent in the "
            "broker's configuration, --parent, or parent in the class"
        )
        raise NotLaunchableError(message)
    if parent.trust_domain != own_id.trust_domain or parent.path in {"", "/spire/server"}:
        message = f"parent {parent} is no SPIRE agent of {own_id.trust_domain}"
        raise NotLaunchableError(message)
    attestation, ahead = agent_class.attestation, len(agent_class.instances)
    first, last, user = 0, -1, ""
    if isinstance(attestation, UnixAttestation):
        if attestation.groups is None:
            message = (
                f"agent_classes.{name}: launching needs a range of group ids, one for each instance: give attestation "
                "gids, such as 70000-70999"
            )
            raise NotLaunchableError(message)
        first, last = attestation.groups.first + ahead, attestation.groups.last
        user = attestation.user or ""
    try:
        spiffe_id, segment = instance_id(agent_class, _NAME, own_id=own_id)
    except ValueError as error:
        message = f"agent_classes.{name}: {error}"
        raise NotLaunchableError(message) from error
    before, after = agent_class.spiffe_path("{}").rsplit("{}", 1)
    if f"{before}{_NAME}{after}" != spiffe_id.path or not segment:
        message = f"agent_classes.{name}: spiffe_id has no place for an instance's name"
        raise NotLaunchableError(message)
    return LaunchClass(
        name=name,
        attestation=attestation,
        id_prefix=f"spiffe://{own_id.trust_domain}{before}",
        id_suffix=after,
        parent_id=parent,
        x509_svid_ttl=agent_class.x509_svid_ttl,
        jwt_svid_ttl=agent_class.jwt_svid_ttl,
        at_most=agent_class.max_instances - ahead,
        ready=agent_class.ready,
        first_group=first,
        last_group=last,
        user=user,
    )
