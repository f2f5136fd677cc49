"""`tasklease dev`, as it is typed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from broker.devstack.stack import PARTS, DevStack


def run(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TASKLEASE_DEV_STATE": str(folder)}
    return subprocess.run(
        [sys.executable, "-m", "broker", "dev", *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def entries(stack: DevStack) -> int:
    """How many instances SPIRE knows."""
    shown = stack.spire._server("entry", "show")
    return shown.count("/agent/invoice-bot/")


def test_status_shows_each_part_and_fails_when_one_is_not_well(stack: DevStack, folder: Path) -> None:
    well = run("status", folder=folder)
    assert well.returncode == 0
    assert all(name in well.stdout for name in PARTS)
    stack.kill_part("broker")
    ill = run("status", folder=folder)
    assert ill.returncode == 1
    assert "stopped" in ill.stdout


def test_up_prints_what_an_agent_needs_and_again_says_that_all_is_up(stack: DevStack, folder: Path) -> None:
    result = run("up", folder=folder)
    assert result.returncode == 0
    assert f"export TASKLEASE_BROKER={stack.broker.address}\n" in result.stdout
    assert "broker is up already" in result.stderr


def test_where_there_is_no_stack_everything_says_so(tmp_path: Path) -> None:
    assert run("status", folder=tmp_path / "none").returncode == 1
    assert "tasklease dev up" in run("logs", folder=tmp_path / "none").stderr
    assert "tasklease dev up" in run("agent", "invoice-bot", "--", "true", folder=tmp_path / "none").stderr
    assert run("down", "--purge", folder=tmp_path / "none").returncode == 0
    assert not (tmp_path / "none").exists()


def test_logs_of_one_part(stack: DevStack, folder: Path) -> None:
    assert "Vault server" in run("logs", "vault", "-n", "1000", folder=folder).stdout
    assert run("logs", "nobody", folder=folder).returncode == 2


def test_an_agent_has_an_identity_while_its_command_runs(stack: DevStack, folder: Path) -> None:
    spire_agent = stack.find_parts()["spire-agent"]
    script = f"{spire_agent} api fetch x509 -socketPath ${{SPIFFE_ENDPOINT_SOCKET#unix://}}; exit 7"
    result = run("agent", "--name", "bob", "invoice-bot", "--", "sh", "-c", script, folder=folder)
    assert result.returncode == 7
    assert "spiffe://dev.tasklease.test/agent/invoice-bot/bob" in result.stdout
    assert entries(stack) == 0


def start_agent(folder: Path, name: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "TASKLEASE_DEV_STATE": str(folder)}
    process = subprocess.Popen(
        [sys.executable, "-m", "broker", "dev", "agent", "--name", name, "invoice-bot", "--",
         "sh", "-c", "echo running; exec sleep 300"],
        env=environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    return process


def test_a_signal_reaches_the_command_and_the_entry_goes(stack: DevStack, folder: Path) -> None:
    with start_agent(folder, "signalled") as process:
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
    assert entries(stack) == 0


def test_a_signal_before_the_command_started_leaves_no_entry(stack: DevStack, folder: Path) -> None:
    environment = {**os.environ, "TASKLEASE_DEV_STATE": str(folder)}
    for wait in (0.8, 1.1, 1.3, 1.6):
        with subprocess.Popen(
            [sys.executable, "-m", "broker", "dev", "agent", "invoice-bot", "--", "sleep", "300"],
            env=environment,
            stderr=subprocess.DEVNULL,
        ) as process:
            time.sleep(wait)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) != 0
    assert entries(stack) == 0


def test_two_instances_of_one_name_are_refused(stack: DevStack, folder: Path) -> None:
    with start_agent(folder, "twin") as process:
        second = run("agent", "--name", "twin", "invoice-bot", "--", "true", folder=folder)
        assert second.returncode == 1
        assert "runs already" in second.stderr
        process.send_signal(signal.SIGTERM)
    assert entries(stack) == 0


def test_the_entry_of_a_killed_starter_is_deleted_by_the_next(stack: DevStack, folder: Path) -> None:
    with start_agent(folder, "orphan") as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.kill()
        process.wait()
        assert entries(stack) == 1
        stack.up()
        assert entries(stack) == 0
        for child in children:  # the command itself: nobody is left to end it
            os.kill(int(child), signal.SIGKILL)
