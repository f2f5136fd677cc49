"""Who a process is says SPIRE, from what the kernel says of it; and the broker's SVID is never an old one."""

from __future__ import annotations

import json
import os
import queue
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509

from broker.adapters.spire.identity import TrustBundle
from broker.adapters.spire.verifier import SvidVerifier
from broker.adapters.system.clock import SystemClock
from broker.devstack.parts import REPOSITORY
from broker.devstack.spire import BROKER_DNS_NAME, Entry
from broker.devstack.stack import DevStack
from broker.devstack.state import BROKER_GROUP, BROKER_ID, NODE_ID, TRUST_DOMAIN
from broker.domain.spiffe import SpiffeId

SHORT = 10


class Workload:
    """A process of `workloads`, and what it says."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            self._lines.put(line)
        self._lines.put("")

    def hears(self, *, within: float = 30) -> Any:
        """The next thing that it says."""
        line = self._lines.get(timeout=within)
        assert line, "it ended"
        return json.loads(line)

    def asks(self) -> Any:
        """Have it ask the Workload API now."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self.hears()


@contextmanager
def workload(stack: DevStack, name: str, *, groups: Sequence[int] = ()) -> Iterator[Workload]:
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.integration.spire.workloads",
            name,
            f"unix://{stack.spire.agent_socket}",
        ],
        cwd=REPOSITORY,
        extra_groups=[*os.getgroups(), *groups],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Workload(process)
        finally:
            process.kill()


@contextmanager
def instance(stack: DevStack, name: str) -> Iterator[Entry]:
    entry = stack.spire.register_instance("invoice-bot", name)
    try:
        stack.spire.wait_for_identity(entry)
        yield entry
    finally:
        stack.spire.deregister(entry)


class NobodyIsQuarantined:
    def holds(self, _spiffe_id: SpiffeId) -> bool:
        return False


def bundle_pem(stack: DevStack) -> str:
    return stack.spire._server("bundle", "show", "-format", "pem")


def verifier(stack: DevStack) -> SvidVerifier:
    authorities = tuple(x509.load_pem_x509_certificates(bundle_pem(stack).encode()))
    bundle = TrustBundle(trust_domain=TRUST_DOMAIN, authorities=authorities, digest="")
    return SvidVerifier(
        bundle_of={TRUST_DOMAIN: bundle}.get, quarantine=NobodyIsQuarantined(), clock=SystemClock()
    )


def test_two_processes_of_one_class_are_two_instances_to_spire_and_to_the_verifier(stack: DevStack) -> None:
    with (
        instance(stack, "one") as one,
        instance(stack, "two") as two,
        workload(stack, "asker", groups=[one.group]) as first,
        workload(stack, "asker", groups=[two.group]) as second,
    ):
        answers = [first.asks(), second.asks()]
    assert [answer["names"] for answer in answers] == [[one.spiffe_id], [two.spiffe_id]]
    peers = []
    for answer in answers:
        ((leaf, *intermediates),) = answer["chains"]
        peers.append(verifier(stack).verify(leaf.encode(), [item.encode() for item in intermediates]))
    assert [(peer.agent_class, peer.instance) for peer in peers] == [
        ("invoice-bot", "one"),
        ("invoice-bot", "two"),
    ]


def test_a_process_that_is_not_registered_has_no_identity_beside_one_that_is(stack: DevStack) -> None:
    with (
        instance(stack, "registered") as entry,
        workload(stack, "asker", groups=[entry.group]) as registered,
        workload(stack, "asker") as stranger,
        workload(stack, "asker", groups=[entry.group + 1]) as neighbour,
    ):
        assert registered.asks()["names"] == [entry.spiffe_id]
        for other in (stranger, neighbour):
            assert "no identity issued" in other.asks()["refused"]


def test_an_instance_whose_entry_is_deleted_gets_nothing_more_while_it_runs(stack: DevStack) -> None:
    entry = stack.spire.register_instance("invoice-bot", "short-lived")
    stack.spire.wait_for_identity(entry)
    with workload(stack, "asker", groups=[entry.group]) as process:
        assert process.asks()["names"] == [entry.spiffe_id]
        stack.spire.deregister(entry)
        end = time.monotonic() + 20
        while "names" in (answer := process.asks()):
            assert time.monotonic() < end, "the agent goes on"
            time.sleep(0.1)
        assert "no identity issued" in answer["refused"]


def test_the_brokers_identity_outlives_its_agent(stack: DevStack) -> None:
    entry = stack.spire.register_broker()
    stack.spire.wait_for_identity(entry)
    with workload(stack, "broker", groups=[BROKER_GROUP]) as broker:
        assert broker.hears() == {"jwt": BROKER_ID}
        before = broker.hears()
        stack.kill_part("spire-agent")
        stack.start_part("spire-agent")
        after = broker.hears(within=60)
    assert after["serial"] != before["serial"]
    assert after["version"] > before["version"]


# The broker's SVID -----------------------------------------------------------------------------------------


def set_ttl(stack: DevStack, seconds: int) -> None:
    stack.spire._server(
        "entry", "update", "-entryID", stack.spire.register_broker().entry_id, "-parentID", NODE_ID,
        "-spiffeID", BROKER_ID, "-selector", f"unix:supplementary_gid:{BROKER_GROUP}",
        "-dns", BROKER_DNS_NAME, "-x509SVIDTTL", str(seconds),
    )  # fmt: skip


def served(stack: DevStack, bundle: str) -> x509.Certificate:
    """What the broker shows to a new connection; it chains to SPIRE's authority and bears the broker's DNS name."""
    context = ssl.create_default_context(cadata=bundle)
    host, port = stack.broker.address.split(":")
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=BROKER_DNS_NAME) as connection,
    ):
        leaf = connection.getpeercert(binary_form=True)
    assert leaf is not None
    return x509.load_der_x509_certificate(leaf)


def names(leaf: x509.Certificate) -> list[str]:
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def test_the_broker_shows_a_new_svid_before_the_old_one_ends_and_needs_no_restart(stack: DevStack) -> None:
    pid = {part.name: part.pid for part in stack.status()}["broker"]
    bundle = bundle_pem(stack)
    set_ttl(stack, SHORT)
    try:
        shown: dict[int, x509.Certificate] = {}
        end = time.monotonic() + 90
        while len(shown) < 5 and time.monotonic() < end:
            leaf = served(stack, bundle)
            assert datetime.now(UTC) < leaf.not_valid_after_utc
            shown[leaf.serial_number] = leaf
            time.sleep(0.1)
        first, *_others, last = shown.values()
        lifetimes = [leaf.not_valid_after_utc - leaf.not_valid_before_utc for leaf in shown.values()]
        assert len(shown) == 5
        assert all(names(leaf) == [BROKER_ID] for leaf in shown.values())
        assert last.not_valid_before_utc > first.not_valid_before_utc
        # The first may be from before; SPIRE dates an SVID back by ten seconds.
        assert all(lifetime <= timedelta(seconds=SHORT + 10) for lifetime in lifetimes[1:])
        assert stack.broker.healthy()
        assert {part.name: part.pid for part in stack.status()}["broker"] == pid
        # What it got first under the short life has ended; whoever comes now is served.
        second = list(shown.values())[1]
        while datetime.now(UTC) < second.not_valid_after_utc:
            time.sleep(0.1)
        code = stack.instances.run(
            "invoice-bot",
            [sys.executable, "-m", "tests.integration.client.agents", "life"],
            environment={**os.environ, **stack.agent_environment(), "PYTHONPATH": str(REPOSITORY)},
        )
        assert code == 0
    finally:
        set_ttl(stack, 600)


@pytest.mark.parametrize("part", ["spire-agent", "spire-server"])
def test_while_spire_is_away_the_broker_goes_on_with_the_svid_that_it_has(stack: DevStack, part: str) -> None:
    bundle = bundle_pem(stack)
    stack.kill_part(part)
    try:
        assert names(served(stack, bundle)) == [BROKER_ID]
        assert stack.broker.healthy()
    finally:
        stack.start_part(part)
