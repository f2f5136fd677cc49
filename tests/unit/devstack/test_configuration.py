"""The files of spire/ and vault/ against those who fill them in and those who write the same by other means."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from broker.adapters.vault import provisioning
from broker.devstack import spire
from broker.devstack.processes import Processes
from broker.devstack.spire import Spire, make_node_certificate
from broker.devstack.state import State
from broker.devstack.vault import database_role

REPOSITORY = Path(__file__).parents[3]
NAMES = provisioning.Names(broker_id="spiffe://example.org/tasklease/broker")


def test_the_policy_of_the_broker_is_what_catalog_apply_writes() -> None:
    text = (REPOSITORY / "vault/policies/tasklease-broker.hcl").read_text()
    assert text == provisioning.broker_policy(NAMES.token_role)


def test_the_token_role_is_what_catalog_apply_writes() -> None:
    assert json.loads((REPOSITORY / "vault/token-role.json").read_text()) == provisioning._token_role()


def test_the_role_of_the_log_in_is_what_catalog_apply_writes() -> None:
    assert json.loads((REPOSITORY / "vault/jwt-role.json").read_text()) == provisioning._jwt_role(NAMES)


def test_revocation_takes_the_login_away_for_good_before_it_ends_sessions() -> None:
    (statements,) = database_role()["revocation_statements"]
    order = [statements.index(word) for word in ("NOLOGIN;", "COMMIT;", "pg_terminate_backend", "DROP ROLE")]
    assert order == sorted(order)


@pytest.mark.parametrize(
    ("part", "file"),
    [
        (spire.SERVER, "server.conf"),
        (spire.AGENT, "agent.conf"),
        (spire.OIDC, "oidc-discovery-provider.conf"),
    ],
)
def test_every_part_gets_just_what_its_configuration_asks_for(
    part: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.devstack.state._ASIDE", tmp_path / "aside")
    state = State(tmp_path / "dev")
    state.make()
    given: dict[str, set[str]] = {}

    def start(_self: Processes, name: str, _command: object, **how: dict[str, str]) -> None:
        given[name] = set(how["environment"]) - {"PATH"}

    monkeypatch.setattr(Processes, "start", start)
    monkeypatch.setattr(spire, "wait_for", lambda *_args, **_kwargs: None)
    monkeypatch.setattr(State, "port", lambda _self, _name, **_how: 1)
    monkeypatch.setattr(Spire, "_server", lambda _self, *_arguments: "a bundle")
    found = Spire(state, Processes(state.run), {name: Path(name) for name in spire_parts()})
    {spire.SERVER: found.start_server, spire.AGENT: found.start_agent, spire.OIDC: found.start_oidc}[part]()
    text = (REPOSITORY / "spire" / file).read_text()
    # The provider takes its trust domain from the server.
    assert given[part] - {"TRUST_DOMAIN"} == set(re.findall(r"\$\{(\w+)\}", text)) - {"TRUST_DOMAIN"}


def spire_parts() -> tuple[str, ...]:
    return (spire.SERVER, spire.AGENT, spire.OIDC)


def test_a_certificate_of_a_node_is_signed_by_its_authority_and_bears_its_name() -> None:
    from cryptography import x509

    certificate, authority, key = make_node_certificate("node-7")
    leaf = x509.load_pem_x509_certificate(certificate.encode())
    leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.encode()))
    assert leaf.subject.rfc4514_string() == "CN=node-7"
    assert "PRIVATE KEY" in key
