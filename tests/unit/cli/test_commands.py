"""Commands that were given something wrong: one clear line that names it, and a code that is not 0."""

from __future__ import annotations

import asyncio
import logging
import resource
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from broker import bootstrap
from broker.adapters.store.sqlite import SqliteStore
from broker.cli import serve as serve_module
from broker.cli.main import assemble
from broker.domain.changes import Append
from tests.fakes.samples import an_event
from tests.unit.client.authority import Authority
from tests.unit.client.workload_api import WorkloadApi
from tests.unit.config.texts import CATALOG, SETTINGS, with_line, write


def tasklease(*words: object) -> Result:
    return CliRunner().invoke(
        assemble(), [str(word) for word in words], env={"SPIFFE_ENDPOINT_SOCKET": "", "COLUMNS": "200"}
    )


def complaint(result: Result, code: int) -> str:
    """The one line that the command says, on standard error."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert result.exception is None or isinstance(result.exception, SystemExit)
    (line,) = result.stderr.splitlines()
    return line


# catalog check ----------------------------------------------------------------------------------------------


def test_a_good_catalog_is_good(tmp_path: Path) -> None:
    result = tasklease("catalog", "check", write(tmp_path, CATALOG))
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith(
        "good: 1 agent classes, 1 task types, 1 credential roles, 0 tools; digest "
    )


def test_every_problem_of_a_catalog_is_a_line(tmp_path: Path) -> None:
    text = with_line(with_line(CATALOG, 6, "    max_tasks: 0"), 12, "    heartbeat: 10")
    file = write(tmp_path, text)
    result = tasklease("catalog", "check", file)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines() == [
        f"{file}:6: agent_classes.invoice-bot.max_tasks: input should be greater than or equal to 1",
        f"{file}:12: task_types.reconcile.heartbeat: give a duration such as 90s, 30m or 1h30m",
        "error: 2 problems in the catalog",
    ]


def test_words_in_a_catalog_are_no_markup(tmp_path: Path) -> None:
    file = write(tmp_path, "version: 1\n'[red]x[/]': 1\n")
    assert f"{file}:2: [red]x[/]: unknown key: remove it" in tasklease("catalog", "check", file).stderr


def test_where_there_is_no_catalog_it_says_so(tmp_path: Path) -> None:
    result = tasklease("catalog", "check", tmp_path / "none")
    assert result.exit_code == 1
    assert (
        result.stderr.splitlines()[0]
        == f"{tmp_path}/none: there is no catalog here: give a .yaml file or a folder of them"
    )


# audit verify -----------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with three audit records."""
    path = tmp_path / "broker.db"

    async def fill() -> None:
        store = SqliteStore.open(f"sqlite:///{path}")
        for _ in range(3):
            await store.commit([Append(event=an_event())])
        await store.close()

    asyncio.run(fill())
    return path


def tamper(store: Path, statement: str) -> None:
    """As somebody does who may write the file."""
    with closing(sqlite3.connect(store)) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        assert connection.execute(statement).rowcount > 0
        connection.commit()


def head_of(store: Path) -> str:
    shown = tasklease("audit", "verify", "--store", f"sqlite:///{store}").stdout
    return shown.split("head: ")[1].split()[0]


def test_a_sound_trail_is_intact_and_its_head_is_told(store: Path) -> None:
    result = tasklease("audit", "verify", "--store", f"sqlite:///{store}")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("intact: 3 records\nhead: 3:")
    again = tasklease("audit", "verify", "--store", f"sqlite:///{store}", "--head", head_of(store))
    assert (again.exit_code, again.stderr) == (0, "")


def test_the_store_may_be_named_by_the_configuration(store: Path) -> None:
    write(store.parent, SETTINGS, "broker.yaml")
    result = tasklease("audit", "verify", "--config", store.parent / "broker.yaml")
    assert result.stdout.startswith("intact: 3 records")


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        (
            "UPDATE audit_records SET actor = 'nobody' WHERE sequence = 2",
            "record 2: content does not match its hash",
        ),
        ("DELETE FROM audit_records WHERE sequence = 2", "record 2: record 2 is missing"),
        (
            "UPDATE audit_records SET facts = '{}' WHERE sequence = 3",
            "record 3: content does not match its hash",
        ),
        ("UPDATE audit_records SET facts = 'no JSON' WHERE sequence = 2", "record 2: cannot be read"),
        ("UPDATE audit_records SET facts = X'FF' WHERE sequence = 2", "record 2: cannot be read"),
        ("UPDATE audit_records SET kind = X'FF' WHERE sequence = 3", "record 3: cannot be read"),
        ("UPDATE audit_records SET hash = X'FF' WHERE sequence = 3", "record 3: cannot be read"),
        ("UPDATE audit_records SET at = 'noon' WHERE sequence = 1", "record 1: cannot be read"),
        ("UPDATE audit_records SET at = 9223372036854775807 WHERE sequence = 1", "record 1: cannot be read"),
    ],
)
def test_a_tampered_trail_is_named_at_its_first_fault(store: Path, statement: str, what: str) -> None:
    tamper(store, statement)
    line = complaint(tasklease("audit", "verify", "--store", f"sqlite:///{store}"), 1)
    assert line == f"error: the audit trail is NOT intact: {what}"


def test_a_trail_that_was_cut_off_is_seen_with_an_earlier_head(store: Path) -> None:
    head = head_of(store)
    tamper(store, "DELETE FROM audit_records WHERE sequence = 3")
    url = f"sqlite:///{store}"
    assert tasklease("audit", "verify", "--store", url).exit_code == 0  # a chain alone does not show it
    line = complaint(tasklease("audit", "verify", "--store", url, "--head", head), 1)
    assert (
        line
        == "error: the audit trail is NOT intact: record 3: the chain ends before the expected head: records were cut off"
    )


def test_looking_changes_nothing(store: Path) -> None:
    before = sorted((file.name, file.read_bytes()) for file in store.parent.iterdir() if file.suffix == ".db")
    for words in (("verify",), ("list",), ("list", "--json")):
        assert tasklease("audit", *words, "--store", f"sqlite:///{store}").exit_code == 0
    assert (
        sorted((file.name, file.read_bytes()) for file in store.parent.iterdir() if file.suffix == ".db")
        == before
    )


@pytest.mark.parametrize("command", ["verify", "list"])
def test_a_store_that_cannot_be_read_is_named(tmp_path: Path, command: str) -> None:
    write(tmp_path, "not a database, but long enough to be one " * 100, "junk.db")
    (tmp_path / "empty.db").touch()
    for name, code, words in (
        ("none.db", 2, f"there is no store at {tmp_path}/none.db"),
        ("junk.db", 1, f"sqlite:///{tmp_path}/junk.db cannot be read: is it a store of Tasklease's?"),
        ("empty.db", 1, f"sqlite:///{tmp_path}/empty.db cannot be read: is it a store of Tasklease's?"),
    ):
        line = complaint(tasklease("audit", command, "--store", f"sqlite:///{tmp_path}/{name}"), code)
        assert line == f"error: {words}"


@pytest.mark.parametrize("command", ["verify", "list"])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "name the store: --config FILE or --store URL"),
        (
            ("--store", "mysql://x/y"),
            "store.url: give a file, as in sqlite:////var/lib/tasklease/broker.db",
        ),
        (("--store", "nonsense"), "store.url: give a file"),
        (("--config", "none.yaml"), "none.yaml: cannot be read: No such file or directory"),
    ],
)
def test_a_store_that_is_not_named_rightly_is_asked_for(
    command: str, words: tuple[str, ...], said: str
) -> None:
    assert said in complaint(tasklease("audit", command, *words), 2)


@pytest.mark.parametrize(
    "head", ["x", "1", "1:", "1:abc", ":" + "0" * 64, "-1:" + "0" * 64, "²:" + "0" * 64, "1:" + "z" * 64]
)
def test_a_head_that_is_none_is_asked_for_again(store: Path, head: str) -> None:
    line = complaint(tasklease("audit", "verify", "--store", f"sqlite:///{store}", "--head", head), 2)
    assert line == "error: --head: give SEQUENCE:HASH as `audit verify` printed it"


# serve ------------------------------------------------------------------------------------------------------


@pytest.fixture
def process_left_alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What `serve` does to its own process, it does not do to this one; and it does not wait long for SPIRE."""
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    monkeypatch.setattr(serve_module, "set_up_logging", lambda **_: logging.disable(logging.CRITICAL))
    monkeypatch.setattr(bootstrap, "FOR_FIRST_SVID", timedelta(seconds=0.2))
    yield
    logging.disable(logging.NOTSET)


def serve(folder: Path, text: str = SETTINGS, catalog: str = CATALOG) -> Result:
    write(folder, catalog)
    (folder / "policies").mkdir(exist_ok=True)
    return tasklease("serve", "--config", write(folder, text, "broker.yaml"))


def test_without_policies_it_does_not_start(tmp_path: Path) -> None:
    write(tmp_path, CATALOG)
    result = tasklease("serve", "--config", write(tmp_path, SETTINGS, "broker.yaml"))
    line = complaint(result, 2)
    assert line.startswith(f"error: {tmp_path}/policies")
    assert line.endswith("there is no such folder: make it, or correct the path")


@pytest.mark.parametrize(
    ("line", "new", "said"),
    [
        (1, "", ":1: trust_domain: is missing: add it"),
        (3, "", "vault: is missing: add it"),
        (2, "spiffe_endpoint: unix:///x", "(did you mean 'spiffe_endpoint_socket'?): remove it"),
        (4, "  address: http://vault.test", ":4: vault.address: plain http is for loopback only"),
        (5, "catalog: c\nlisten: everywhere", ":6: listen: give an address and a port, such as 0.0.0.0:8443"),
        (5, "catalog: c\nvault_token: hvs.abc", ":6: vault_token: secrets do not belong here"),
        (2, "", "spiffe_endpoint_socket: is missing, and SPIFFE_ENDPOINT_SOCKET is not set"),
    ],
)
@pytest.mark.usefixtures("process_left_alone")
def test_settings_that_are_missing_or_wrong_are_named(tmp_path: Path, line: int, new: str, said: str) -> None:
    text = with_line(SETTINGS, line, new)
    result = serve(
        tmp_path, text.replace("  address: https://vault.test:8200\n", "") if (line, new) == (3, "") else text
    )
    assert result.exit_code == 2
    assert (result.stdout, "Traceback" in result.stderr) == ("", False)
    assert any(said in text for text in result.stderr.splitlines())
    assert result.stderr.startswith(f"error: {tmp_path}/broker.yaml")


@pytest.mark.usefixtures("process_left_alone")
def test_a_bad_catalog_keeps_a_broker_from_starting(tmp_path: Path) -> None:
    line = complaint(serve(tmp_path, catalog=with_line(CATALOG, 6, "    max_tasks: 0")), 2)
    assert line.startswith(f"error: {tmp_path}/catalog.yaml:6: agent_classes.invoice-bot.max_tasks: ")
    assert not (tmp_path / "broker.db").exists()


@pytest.mark.usefixtures("process_left_alone")
@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://x/y", "store.url: give a file, as in sqlite:////var/lib/tasklease/broker.db"),
        ("sqlite:///junk.db", "/junk.db cannot be used: file is not a database"),
        ("sqlite:///folder", "/folder cannot be used: Is a directory"),
        ("sqlite:///catalog.yaml/x.db", "/catalog.yaml/x.db cannot be used: File exists"),
        ("sqlite:///busy.db", "/busy.db: one broker at a time may use a SQLite store"),
    ],
)
def test_a_store_that_cannot_be_used_is_named(tmp_path: Path, url: str, said: str) -> None:
    write(tmp_path, "not a database, but long enough to be one " * 100, "junk.db")
    (tmp_path / "folder").mkdir()
    busy = SqliteStore.open(f"sqlite:///{tmp_path}/busy.db")
    try:
        assert said in complaint(serve(tmp_path, f"{SETTINGS}store: {{url: '{url}'}}\n"), 2)
    finally:
        asyncio.run(busy.close())


@pytest.mark.usefixtures("process_left_alone")
def test_a_receiver_whose_files_cannot_be_used_is_said_before_anything_is_waited_for(tmp_path: Path) -> None:
    tell = "tell: {soc: {kind: webhook, url: 'https://soc.test', secret_file: gone}}\n"
    line = complaint(serve(tmp_path, SETTINGS + tell), 2)
    assert "tell.soc" in line
    assert f"{tmp_path}/gone cannot be read: No such file or directory" in line


@pytest.mark.usefixtures("process_left_alone")
def test_without_spire_it_says_where_it_asked_and_what_to_check(tmp_path: Path) -> None:
    line = complaint(serve(tmp_path, SETTINGS.replace("/run/agent.sock", f"{tmp_path}/no.sock")), 2)
    assert line.startswith(f"error: no X.509-SVID from unix://{tmp_path}/no.sock after 0 s: ")
    assert "Is the SPIRE agent running, and does an entry with this process's selectors exist?" in line


@pytest.fixture
def workload_api(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of one that gives the broker its SVID."""
    monkeypatch.setattr(bootstrap, "FOR_FIRST_SVID", timedelta(seconds=20))
    with tempfile.TemporaryDirectory(prefix="tl-") as folder:  # short enough for a Unix socket
        api = WorkloadApi(Path(folder) / "agent.sock")
        api.give(Authority().broker_svid())
        yield api.address
        api.break_streams()
        api.server.stop(0).wait()


@pytest.mark.parametrize(
    ("key", "address"),
    [("listen", "203.0.113.1:8443"), ("health_listen", "unix:/none/such/folder/health.sock")],
)
@pytest.mark.usefixtures("process_left_alone")
def test_an_address_that_cannot_be_listened_on_is_named(
    tmp_path: Path, workload_api: str, key: str, address: str
) -> None:
    text = (
        SETTINGS.replace("unix:///run/agent.sock", workload_api) + f"listen: 127.0.0.1:0\n{key}: {address}\n"
    )
    text = text.replace("listen: 127.0.0.1:0\nlisten", "listen")
    line = complaint(serve(tmp_path, text), 2)
    assert line.startswith(f"error: {key}: {address} cannot be listened on: ")


@pytest.mark.usefixtures("process_left_alone")
def test_an_svid_of_somebody_else_is_said_to_be_so(tmp_path: Path, workload_api: str) -> None:
    text = (
        SETTINGS.replace("unix:///run/agent.sock", workload_api) + "broker_id: spiffe://example.test/other\n"
    )
    line = complaint(serve(tmp_path, text), 2)
    assert line == (
        "error: SPIRE says that this process is spiffe://example.test/tasklease/broker, "
        "the configuration says spiffe://example.test/other"
    )


# What typer says --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("serve",), "--config"),
        (("serve", "--config"), "-config"),
        (("catalog", "check"), "path"),
        (("catalog", "chek"), "chek"),
        (("audit", "list", "--limit", "0"), "--limit"),
        (("audit", "list", "--limit", "many"), "--limit"),
        (("audit", "verify", "--stor", "x"), "--stor"),
        (("health",), "address"),
        (("health", "unix:x", "--timeout", "soon"), "--timeout"),
        (("dev", "logs", "-n", "many"), "-n"),
        (("nonsense",), "nonsense"),
    ],
)
def test_words_that_a_command_does_not_take_are_named(words: tuple[str, ...], said: str) -> None:
    result = tasklease(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr


def test_a_broker_that_does_not_answer_is_not_healthy(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/no.sock"
    line = complaint(tasklease("health", address, "--timeout", "2"), 1)
    assert line == f"error: no answer from {address}: UNAVAILABLE"


def test_every_command_says_what_it_is_for() -> None:
    def commands(group: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
        for name, command in group.commands.items():
            yield (*above, name)
            yield from commands(command, (*above, name)) if hasattr(command, "commands") else ()

    import typer.main

    for words in commands(typer.main.get_command(assemble())):
        result = tasklease(*words, "--help")
        assert result.exit_code == 0, words
        assert len(result.stdout.split("Usage:")[1].splitlines()) > 3, words
