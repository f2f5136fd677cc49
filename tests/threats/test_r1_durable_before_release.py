"""R1: no credential leaves before its decision, its intent and its Vault lease id are durable."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from broker.demo.callers import Answer
from tests.threats.world import World, until


class Stopped:
    """A broker that stands still at a step."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def wait(self) -> None:
        until((self._folder / "reached").exists, "at the step")

    def go_on(self) -> None:
        (self._folder / "go").touch()


StoppedAt = Callable[[str], AbstractContextManager[Stopped]]


@pytest.fixture
def stopped_at(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StoppedAt]:
    @contextmanager
    def stopped_at(step: str) -> Iterator[Stopped]:
        folder = tmp_path / step
        folder.mkdir()
        monkeypatch.setenv("STEP_AT", step)
        monkeypatch.setenv("STEP_FOLDER", str(folder))
        world.stack.stop_part("broker")
        world.stack.broker.start(module="tests.threats.stepped_broker")
        try:
            yield Stopped(folder)
        finally:
            (folder / "go").touch()

    yield stopped_at
    world.stack.stop_part("broker")


@contextmanager
def acquiring(world: World) -> Iterator[tuple[str, Future[Answer]]]:
    """An acquire that is under way: its task, and its answer when there is one."""
    svid = world.svid()
    with world.calling(svid) as caller, ThreadPoolExecutor(1) as pool:
        task_id = world.declare(caller)
        with world.alive(svid, task_id):
            yield task_id, pool.submit(world.try_acquire, caller, task_id)


def test_decision_and_intent_are_durable_before_vault_is_asked(world: World, stopped_at: StoppedAt) -> None:
    with stopped_at("acquire.intent-durable") as broker, acquiring(world) as (task_id, answer):
        broker.wait()
        assert world.rows("SELECT state FROM leases WHERE task_id = ?", task_id) == [("intended",)]
        assert world.kinds(task_id) == ["task.declared", "credential.intended"]
        assert world.users() == set()
        broker.go_on()
        assert answer.result().ok


def test_lease_id_and_audit_record_are_durable_before_the_secret_leaves(
    world: World, stopped_at: StoppedAt
) -> None:
    with stopped_at("acquire.issued-durable") as broker, acquiring(world) as (task_id, answer):
        broker.wait()
        ((state, vault_lease_id),) = world.rows(
            "SELECT state, vault_lease_id FROM leases WHERE task_id = ?", task_id
        )
        assert state == "live"
        assert vault_lease_id.startswith("database/creds/orders-readonly/")
        assert world.kinds(task_id) == ["task.declared", "credential.intended", "credential.issued"]
        assert not answer.done()
        broker.go_on()
        assert answer.result().ok


def test_with_the_store_away_nothing_is_issued(world: World) -> None:
    with world.calling() as caller:
        task_id = world.declare(caller)
        with world.store_unavailable():
            answer = world.try_acquire(caller, task_id)
        assert (answer.code.name, answer.reason) == ("UNAVAILABLE", "STORE_UNAVAILABLE")
        assert world.rows("SELECT * FROM leases WHERE task_id = ?", task_id) == []
        assert world.users() == set()


def test_what_vault_made_is_taken_back_when_it_cannot_be_recorded(
    world: World, stopped_at: StoppedAt
) -> None:
    with stopped_at("acquire.vault-issued") as broker, acquiring(world) as (task_id, answer):
        broker.wait()
        assert len(world.users()) == 1
        with world.store_unavailable():
            broker.go_on()
            result = answer.result()
            assert (result.code.name, result.reason) == ("UNAVAILABLE", "STORE_UNAVAILABLE")
            until(lambda: not world.users(), "taken back, with the store still away")
        until(
            lambda: world.rows("SELECT state FROM leases WHERE task_id = ?", task_id) == [("revoked",)],
            "recorded when the store is back",
        )


def test_a_denial_that_cannot_be_audited_is_no_permission(world: World) -> None:
    with world.calling() as caller:
        task_id = world.declare(caller)
        with world.store_unavailable():
            answer = world.try_acquire(caller, task_id, role="orders-admin")
        assert not answer.ok
        assert world.users() == set()
