"""An instance that was launched, and the broker: what it held is gone when it has ended, whatever way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from broker.devstack.stack import DevStack
from broker.devstack.state import NODE_ID, TRUST_DOMAIN
from tests.integration.launching.node import Node, eventually

REGISTRAR_GROUP = 66001
AGENT = """
import sys
from broker.client import SyncBroker
with SyncBroker.connect() as broker, broker.task("reconcile-invoices", intent="launched") as task:
    credential = task.acquire("orders-readonly")
    print(task.task_id, credential.dsn("orders"), flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevStack]:
    stack = DevStack(tmp_path_factory.mktemp("launching") / "whole", say=print)
    try:
        stack.up()
        stack.spire._server(
            *(
                "entry",
                "create",
                "-parentID",
                NODE_ID,
                "-spiffeID",
                f"spiffe://{TRUST_DOMAIN}/registrar/node",
            ),
            *("-selector", f"unix:supplementary_gid:{REGISTRAR_GROUP}"),
        )
        yield stack
    finally:
        stack.down(purge=True)


@pytest.fixture
def node(whole: DevStack, tmp_path: Path) -> Node:
    node = Node(whole, tmp_path)
    node.write(unix=", user: root")  # the Python of a virtual environment may be root's alone
    node.catalog.write_text(node.catalog.read_text().replace("  bot:", "  invoice-bot:"))
    return node


class Agent:
    """A launched agent that holds a credential."""

    def __init__(self, node: Node) -> None:
        options = ["--broker", node.stack.broker.address]
        words = node.command(sys.executable, "-c", AGENT, options=options, agent_class="invoice-bot")
        self.process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            extra_groups=[*os.getgroups(), REGISTRAR_GROUP],
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            _, errors = self.process.communicate()
            raise AssertionError(errors)
        self.task_id, self.dsn = line.strip().split(" ", 1)

    def lets_in(self) -> bool:
        try:
            with psycopg.connect(self.dsn, connect_timeout=10) as connection:
                return connection.execute("SELECT 1").fetchone() == (1,)
        except psycopg.OperationalError:
            return False

    def end(self, *, by: signal.Signals | None) -> str:
        """How the launch ended, and what it said."""
        if by is not None:
            self.process.send_signal(by)
            self.process.wait(60)  # before its input is closed: it would take that for its end, and complete
        _, errors = self.process.communicate(timeout=60)
        return errors


def cause(node: Node, agent: Agent) -> str | None:
    rows = subprocess.run(
        [
            sys.executable,
            "-m",
            "broker",
            "audit",
            "list",
            "--config",
            str(node.stack.broker.config_file),
            "--json",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    found = [row for row in rows if '"task.ending"' in row and agent.task_id in row]
    return found[0] if found else None


def test_what_it_held_is_refused_when_its_launcher_was_killed(node: Node) -> None:
    agent = Agent(node)
    assert agent.lets_in()
    agent.end(by=signal.SIGKILL)
    eventually(lambda: not agent.lets_in())
    eventually(node.is_clean)
    row = cause(node, agent)
    assert row is not None
    assert "instance-gone" in row
    assert "spiffe://dev.tasklease.test/registrar/node" in row


def test_what_it_held_is_refused_when_it_completed(node: Node) -> None:
    agent = Agent(node)
    assert agent.lets_in()
    errors = agent.end(by=None)
    assert agent.process.returncode == 0, errors
    assert not agent.lets_in()
    assert node.is_clean()


def test_a_broker_that_does_not_answer_delays_no_end_and_is_said(node: Node, whole: DevStack) -> None:
    agent = Agent(node)
    whole.stop_part("broker")
    try:
        errors = agent.end(by=signal.SIGTERM)
        assert "is not reported" in errors
        assert node.is_clean()
    finally:
        whole.start_part("broker")
