"""Registration entries: who gets which SPIFFE ID, and which of them are ours.

What always holds: an entry is ours when its id says so, and by nothing else (docs/adr/0008). The id names the class
and the instance, so that the same instance has the same id whoever registers it, and whenever.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, NewType

from broker.domain.spiffe import SpiffeId

EntryId = NewType("EntryId", str)
"""What SPIRE calls an entry. Chosen when it is made; nothing changes it afterwards."""

MARK: Final = "tasklease"
"""The first word of the ids of our entries."""

MAX_ENTRY_ID: Final = 255


class Purpose(StrEnum):
    """Why there is an entry, and so who takes it away."""

    CATALOG = "catalog"
    """Registered ahead, because the catalog names the instance: `tasklease workload apply`."""

    LAUNCH = "launch"
    """Made for one instance that was started: whoever started it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ownership:
    """What the id of one of our entries says: `tasklease.<purpose>.<class>.<instance>`. No class has a dot."""

    purpose: Purpose
    agent_class: str
    instance: str

    @property
    def entry_id(self) -> EntryId:
        """The id that says it."""
        return EntryId(f"{MARK}.{self.purpose.value}.{self.agent_class}.{self.instance}")

    @classmethod
    def of(cls, entry_id: str) -> Ownership | None:
        """Read an id; None when the entry is somebody else's."""
        match entry_id.split(".", 3):
            case [mark, purpose, agent_class, instance] if mark == MARK and agent_class and instance:
                if purpose in set(Purpose):
                    return cls(purpose=Purpose(purpose), agent_class=agent_class, instance=instance)
        return None


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Selector:
    """One property of a workload, as an attestor words it: `unix:supplementary_gid:70001`."""

    kind: str
    value: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadEntry:
    """A registration entry. What has a default is what entries of ours never have; SPIRE's zero means its default."""

    entry_id: EntryId
    spiffe_id: SpiffeId
    parent_id: SpiffeId
    selectors: frozenset[Selector]
    x509_svid_ttl: timedelta
    jwt_svid_ttl: timedelta
    dns_names: frozenset[str] = frozenset()
    federates_with: frozenset[str] = frozenset()
    hint: str = ""
    admin: bool = False
    downstream: bool = False
    store_svid: bool = False
    expires_at: datetime | None = None

    @property
    def ownership(self) -> Ownership | None:
        """Why we made it; None when it is not ours."""
        return Ownership.of(self.entry_id)

    @property
    def grant(self) -> tuple[SpiffeId, SpiffeId, frozenset[Selector]]:
        """What SPIRE has once only: SPIFFE ID, parent and selectors."""
        return self.spiffe_id, self.parent_id, self.selectors


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """A field that is not as it should be, as text."""

    field: str
    found: str
    wanted: str


def drift(found: WorkloadEntry, wanted: WorkloadEntry) -> tuple[Drift, ...]:
    """Every field that differs, in the order in which they are declared."""
    return tuple(_drift(found, wanted))


def _drift(found: WorkloadEntry, wanted: WorkloadEntry) -> Iterator[Drift]:
    for field in fields(WorkloadEntry):
        is_, should = getattr(found, field.name), getattr(wanted, field.name)
        if is_ != should:
            yield Drift(field=field.name, found=as_text(is_), wanted=as_text(should))


def as_text(value: object) -> str:
    """A field's value for people."""
    match value:
        case frozenset():
            return " ".join(sorted(map(str, value))) or "none"
        case timedelta():
            return f"{int(value.total_seconds())}s"
        case datetime():
            return value.isoformat()
        case bool():
            return "yes" if value else "no"
        case None | "":
            return "none"
        case _:
            return str(value)
