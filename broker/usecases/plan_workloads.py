"""What has to be done so that the registry has what the catalog says: pure, so that it can be shown first.

What always holds: a plan touches only entries that are ours and that the catalog is the reason for (docs/adr/0008);
every wanted SPIFFE ID is `/agent/<class>/<instance>` in the broker's own trust domain, and is not the broker's; a plan
that was applied leaves an empty one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from broker.domain.attestation import selectors
from broker.domain.catalog import AgentClass, Catalog
from broker.domain.spiffe import AgentIdentity, InvalidSpiffeIdError, SpiffeId
from broker.domain.workload import Drift, Ownership, Purpose, WorkloadEntry, drift


class UnregistrableError(Exception):
    """The catalog asks for entries that may not be; says all that is wrong."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class Action(StrEnum):
    """What is to be done with an entry."""

    DELETE = "delete"
    UPDATE = "update"
    CREATE = "create"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One thing to do; `entry` as it shall be, or as it is when it is to go."""

    action: Action
    entry: WorkloadEntry
    drift: tuple[Drift, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """Somebody else's entry has what one of ours would need, and SPIRE has it once only. Nothing is done."""

    wanted: WorkloadEntry
    theirs: WorkloadEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class Twin:
    """Somebody else's entry gives the SPIFFE ID of one of ours to other workloads. It is left alone."""

    wanted: WorkloadEntry
    theirs: WorkloadEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """An entry takes the selectors that another SPIFFE ID had: a process that still runs with them changes its ID."""

    before: SpiffeId
    after: SpiffeId


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do, in the order in which it is to be done, and what to know."""

    changes: tuple[Change, ...]
    unchanged: int
    conflicts: tuple[Conflict, ...] = ()
    twins: tuple[Twin, ...] = ()
    handovers: tuple[Handover, ...] = ()

    def of(self, action: Action) -> tuple[Change, ...]:
        """The changes of one kind."""
        return tuple(change for change in self.changes if change.action is action)


def wanted_entries(
    catalog: Catalog, *, own_id: SpiffeId, parent: SpiffeId | None
) -> tuple[WorkloadEntry, ...]:
    """The entries of all instances that are registered ahead.

    Args:
        catalog: what is allowed.
        own_id: the broker's SPIFFE ID; its trust domain is that of all entries.
        parent: the SPIRE agent, or alias of agents, of the classes that name none.

    Raises:
        UnregistrableError: an entry would be outside its class or the trust domain, or has no parent.
    """
    entries: list[WorkloadEntry] = []
    problems: list[str] = []
    for agent_class in catalog.agent_classes.values():
        try:
            entries += _of_class(agent_class, own_id=own_id, parent=parent)
        except ValueError as error:
            problems.append(f"agent_classes.{agent_class.name}: {error}")
    if problems:
        raise UnregistrableError(problems)
    return tuple(entries)


def _of_class(agent_class: AgentClass, *, own_id: SpiffeId, parent: SpiffeId | None) -> list[WorkloadEntry]:
    if not agent_class.instances:
        return []
    if agent_class.parent:
        parent = SpiffeId.parse(f"spiffe://{own_id.trust_domain}{agent_class.parent}")
    if parent is None:
        message = (
            "has instances and no parent: say which SPIRE agent they run with, by registry.parent in the broker's "
            "configuration, --parent, or parent in the class"
        )
        raise ValueError(message)
    if parent.trust_domain != own_id.trust_domain or parent.path in {"", "/spire/server"}:
        message = f"parent {parent} is no SPIRE agent of {own_id.trust_domain}"
        raise ValueError(message)
    entries = []
    for number, name in enumerate(agent_class.instances):
        spiffe_id, instance = instance_id(agent_class, name, own_id=own_id)
        ownership = Ownership(purpose=Purpose.CATALOG, agent_class=agent_class.name, instance=instance)
        entries.append(
            WorkloadEntry(
                entry_id=ownership.entry_id,
                spiffe_id=spiffe_id,
                parent_id=parent,
                selectors=selectors(
                    agent_class.attestation, agent_class=agent_class.name, instance=name, number=number
                ),
                x509_svid_ttl=agent_class.x509_svid_ttl,
                jwt_svid_ttl=agent_class.jwt_svid_ttl,
            )
        )
    return entries


def instance_id(agent_class: AgentClass, name: str, *, own_id: SpiffeId) -> tuple[SpiffeId, str]:
    """The SPIFFE ID of an instance of that name, and its last segment.

    Raises:
        ValueError: it would not be an instance of the class, or be the broker.
    """
    try:
        spiffe_id = SpiffeId.parse(f"spiffe://{own_id.trust_domain}{agent_class.spiffe_path(name)}")
    except InvalidSpiffeIdError as error:
        message = f"the SPIFFE ID of instance {name!r} is none: {error}"
        raise ValueError(message) from error
    identity = AgentIdentity.of(spiffe_id)
    at_home = spiffe_id.trust_domain == own_id.trust_domain
    if not at_home or identity is None or identity.agent_class != agent_class.name:
        message = f"{spiffe_id} is not an instance of the class in {own_id.trust_domain}"
        raise ValueError(message)
    if spiffe_id == own_id:
        message = f"{spiffe_id} is the broker itself: no agent may be it"
        raise ValueError(message)
    return spiffe_id, identity.instance


def is_of_interest(entry: WorkloadEntry, wanted_ids: frozenset[SpiffeId]) -> bool:
    """Whether a plan has to know of an entry: one of the catalog's, or one with an ID that it wants."""
    return _is_catalogs(entry) or entry.spiffe_id in wanted_ids


def plan(wanted: Sequence[WorkloadEntry], found: Sequence[WorkloadEntry]) -> Plan:
    """Compare. `found` may leave out what is not `is_of_interest`."""
    ours: dict[str, WorkloadEntry] = {}
    theirs: dict[SpiffeId, list[WorkloadEntry]] = {}
    for entry in found:
        if _is_catalogs(entry):
            ours[entry.entry_id] = entry
        else:
            theirs.setdefault(entry.spiffe_id, []).append(entry)
    creates: list[Change] = []
    updates: list[Change] = []
    conflicts: list[Conflict] = []
    twins: list[Twin] = []
    unchanged = 0
    for entry in wanted:
        others = theirs.get(entry.spiffe_id, [])
        same = [other for other in others if other.grant == entry.grant]
        twins += [Twin(wanted=entry, theirs=other) for other in others if other.grant != entry.grant]
        there = ours.pop(entry.entry_id, None)
        if there is not None and not (differences := drift(there, entry)):
            unchanged += 1
        elif same:
            conflicts.append(Conflict(wanted=entry, theirs=same[0]))
        elif there is None:
            creates.append(Change(action=Action.CREATE, entry=entry))
        else:
            updates.append(Change(action=Action.UPDATE, entry=entry, drift=differences))
    # What goes, goes first: no process is to match an old entry and a new one.
    deletes = [Change(action=Action.DELETE, entry=entry) for _, entry in sorted(ours.items())]
    changes = (*deletes, *updates, *creates)
    return Plan(
        changes=changes,
        unchanged=unchanged,
        conflicts=tuple(conflicts),
        twins=tuple(twins),
        handovers=tuple(_handovers(changes, found)),
    )


def _is_catalogs(entry: WorkloadEntry) -> bool:
    ownership = entry.ownership
    return ownership is not None and ownership.purpose is Purpose.CATALOG


def _handovers(changes: Sequence[Change], found: Sequence[WorkloadEntry]) -> list[Handover]:
    held = {(entry.parent_id, entry.selectors): entry.spiffe_id for entry in found if _is_catalogs(entry)}
    return [
        Handover(before=before, after=change.entry.spiffe_id)
        for change in changes
        if change.action is not Action.DELETE
        and (before := held.get((change.entry.parent_id, change.entry.selectors)))
        and before != change.entry.spiffe_id
    ]
