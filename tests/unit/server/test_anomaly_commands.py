"""`tasklease anomaly watch`, `mark` and `lift` against the real door."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from broker.cli.main import assemble
from broker.domain import changes as c
from broker.domain.findings import Answer, Hold, Mark
from broker.domain.identifiers import TaskId
from tests.contract.finding import a_finding, add_finding
from tests.unit.server.served import ANN, VERA, Served


async def tasklease(served: Served, tmp_path: Path, *words: str, who: Any = ANN) -> Result:
    """The command, as that operator, in a thread of its own: it has a loop of its own."""
    svid = served.authority.svid(who)
    options: list[str] = ["--broker", served.address]
    for name, content in (("svid", svid.chain), ("key", svid.key), ("bundle", svid.authorities)):
        (tmp_path / name).write_bytes(content)
        options += [f"--{name}", str(tmp_path / name)]
    return await asyncio.to_thread(
        CliRunner().invoke, assemble(), ["anomaly", *words, *options], env={"COLUMNS": "300"}
    )


async def test_findings_are_a_line_each_with_words_that_steer_no_terminal(
    served: Served, tmp_path: Path
) -> None:
    await add_finding(served.store, a_finding("a", happened="it\x1b[31m happened"))
    await add_finding(served.store, a_finding("b", task_id=None, answer=Answer.NOTE))
    shown = await tasklease(served, tmp_path, "watch", "--after", "0", "--limit", "2", who=VERA)
    assert (shown.exit_code, shown.stderr) == (0, "")
    first, second = shown.stdout.splitlines()
    assert first.split("  ")[3:6] == ["canary/touched", "high", "end-task (not yet)"]
    assert first.endswith("it?[31m happened")
    assert second.startswith("2  ")


async def test_findings_as_json_have_the_names_of_the_list(served: Served, tmp_path: Path) -> None:
    one = await add_finding(served.store)
    await served.store.commit([c.AnswerFinding(finding_id=one.finding_id, at=served.clock.now())])
    shown = await tasklease(served, tmp_path, "watch", "--after", "0", "--limit", "1", "--json")
    plain = json.loads(shown.stdout)
    assert (plain["finding"], plain["number"], plain["answer"]) == (one.finding_id, 1, "end-task")
    assert plain["answered_at"]
    assert (plain["mark"], plain["evidence"]) == ("", ["action-1", "action-2"])


async def test_a_mark_is_made_and_says_that_the_answer_stands(served: Served, tmp_path: Path) -> None:
    one = await add_finding(served.store)
    shown = await tasklease(served, tmp_path, "mark", one.finding_id, "--false", "--reason", "a rehearsal")
    assert shown.exit_code == 0, shown.output
    assert f"{one.finding_id} is marked as false" in shown.stdout
    assert "its answer stands: end-task" in shown.stdout
    marked = await served.store.finding(one.finding_id)
    assert marked is not None
    assert marked.mark is Mark.FALSE


async def test_a_hold_is_lifted(served: Served, tmp_path: Path) -> None:
    task_id = TaskId(await served.declared())
    await served.store.commit([c.HoldTask(task_id=task_id, hold=Hold.APPROVAL)])
    shown = await tasklease(served, tmp_path, "lift", task_id, "--reason", "looked at")
    assert (shown.exit_code, shown.stdout) == (0, f"{task_id} goes on\n")
    task = await served.store.task(task_id)
    assert task is not None
    assert task.hold is None


@pytest.mark.parametrize(
    ("words", "code", "what"),
    [
        (("mark", "finding-1"), 2, "--false or --confirmed"),
        (("mark", "finding-1", "--false", "--confirmed"), 2, "--false or --confirmed"),
        (("mark", "finding-1", "--confirmed"), 1, "FINDING_NOT_FOUND"),
        (("lift", "task-1"), 2, "--reason"),
        (("lift", "task-1", "--reason", "x"), 1, "TASK_NOT_FOUND"),
    ],
)
async def test_what_is_wrong_is_said(
    served: Served, tmp_path: Path, words: tuple[str, ...], code: int, what: str
) -> None:
    shown = await tasklease(served, tmp_path, *words)
    assert shown.exit_code == code, shown.output
    assert what in shown.stderr


async def test_a_viewer_may_not_mark(served: Served, tmp_path: Path) -> None:
    one = await add_finding(served.store)
    shown = await tasklease(served, tmp_path, "mark", one.finding_id, "--confirmed", who=VERA)
    assert shown.exit_code == 1
    assert "OPERATOR_ROLE_MISSING" in shown.stderr


async def test_nobody_watches_for_ever_at_somebody_elses_door(served: Served, tmp_path: Path) -> None:
    other = ("--broker-id", "spiffe://example.test/somebody/else")
    shown = await tasklease(served, tmp_path, "watch", *other, who=VERA)
    assert shown.exit_code != 0
    assert "not spiffe://example.test/somebody/else" in shown.stderr
