"""The broker's configuration file: read once, validated, frozen.

There is no key for a secret, and one that looks like it is refused with its own words: the broker starts from its
SVID alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml.comments import CommentedMap

from broker.config.reading import ConfigError, Problem, line_of, parse_duration, plain, problems_of, read_yaml
from broker.config.signals import (
    EventSettings,
    ReporterSettings,
    SignalSettings,
    SubjectSettings,
    TransmitterSettings,
)
from broker.config.telling import HeaderSettings, OcsfSettings, SetSettings, Tell, WebhookSettings, below
from broker.domain.hosts import is_loopback
from broker.domain.operators import InvalidGrantError, OperatorGrant, OperatorRole, Operators
from broker.domain.spiffe import InvalidSpiffeIdError, SpiffeId

_LOOKS_SECRET: Final = re.compile(
    r"token$|password|passwd|secret|private_?key|api_?key|credential", re.IGNORECASE
)
_ADDRESS: Final = re.compile(r"^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):(\d{1,5})$")

_LAST_PORT: Final = 65_535
_MOST_OPERATORS: Final = 256

Duration = Annotated[timedelta, BeforeValidator(parse_duration)]
VaultName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
"""Part of a path in a policy: nothing that Vault takes for a wildcard."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class VaultSettings(_Model):
    """Where Vault is, and as what the broker logs in."""

    address: str
    ca_file: Path | None = None
    namespace: str | None = None
    auth_mount: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$", max_length=128)] = "jwt"
    auth_role: VaultName = "tasklease-broker"
    audience: str = "vault"
    token_role: VaultName = "tasklease-task"  # noqa: S105 - a name
    timeout: Annotated[Duration, Field(ge=timedelta(seconds=1), le=timedelta(minutes=2))] = timedelta(
        seconds=10
    )
    issue_workers: Annotated[int, Field(ge=1, le=256)] = 16
    revoke_workers: Annotated[int, Field(ge=1, le=256)] = 16
    allow_plain_http: Annotated[bool, Field(strict=True)] = False

    @model_validator(mode="after")
    def _address(self) -> Self:
        message = "address: give a URL such as https://vault.example:8200"
        try:
            parts = urlsplit(self.address)
            port = parts.port
        except ValueError as error:
            raise ValueError(message) from error
        beyond = parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc
        if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0 or beyond:
            raise ValueError(message)
        if parts.scheme == "http" and not self.allow_plain_http and not is_loopback(parts.hostname):
            message = (
                "address: plain http is for loopback only; use https, or say allow_plain_http: true when the network "
                "between broker and Vault carries nobody else"
            )
            raise ValueError(message)
        return self


class StoreSettings(_Model):
    """Where state and audit are kept."""

    url: str = "sqlite:///broker.db"
    password_file: Path | None = None
    allow_plaintext: Annotated[bool, Field(strict=True)] = False


class OperatorSettings(_Model):
    """Who may operate: a SPIFFE ID, or with a `/` at its end every one below it."""

    id: str
    roles: Annotated[tuple[OperatorRole, ...], Field(min_length=1, max_length=len(OperatorRole))]

    def grant(self, broker: SpiffeId) -> OperatorGrant:
        """Checked against who can never be an operator.

        Raises:
            InvalidGrantError: nobody can be one by this.
        """
        return OperatorGrant.parse(self.id, frozenset(self.roles), broker=broker)


class Limits(_Model):
    """What one broker takes."""

    max_message_bytes: Annotated[int, Field(ge=4096, le=4 << 20)] = 65536
    max_concurrent_calls: Annotated[int, Field(ge=1, le=100_000)] = 1024
    calls_per_second_per_instance: Annotated[float, Field(gt=0, le=100_000)] = 200
    burst: Annotated[float, Field(ge=8, le=100_000)] = 400


class RegistrySettings(_Model):
    """SPIRE's server, for commands that register instances; the broker itself needs none."""

    server: str | None = None
    parent: Annotated[str, Field(pattern=r"^/[A-Za-z0-9._/-]+$", max_length=512)] | None = None
    settles: Annotated[Duration, Field(ge=timedelta(), le=timedelta(minutes=2))] = timedelta(seconds=12)
    """Within what time a new entry is known to the agents: SPIRE's `cache_reload_interval` and `sync_interval`, 5 s each
    unless they are set, and a fifth for their jitter. Waited where it cannot be looked at."""

    @model_validator(mode="after")
    def _server(self) -> Self:
        if self.server is not None and not is_server_address(self.server):
            message = (
                "server: give unix:///PATH of the SPIRE server's own socket, or its address and port, such as "
                "spire.example.org:8081"
            )
            raise ValueError(message)
        return self


class LogSettings(_Model):
    """How the broker logs, to standard error."""

    format: Literal["json", "text"] = "json"
    level: Literal["debug", "info", "warning", "error"] = "info"


JwtMethod = Literal[
    "TaskService/DeclareTask",
    "TaskService/GetTask",
    "TaskService/ListTasks",
    "TaskService/Heartbeat",
    "TaskService/AttachTask",
    "TaskService/CompleteTask",
    "CredentialService/AcquireCredential",
    "CredentialService/RenewCredential",
    "CredentialService/ReleaseCredential",
]
"""What may be listed for JWT-SVIDs: RPCs of instances. What operators do is never among them."""


class JwtSvidSettings(_Model):
    """Where callers without a certificate may show a JWT-SVID instead, and what they may do then."""

    audience: Annotated[str, Field(min_length=1, max_length=255)]
    listen: str
    methods: Annotated[frozenset[JwtMethod], Field(min_length=1)]
    max_validity: Annotated[Duration, Field(ge=timedelta(seconds=10), le=timedelta(hours=1))] = timedelta(
        minutes=10
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not _is_address(self.listen):
            message = "listen: give an address and a port, such as 0.0.0.0:8445"
            raise ValueError(message)
        return self


class AuthzenSettings(_Model):
    """Where decisions can be asked for by AuthZEN's Authorization API."""

    listen: str

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not _is_address(self.listen):
            message = "listen: give an address and a port, such as 0.0.0.0:8446"
            raise ValueError(message)
        return self


class TracingSettings(_Model):
    """Where traces are sent, by OTLP over gRPC."""

    endpoint: Annotated[str, Field(pattern=r"^https?://[^/\s]+:[0-9]{1,5}$", max_length=255)]
    sample: Annotated[float, Field(ge=0, le=1)] = 0.1


class _File(_Model):
    trust_domain: str
    listen: str = "127.0.0.1:8443"
    address_file: Path | None = None
    health_listen: str | None = None
    metrics_listen: str | None = None
    broker_id: str | None = None
    spiffe_endpoint_socket: str | None = None
    jwt_svids: JwtSvidSettings | None = None
    authzen: AuthzenSettings | None = None
    signals: SignalSettings = SignalSettings()
    vault: VaultSettings
    store: StoreSettings = StoreSettings()
    catalog: Path
    policies: Path = Path("policies")
    shadow_policies: Path | None = None
    anomaly_parameters: Path | None = None
    operators: Annotated[tuple[OperatorSettings, ...], Field(max_length=_MOST_OPERATORS)] = ()
    tell: Tell = {}
    limits: Limits = Limits()
    registry: RegistrySettings = RegistrySettings()
    shutdown_grace: Annotated[Duration, Field(ge=timedelta(), le=timedelta(minutes=10))] = timedelta(
        seconds=10
    )
    log: LogSettings = LogSettings()
    tracing: TracingSettings | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not _is_address(self.listen):
            message = "listen: give an address and a port, such as 0.0.0.0:8443"
            raise ValueError(message)
        if self.jwt_svids is not None and self.jwt_svids.listen == self.listen:
            message = "jwt_svids: listen: give another address than listen, which asks for certificates"
            raise ValueError(message)
        taken = {self.listen} | ({self.jwt_svids.listen} if self.jwt_svids is not None else set())
        if self.authzen is not None and self.authzen.listen in taken:
            message = "authzen: listen: give an address of its own: it speaks HTTP, and the others gRPC"
            raise ValueError(message)
        if self.health_listen and not self.health_listen.startswith("unix:"):
            host = self.health_listen.rpartition(":")[0].strip("[]")
            if not _is_address(self.health_listen) or not is_loopback(host):
                message = "health_listen: give unix:PATH, or a loopback address and a port: it has no TLS"
                raise ValueError(message)
        if self.metrics_listen is not None and not _is_address(self.metrics_listen):
            message = "metrics_listen: give an address and a port, such as 127.0.0.1:9464"
            raise ValueError(message)
        try:
            own = SpiffeId.parse(self.broker_id or f"spiffe://{self.trust_domain}/tasklease/broker")
        except InvalidSpiffeIdError as error:
            message = f"{'broker_id' if self.broker_id else 'trust_domain'}: {error}"
            raise ValueError(message) from error
        if own.trust_domain != self.trust_domain:
            message = "broker_id: is not in trust_domain"
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _signals_apart(self) -> Self:
        listen = self.signals.listen
        if listen is not None and not _is_address(listen):
            message = "signals: listen: give an address and a port, such as 0.0.0.0:8447"
            raise ValueError(message)
        others = {self.listen} | {door.listen for door in (self.jwt_svids, self.authzen) if door is not None}
        if listen in others:
            message = "signals: listen: give an address of its own: whoever comes there shows no identity"
            raise ValueError(message)
        return self


class Settings(_File):
    """The validated file, with paths made absolute and defaults filled in."""

    own_id: SpiffeId
    endpoint_socket: str

    def agent_id(self, named: str) -> SpiffeId | None:
        """The SPIRE agent that is `named`, by its SPIFFE ID or its path; unless one is, that of `registry.parent`.

        Raises:
            InvalidSpiffeIdError: it is no SPIFFE ID.
        """
        text = named or self.registry.parent or ""
        if text.startswith("/"):
            text = f"spiffe://{self.trust_domain}{text}"
        return SpiffeId.parse(text) if text else None

    def who_operates(self) -> Operators:
        """The operators, as the gate asks for them."""
        grants = tuple(operator.grant(self.own_id) for operator in self.operators)
        return Operators(broker=self.own_id, grants=grants)


def load_settings(path: Path) -> Settings:
    """Read the broker's configuration file.

    Raises:
        ConfigError: everything that is wrong with it.
    """
    node = read_yaml(path)
    problems = [
        Problem(
            file=str(path),
            line=line_of(node, location),
            field=".".join(location),
            what="secrets do not belong here: the broker logs in with its SVID; remove the key",
        )
        for location in _secret_keys(node)
    ]
    if problems:
        raise ConfigError(problems)
    known = sorted(
        {
            key
            for model in (
                _File,
                JwtSvidSettings,
                AuthzenSettings,
                SignalSettings,
                ReporterSettings,
                TransmitterSettings,
                SubjectSettings,
                EventSettings,
                VaultSettings,
                StoreSettings,
                OperatorSettings,
                Limits,
                RegistrySettings,
                LogSettings,
                HeaderSettings,
                OcsfSettings,
                SetSettings,
                WebhookSettings,
            )
            for key in model.model_fields
        }
    )
    try:
        file = _File.model_validate(plain(node))
    except ValidationError as error:
        raise ConfigError(problems_of(error, path, node, known)) from error
    own_id = SpiffeId.parse(file.broker_id or f"spiffe://{file.trust_domain}/tasklease/broker")
    problems = list(_bad_operators(file, own_id, path, node))
    if problems:
        raise ConfigError(problems)
    endpoint_socket = file.spiffe_endpoint_socket or os.environ.get("SPIFFE_ENDPOINT_SOCKET", "")
    if not endpoint_socket:
        what = "is missing, and SPIFFE_ENDPOINT_SOCKET is not set: name SPIRE's Workload API socket"
        raise ConfigError([Problem(file=str(path), line=1, field="spiffe_endpoint_socket", what=what)])
    folder = path.resolve().parent
    values = {name: getattr(file, name) for name in _File.model_fields}
    values["catalog"] = folder / file.catalog
    values["policies"] = folder / file.policies
    values["anomaly_parameters"] = folder / file.anomaly_parameters if file.anomaly_parameters else None
    values["shadow_policies"] = folder / file.shadow_policies if file.shadow_policies else None
    if file.vault.ca_file is not None:
        values["vault"] = file.vault.model_copy(update={"ca_file": folder / file.vault.ca_file})
    values["signals"] = file.signals.below(folder)
    values["tell"] = {name: below(folder, receiver) for name, receiver in file.tell.items()}
    values["address_file"] = folder / file.address_file if file.address_file else None
    values["store"] = file.store.model_copy(
        update={
            "url": _absolute(file.store.url, folder),
            "password_file": folder / file.store.password_file if file.store.password_file else None,
        }
    )
    return Settings.model_construct(
        **values,
        own_id=own_id,
        endpoint_socket=endpoint_socket,
    )


def _bad_operators(file: _File, own_id: SpiffeId, path: Path, node: CommentedMap) -> Iterator[Problem]:
    for number, operator in enumerate(file.operators):
        try:
            operator.grant(own_id)
        except InvalidGrantError as error:
            line = line_of(node, ("operators", number, "id"))
            yield Problem(file=str(path), line=line, field=f"operators.{number}.id", what=str(error))


def is_server_address(text: str) -> bool:
    """Whether it is `unix:///PATH`, or a host and a port."""
    return text.startswith("unix:///") or _is_address(text)


def _is_address(text: str) -> bool:
    match = _ADDRESS.match(text)
    return match is not None and int(match[2]) <= _LAST_PORT


def _absolute(url: str, folder: Path) -> str:
    prefix = "sqlite:///"
    if url.startswith(prefix) and not url.startswith(prefix + "/"):
        return f"{prefix}{folder / url.removeprefix(prefix)}"
    return url


def _secret_keys(node: object, above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(node, CommentedMap):
        return []
    found = []
    for key, value in node.items():
        location = (*above, str(key))
        if _LOOKS_SECRET.search(str(key)) and not str(key).endswith("_file"):
            found.append(location)
        found += _secret_keys(value, location)
    return found
