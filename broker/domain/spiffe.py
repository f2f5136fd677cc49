"""SPIFFE IDs, parsed strictly.

Responsible for what the SPIFFE-ID standard says of the *name* (sections 2.1 to 2.4). Whether a peer may bear
the name is the verifier's business (ports.identity).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

MAX_SPIFFE_ID_BYTES: Final = 2048  # SPIFFE-ID 2.3
MAX_TRUST_DOMAIN_BYTES: Final = 255  # SPIFFE-ID 2.1

_SCHEME: Final = "spiffe://"
_TRUST_DOMAIN: Final = re.compile(r"[a-z0-9._-]+")
_SEGMENT: Final = re.compile(r"[a-zA-Z0-9._-]+")


class InvalidSpiffeIdError(ValueError):
    """The text is not a SPIFFE ID; the message says which clause it breaks and never repeats the text."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class SpiffeId:
    """`spiffe://<trust domain><path>`; the path is empty or begins with a slash."""

    trust_domain: str
    path: str

    @classmethod
    def parse(cls, text: str) -> SpiffeId:
        """Parse `text` as SPIFFE-ID sections 2.1 to 2.4 demand.

        Raises:
            InvalidSpiffeIdError: with the clause that the text breaks.
        """
        if len(text.encode("utf-8", "surrogatepass")) > MAX_SPIFFE_ID_BYTES:
            message = f"longer than {MAX_SPIFFE_ID_BYTES} bytes (SPIFFE-ID 2.3)"
            raise InvalidSpiffeIdError(message)
        if not text.startswith(_SCHEME):
            message = "scheme is not spiffe:// (SPIFFE-ID 2)"
            raise InvalidSpiffeIdError(message)
        trust_domain, slash, rest = text.removeprefix(_SCHEME).partition("/")
        if len(trust_domain) > MAX_TRUST_DOMAIN_BYTES or not _TRUST_DOMAIN.fullmatch(trust_domain):
            message = (
                "trust domain is empty, too long or has a character outside a-z 0-9 . _ - (SPIFFE-ID 2.1)"
            )
            raise InvalidSpiffeIdError(message)
        if slash:
            for segment in rest.split("/"):
                if not _SEGMENT.fullmatch(segment) or segment in {".", ".."}:
                    message = "path has an empty, relative or badly spelt segment (SPIFFE-ID 2.2)"
                    raise InvalidSpiffeIdError(message)
        return cls(trust_domain=trust_domain, path=slash + rest)

    def __str__(self) -> str:
        return f"{_SCHEME}{self.trust_domain}{self.path}"

    def __hash__(self) -> int:
        return hash(self.path)  # few trust domains have the same paths, and a text knows its hash


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentIdentity:
    """What the path of an instance's SPIFFE ID says: `/agent/<class>/<instance>`."""

    agent_class: str
    instance: str

    @classmethod
    def of(cls, spiffe_id: SpiffeId) -> AgentIdentity | None:
        """Read class and instance from the path; None when the ID does not name an agent instance."""
        return _identity(spiffe_id.path)


@lru_cache(maxsize=1024)  # of an instance at work it is asked again and again
def _identity(path: str) -> AgentIdentity | None:
    match path.split("/"):
        case ["", "agent", agent_class, instance]:
            return AgentIdentity(agent_class=agent_class, instance=instance)
        case _:
            return None


def names_an_agent(spiffe_id: SpiffeId) -> bool:
    """Whether the ID is in the agents' part of its trust domain (`/agent`), also where it names no instance."""
    return spiffe_id.path == "/agent" or spiffe_id.path.startswith("/agent/")
