"""Identity misuse: one SVID in two places or with two keys, two SVIDs that take turns from two places, use after an end.

Source: an SVID that is used from where it was not issued is what RFC 8705 (B. Campbell and others, "OAuth 2.0 Mutual-TLS
Client Authentication and Certificate-Bound Access Tokens", 2020) binds tokens to keys against; judging a login by the features
it shares with earlier ones is D. Freeman and others, "Who Are You? A Statistical Approach to Measuring User Authenticity",
NDSS 2016. Here the features are few and exact, so they are compared and not weighed.

What it does not see: a thief at the instance's own address who uses its own key there.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from broker.anomaly.bounded import Recent, Said
from broker.anomaly.detector import Parameters
from broker.anomaly.events import Called, Event, EventKind
from broker.anomaly.findings import Alarm, DetectorName, Finding, findings
from broker.domain.findings import Severity
from broker.domain.task import EndCause

_LAPSED: Final = frozenset({EndCause.DEADLINE, EndCause.HEARTBEAT_LOST, EndCause.SVID_EXPIRED})
"""Ends that an honest agent may learn of by its next call."""

_BY_ADDRESS: Final = 0.7
"""How sure another address makes: behind translated addresses, and with replicas in several networks, honest instances have
several at once. By the default answers that warns; where addresses stay, a rule of the catalog can do more."""

_PEER: Final = re.compile(
    r"(?:ipv[46]:)?(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<v4>[0-9]+(?:\.[0-9]+){3}))(?::[0-9]+)?"
)
"""Addresses as they are written with a port, or without."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityParameters(Parameters):
    """How much an honest instance may be late."""

    most_svids: int = 64
    """SVIDs of one instance that are remembered."""
    under_way: timedelta = timedelta(seconds=1)
    """A decision, or a call of an instance, may be this much later than the end it did not know of."""
    grace: timedelta = timedelta(seconds=30)
    """A call for a task that was ended on purpose may be this much later."""
    calls_after_lapse: int = 3
    """Calls for a task that lapsed: its agent learns so by the first, and may have others under way."""


@dataclass(slots=True)
class _Svid:
    address: str
    key: str
    number: int
    """1 for the first that was seen."""


@dataclass(slots=True)
class _Ended:
    at: datetime
    cause: EndCause | None
    calls: int = 0


class IdentityMisuse:
    """See the module."""

    def __init__(self, parameters: IdentityParameters | None = None) -> None:
        self._parameters = parameters or IdentityParameters()
        self._svids: Recent[tuple[str, str], _Svid] = Recent(self._parameters.most_svids)
        self._newest: Recent[str, _Svid] = Recent(self._parameters.most_tasks)
        self._ended: Recent[str, _Ended] = Recent(self._parameters.most_tasks)
        self._started: Recent[str, bool] = Recent(self._parameters.most_tasks)
        self._gone: Recent[str, datetime] = Recent(self._parameters.most_tasks)
        self._said = Said(self._parameters.most_said)

    def observe(self, event: Event) -> tuple[Finding, ...]:
        """Take the next event."""
        alarms: list[Alarm | None] = []
        if self._gone:
            alarms.append(self._after_instance(event))
        if self._ended or event.kind is EventKind.DECLARED:
            alarms.append(self._outside_task(event))
        if event.called is not None:
            alarms += [self._in_two_places(event, event.called), self._two_keys(event, event.called)]
            alarms.append(self._in_turns(event, event.called))
            self._remember(event, event.called)
        self._follow_lives(event)
        return findings(DetectorName.IDENTITY_MISUSE, event, alarms)

    def size(self) -> int:
        """Values that are held now."""
        tasks = len(self._ended) + len(self._started)
        return len(self._svids) + len(self._newest) + len(self._gone) + tasks + len(self._said)

    def most(self) -> int:
        """Values that can be held at most."""
        parameters = self._parameters
        return parameters.most_svids + 4 * parameters.most_tasks + parameters.most_said

    def _follow_lives(self, event: Event) -> None:
        task_id = event.task_id or ""
        if event.kind is EventKind.DECIDED:
            self._started.put(task_id, True)  # noqa: FBT003 - a set, held as a mapping
        elif event.kind is EventKind.INSTANCE_ENDED:
            self._gone.put(str(event.instance), event.at)
        elif event.kind is EventKind.TASK_ENDED:
            self._ended.put(task_id, _Ended(at=event.at, cause=event.end))

    def _after_instance(self, event: Event) -> Alarm | None:
        ended = self._gone.get(str(event.instance))
        if ended is None or event.kind not in {EventKind.CALLED, EventKind.DECIDED, EventKind.DECLARED}:
            return None
        if event.at <= ended + self._parameters.under_way or not self._first("after-instance", event):
            return None
        return Alarm(
            rule="after-instance",
            severity=Severity.CRITICAL,
            confidence=0.95,
            expected="nothing more: the instance was reported to have ended",
            happened="its identity was used again",
        )

    def _outside_task(self, event: Event) -> Alarm | None:
        task_id = event.task_id or ""
        if event.kind is EventKind.DECLARED and task_id in self._started:
            happened = "actions of the task were decided before it was declared"
        else:
            ended = self._ended.get(task_id)
            if ended is None or not self._is_late(event, ended):
                return None
            happened = "the task was used after it had ended"
        if not self._first("outside-task", event):
            return None
        return Alarm(
            rule="outside-task",
            severity=Severity.HIGH,
            confidence=0.9,
            expected="calls between the task's declaration and its end",
            happened=happened,
        )

    def _is_late(self, event: Event, ended: _Ended) -> bool:
        if event.kind is EventKind.DECIDED:
            return event.at > ended.at + self._parameters.under_way
        if event.kind is not EventKind.CALLED or event.at <= ended.at + self._parameters.under_way:
            return False
        ended.calls += 1
        if ended.cause in _LAPSED or event.at <= ended.at + self._parameters.grace:
            return ended.calls > self._parameters.calls_after_lapse
        return True

    def _in_two_places(self, event: Event, called: Called) -> Alarm | None:
        known = self._svids.get(_key(event, called))
        if known is None or known.address == place(called.address):
            return None
        if not self._first("two-places", event, called.svid_sha256):
            return None
        return Alarm(
            rule="two-places",
            severity=Severity.HIGH,
            confidence=_BY_ADDRESS,
            expected="one SVID at one address: another one is issued where the instance goes",
            happened="the same SVID was used from another address",
        )

    def _two_keys(self, event: Event, called: Called) -> Alarm | None:
        known = self._svids.get(_key(event, called))
        if known is None or not known.key or not called.key_fingerprint:
            return None
        if known.key == called.key_fingerprint or not self._first("two-keys", event, called.svid_sha256):
            return None
        return Alarm(
            rule="two-keys",
            severity=Severity.CRITICAL,
            confidence=0.99,
            expected="one key for one SVID",
            happened="the same SVID was shown with another key",
        )

    def _in_turns(self, event: Event, called: Called) -> Alarm | None:
        """An older SVID comes back once a newer one was seen elsewhere: the instance is in two places at once."""
        known, newest = self._svids.get(_key(event, called)), self._newest.get(str(event.instance))
        if known is None or newest is None or newest.number <= known.number:
            return None
        if newest.address == place(called.address) or not self._first("in-turns", event):
            return None
        return Alarm(
            rule="in-turns",
            severity=Severity.HIGH,
            confidence=_BY_ADDRESS,
            expected="an SVID that was followed by another one elsewhere is not used again",
            happened="two SVIDs of one instance take turns from two addresses",
        )

    def _remember(self, event: Event, called: Called) -> None:
        key, instance = _key(event, called), str(event.instance)
        newest = self._newest.get(instance)
        known = self._svids.get(key)
        if known is None:
            number = 1 if newest is None else newest.number + 1
            known = _Svid(address=place(called.address), key=called.key_fingerprint, number=number)
            self._newest.put(instance, known)
        known.key = known.key or called.key_fingerprint
        self._svids.put(key, known)

    def _first(self, rule: str, event: Event, detail: str = "") -> bool:
        whose = "" if rule in {"two-places", "two-keys", "in-turns"} else event.task_id or ""
        return self._said.first_time(rule, str(event.instance), whose, detail)


def place(address: str) -> str:
    """The address in one way of writing, without scheme and port: another connection is no other place.

    Every loopback address is one, and what is no address stands for itself.
    """
    shown = _PEER.fullmatch(address)
    try:
        parsed = ipaddress.ip_address(address if shown is None else shown["v6"] or shown["v4"])
    except ValueError:
        return address.casefold()
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return "loopback" if parsed.is_loopback else str(parsed)


def _key(event: Event, called: Called) -> tuple[str, str]:
    return str(event.instance), called.svid_sha256
