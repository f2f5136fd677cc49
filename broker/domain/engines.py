"""What revoking really does, engine by engine: the truth that a catalog may not gloss over.

docs/catalog.md prints it; a test compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Engine(StrEnum):
    """What kind of secrets engine makes the credential."""

    POSTGRESQL = "postgresql"
    MYSQL = "mysql"
    MONGODB = "mongodb"
    RABBITMQ = "rabbitmq"
    LDAP = "ldap"
    AWS_IAM = "aws-iam"
    AWS_STS = "aws-sts"
    PKI = "pki"
    SSH_OTP = "ssh-otp"
    GENERIC = "generic"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """What is known of an engine."""

    can_revoke: bool
    """False: whatever the catalog says, the credential works until its own end."""
    revoking: str
    """What it does, for people."""
    remains: str
    """What goes on all the same, for people."""
    seen: bool
    """Whether a test of this project has seen it on the real thing."""
    account_field: str = ""
    """The field of the secret that says as whom the backend knows it, where the backend itself can be asked."""


ENGINES: Final[Mapping[Engine, EngineFacts]] = MappingProxyType(
    {
        Engine.POSTGRESQL: EngineFacts(
            can_revoke=True,
            revoking="drops the user",
            remains="open sessions, unless the role's revocation statements end them",
            seen=True,
            account_field="username",
        ),
        Engine.MYSQL: EngineFacts(
            can_revoke=True,
            revoking="drops the user",
            remains="open sessions, until the server is told to kill them",
            seen=False,
        ),
        Engine.MONGODB: EngineFacts(
            can_revoke=True,
            revoking="drops the user",
            remains="open connections, until the server looks their user up again",
            seen=False,
        ),
        Engine.RABBITMQ: EngineFacts(
            can_revoke=True,
            revoking="deletes the user",
            remains="nothing: the server closes the connections of a deleted user",
            seen=True,
            account_field="username",
        ),
        Engine.LDAP: EngineFacts(
            can_revoke=True,
            revoking="deletes the entry, by the role's deletion statements",
            remains="bound connections, and what other services made of a log-in",
            seen=False,
        ),
        Engine.AWS_IAM: EngineFacts(
            can_revoke=True,
            revoking="deletes the IAM user and its keys",
            remains="requests of the next seconds: AWS spreads the news slowly",
            seen=False,
        ),
        Engine.AWS_STS: EngineFacts(
            can_revoke=False,
            revoking="nothing: Vault forgets the lease",
            remains="the credential, until its own end",
            seen=False,
        ),
        Engine.PKI: EngineFacts(
            can_revoke=True,
            revoking="puts the certificate on the CRL, where the role has generate_lease",
            remains="whoever looks at neither CRL nor OCSP takes it until it expires; open connections",
            seen=True,
        ),
        Engine.SSH_OTP: EngineFacts(
            can_revoke=True,
            revoking="deletes the one-time password, unless it was used",
            remains="sessions that were opened with it",
            seen=True,
        ),
        Engine.GENERIC: EngineFacts(
            can_revoke=True,
            revoking="whatever the engine does: the catalog's word is taken for it",
            remains="not known",
            seen=True,
        ),
    }
)


def as_markdown() -> str:
    """The table that docs/catalog.md has."""
    lines = [
        "| `engine` | revoking | what remains | seen on the real thing |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| `{engine.value}` | {facts.revoking} | {facts.remains} | {'yes' if facts.seen else 'no'} |"
        for engine, facts in ENGINES.items()
    ]
    return "\n".join(lines)
