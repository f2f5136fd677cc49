"""The stack comes up whatever happened before, and goes away without a trace."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from broker.devstack import spire
from broker.devstack.stack import PARTS, DevStack, StackError
from broker.devstack.state import State


def pids(stack: DevStack) -> dict[str, int | None]:
    return {part.name: part.pid for part in stack.status()}


def assert_well(stack: DevStack) -> None:
    assert {part.name: part.healthy for part in stack.status()} == dict.fromkeys(PARTS, True)


def ports_that_listen(stack: DevStack) -> list[str]:
    listening = []
    for name, port in stack.state.read()["ports"].items():
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                listening.append(name)
    return listening


def of_this_stack(folder: Path) -> list[int]:
    """Processes that were started with the folder in their command or environment, found without the stack's help."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                text = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            except OSError:
                continue
            if f"{folder}/".encode() in text:
                found.append(int(process.name))
    return found


def test_everything_is_healthy_and_up_again_changes_nothing(stack: DevStack) -> None:
    assert_well(stack)
    before = pids(stack)
    stack.up()
    assert pids(stack) == before


def test_the_sample_database_has_its_rows(stack: DevStack) -> None:
    with psycopg.connect(stack.postgres.admin_dsn) as connection:
        assert connection.execute("SELECT count(*) FROM orders").fetchone() == (250,)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_was_killed_is_up_again_and_the_others_were_left_alone(
    stack: DevStack, part: str
) -> None:
    before = pids(stack)
    stack.kill_part(part)
    assert pids(stack)[part] is None
    stack.up()
    assert_well(stack)
    after = pids(stack)
    assert after[part] != before[part]
    assert {name: pid for name, pid in after.items() if name != part} == {
        name: pid for name, pid in before.items() if name != part
    }


def test_all_parts_killed_at_once_are_up_again_with_their_data(stack: DevStack) -> None:
    with psycopg.connect(stack.postgres.admin_dsn) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept AS SELECT 1 AS n")
    stack.vault.admin().write_data(
        "sys/policy/kept", data={"policy": 'path "none" { capabilities = ["deny"] }'}
    )
    for part in PARTS:
        stack.kill_part(part)
    stack.up()
    assert_well(stack)
    with psycopg.connect(stack.postgres.admin_dsn) as connection:
        assert connection.execute("SELECT n FROM kept").fetchone() == (1,)
    assert "kept" in stack.vault.admin().sys.list_policies()["data"]["policies"]


def test_a_part_that_hangs_is_started_anew(stack: DevStack) -> None:
    before = pids(stack)[spire.OIDC]
    assert before is not None
    os.kill(before, signal.SIGSTOP)
    stack.up()
    assert_well(stack)
    assert pids(stack)[spire.OIDC] != before


def test_a_sealed_vault_is_unsealed(stack: DevStack) -> None:
    stack.vault.admin().sys.seal()
    assert [part.name for part in stack.status() if not part.healthy].count("vault") == 1
    stack.up()
    assert_well(stack)


def test_processes_whose_records_were_lost_are_found_and_not_doubled(stack: DevStack, folder: Path) -> None:
    before = pids(stack)
    processes = set(of_this_stack(folder))
    assert set(before.values()) <= processes
    for record in stack.state.run.glob("*.pid.json"):
        record.unlink()
    DevStack(folder).up()
    assert_well(stack)
    # Started anew, since nobody knows with which settings they were started; none of the old ones is left.
    assert not set(before.values()) & set(of_this_stack(folder))
    assert len(of_this_stack(folder)) <= len(processes)


def test_ports_that_others_took_meanwhile_are_changed_and_everything_follows(stack: DevStack) -> None:
    stack.down()
    ports = stack.state.read()["ports"]
    with (
        socket.create_server(("127.0.0.1", ports["postgres"])),
        socket.create_server(("127.0.0.1", ports["vault"])),
    ):
        stack.up()
    assert_well(stack)
    after = stack.state.read()["ports"]
    assert after["postgres"] != ports["postgres"]
    assert after["vault"] != ports["vault"]
    # Vault reaches the database at its new place, and the catalog names it.
    credential = stack.vault.admin().read("database/creds/orders-readonly")["data"]
    with psycopg.connect(stack.postgres.dsn(credential["username"], credential["password"])) as connection:
        assert connection.execute("SELECT count(*) FROM orders").fetchone() == (250,)
    assert f"port: {after['postgres']}" in (stack.broker.catalog / "invoices.yaml").read_text()


def test_a_catalog_that_the_user_changed_is_left_alone(stack: DevStack) -> None:
    file = stack.broker.catalog / "invoices.yaml"
    original = file.read_text()
    try:
        file.write_text(original + "# mine\n")
        stack.up()
        assert file.read_text().endswith("# mine\n")
    finally:
        file.write_text(original)


def test_a_vault_whose_key_was_lost_is_made_anew(stack: DevStack) -> None:
    (stack.state.secrets / "vault-init.json").unlink()
    stack.kill_part("vault")
    stack.up()
    assert_well(stack)


def test_the_broker_and_its_configuration_never_see_the_token_of_the_administrator(stack: DevStack) -> None:
    token = stack.vault.admin_token_file.read_text().encode()
    broker = pids(stack)["broker"]
    process = Path(f"/proc/{broker}")
    assert token not in (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
    for file in stack.broker.folder.rglob("*"):
        if file.is_file():
            assert token not in file.read_bytes(), file
    for log in stack.state.run.glob("*.log"):
        assert token not in log.read_bytes(), log


def up_in_a_process(folder: Path) -> subprocess.Popen[bytes]:
    code = "import sys; from pathlib import Path; from broker.devstack.stack import DevStack; DevStack(Path(sys.argv[1])).up()"
    return subprocess.Popen([sys.executable, "-c", code, str(folder)])


@pytest.mark.parametrize("after", [0.7, 1.1, 1.5, 1.9, 2.3])
def test_an_up_that_was_killed_halfway_is_completed_by_the_next(tmp_path: Path, after: float) -> None:
    folder = tmp_path / "dev"
    stack = DevStack(folder)
    try:
        with up_in_a_process(folder) as half:
            time.sleep(after)
            half.kill()
        stack.up()
        assert_well(stack)
    finally:
        stack.down(purge=True)
    assert of_this_stack(folder) == []


def test_two_ups_at_the_same_time_make_one_stack(tmp_path: Path) -> None:
    folder = tmp_path / "dev"
    stack = DevStack(folder)
    try:
        with up_in_a_process(folder) as first, up_in_a_process(folder) as second:
            assert (first.wait(120), second.wait(120)) == (0, 0)
        assert_well(stack)
    finally:
        stack.down(purge=True)
    assert of_this_stack(folder) == []


def test_a_second_stack_beside_the_first_disturbs_nothing(stack: DevStack, tmp_path: Path) -> None:
    before = pids(stack)
    other = DevStack(tmp_path / "other")
    try:
        other.up(with_broker=False)
        assert {part.name for part in other.status() if part.healthy} == set(PARTS) - {"broker"}
    finally:
        other.down(purge=True)
    assert pids(stack) == before
    assert_well(stack)


def test_down_leaves_no_process_and_no_listening_port_and_purge_no_file(tmp_path: Path) -> None:
    folder = tmp_path / "dev"
    stack = DevStack(folder)
    stack.up()
    assert ports_that_listen(stack)
    stack.down()
    assert of_this_stack(folder) == []
    assert ports_that_listen(stack) == []
    stack.down()
    stack.down(purge=True)
    assert not folder.exists()
    assert not stack.state.aside.exists()
    stack.down(purge=True)


def test_purge_deletes_no_folder_that_is_not_a_stacks(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(StackError, match="is not the state folder of a stack"):
        DevStack(tmp_path).down(purge=True)
    assert (tmp_path / "letter.txt").read_text() == "dear"


def test_looking_and_stopping_need_no_binaries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        pytest.fail("looked for binaries")

    monkeypatch.setattr("broker.devstack.parts.find", never)
    monkeypatch.setattr("broker.devstack.parts.find_postgres", never)
    state = State(tmp_path / "dev")
    state.make()
    with state.locked(), state.changing():
        pass
    stack = DevStack(tmp_path / "dev")
    assert not any(part.healthy for part in stack.status())
    stack.down(purge=True)
