"""The broker's configuration file: what is taken, and what is said of what is not."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from broker.config.reading import ConfigError, Problem
from broker.config.settings import load_settings
from tests.unit.config.texts import SETTINGS, with_line, write

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _no_socket_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPIFFE_ENDPOINT_SOCKET", raising=False)


def problems(file: Path) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        load_settings(file)
    return caught.value.problems


WRONG: dict[str, tuple[int, str, str, str]] = {
    "no trust domain": (1, "", "trust_domain", "is missing: add it"),
    "a trust domain in capitals": (1, "trust_domain: Example.test", "trust_domain", "trust domain is empty"),
    "a trust domain with a scheme": (1, "trust_domain: spiffe://example.test", "trust_domain", "trust domain is empty"),
    "an ID of another trust domain": (
        1, "trust_domain: example.test\nbroker_id: spiffe://other.test/broker", "broker_id", "is not in trust_domain",
    ),
    "an ID that is none": (1, "trust_domain: example.test\nbroker_id: broker", "broker_id", "scheme is not spiffe://"),
    "no Workload API": (
        2, "", "spiffe_endpoint_socket",
        "is missing, and SPIFFE_ENDPOINT_SOCKET is not set: name SPIRE's Workload API socket",
    ),
    "no Vault": (3, "x:", "vault", "is missing: add it"),
    "no address of Vault": (4, "  audience: vault", "vault.address", "is missing: add it"),
    "an address without a scheme": (4, "  address: vault.test:8200", "vault.address", "give a URL such as https://"),
    "another scheme": (4, "  address: ftp://vault.test", "vault.address", "give a URL"),
    "an address with a path": (4, "  address: https://vault.test/v1", "vault.address", "give a URL"),
    "an address with a question": (4, "  address: https://vault.test/?x", "vault.address", "give a URL"),
    "an address with a login": (4, "  address: https://user:pw@vault.test", "vault.address", "give a URL"),
    "an address with an impossible port": (4, "  address: https://vault.test:99999", "vault.address", "give a URL"),
    "an address with half an IPv6": (4, "  address: https://[::1", "vault.address", "give a URL"),
    "plain http to another machine": (4, "  address: http://vault.test:8200", "vault.address", "plain http is for loopback only"),
    "plain http to something like loopback": (4, "  address: http://127.0.0.1.evil.test", "vault.address", "plain http is for"),
    "plain http that is nearly allowed": (
        4, "  address: http://vault.test\n  allow_plain_http: 'yes'", "vault.allow_plain_http", "valid boolean",
    ),
    "a mount with a wildcard": (4, "  address: https://v.test\n  auth_mount: 'jwt*'", "vault.auth_mount", "match pattern"),
    "a role with a slash": (4, "  address: https://v.test\n  auth_role: a/b", "vault.auth_role", "match pattern"),
    "a timeout of nothing": (4, "  address: https://v.test\n  timeout: 0s", "vault.timeout", "greater than or equal"),
    "a timeout of hours": (4, "  address: https://v.test\n  timeout: 1h", "vault.timeout", "less than or equal"),
    "a timeout that is a number": (4, "  address: https://v.test\n  timeout: 10", "vault.timeout", "give a duration such as"),
    "no workers": (4, "  address: https://v.test\n  issue_workers: 0", "vault.issue_workers", "greater than or equal to 1"),
    "no catalog": (5, "", "catalog", "is missing: add it"),
    "a catalog that is a list": (5, "catalog: [a]", "catalog", "valid path"),
    "a misspelt key": (5, "catalog: c\nlimit: {}", "limit", "unknown key (did you mean 'limits'?): remove it"),
    "a misspelt key further in": (
        5, "catalog: c\nlimits:\n  bursts: 1", "limits.bursts", "unknown key (did you mean 'burst'?): remove it",
    ),
    "an address without a port": (5, "catalog: c\nlisten: 0.0.0.0", "listen", "give an address and a port"),
    "a port that is none": (5, "catalog: c\nlisten: 0.0.0.0:65536", "listen", "give an address and a port"),
    "a socket for agents": (5, "catalog: c\nlisten: unix:/run/broker.sock", "listen", "give an address and a port"),
    "health for everybody": (5, "catalog: c\nhealth_listen: 0.0.0.0:8444", "health_listen", "give unix:PATH, or a loopback"),
    "health under a name": (5, "catalog: c\nhealth_listen: vault.test:8444", "health_listen", "give unix:PATH"),
    "tokens where certificates are asked for": (
        5, "catalog: c\nlisten: 127.0.0.1:1\njwt_svids: {audience: a, listen: 127.0.0.1:1, methods: [TaskService/GetTask]}",
        "jwt_svids", "give another address than listen",
    ),
    "AuthZEN at no address": (5, "catalog: c\nauthzen: {listen: x}", "authzen.listen", "give an address and a port"),
    "AuthZEN at nothing": (5, "catalog: c\nauthzen: {}", "authzen.listen", "is missing"),
    "AuthZEN on a socket": (5, "catalog: c\nauthzen: {listen: 'unix:/run/x'}", "authzen.listen", "give an address and a port"),
    "AuthZEN with a key too many": (
        5, "catalog: c\nauthzen: {listen: '127.0.0.1:2', tls: false}", "authzen.tls", "unknown key",
    ),
    "AuthZEN where gRPC is": (
        5, "catalog: c\nlisten: 127.0.0.1:1\nauthzen: {listen: 127.0.0.1:1}", "authzen", "give an address of its own",
    ),
    "tokens without an audience": (
        5, "catalog: c\njwt_svids: {listen: 127.0.0.1:1, methods: [TaskService/GetTask]}", "jwt_svids.audience", "is missing",
    ),
    "tokens for an empty audience": (
        5, "catalog: c\njwt_svids: {audience: '', listen: 127.0.0.1:1, methods: [TaskService/GetTask]}",
        "jwt_svids.audience", "at least 1 character",
    ),
    "tokens at no address": (
        5, "catalog: c\njwt_svids: {audience: a, listen: x, methods: [TaskService/GetTask]}", "jwt_svids.listen",
        "give an address and a port",
    ),
    "tokens for unnamed RPCs": (5, "catalog: c\njwt_svids: {audience: a, listen: 127.0.0.1:1}", "jwt_svids.methods", "is missing"),
    "tokens for no RPC": (
        5, "catalog: c\njwt_svids: {audience: a, listen: 127.0.0.1:1, methods: []}", "jwt_svids.methods", "at least 1 item",
    ),
    "tokens for every RPC": (
        5, "catalog: c\njwt_svids: {audience: a, listen: 127.0.0.1:1, methods: ['*']}", "jwt_svids.methods.0", "input should be",
    ),
    "tokens for what is no RPC of instances": (
        5, "catalog: c\njwt_svids: {audience: a, listen: 127.0.0.1:1, methods: [OperatorService/Quarantine]}",
        "jwt_svids.methods.0", "input should be",
    ),
    "tokens that are taken for a day": (
        5, "catalog: c\njwt_svids: {audience: a, listen: 127.0.0.1:1, methods: [TaskService/GetTask], max_validity: 24h}",
        "jwt_svids.max_validity", "less than or equal",
    ),
    "tiny messages": (5, "catalog: c\nlimits: {max_message_bytes: 1}", "limits.max_message_bytes", "greater than or equal to 4096"),
    "huge messages": (5, "catalog: c\nlimits: {max_message_bytes: 9999999}", "limits.max_message_bytes", "less than or equal"),
    "no calls": (5, "catalog: c\nlimits: {max_concurrent_calls: 0}", "limits.max_concurrent_calls", "greater than or equal to 1"),
    "no rate": (
        5, "catalog: c\nlimits: {calls_per_second_per_instance: 0}", "limits.calls_per_second_per_instance",
        "greater than 0",
    ),
    "an endless rate": (
        5, "catalog: c\nlimits: {calls_per_second_per_instance: .inf}", "limits.calls_per_second_per_instance",
        "less than or equal",
    ),
    "a rate that is no number": (
        5, "catalog: c\nlimits: {calls_per_second_per_instance: .nan}", "limits.calls_per_second_per_instance",
        "less than or equal",
    ),
    "a burst that lets nobody declare": (5, "catalog: c\nlimits: {burst: 3}", "limits.burst", "greater than or equal to 8"),
    "an endless grace": (5, "catalog: c\nshutdown_grace: 11m", "shutdown_grace", "less than or equal"),
    "another format": (5, "catalog: c\nlog: {format: xml}", "log.format", "input should be 'json' or 'text'"),
    "another level": (5, "catalog: c\nlog: {level: trace}", "log.level", "input should be 'debug', 'info'"),
}  # fmt: skip
"""The line of the good file that is replaced, by what; the field that is named, and the words."""


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named_with_file_line_and_remedy(tmp_path: Path, name: str) -> None:
    line, new, field, words = WRONG[name]
    text = with_line(SETTINGS, line, new)
    file = write(tmp_path, text, "broker.yaml")
    found = [problem for problem in problems(file) if problem.field == field and words in problem.what]
    assert found, [str(problem) for problem in problems(file)]
    (problem,) = found
    assert problem.file == str(file)
    assert 1 <= problem.line <= len(text.splitlines())
    if field and "missing" not in words:
        assert field.rpartition(".")[2] in text.splitlines()[problem.line - 1]


@pytest.mark.parametrize(
    "key",
    ["token", "vault_token", "VAULT_TOKEN", "password", "passwd", "db_password", "client_secret", "secret_id", "private_key",
     "privateKey", "api_key", "apikey", "credentials"],
)  # fmt: skip
@pytest.mark.parametrize("above", ["", "vault", "store", "new_section"])
def test_a_key_that_looks_like_a_secret_is_refused_and_its_value_not_repeated(
    tmp_path: Path, key: str, above: str
) -> None:
    value = "hvs.CAESIJ"
    added = f"{key}: {value}" if not above else f"{above}:\n  address: https://v.test\n  {key}: {value}"
    base = with_line(with_line(SETTINGS, 4, ""), 3, "") if above == "vault" else SETTINGS
    file = write(tmp_path, base + added + "\n", "broker.yaml")
    (problem,) = problems(file)
    assert problem.field == ".".join(filter(None, (above, key)))
    assert problem.line == len((base + added).splitlines())
    assert problem.what == "secrets do not belong here: the broker logs in with its SVID; remove the key"
    assert value not in str(problem)


def test_a_wrong_value_is_not_repeated(tmp_path: Path) -> None:
    file = write(
        tmp_path, with_line(SETTINGS, 4, "  address: hvs.CAESIJ-pasted-into-the-wrong-line"), "broker.yaml"
    )
    assert "CAESIJ" not in "".join(map(str, problems(file)))


def test_the_short_file_has_defaults_that_bind_to_this_machine(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, SETTINGS, "broker.yaml"))
    assert settings.listen == "127.0.0.1:8443"
    assert settings.health_listen is None
    assert str(settings.own_id) == "spiffe://example.test/tasklease/broker"
    assert settings.endpoint_socket == "unix:///run/agent.sock"
    assert settings.store.url == f"sqlite:///{tmp_path}/broker.db"
    assert settings.catalog == tmp_path / "catalog.yaml"
    assert settings.address_file is None
    assert settings.shutdown_grace == settings.vault.timeout == timedelta(seconds=10)
    assert (settings.vault.allow_plain_http, settings.vault.ca_file) == (False, None)
    assert (settings.limits.max_message_bytes, settings.limits.max_concurrent_calls) == (65536, 1024)


def test_there_is_an_authzen_door_only_where_one_is_wanted(tmp_path: Path) -> None:
    assert load_settings(write(tmp_path, SETTINGS, "broker.yaml")).authzen is None
    wanted = load_settings(write(tmp_path, SETTINGS + "authzen: {listen: '0.0.0.0:8446'}\n", "broker.yaml"))
    assert wanted.authzen is not None
    assert wanted.authzen.listen == "0.0.0.0:8446"


def test_paths_are_relative_to_the_file_and_not_to_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "etc").mkdir()
    text = (
        SETTINGS.replace("catalog.yaml", "../catalog")
        + "address_file: run/address\nstore: {url: 'sqlite:///state/b.db'}\n"
    )
    text = text.replace("vault:\n", "vault:\n  ca_file: ca.pem\n")
    write(tmp_path / "etc", text, "broker.yaml")
    monkeypatch.chdir(tmp_path)
    settings = load_settings(Path("etc/broker.yaml"))
    assert settings.catalog == tmp_path / "etc/../catalog"
    assert settings.address_file == tmp_path / "etc/run/address"
    assert settings.vault.ca_file == tmp_path / "etc/ca.pem"
    assert settings.store.url == f"sqlite:///{tmp_path}/etc/state/b.db"


def test_absolute_paths_stay_as_they_are(tmp_path: Path) -> None:
    text = (
        SETTINGS.replace("catalog.yaml", "/etc/tasklease/catalog")
        + "store: {url: 'sqlite:////var/lib/b.db'}\n"
    )
    settings = load_settings(write(tmp_path, text, "broker.yaml"))
    assert settings.catalog == Path("/etc/tasklease/catalog")
    assert settings.store.url == "sqlite:////var/lib/b.db"


def test_the_workload_apis_socket_may_come_from_the_environment_and_the_file_goes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPIFFE_ENDPOINT_SOCKET", "unix:///run/other.sock")
    file = write(tmp_path, SETTINGS, "broker.yaml")
    assert load_settings(file).endpoint_socket == "unix:///run/agent.sock"
    file = write(tmp_path, with_line(SETTINGS, 2, ""), "broker.yaml")
    assert load_settings(file).endpoint_socket == "unix:///run/other.sock"


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:8200",
        "http://localhost:8200",
        "http://[::1]:8200",
        "https://vault.test",
        "https://vault.test/",
    ],
)
def test_an_address_of_vault_that_is_good(tmp_path: Path, address: str) -> None:
    file = write(tmp_path, with_line(SETTINGS, 4, f"  address: '{address}'"), "broker.yaml")
    assert load_settings(file).vault.address == address


def test_plain_http_elsewhere_is_taken_when_it_is_said_by_name(tmp_path: Path) -> None:
    line = "  address: http://vault.test:8200\n  allow_plain_http: true"
    file = write(tmp_path, with_line(SETTINGS, 4, line), "broker.yaml")
    assert load_settings(file).vault.allow_plain_http


@pytest.mark.parametrize("listen", ["unix:/run/health.sock", "127.0.0.1:8444", "localhost:0", "'[::1]:8444'"])
def test_health_may_be_on_this_machine(tmp_path: Path, listen: str) -> None:
    file = write(tmp_path, SETTINGS + f"health_listen: {listen}\n", "broker.yaml")
    assert load_settings(file).health_listen == listen.strip("'")


def test_settings_cannot_be_changed(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, SETTINGS, "broker.yaml"))
    with pytest.raises(ValidationError, match="frozen"):
        settings.listen = "0.0.0.0:1"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        settings.vault.allow_plain_http = True  # type: ignore[misc]


def test_the_examples_are_good() -> None:
    assert load_settings(REPOSITORY / "examples/broker.yaml").vault.auth_role == "tasklease-broker"


def test_tokens_are_not_taken_unless_it_is_said(tmp_path: Path) -> None:
    assert load_settings(write(tmp_path, SETTINGS, "broker.yaml")).jwt_svids is None
    more = (
        "jwt_svids:\n  audience: tasklease\n  listen: 127.0.0.1:8445\n"
        "  methods: [TaskService/DeclareTask, CredentialService/AcquireCredential]\n"
    )
    taken = load_settings(write(tmp_path, SETTINGS + more, "broker.yaml")).jwt_svids
    assert taken is not None
    assert (taken.audience, taken.listen) == ("tasklease", "127.0.0.1:8445")
    assert taken.methods == {"TaskService/DeclareTask", "CredentialService/AcquireCredential"}
    assert taken.max_validity == timedelta(minutes=10)
