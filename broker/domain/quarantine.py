"""Quarantine: what nothing more is accepted from, by whose word, and why.

A quarantine stands against one instance, against every instance of an agent class, or against every instance of a
trust domain. What always holds: it concerns agent instances alone, so nobody can lock out the operators with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from broker.domain.spiffe import AgentIdentity, SpiffeId


class TargetKind(StrEnum):
    """What a quarantine names."""

    INSTANCE = "instance"
    AGENT_CLASS = "class"
    TRUST_DOMAIN = "trust-domain"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class QuarantineTarget:
    """Whom a quarantine concerns; `name` is a SPIFFE ID, an agent class or a trust domain."""

    kind: TargetKind
    name: str

    @classmethod
    def all_of(cls, instance: SpiffeId) -> tuple[QuarantineTarget, ...]:
        """Every target that concerns `instance`: none for what is no agent instance."""
        identity = AgentIdentity.of(instance)
        if identity is None:
            return ()
        return (
            cls(kind=TargetKind.INSTANCE, name=str(instance)),
            cls(kind=TargetKind.AGENT_CLASS, name=identity.agent_class),
            cls(kind=TargetKind.TRUST_DOMAIN, name=instance.trust_domain),
        )

    def concerns(self, instance: SpiffeId) -> bool:
        """Whether `instance` is quarantined by a quarantine of this target."""
        return self in self.all_of(instance)

    def __str__(self) -> str:
        return f"{self.kind.value} {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantine:
    """One quarantine that stands."""

    target: QuarantineTarget
    by: str
    """SPIFFE ID of the operator; empty where it is not known (rows of the first schema)."""
    reason: str
    """The operator's words, bounded."""
    since: datetime
