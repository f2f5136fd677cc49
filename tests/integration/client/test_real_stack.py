"""The SDK and `tasklease exec` as instances of the real stack: SPIRE, Vault, PostgreSQL, the broker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from broker.devstack.parts import REPOSITORY
from broker.devstack.stack import DevStack
from tests.threats.world import wants_heartbeats

AGENT = [sys.executable, "-m", "tests.integration.client.agents"]
EXEC = [
    sys.executable,
    "-m",
    "broker",
    "exec",
    "--task",
    "reconcile-invoices",
    "--role",
    "orders-readonly",
    "--",
]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevStack]:
    stack = DevStack(tmp_path_factory.mktemp("sdk") / "dev", say=print)
    try:
        stack.up()
        # The heartbeat is missed soon, so that the tests need not wait for long.
        wants_heartbeats(stack, "1s")
        stack.stop_part("broker")
        stack.up()
        yield stack
    finally:
        stack.down(purge=True)


@contextmanager
def agent(
    stack: DevStack, command: list[str], *, svid_ttl: timedelta = timedelta(minutes=10), identity: bool = True
) -> Iterator[subprocess.Popen[str]]:
    """The command as an instance of its own."""
    entry = stack.spire.register_instance("invoice-bot", f"test-{time.monotonic_ns()}", x509_ttl=svid_ttl)
    try:
        stack.spire.wait_for_identity(entry)
        with subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env={**os.environ, **stack.agent_environment()},
            extra_groups=[*os.getgroups(), entry.group] if identity else os.getgroups(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()
    finally:
        stack.spire.deregister(entry)


def said(process: subprocess.Popen[str], *, answer: str = "") -> list[str]:
    out, err = process.communicate(answer, timeout=90)
    assert process.returncode == 0, err
    assert err == ""
    return out.splitlines()


def test_a_credentials_life(stack: DevStack) -> None:
    with agent(stack, [*AGENT, "life"]) as process:
        assert said(process) == [
            "orders 250",
            "early refused True",
            "orders 250",
            "extended True",
            "state ENDED refused True revoked True",
        ]


def test_the_twin_that_blocks(stack: DevStack) -> None:
    with agent(stack, [*AGENT, "blocking"]) as process:
        assert said(process) == [
            "orders 250",
            "refused True",
            "Denied TASK_TYPE_NOT_ALLOWED structural True",
        ]


def test_the_deadline_reaches_the_body_and_postgresql(stack: DevStack) -> None:
    with agent(stack, [*AGENT, "watch"]) as process:
        assert said(process) == ["orders 250", "ended DEADLINE", "refused"]


def test_a_task_outlives_a_restart_of_the_broker(stack: DevStack) -> None:
    with agent(stack, [*AGENT, "restart"]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        stack.kill_part("broker")
        stack.start_part("broker")
        out, err = process.communicate("go on\n", timeout=60)
        assert (process.returncode, out) == (0, "orders 250 250\n"), err


def test_a_task_outlives_its_first_svid(stack: DevStack) -> None:
    with agent(stack, [*AGENT, "rotate"], svid_ttl=timedelta(seconds=10)) as process:
        rotated, orders = said(process)
        assert rotated == "rotated 3"
        assert orders == "orders 250 ended False"


def test_a_process_without_an_entry_is_told_what_to_check(stack: DevStack) -> None:
    with agent(stack, [*AGENT, "nobody"], identity=False) as process:
        (line,) = said(process)
    assert "no identity issued" in line
    assert "registered as an agent instance" in line


def test_exec_gives_psql_a_credential_that_works_and_then_is_gone(stack: DevStack) -> None:
    script = 'psql -d orders -Atc "SELECT count(*) FROM orders"; echo "$PGUSER $PGPASSWORD"; exit 3'
    with agent(stack, [*EXEC, "sh", "-c", script]) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (3, "")
    count, login = out.splitlines()
    assert count == "250"
    with pytest.raises(psycopg.OperationalError, match=r"authentication failed|does not exist"):
        psycopg.connect(stack.postgres.dsn(*login.split()))


def test_a_killed_exec_is_missed_and_its_credential_taken_back(stack: DevStack, tmp_path: Path) -> None:
    login = tmp_path / "login"
    script = f'echo "$PGUSER $PGPASSWORD" >{login}.new; mv {login}.new {login}; exec sleep 60'
    with agent(stack, [*EXEC, "sh", "-c", script]) as process:
        end = time.monotonic() + 20
        while not login.exists() and time.monotonic() < end:
            time.sleep(0.05)
        dsn = stack.postgres.dsn(*login.read_text().split())
        psycopg.connect(dsn).close()
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed = time.monotonic()
        while time.monotonic() - killed < 20:
            try:
                psycopg.connect(dsn).close()
            except psycopg.OperationalError:
                break
            time.sleep(0.1)
        else:
            pytest.fail("the credential of a killed exec is still accepted")
        assert time.monotonic() - killed < 6  # three heartbeats of 1 s, and what it takes to look
