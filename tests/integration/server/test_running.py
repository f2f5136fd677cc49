"""A broker among its real parts: it stops, its parts go and come, its identity and its catalog change."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue

import grpc
import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from broker.api.v1 import tasks_pb2
from broker.client import Svid
from broker.demo.callers import Answer, attempt
from broker.devstack.state import BROKER_ID
from tests.integration.server.conftest import SVID_TTL
from tests.threats.world import World, until


def pid_of(world: World, part: str = "broker") -> int:
    running = world.stack._processes.running(part)
    assert running is not None
    return running.pid


def log_of(world: World) -> str:
    (file,) = world.stack.log_files(["broker"])
    return file.read_text()


@contextmanager
def channel(world: World, svid: Svid) -> Iterator[grpc.Channel]:
    """A bare connection, for the services that are not the broker's own."""
    credentials = grpc.ssl_channel_credentials(svid.authorities, svid.key, svid.chain)
    options = [("grpc.ssl_target_name_override", "tasklease-broker"), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(world.stack.broker.address, credentials, options) as channel:
        yield channel


@contextmanager
def standing_still(world: World, part: str) -> Iterator[None]:
    """A part that takes connections and answers nothing."""
    pid = pid_of(world, part)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def in_background(call: Queue[Answer], world: World, svid: Svid, task_id: str) -> threading.Thread:
    def acquire() -> None:
        with world.calling(svid) as caller:
            call.put(world.try_acquire(caller, task_id))

    thread = threading.Thread(target=acquire)
    thread.start()
    return thread


# Stopping ---------------------------------------------------------------------------------------------------


def test_a_graceful_stop_finishes_the_call_under_way_and_ends_the_streams(world: World) -> None:
    svid = world.svid()
    pid, answers = pid_of(world), Queue[Answer]()
    with world.calling(svid) as caller:
        task_id = world.declare(caller)
        stream = caller.stream("AttachTask", tasks_pb2.AttachTaskRequest(task_id=task_id), timeout=60)
        assert next(stream).kind == tasks_pb2.AttachTaskResponse.KIND_ATTACHED
        with standing_still(world, "vault"):
            acquiring = in_background(answers, world, svid, task_id)
            until(lambda: "credential.intended" in world.kinds(task_id), "Vault is asked")
            os.kill(pid, signal.SIGTERM)
            ended = attempt(lambda: [*stream][-1])  # what the stream ends with
            assert (ended.code, ended.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
            assert world.stack.is_running("broker")
            with pytest.raises(Empty):
                answers.get_nowait()
        answer = answers.get(timeout=20)
        acquiring.join()
        refused = caller.knock()
    assert answer.ok, answer
    assert world.lets_in(answer.message)
    assert refused.code is grpc.StatusCode.UNAVAILABLE
    until(lambda: not world.stack.is_running("broker"), "the broker has stopped", patience=15)
    assert world.kinds(task_id)[-1] == "credential.issued"
    assert "stopped" in log_of(world).splitlines()[-1]


def test_what_a_stopped_broker_handed_out_is_taken_over_by_the_next(world: World) -> None:
    svid = world.svid()
    with world.calling(svid) as caller:
        task_id = world.declare(caller)
        credential = world.acquire(caller, task_id)
    world.stack.stop_part("broker")
    assert world.lets_in(credential)
    world.stack.start_part("broker")
    with world.calling(svid) as caller:
        assert world.complete(caller, task_id).ok
    assert not world.lets_in(credential)


# Health and reflection --------------------------------------------------------------------------------------


def test_health_answers_on_both_doors(world: World) -> None:
    command = [sys.executable, "-m", "broker", "health", world.stack.broker.health_address]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (result.returncode, result.stdout) == (0, "SERVING\n")
    with channel(world, world.svid()) as connection:
        stub = health_pb2_grpc.HealthStub(connection)
        for service in ("", "broker.api.v1.TaskService", "broker.api.v1.CredentialService"):
            request = health_pb2.HealthCheckRequest(service=service)
            assert stub.Check(request, timeout=5).status == health_pb2.HealthCheckResponse.SERVING
            watching = stub.Watch(request, timeout=5)
            assert next(watching).status == health_pb2.HealthCheckResponse.SERVING
            watching.cancel()


def test_reflection_answers_who_has_an_svid(world: World) -> None:
    with channel(world, world.svid()) as connection:
        stub = reflection_pb2_grpc.ServerReflectionStub(connection)
        ask = reflection_pb2.ServerReflectionRequest(list_services="")
        (answer,) = stub.ServerReflectionInfo(iter([ask]), timeout=5)
    names = {service.name for service in answer.list_services_response.service}
    assert {"broker.api.v1.TaskService", "broker.api.v1.CredentialService"} <= names


# Vault ------------------------------------------------------------------------------------------------------


def test_a_vault_that_was_killed_is_said_to_be_away_and_needs_no_restart_of_the_broker(world: World) -> None:
    svid, pid = world.svid(), pid_of(world)
    with world.calling(svid) as caller, world.alive(svid, task_id := world.declare(caller)):
        before = world.acquire(caller, task_id)
        world.stack.kill_part("vault")
        began = time.monotonic()
        away = world.try_acquire(caller, task_id)
        assert (away.code, away.reason) == (grpc.StatusCode.UNAVAILABLE, "CREDENTIAL_BACKEND_UNAVAILABLE")
        assert time.monotonic() - began < 15
        assert world.try_declare(caller).reason == "CREDENTIAL_BACKEND_UNAVAILABLE"
        assert caller.knock().ok  # what needs no Vault goes on
        world.stack.start_part("vault")
        until(lambda: world.try_acquire(caller, task_id).ok, "credentials are handed out again")
        assert world.try_declare(caller).ok
        assert world.complete(caller, task_id).ok
        # What a Vault that was just unsealing was asked for is in doubt, which takes a few seconds more.
        ended = tasks_pb2.TASK_STATE_ENDED
        until(lambda: world.task(caller, task_id).state == ended, "nothing is held any more")
    assert not world.lets_in(before)
    assert pid_of(world) == pid


# SPIRE ------------------------------------------------------------------------------------------------------


def served_certificate(world: World, svid: Svid, folder: Path) -> x509.Certificate:
    """What the broker shows to a new connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=svid.authorities.decode())
    (folder / "chain.pem").write_bytes(svid.chain)
    (folder / "key.pem").write_bytes(svid.key)
    context.load_cert_chain(folder / "chain.pem", folder / "key.pem")
    context.set_alpn_protocols(["h2"])
    host, _, port = world.stack.broker.address.rpartition(":")
    with socket.create_connection((host, int(port)), 5) as bare, context.wrap_socket(bare) as wrapped:
        shown = wrapped.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown)


def test_the_brokers_own_svid_rotates_without_a_restart_and_nobody_notices(
    world: World, tmp_path: Path
) -> None:
    svid, pid = world.svid(), pid_of(world)
    first = served_certificate(world, svid, tmp_path)
    lifetime = first.not_valid_after_utc - first.not_valid_before_utc
    assert lifetime < 3 * SVID_TTL
    seen = {first.serial_number}

    def rotated() -> bool:
        shown = served_certificate(world, svid, tmp_path)
        seen.add(shown.serial_number)
        names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.UniformResourceIdentifier) == [BROKER_ID]
        return len(seen) >= 3 and shown.not_valid_before_utc > first.not_valid_after_utc

    with world.calling(svid) as old, world.alive(svid, task_id := world.declare(old)):
        until(rotated, "the first SVID has expired and two more were shown", patience=90)
        assert world.acquire(old, task_id).secret  # on the connection from before
        with world.calling(svid) as new:
            assert world.acquire(new, task_id).secret
            assert world.complete(new, task_id).ok
    assert pid_of(world) == pid
    assert world.stack.broker.healthy()


# The catalog ------------------------------------------------------------------------------------------------


def test_a_changed_catalog_is_taken_up_and_a_bad_one_is_not(world: World, catalog: Path) -> None:
    svid, pid, good = world.svid(), pid_of(world), catalog.read_text()
    wider = good.replace(
        "  reconcile-invoices:\n",
        "  other-work: {environment: staging, max_duration: 1m}\n  reconcile-invoices:\n",
    )
    wider = wider.replace("[reconcile-invoices]", "[reconcile-invoices, other-work]")

    def other_work(*, allowed: bool) -> bool:
        with world.calling(svid) as caller:
            answer = world.try_declare(caller, task_type="other-work", scope=tasks_pb2.Scope())
        assert answer.ok or answer.reason in {"TASK_TYPE_NOT_ALLOWED", "TASK_LIMIT_REACHED"}, answer
        return (answer.reason != "TASK_TYPE_NOT_ALLOWED") is allowed

    assert other_work(allowed=False)
    catalog.write_text(wider)
    until(lambda: other_work(allowed=True), "the wider catalog is taken up")

    refusals = log_of(world).count("REFUSED")
    catalog.write_text(wider.replace("max_tasks: 8", "max_tasks: many"))
    until(lambda: log_of(world).count("REFUSED") == refusals + 1, "the bad catalog is refused")
    assert f"{catalog}:" in log_of(world)
    assert "max_tasks: input should be a valid integer" in log_of(world)
    assert other_work(allowed=True)  # the one before it stays

    catalog.write_text(good)
    until(lambda: other_work(allowed=False), "the first catalog is taken up again")
    assert pid_of(world) == pid
