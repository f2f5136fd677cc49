"""`tasklease exec`, whatever way its command ends. The broker is scripted; processes and signals are real."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import signal
import stat
import sys
from pathlib import Path

import grpc
import pytest

from broker.api.v1 import tasks_pb2
from tests.integration.client.conftest import WORDS, Exec, eventually
from tests.unit.client.fake_broker import PASSWORD, hang, refusal

SECONDS = 30


def outcome(tasklease: Exec) -> tuple[str, str]:
    (request,) = tasklease.fake.calls["complete"]
    name = tasks_pb2.TaskOutcome.Name(request.outcome).removeprefix("TASK_OUTCOME_")
    return name, request.reason


def is_alive(pid: int) -> bool:
    try:
        return state(pid) != "Z"
    except FileNotFoundError:
        return False


def all_arguments() -> bytes:
    """The arguments of every process of this machine."""
    found = b""
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            found += (folder / "cmdline").read_bytes()
    return found


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


async def ended(process: asyncio.subprocess.Process) -> tuple[int, str, str]:
    async with asyncio.timeout(SECONDS):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, (out or b"").decode(), (err or b"").decode()


async def test_the_command_gets_the_credential_in_its_environment(tasklease: Exec) -> None:
    code, out, err = await tasklease.run("sh", "-c", "echo $PGHOST $PGPORT $PGUSER $PGPASSWORD")
    assert (code, out.strip(), err) == (0, f"db.test 5432 v-user {PASSWORD}", "")
    assert outcome(tasklease) == ("SUCCEEDED", "")
    (declared,) = tasklease.fake.calls["declare"]
    assert (declared.task_type, list(declared.scope.roles), declared.intent) == (
        "reconcile",
        ["orders"],
        "run sh",
    )


async def test_what_is_declared_can_be_said(tasklease: Exec) -> None:
    words = (*WORDS, "--intent", "books", "--environment", "staging", "--deadline", "1h30m")
    code, _out, err = await tasklease.run("true", words=words)
    assert (code, err) == (0, "")
    (declared,) = tasklease.fake.calls["declare"]
    assert (declared.intent, declared.environment) == ("books", "staging")
    assert declared.HasField("deadline")


async def test_a_prefix_names_the_variables(tasklease: Exec) -> None:
    code, out, _err = await tasklease.run(
        "sh", "-c", "echo $DB_USERNAME $DB_HOST ${PGUSER-none}", words=(*WORDS, "--env-prefix", "DB")
    )
    assert (code, out.strip()) == (0, "v-user db.test none")


async def test_several_roles_need_names_apart(tasklease: Exec) -> None:
    code, _out, err = await tasklease.run("true", words=(*WORDS, "--role", "archive"))
    assert code == 125
    assert "several credentials want PGHOST" in err
    assert outcome(tasklease)[0] == "FAILED"


async def test_the_secret_is_in_no_argument_of_any_process(tasklease: Exec) -> None:
    process = await tasklease.shell("echo ready; exec sleep 30")
    arguments = all_arguments()
    assert b"reconcile" in arguments
    assert PASSWORD.encode() not in arguments
    process.send_signal(signal.SIGTERM)
    await ended(process)


async def test_a_file_that_only_the_command_can_read_and_that_is_gone_afterwards(tasklease: Exec) -> None:
    path = tasklease.folder / "credentials.json"
    script = 'stat -c "%a" "$TASKLEASE_CREDENTIALS"; cat "$TASKLEASE_CREDENTIALS"; test -z "$PGPASSWORD"'
    code, out, _err = await tasklease.run("sh", "-c", script, words=(*WORDS, "--file", str(path)))
    mode, content = out.split("\n", 1)
    assert (code, mode) == (0, "600")
    assert json.loads(content)["orders"] == {
        "host": "db.test",
        "port": 5432,
        "scheme": "postgresql",
        "username": "v-user",
        "password": PASSWORD,
    }
    assert not path.exists()


async def test_a_file_that_is_there_is_left_alone(tasklease: Exec) -> None:
    path = tasklease.folder / "mine"
    path.write_text("mine")
    code, _out, err = await tasklease.run("true", words=(*WORDS, "--file", str(path)))
    assert code == 125
    assert "File exists" in err
    assert path.read_text() == "mine"


async def test_a_folder_of_fields(tasklease: Exec) -> None:
    folder = tasklease.folder / "secrets"
    script = 'cat "$TASKLEASE_CREDENTIALS/orders/password"; stat -c " %a" "$TASKLEASE_CREDENTIALS"'
    code, out, _err = await tasklease.run("sh", "-c", script, words=(*WORDS, "--files", str(folder)))
    assert (code, out) == (0, f"{PASSWORD} 700\n")
    assert not folder.exists()


async def test_a_private_file_lies_in_memory(tasklease: Exec) -> None:
    script = 'echo "$TASKLEASE_CREDENTIALS"; stat -c "%a" "$(dirname "$TASKLEASE_CREDENTIALS")"'
    code, out, _err = await tasklease.run("sh", "-c", script, words=(*WORDS, "--private-file"))
    path, mode = out.split()
    assert (code, mode) == (0, "700")
    assert Path(path).parts[1:3] == ("dev", "shm")
    assert not Path(path).parent.exists()


async def test_the_exit_code_is_passed_on_and_the_task_has_failed(tasklease: Exec) -> None:
    code, _out, _err = await tasklease.run("sh", "-c", "exit 7")
    assert code == 7
    assert outcome(tasklease) == ("FAILED", "the command ended with exit code 7")


@pytest.mark.parametrize("name", ["KILL", "TERM", "SEGV", "PIPE"])
async def test_a_command_that_a_signal_ended_gives_128_and_its_number(tasklease: Exec, name: str) -> None:
    code, _out, _err = await tasklease.run("sh", "-c", f"kill -{name} $$")
    assert code == 128 + getattr(signal, f"SIG{name}")
    assert outcome(tasklease)[0] == "FAILED"


@pytest.mark.parametrize("name", ["INT", "TERM", "HUP", "QUIT", "USR1", "USR2"])
async def test_signals_are_passed_on_to_the_command(tasklease: Exec, name: str) -> None:
    script = f"trap 'echo got; exit 3' {name}; echo ready; while :; do sleep 0.05; done"
    process = await tasklease.shell(script)
    process.send_signal(getattr(signal, f"SIG{name}"))
    code, out, _err = await ended(process)
    assert (code, out) == (3, "got\n")
    assert outcome(tasklease) == ("FAILED", "the command ended with exit code 3")


HEARS_LATE_OF_ITS_COMMAND = """
import asyncio, os, signal, sys
from broker.cli.main import main

start = asyncio.create_subprocess_exec
running = sys.argv.pop(1)


async def hears_late(*words, **options):
    process = await start(*words, **options)
    while not os.path.exists(running):
        await asyncio.sleep(0.01)
    os.kill(os.getpid(), signal.SIGUSR1)
    await asyncio.sleep(0.2)
    return process


asyncio.create_subprocess_exec = hears_late
main()
"""


async def test_a_signal_that_comes_before_exec_has_heard_that_its_command_runs_is_passed_on(
    tasklease: Exec,
) -> None:
    running = tasklease.folder / "running"
    command = f"trap 'echo got; exit 3' USR1; touch {running}; while :; do sleep 0.05; done"
    program = (sys.executable, "-c", HEARS_LATE_OF_ITS_COMMAND, str(running))
    code, out, _err = await tasklease.run("sh", "-c", command, program=program)
    assert (code, out) == (3, "got\n")


async def test_a_signal_that_ends_the_command_ends_exec_with_128_and_its_number(tasklease: Exec) -> None:
    process = await tasklease.shell("echo ready; exec sleep 30")
    process.send_signal(signal.SIGTERM)
    code, _out, _err = await ended(process)
    assert code == 128 + signal.SIGTERM


@pytest.mark.parametrize("step", ["declare", "acquire"])
async def test_a_signal_before_the_command_started_ends_in_order(tasklease: Exec, step: str) -> None:
    tasklease.fake.steps[step].append(hang())
    process = await tasklease.start("touch", str(tasklease.folder / "started"))
    await tasklease.fake.until(lambda: bool(tasklease.fake.calls[step]))
    process.send_signal(signal.SIGTERM)
    code, _out, err = await ended(process)
    assert code == 128 + signal.SIGTERM
    assert "interrupted by SIGTERM" in err
    assert not (tasklease.folder / "started").exists()
    completed = [request.outcome for request in tasklease.fake.calls["complete"]]
    assert completed == ([tasks_pb2.TASK_OUTCOME_CANCELLED] if step == "acquire" else [])


async def test_a_signal_during_completion_changes_nothing(tasklease: Exec) -> None:
    release = asyncio.Event()
    tasklease.fake.steps["complete"].append(hang(release))
    process = await tasklease.start("sh", "-c", "exit 4")
    await tasklease.fake.until(lambda: bool(tasklease.fake.calls["complete"]))
    process.send_signal(signal.SIGTERM)
    await asyncio.sleep(0.2)
    assert process.returncode is None
    release.set()
    assert (await ended(process))[0] == 4


async def test_under_nohup_a_hangup_is_ignored_by_both(tasklease: Exec) -> None:
    process = await tasklease.start("sh", "-c", "sleep 1; echo still here", nohup=True)
    await tasklease.fake.until(lambda: tasklease.fake.attached == 1)
    process.send_signal(signal.SIGHUP)
    code, out, _err = await ended(process)
    assert (code, out) == (0, "still here\n")


async def test_the_command_inherits_no_blocked_or_ignored_signals(tasklease: Exec) -> None:
    code, out, _err = await tasklease.run("grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status")
    assert code == 0
    masks = dict(line.split(":\t") for line in out.splitlines())
    # 32 and 33 are the C library's own: no program can set them, and whoever runs the tests may have left them set.
    ours = ~(1 << 31 | 1 << 32)
    assert int(masks["SigBlk"], 16) & ours == 0
    assert int(masks["SigIgn"], 16) & ours == 0


async def test_ctrl_c_on_a_terminal_reaches_the_command_once(tasklease: Exec) -> None:
    script = (
        "import os, signal, socket, sys, time\n"
        "reader, writer = socket.socketpair()\n"
        "reader.setblocking(False), writer.setblocking(False)\n"
        "signal.signal(signal.SIGINT, lambda *_: None)\n"
        "signal.set_wakeup_fd(writer.fileno())\n"  # a byte for each, also where handlers run once for two
        "print('ready', flush=True)\n"
        "time.sleep(1.5)\n"
        "sys.exit(40 + len(reader.recv(100)))\n"
    )
    primary, secondary = pty.openpty()
    program = [sys.executable, "-m", "broker", *WORDS, "--", sys.executable, "-c", script]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import fcntl, os, sys, termios\n"
        "os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])\n",
        *program,
        env=tasklease.environment,
        stdin=secondary,
        stdout=asyncio.subprocess.PIPE,
        stderr=secondary,
    )
    os.close(secondary)
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 15) == b"ready\n"
    os.write(primary, b"\x03")
    code, _out, _err = await ended(process)
    os.close(primary)
    assert code == 41


async def test_stopped_from_outside_both_stop_and_go_on(tasklease: Exec) -> None:
    go_on = tasklease.folder / "go-on"
    process = await tasklease.shell(f"echo ready; until [ -e '{go_on}' ]; do sleep 0.05; done; echo done")
    (child,) = children_of(process.pid)
    process.send_signal(signal.SIGTSTP)
    await eventually(lambda: state(process.pid) == "T" and state(child) == "T")
    go_on.touch()
    process.send_signal(signal.SIGCONT)
    code, out, _err = await ended(process)
    assert (code, out) == (0, "done\n")


async def test_the_command_is_stopped_when_the_broker_ends_the_task(tasklease: Exec) -> None:
    script = "trap 'echo stopped; exit 0' TERM; echo ready; while :; do sleep 0.05; done"
    process = await tasklease.shell(script)
    await tasklease.fake.until(lambda: tasklease.fake.attached == 1)
    await tasklease.fake.end_task()
    code, out, err = await ended(process)
    assert (code, out) == (75, "stopped\n")
    assert "the broker ended task task-1 (DEADLINE): stopping the command" in err
    assert tasklease.fake.calls["complete"] == []


async def test_a_command_that_will_not_stop_is_killed_after_the_grace(tasklease: Exec) -> None:
    words = (*WORDS, "--grace", "1s")
    process = await tasklease.shell("trap '' TERM; echo ready; while :; do sleep 0.05; done", words=words)
    await tasklease.fake.until(lambda: tasklease.fake.attached == 1)
    await tasklease.fake.end_task()
    assert (await ended(process))[0] == 75


async def test_a_stopped_command_is_ended_all_the_same(tasklease: Exec) -> None:
    script = "trap 'echo stopped; exit 0' TERM; echo ready; kill -STOP $$; exec sleep 30"
    process = await tasklease.shell(script)
    (child,) = children_of(process.pid)
    await eventually(lambda: state(child) == "T")
    await tasklease.fake.until(lambda: tasklease.fake.attached == 1)
    await tasklease.fake.end_task()
    assert (await ended(process))[:2] == (75, "stopped\n")


async def test_the_command_does_not_outlive_a_killed_exec(tasklease: Exec) -> None:
    process = await tasklease.shell("echo ready; exec sleep 60")
    (child,) = children_of(process.pid)
    assert is_alive(child)
    process.send_signal(signal.SIGKILL)
    try:
        await eventually(lambda: not is_alive(child))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    await tasklease.fake.until(lambda: tasklease.fake.attached == 0)  # the broker misses it from here on
    assert tasklease.fake.calls["complete"] == []


async def test_a_command_that_is_not_there_is_said_before_anything_is_declared(tasklease: Exec) -> None:
    code, _out, err = await tasklease.run("no-such-command-anywhere")
    assert code == 127
    assert "there is no command" in err
    assert not tasklease.fake.calls


async def test_a_command_that_cannot_be_executed(tasklease: Exec) -> None:
    path = tasklease.folder / "broken"
    path.write_bytes(b"\x7fELF nothing")
    path.chmod(stat.S_IRWXU)
    code, _out, err = await tasklease.run(str(path))
    assert code == 126
    assert "Exec format error" in err


async def test_a_denial_is_said_and_nothing_is_run(tasklease: Exec) -> None:
    denied = refusal(grpc.StatusCode.PERMISSION_DENIED, "ROLE_NOT_ALLOWED")
    tasklease.fake.steps["acquire"].append(denied)
    code, _out, err = await tasklease.run("touch", str(tasklease.folder / "started"))
    assert code == 125
    assert "ROLE_NOT_ALLOWED" in err
    assert "Traceback" not in err
    assert not (tasklease.folder / "started").exists()
    assert outcome(tasklease) == ("FAILED", "Denied")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((*WORDS, "--deadline", "soon"), "--deadline"),
        ((*WORDS, "--grace", "0s"), "--grace"),
        ((*WORDS, "--env-prefix", "1A"), "--env-prefix"),
        ((*WORDS, "--role", "orders"), "each role once"),
        ((*WORDS, "--private-file", "--env-prefix", "A"), "exclude"),
    ],
)
async def test_bad_usage_is_said(tasklease: Exec, words: tuple[str, ...], says: str) -> None:
    code, _out, err = await tasklease.run("true", words=words)
    assert code == 2
    assert says in err
    assert not tasklease.fake.calls
