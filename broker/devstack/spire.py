"""SPIRE server, agent and OIDC discovery provider, on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from broker.devstack.parts import REPOSITORY
from broker.devstack.processes import Processes
from broker.devstack.state import BROKER_GROUP, BROKER_ID, NODE, NODE_ID, TRUST_DOMAIN, State
from broker.devstack.waiting import answers, wait_for

SERVER: Final = "spire-server"
AGENT: Final = "spire-agent"
OIDC: Final = "oidc-discovery-provider"
BROKER_DNS_NAME: Final = "tasklease-broker"
_YEARS: Final = timedelta(days=3650)
_SIGNING_ONLY: Final = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


class SpireError(Exception):
    """A SPIRE command failed; the message is SPIRE's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A registration entry that was made."""

    entry_id: str
    spiffe_id: str
    group: int


class Spire:
    """The SPIRE of a stack: one server, one agent, one provider."""

    def __init__(
        self,
        state: State,
        processes: Processes,
        binaries: Mapping[str, Path],
        *,
        trust_domain: str = TRUST_DOMAIN,
    ) -> None:
        self._state = state
        self._processes = processes
        self._binaries = binaries
        self._trust_domain = trust_domain
        self._folder = state.folder / "spire"

    @property
    def agent_socket(self) -> Path:
        """The Workload API."""
        return self._state.socket("agent.sock")

    @property
    def server_socket(self) -> Path:
        """The server's own API."""
        return self._state.socket("server.sock")

    @property
    def jwks_url(self) -> str:
        """Where Vault finds SPIRE's JWT signing keys."""
        return f"http://127.0.0.1:{self._port(OIDC)}/keys"

    @property
    def jwt_issuer(self) -> str:
        """Who the broker's JWT-SVIDs say that issued them."""
        return f"https://oidc.{self._trust_domain}"

    def start_server(self) -> None:
        """Start the server and wait until it is ready."""
        (self._folder / "server").mkdir(parents=True, exist_ok=True, mode=0o700)
        self._make_node_certificates()
        health = self._port("spire-server-health", SERVER)
        settings = {
            "JWT_ISSUER": self.jwt_issuer,
            "NODE_CA": str(self._folder / "node-ca.pem"),
            "SPIRE_SERVER_ADDRESS": "127.0.0.1",
            "SPIRE_SERVER_DATA": str(self._folder / "server"),
            "SPIRE_SERVER_HEALTH_PORT": str(health),
            "SPIRE_SERVER_PORT": str(self._port(SERVER)),
            "SPIRE_SERVER_SOCKET": str(self.server_socket),
        }
        self._start(SERVER, [self._binaries[SERVER], "run"], "server.conf", settings)
        wait_for(SERVER, lambda: answers(f"http://127.0.0.1:{health}/ready"), self._processes)

    def start_agent(self) -> None:
        """Start the agent with the server's present bundle, and wait until it is ready."""
        (self._folder / "agent").mkdir(parents=True, exist_ok=True, mode=0o700)
        bundle = self._server("bundle", "show", "-format", "pem")
        (self._folder / "bundle.pem").write_text(bundle)
        health = self._port("spire-agent-health", AGENT)
        settings = {
            "NODE_CERTIFICATE": str(self._folder / "node.pem"),
            "NODE_KEY": str(self._state.secrets / "node-key.pem"),
            "SPIRE_AGENT_DATA": str(self._folder / "agent"),
            "SPIRE_AGENT_HEALTH_PORT": str(health),
            "SPIRE_AGENT_SOCKET": str(self.agent_socket),
            "SPIRE_BUNDLE": str(self._folder / "bundle.pem"),
            "SPIRE_SERVER_HOST": "127.0.0.1",
            "SPIRE_SERVER_PORT": str(self._port(SERVER)),
        }
        self._start(AGENT, [self._binaries[AGENT], "run"], "agent.conf", settings)
        wait_for(AGENT, lambda: answers(f"http://127.0.0.1:{health}/ready"), self._processes)

    def start_oidc(self) -> None:
        """Start the provider and wait until it serves keys."""
        settings = {
            "JWT_ISSUER": self.jwt_issuer,
            "OIDC_ADDRESS": f"127.0.0.1:{self._port(OIDC)}",
            "OIDC_DOMAIN": "127.0.0.1",
            "OIDC_HEALTH_PORT": str(self._port("oidc-health", OIDC)),
            "SPIRE_SERVER_SOCKET": str(self.server_socket),
        }
        self._start(OIDC, [self._binaries[OIDC]], "oidc-discovery-provider.conf", settings)
        wait_for(OIDC, lambda: answers(self.jwks_url), self._processes)

    def healthy(self, part: str) -> bool:
        """Whether a part answers as it should."""
        if part == OIDC:
            return answers(self.jwks_url)
        return answers(f"http://127.0.0.1:{self._port(f'{part}-health', part)}/ready")

    def register_broker(self) -> Entry:
        """Make the broker's entry, or find it as it is."""
        found = self._entries("-spiffeID", BROKER_ID, "-selector", f"unix:supplementary_gid:{BROKER_GROUP}")
        if found:
            return Entry(entry_id=found[0], spiffe_id=BROKER_ID, group=BROKER_GROUP)
        return self._create(
            BROKER_ID, BROKER_GROUP, x509_ttl=timedelta(minutes=10), dns_names=[BROKER_DNS_NAME]
        )

    def instance_id(self, agent_class: str, instance: str) -> str:
        """The SPIFFE ID of an instance."""
        return f"spiffe://{self._trust_domain}/agent/{agent_class}/{instance}"

    def register_instance(
        self, agent_class: str, instance: str, *, x509_ttl: timedelta = timedelta(minutes=10)
    ) -> Entry:
        """Make an entry for one new instance: its own SPIFFE ID, and a group that it alone has."""
        spiffe_id = self.instance_id(agent_class, instance)
        group = self._state.new_group()
        while self._entries("-selector", f"unix:supplementary_gid:{group}"):
            group = self._state.new_group()  # numbers come again, and an old entry must not be shared
        return self._create(spiffe_id, group, x509_ttl=x509_ttl)

    def wait_for_identity(
        self, entry: Entry, *, patience: float = 30, given_up: Callable[[], bool] = lambda: False
    ) -> None:
        """Return when the agent serves the entry's SVID to a process of its group, or when it is `given_up`."""
        agent, socket = str(self._binaries[AGENT]), str(self.agent_socket)
        command = [agent, "api", "fetch", "x509", "-silent", "-socketPath", socket]
        end = time.monotonic() + patience
        while time.monotonic() < end and not given_up():
            if (
                subprocess.run(
                    command, extra_groups=[entry.group], capture_output=True, check=False
                ).returncode
                == 0
            ):
                return
            time.sleep(0.1)
        if given_up():
            return
        message = f"SPIRE does not serve {entry.spiffe_id} after {patience:.0f} s"
        raise SpireError(message)

    def deregister(self, entry: Entry) -> None:
        """Delete the entry; what SPIRE issued under it stays valid until it expires."""
        self.delete(entry.entry_id)

    def delete(self, entry_id: str) -> None:
        """Delete the entry of that id."""
        self._server("entry", "delete", "-entryID", entry_id)

    def mint(
        self, spiffe_id: str, *, ttl: timedelta, folder: Path, dns_names: Sequence[str] = ()
    ) -> tuple[Path, Path, Path]:
        """Have the server sign an SVID without attestation, for tests: paths of SVID, key and bundle (PEM)."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        seconds = f"{int(ttl.total_seconds())}s"
        names = [word for name in dns_names for word in ("-dns", name)]
        self._server("x509", "mint", "-spiffeID", spiffe_id, "-ttl", seconds, "-write", str(folder), *names)
        return folder / "svid.pem", folder / "key.pem", folder / "bundle.pem"

    def mint_jwt(self, spiffe_id: str, *, audience: str, ttl: timedelta) -> str:
        """Have the server sign a JWT-SVID without attestation, for tests."""
        seconds = f"{int(ttl.total_seconds())}s"
        minted = self._server("jwt", "mint", "-spiffeID", spiffe_id, "-audience", audience, "-ttl", seconds)
        return minted.strip()

    def bundle(self) -> str:
        """The trust domain's bundle as SPIFFE writes it: a JWKS with the authorities of both kinds of SVID."""
        return self._server("bundle", "show", "-format", "spiffe")

    def _entries(self, *arguments: str) -> list[str]:
        shown = json.loads(self._server("entry", "show", *arguments, "-output", "json"))
        return [str(entry["id"]) for entry in shown.get("entries", [])]

    def _create(
        self, spiffe_id: str, group: int, *, x509_ttl: timedelta, dns_names: Sequence[str] = ()
    ) -> Entry:
        selector = f"unix:supplementary_gid:{group}"
        arguments = [
            "entry", "create", "-parentID", NODE_ID, "-spiffeID", spiffe_id, "-selector", selector,
            "-x509SVIDTTL", str(int(x509_ttl.total_seconds())), "-jwtSVIDTTL", "300", "-output", "json",
        ]  # fmt: skip
        for name in dns_names:
            arguments += ["-dns", name]
        made = json.loads(self._server(*arguments))
        return Entry(entry_id=made["results"][0]["entry"]["id"], spiffe_id=spiffe_id, group=group)

    def _server(self, *arguments: str) -> str:
        result = subprocess.run(
            [str(self._binaries[SERVER]), *arguments, "-socketPath", str(self.server_socket)],
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,  # a Ctrl-C at the terminal must not stop it halfway
        )
        if result.returncode != 0:
            message = f"spire-server {arguments[0]} {arguments[1]}: {result.stderr.strip() or result.stdout.strip()}"
            raise SpireError(message)
        return result.stdout

    def _port(self, name: str, part: str | None = None) -> int:
        return self._state.port(name, in_use=self._processes.running(part or name) is not None)

    def _start(
        self, name: str, command: Sequence[str | Path], configuration: str, settings: Mapping[str, str]
    ) -> None:
        file = REPOSITORY / "spire" / configuration
        settings = {"TRUST_DOMAIN": self._trust_domain, **settings}
        self._processes.start(
            name,
            [*command, "-config", file, "-expandEnv"],
            environment={"PATH": os.environ.get("PATH", ""), **settings},
            settings=[file.read_text(), *(f"{key}={value}" for key, value in settings.items())],
        )

    def _make_node_certificates(self) -> None:
        """The certificate by which the agent attests its node, and the authority that signed it: made once."""
        if (self._folder / "node.pem").exists():
            return
        certificate, authority, key = make_node_certificate(NODE)
        self._state.keep_secret("node-key.pem", key)
        (self._folder / "node-ca.pem").write_text(authority)
        (self._folder / "node.pem").write_text(certificate)  # last: it says that all three are there


def make_node_certificate(node: str) -> tuple[str, str, str]:
    """A certificate for SPIRE's x509pop node attestation: certificate, its authority's, and the key, as PEM."""
    now = datetime.now(UTC)
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{node} authority")])
    key = ec.generate_private_key(ec.SECP256R1())

    def builder(subject: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(authority_name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + _YEARS)
        )

    authority = (
        builder(authority_name, authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node)])
    certificate = (
        builder(name, key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_SIGNING_ONLY, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    return (
        certificate.public_bytes(pem).decode(),
        authority.public_bytes(pem).decode(),
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode(),
    )
