"""What is asked of every SVID at every call, and what is remembered between calls. For both kinds of SVID.

Kept, under a digest of all that was shown, and only when it was found good:
- which SPIFFE ID it names, and that it is an SVID at all: its form depends on its bytes alone;
- that an authority of that trust domain's bundle signed it, under the digest of that bundle and no longer than the
  chain itself is valid: another bundle has another digest, and is asked anew.

Never kept, asked at each call:
- which bundle the trust domain has at this moment, if any, and whether anybody of it may come at all;
- whether the SVID is valid at this moment;
- whether the instance is quarantined;
- a refusal of any kind.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Generic, Protocol, TypeVar

from broker.domain.errors import (
    AgentClassUnknownError,
    InstanceQuarantinedError,
    SvidExpiredError,
    TrustDomainUnknownError,
)
from broker.domain.peer import SvidKind, VerifiedPeer
from broker.domain.spiffe import AgentIdentity, SpiffeId
from broker.ports.identity import Quarantine
from broker.ports.system import Clock

_MOST_KEPT: Final = 10_000


class Bundle(Protocol):
    """A trust domain's authorities of one kind; `digest` tells one set from another."""

    @property
    def digest(self) -> str:
        """Of all that the bundle says."""
        ...


AnyBundle = TypeVar("AnyBundle", bound=Bundle)
Read = TypeVar("Read")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What was found; when it may be used is checked at each call."""

    spiffe_id: SpiffeId
    svid_sha256: str
    valid_from: datetime
    """The SVID itself, from this moment."""
    valid_until: datetime
    """The SVID itself, until before this moment."""
    signed_from: datetime
    """All that its signature rests on, from this moment."""
    signed_until: datetime
    """All that its signature rests on, until before this moment: then other authorities may stand for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    checked: Checked
    bundle_digest: str
    peer: VerifiedPeer | None
    """None when the ID names no agent instance."""


class Admission(Generic[AnyBundle]):
    """See the module."""

    def __init__(
        self,
        kind: SvidKind,
        *,
        bundle_of: Callable[[str], AnyBundle | None],
        quarantine: Quarantine,
        clock: Clock,
    ) -> None:
        self._kind = kind
        self._bundle_of = bundle_of
        self._quarantine = quarantine
        self._clock = clock
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()

    def admit(
        self,
        shown: bytes,
        read: Callable[[], Read],
        name: Callable[[Read], SpiffeId],
        check: Callable[[Read, SpiffeId, AnyBundle, datetime], Checked],
    ) -> VerifiedPeer:
        """Return which agent instance `shown` stands for.

        Raises:
            AgentClassUnknownError, InstanceQuarantinedError: as in ports.identity; and what `identify` raises.
        """
        kept = self._valid_now(shown, read, name, check)
        if kept.peer is None:
            text = "the SPIFFE ID does not name an agent instance (/agent/<class>/<instance>)"
            raise AgentClassUnknownError(text)
        if self._quarantine.holds(kept.peer.spiffe_id):
            raise InstanceQuarantinedError
        return kept.peer

    def identify(
        self,
        shown: bytes,
        read: Callable[[], Read],
        name: Callable[[Read], SpiffeId],
        check: Callable[[Read, SpiffeId, AnyBundle, datetime], Checked],
    ) -> Checked:
        """Return whom `shown` stands for, be it an agent instance or not.

        Args:
            shown: a digest of everything that the answer depends on.
            read: takes what was shown apart, when it is not known yet; nothing of it is verified.
            name: the SPIFFE ID of it.
            check: verifies that the bundle's authorities signed it, and all that does not depend on the moment.

        Raises:
            TrustDomainUnknownError, SvidExpiredError: as in ports.identity; and what `read`, `name` and `check` raise.
        """
        return self._valid_now(shown, read, name, check).checked

    def forget(self) -> None:
        """Keep nothing of what was found until now."""
        self._kept.clear()

    def _valid_now(
        self,
        shown: bytes,
        read: Callable[[], Read],
        name: Callable[[Read], SpiffeId],
        check: Callable[[Read, SpiffeId, AnyBundle, datetime], Checked],
    ) -> _Kept:
        now = self._clock.now()
        kept = self._kept.get(shown)
        said: Read | None = None
        if kept is not None:
            spiffe_id = kept.checked.spiffe_id
        else:
            said = read()
            spiffe_id = name(said)
        bundle = self._bundle_of(spiffe_id.trust_domain)
        if bundle is None:
            text = f"the broker takes nobody of trust domain {spiffe_id.trust_domain}"
            raise TrustDomainUnknownError(text)
        if (
            kept is None
            or kept.bundle_digest != bundle.digest
            or not kept.checked.signed_from <= now < kept.checked.signed_until
        ):
            self._kept.pop(shown, None)
            checked = check(read() if said is None else said, spiffe_id, bundle, now)
            kept = _Kept(checked=checked, bundle_digest=bundle.digest, peer=self._peer(checked))
        if not kept.checked.valid_from <= now < kept.checked.valid_until:
            self._kept.pop(shown, None)
            text = "the SVID is not valid at this moment: come again with a newer one"
            raise SvidExpiredError(text)
        self._keep(shown, kept)
        return kept

    def _keep(self, shown: bytes, kept: _Kept) -> None:
        if shown not in self._kept:
            self._kept[shown] = kept
            if len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)

    def _peer(self, checked: Checked) -> VerifiedPeer | None:
        identity = AgentIdentity.of(checked.spiffe_id)
        if identity is None:
            return None
        return VerifiedPeer(
            spiffe_id=checked.spiffe_id,
            agent_class=identity.agent_class,
            instance=identity.instance,
            svid_expires_at=checked.valid_until,
            verified_by=self._kind,
            svid_sha256=checked.svid_sha256,
        )
