"""Who may operate the broker: SPIFFE IDs and groups of them, each with roles.

What always holds: an agent's identity is never an operator's, nor is the broker's own, whatever was configured; an
operator is of the broker's own trust domain. `OperatorGrant` refuses at the start what could break this, and
`Operators.roles_of` asks again at each call.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from broker.domain.spiffe import InvalidSpiffeIdError, SpiffeId, names_an_agent


class OperatorRole(StrEnum):
    """What an operator may do."""

    VIEWER = "viewer"
    """Look."""
    OPERATOR = "operator"
    """Quarantine, release, revoke, reconcile."""
    REGISTRAR = "registrar"
    """Register agent classes and instances."""
    APPROVER = "approver"
    """Approve what a person has to."""
    ENFORCER = "enforcer"
    """Ask for decisions on behalf of agent instances, as a gateway that enforces them; nothing else."""
    SIGNALLER = "signaller"
    """Report what was seen of agent instances elsewhere; nothing else."""


class InvalidGrantError(ValueError):
    """Nobody can be an operator by this; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorGrant:
    """Roles for one SPIFFE ID, or for every one below a path."""

    spiffe_id: SpiffeId
    group: bool
    """Whether it names everything below `spiffe_id`, and not `spiffe_id` itself."""
    roles: frozenset[OperatorRole]

    @classmethod
    def parse(cls, text: str, roles: frozenset[OperatorRole], *, broker: SpiffeId) -> OperatorGrant:
        """`spiffe://domain/path`, or `spiffe://domain/path/` for a group.

        Raises:
            InvalidGrantError: it is neither, or it could make an agent or the broker an operator.
        """
        try:
            spiffe_id = SpiffeId.parse(text.removesuffix("/"))
        except InvalidSpiffeIdError as error:
            raise InvalidGrantError(str(error)) from error
        grant = cls(spiffe_id=spiffe_id, group=text.endswith("/"), roles=roles)
        if not spiffe_id.path:
            message = "give a path: a whole trust domain cannot be an operator"
        elif spiffe_id.trust_domain != broker.trust_domain:
            message = "operators are of the broker's own trust domain"
        elif names_an_agent(spiffe_id):
            message = "an agent can never be an operator: give a path outside /agent"
        elif grant.names(broker):
            message = "the broker itself can never be an operator: give another path"
        else:
            return grant
        raise InvalidGrantError(message)

    def names(self, spiffe_id: SpiffeId) -> bool:
        """Whether `spiffe_id` is meant."""
        if not self.group:
            return spiffe_id == self.spiffe_id
        same = spiffe_id.trust_domain == self.spiffe_id.trust_domain
        return same and spiffe_id.path.startswith(self.spiffe_id.path + "/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Operators:
    """All of them."""

    broker: SpiffeId
    grants: tuple[OperatorGrant, ...] = ()

    def roles_of(self, spiffe_id: SpiffeId) -> frozenset[OperatorRole]:
        """The roles of a verified identity; empty for who is no operator."""
        if (
            spiffe_id.trust_domain != self.broker.trust_domain
            or spiffe_id == self.broker
            or names_an_agent(spiffe_id)
        ):
            return frozenset()
        return frozenset().union(*(grant.roles for grant in self.grants if grant.names(spiffe_id)))
