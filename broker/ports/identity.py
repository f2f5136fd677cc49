"""Who is calling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from broker.domain.peer import VerifiedIdentity, VerifiedPeer
from broker.domain.quarantine import QuarantineTarget
from broker.domain.spiffe import SpiffeId


class PeerVerifier(Protocol):
    """Turns what a connection shows into a verified peer, per call (rule R4)."""

    def verify(self, leaf_pem: bytes | None, intermediates_pem: Sequence[bytes]) -> VerifiedPeer:
        """Verify the leaf against its own trust domain's bundle, now.

        Raises:
            SvidMissingError: there is no leaf.
            SvidInvalidError: not an X.509-SVID, or not of its trust domain's authority.
            SvidExpiredError: not valid at this moment.
            TrustDomainUnknownError: its trust domain has no bundle here, or no agent class in the catalog.
            AgentClassUnknownError: a valid SVID that does not name an agent instance.
            InstanceQuarantinedError: quarantined.
        """
        ...

    def identify(self, leaf_pem: bytes | None, intermediates_pem: Sequence[bytes]) -> VerifiedIdentity:
        """Verify as `verify` does, whoever it is: the ID need not name an agent instance.

        Raises:
            UnauthenticatedError: as `verify`.
        """
        ...


class TokenVerifier(Protocol):
    """Turns the token of a call into a verified peer, per call (rule R4)."""

    def verify(self, token: str) -> VerifiedPeer:
        """Verify the JWT-SVID against its own trust domain's bundle, now.

        Raises:
            SvidInvalidError: not a JWT-SVID for this broker, or not of its trust domain's authority.
            SvidExpiredError, TrustDomainUnknownError, AgentClassUnknownError, InstanceQuarantinedError: as for a
                certificate.
        """
        ...


class Quarantine(Protocol):
    """Which instances are quarantined."""

    def holds(self, spiffe_id: SpiffeId) -> bool:
        """Whether nothing more may be accepted from `spiffe_id`. Answers from memory, without waiting."""
        ...


class QuarantineInMemory(Quarantine, Protocol):
    """What `holds` answers from, and how it follows the store."""

    def hold(self, target: QuarantineTarget) -> None:
        """From now on nothing is accepted from `target`: its quarantine is durable."""
        ...

    def let_go(self, target: QuarantineTarget) -> None:
        """The quarantine of `target` is durably gone; what others hold stays held."""
        ...

    async def refresh(self) -> bool:
        """Read the store, which other replicas write as well; return whether anything was new.

        Raises:
            StoreUnavailableError: what was held stays held.
        """
        ...
