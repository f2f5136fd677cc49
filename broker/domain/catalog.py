"""The catalog: what the platform team allows at most.

Frozen and complete: names are resolved and bounds are checked by config.catalog before a `Catalog` exists.
Unlisted means refused (rule R5): look-ups return None and the caller denies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from broker.domain.answers import Answers
from broker.domain.attestation import DEFAULT_ATTESTATION, Attestation, expand
from broker.domain.chain_rule import ANY_CHAIN, ChainRule
from broker.domain.classification import Classification
from broker.domain.effects import EVERY_VERB, EVERYTHING, Effect, Verb, fill_in
from broker.domain.engines import Engine
from broker.domain.flows import Origin, Reads, Writes


class IssueMethod(StrEnum):
    """How Vault is asked for the credential."""

    READ = "read"
    UPDATE = "update"


class Revocation(StrEnum):
    """What revoking the lease really does at the backend."""

    REVOCABLE = "revocable"
    UNREVOCABLE = "unrevocable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where a credential is meant to be used."""

    host: str
    port: int
    scheme: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialRole:
    """A Vault dynamic-secret role that tasks may draw on."""

    name: str
    description: str
    engine: Engine
    mount: str
    path: str
    method: IssueMethod
    parameters: Mapping[str, str]
    classification: Classification
    destination: Destination
    ttl: timedelta
    max_ttl: timedelta
    revocation: Revocation
    verified_by: str | None = None
    """The role with whose credentials the broker asks the backend whether it refuses what was revoked."""
    verbs: frozenset[Verb] = EVERY_VERB
    """What can be done with it; every verb where the catalog does not say."""
    resource: str = EVERYTHING
    origin: Origin = Origin.TRUSTED
    writes: Writes = Writes.NOTHING
    canary: bool = False
    """Nobody's work needs it: whoever asks for it shows themselves."""

    @property
    def effect(self) -> Effect:
        """What can be done with a credential of it."""
        return Effect(verbs=self.verbs, resource=self.resource, destination=str(self.destination))

    @property
    def reads(self) -> Reads:
        """What a task reads with it."""
        return Reads(classification=self.classification, origin=self.origin)

    @property
    def vault_path(self) -> str:
        """The full path below `/v1/`."""
        return f"{self.mount}/{self.path}"

    @property
    def vault_policy(self) -> str:
        """Name of the one static Vault policy that allows this role and nothing else."""
        return f"tasklease-role-{self.name}"


class AttributeType(StrEnum):
    """What an argument is to policies."""

    STRING = "string"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    STRINGS = "strings"


@dataclass(frozen=True, slots=True, kw_only=True)
class Obligations:
    """What whoever runs a tool has to do with what it returns, or needs for it."""

    redact: tuple[str, ...] = ()
    """Fields of the result that the agent must not see."""
    limit_rows: int | None = None
    credential_role: str | None = None
    """The role to acquire for it."""


NO_OBLIGATIONS: Final = Obligations()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """What an agent can call."""

    name: str
    description: str
    verb: Verb
    resource: str
    """A path; `{name}` stands for an argument, filled in at the call."""
    destination: Destination | None
    reads: Reads
    writes: Writes
    arguments: Mapping[str, object]
    """JSON Schema of the arguments."""
    attributes: Mapping[str, AttributeType]
    """Arguments that policies may look at."""
    obligations: Obligations = NO_OBLIGATIONS
    canary: bool = False
    """Nobody's work needs it: whoever calls it shows themselves."""

    def effect(self, arguments: Mapping[str, object]) -> Effect:
        """What a call with these arguments does."""
        return Effect(
            verbs=frozenset({self.verb}),
            resource=fill_in(self.resource, arguments),
            destination="" if self.destination is None else str(self.destination),
        )


MOST_ACTIONS: Final = 1000
"""How long a task's chain may get, where its type does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskType:
    """A kind of work: what such a task may use, where, and within which limits."""

    name: str
    description: str
    environment: str
    roles: frozenset[str]
    max_duration: timedelta
    heartbeat: timedelta
    max_leases: int
    tools: frozenset[str] = frozenset()
    chain: ChainRule = ANY_CHAIN
    max_actions: int = MOST_ACTIONS
    """How long a task's chain may get."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentClass:
    """What the platform team registered: what its instances may do at most, and how SPIRE knows them."""

    name: str
    trust_domain: str | None
    """Where its instances are: they alone are of this class. None, where it was not said whose catalog this is,
    stands for the broker's own and is nobody's."""
    description: str
    task_types: frozenset[str]
    max_tasks: int
    attestation: Attestation = DEFAULT_ATTESTATION
    id_template: str = "/agent/{class}/{instance}"
    x509_svid_ttl: timedelta = timedelta(minutes=10)
    jwt_svid_ttl: timedelta = timedelta(minutes=5)
    instances: tuple[str, ...] = ()
    """Names of those that are registered ahead; the others come and go as they are launched."""

    max_instances: int = 100
    ready: int = 0
    """Identities that each node keeps ready for those that are launched."""

    parent: str = ""
    """Path of the SPIFFE ID of the SPIRE agent, or alias of agents, where they run; empty: the installation's."""

    def spiffe_path(self, instance: str) -> str:
        """The path of an instance's SPIFFE ID: always `/agent/<this class>/<one segment>`."""
        return expand(self.id_template, agent_class=self.name, instance=instance)


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """Everything that is allowed; `digest` names this version of it in decisions."""

    agent_classes: Mapping[str, AgentClass]
    task_types: Mapping[str, TaskType]
    credential_roles: Mapping[str, CredentialRole]
    digest: str
    tools: Mapping[str, Tool] = field(default_factory=lambda: MappingProxyType({}))
    answers: Answers = field(default_factory=Answers)
    """What is done about anomalies."""
    trust_domains: frozenset[str] = field(init=False)
    """Those that have a class."""

    def __post_init__(self) -> None:
        found = frozenset(one.trust_domain for one in self.agent_classes.values() if one.trust_domain)
        object.__setattr__(self, "trust_domains", found)

    def agent_class(self, trust_domain: str, name: str) -> AgentClass | None:
        """The class of that name in that trust domain; None when unlisted."""
        found = self.agent_classes.get(name)
        return found if found is not None and found.trust_domain == trust_domain else None
