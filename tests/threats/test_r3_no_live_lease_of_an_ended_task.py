"""R3: a task that ended has no live lease; while it still has one, that is visible, alarmed and retried."""

from __future__ import annotations

from broker.api.v1 import credentials_pb2, tasks_pb2
from broker.devstack import broker_process, vault
from tests.threats.world import World, until


def test_an_ended_task_issues_and_renews_nothing(world: World) -> None:
    with world.calling() as caller:
        task_id = world.declare(caller)
        lease = world.acquire(caller, task_id).lease
        assert world.complete(caller, task_id).ok
        assert world.try_acquire(caller, task_id).reason == "TASK_NOT_ACTIVE"
        renewal = caller.call(
            "RenewCredential", credentials_pb2.RenewCredentialRequest(lease_id=lease.lease_id)
        )
        assert renewal.reason in {"LEASE_NOT_LIVE", "TASK_NOT_ACTIVE"}
        beat = caller.call("Heartbeat", tasks_pb2.HeartbeatRequest(task_id=task_id))
        assert beat.reason == "TASK_NOT_ACTIVE"
    assert world.users() == set()


def test_ended_is_said_only_of_what_postgresql_refuses(world: World) -> None:
    with world.calling() as caller:
        task_id = world.declare(caller)
        held = [world.acquire(caller, task_id) for _ in range(5)]
        answer = world.complete(caller, task_id)
        assert answer.message.task.state == tasks_pb2.TASK_STATE_ENDED
        assert not any(world.lets_in(credential) for credential in held)


def test_with_vault_down_the_task_is_seen_to_be_ending_and_survives_a_restart(world: World) -> None:
    svid = world.svid()
    with world.calling(svid) as caller:
        task_id = world.declare(caller)
        credential = world.acquire(caller, task_id)
        world.stack.kill_part(vault.NAME)
        task = world.complete(caller, task_id).message.task
        assert task.state == tasks_pb2.TASK_STATE_ENDING, "it still holds a credential that works"
        assert world.lets_in(credential)
        assert [lease.state for lease in world.task(caller, task_id).leases] == [
            credentials_pb2.LEASE_STATE_REVOKING
        ]
        until(lambda: "lease.revocation-failed" in world.kinds(task_id), "in the audit trail")
        assert "NOT revoked" in world.stack.log_files([broker_process.NAME])[0].read_text()
    world.stack.kill_part(broker_process.NAME)
    world.stack.broker.launch()  # it cannot get ready while Vault is away
    world.stack.start_part(vault.NAME)
    until(lambda: not world.lets_in(credential), "revoked when Vault is back")
    world.until_ended(task_id)
    until(world.stack.broker.healthy, "ready")


def test_a_credential_that_is_issued_while_its_task_ends_is_taken_back(world: World) -> None:
    from concurrent.futures import ThreadPoolExecutor

    svid = world.svid()
    for _ in range(5):
        with (
            world.calling(svid) as caller,
            world.calling(svid) as second,
            ThreadPoolExecutor(9) as pool,
        ):
            task_id = world.declare(caller)
            acquiring = [pool.submit(world.try_acquire, caller, task_id) for _ in range(8)]
            until(lambda task_id=task_id: len(world.kinds(task_id)) > 1, "under way")  # type: ignore[misc]
            world.complete(second, task_id)
            for one in acquiring:
                answer = one.result()
                assert answer.ok or answer.reason == "TASK_NOT_ACTIVE", answer
            until(lambda task_id=task_id: world.kinds(task_id)[-1:] == ["task.ended"], "ended")  # type: ignore[misc]
            assert world.users() == set()
