"""What the trail of all traces is good for: replaying, looking at a candidate, reviewing access."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from broker.adapters.policy.bounded import BoundedPolicy
from broker.adapters.policy.catalog_bounds import CatalogBoundsPolicy
from broker.adapters.policy.cedar import CedarPolicies
from broker.adapters.policy.files import FixedPolicies
from broker.adapters.policy.traces import read_traces
from broker.cli import access, policy
from broker.config.catalog import load_catalog
from tests.scenarios.recorded import a_recorded_store
from tests.scenarios.worlds import CATALOG, POLICIES, TRACES, the_catalog, the_policy

LISTED = ("--catalog", str(CATALOG))


@pytest.fixture
def changed(tmp_path: Path) -> Path:
    """The policies without the one about exfiltration."""
    folder = Path(shutil.copytree(POLICIES, tmp_path / "changed"))
    file = folder / "company.cedar"
    text = file.read_text()
    begin, end = text.index('@id("flows.no-exfiltration")'), text.index('@id("flows.restricted-stays")')
    file.write_text(text[:begin] + text[end:])
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    catalog = the_catalog()
    file = tmp_path_factory.mktemp("trail") / "broker.db"
    return a_recorded_store(file, read_traces(TRACES, catalog), the_policy(catalog), catalog)


def run(app: object, *words: str) -> Result:
    return CliRunner().invoke(app, [*words, *LISTED])  # type: ignore[arg-type]


def test_the_same_policies_flip_nothing(store: str) -> None:
    result = run(policy.app, "replay", str(POLICIES), "--store", store)
    assert result.exit_code == 0, result.output
    assert "\n0 of " in f"\n{result.stdout}"
    assert "say too little" not in result.stdout
    assert "another catalog" not in result.stdout


def test_a_policy_that_is_gone_flips_what_it_had_denied_and_what_stuck(store: str, changed: Path) -> None:
    result = run(policy.app, "replay", str(changed), "--store", store)
    assert result.exit_code == 1
    lines = [line for line in result.stdout.splitlines() if line.startswith("record ")]
    assert any(
        "call mail-report: deny (structural; cedar:flows.no-exfiltration) -> allow" in line for line in lines
    )
    assert all(" -> allow (" in line or "no-exfiltration" in line or "follows" in line for line in lines)
    assert run(policy.app, "replay", str(changed), "--store", store, "--since", "1h").exit_code == 0


def test_a_new_forbid_flips_what_was_allowed_and_sticks(store: str, changed: Path) -> None:
    shutil.copy(POLICIES / "company.cedar", changed)
    (changed / "more.cedar").write_text(
        '@id("no-git") forbid (principal, action, resource == Tasklease::CredentialRole::"git-write");'
    )
    result = run(policy.app, "replay", str(changed), "--store", store)
    flipped = [line for line in result.stdout.splitlines() if "-> deny" in line]
    assert any("acquire git-write: allow" in line and "cedar:no-git" in line for line in flipped)
    assert any("call push-branch: allow" in line and "follows from one before" in line for line in flipped)


def test_nothing_to_replay_is_not_agreement(tmp_path: Path) -> None:
    catalog = the_catalog()
    url = a_recorded_store(tmp_path / "empty.db", [], the_policy(catalog), catalog)
    for words in (("replay", str(POLICIES)), ("shadow",)):
        result = run(policy.app, *words, "--store", url)
        assert result.exit_code == 2, result.output
    assert run(access.app, "review", "--store", url).exit_code == 2
    assert (
        run(policy.app, "replay", str(POLICIES), "--store", f"sqlite:///{tmp_path}/never.db").exit_code == 2
    )


def test_a_candidate_runs_in_the_shadow_and_is_reported(tmp_path: Path, changed: Path) -> None:
    catalog = the_catalog()
    live, candidate = (FixedPolicies(CedarPolicies.load(folder, catalog)) for folder in (POLICIES, changed))
    both = BoundedPolicy(CatalogBoundsPolicy(), live, candidate)
    traces = read_traces(TRACES, catalog)
    url = a_recorded_store(tmp_path / "shadow.db", traces, both, catalog)
    result = run(policy.app, "shadow", "--store", url)
    assert result.exit_code == 1, result.output
    assert (
        "call mail-report: deny (structural; cedar:flows.no-exfiltration) -> allow (cedar:baseline)"
        in result.stdout
    )
    assert f"candidate {candidate.current().digest}: " in result.stdout
    # It changed nothing: what was decided is what the live policies decide.
    assert run(policy.app, "replay", str(POLICIES), "--store", url).exit_code == 0


def test_what_nobody_used_is_proposed_to_go(tmp_path: Path, store: str) -> None:
    folder = tmp_path / "catalog"
    folder.mkdir()
    shutil.copy(CATALOG, folder)
    words = ["review", "--store", store, "--catalog", str(folder)]
    few = CliRunner().invoke(access.app, [*words, "--least", "1000"])
    assert few.exit_code == 0, few.output
    assert "tasks are too few to say what it does not use" in few.stdout
    patch = tmp_path / "narrower.patch"
    result = CliRunner().invoke(access.app, [*words, "--least", "5", "--patch", str(patch)])
    assert result.exit_code == 1, result.output
    assert "task type clean-up: tools: read-logs was not used in" in result.stdout
    text = patch.read_text()
    removed = [line for line in text.splitlines() if line.startswith("-") and not line.startswith("---")]
    added = [line for line in text.splitlines() if line.startswith("+") and not line.startswith("+++")]
    assert len(removed) == len(added)
    assert any("read-logs" in line and "archive-snapshot" in line for line in removed)
    assert not any("read-logs" in line for line in added if "archive-snapshot" in line)
    # The patch is of that file, and what it makes can be used and is narrower.
    before = load_catalog(folder)
    _apply(folder / CATALOG.name, text)
    after = load_catalog(folder)
    for name, task_type in after.task_types.items():
        assert task_type.tools <= before.task_types[name].tools
    assert "read-logs" not in after.task_types["clean-up"].tools


def _apply(file: Path, patch: str) -> None:
    """Each hunk here replaces single lines."""
    text = file.read_text()
    taken = [line[1:] for line in patch.splitlines() if line.startswith("-") and not line.startswith("---")]
    given = [line[1:] for line in patch.splitlines() if line.startswith("+") and not line.startswith("+++")]
    for old, new in zip(taken, given, strict=True):
        assert text.count(f"{old}\n") == 1, old
        text = text.replace(f"{old}\n", f"{new}\n")
    file.write_text(text)


def test_simulating_says_what_does_not_come_out_as_the_trace_says(changed: Path) -> None:
    good = run(policy.app, "simulate", str(POLICIES), str(TRACES))
    assert good.exit_code == 0, good.output
    assert "0 not as they say" in good.stdout
    bad = run(policy.app, "simulate", str(changed), str(TRACES))
    assert bad.exit_code == 1
    assert "asi01_goal_hijack.trace.yaml" in bad.stdout
    assert "expected because of" in bad.stdout or "expected deny" in bad.stdout
    every = run(policy.app, "simulate", "-v", str(POLICIES), str(TRACES / "asi01_goal_hijack.trace.yaml"))
    assert "call send-reply: deny (POLICY_DENIED: " in " ".join(every.stdout.split())


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("traces: []", "traces:"),
        (
            "traces:\n  - {name: x, kind: attack, class: nobody, task: {type: y}, steps: [{call: a, harm: true}]}",
            "the catalog has no class 'nobody'",
        ),
        (
            "traces:\n  - {name: x, kind: attack, class: ops-bot, task: {type: y}, steps: [{call: a}]}",
            "an attack says with harm: true where it has succeeded",
        ),
        (
            "traces:\n  - {name: x, kind: work, class: ops-bot, task: {type: y}, steps: [{call: a, harm: true}]}",
            "work does no harm",
        ),
        (
            "traces:\n  - {name: x, kind: work, class: ops-bot, task: {type: y}, steps: [{call: a, acquire: b}]}",
            "say one of declare, call, acquire, release, end",
        ),
        (
            "traces:\n  - {name: x, kind: work, class: ops-bot, steps: [{call: a}]}",
            "no step before declares task 'main'",
        ),
        (
            "traces:\n  - {name: x, kind: work, class: ops-bot, task: {type: y}, steps: [{call: a, expect: allow, reason: B}]}",
            "only a denial has a reason",
        ),
        (
            "traces:\n  - {name: x, kind: work, class: ops-bot, task: {type: y}, steps: [{end: true, expect: allow}]}",
            "nothing is decided there",
        ),
        (
            "traces:\n  - {name: x, kind: work, class: ops-bot, task: {type: y}, steps: [{acquire: a, arguments: {b: 1}}]}",
            "arguments and outcome are those of a call",
        ),
        (
            "traces:\n  - {name: x, kind: work, class: ops-bot, begins: 2026-03-02, task: {type: y}, steps: [{call: a}]}",
            "give a time with a zone",
        ),
    ],
)
def test_a_trace_that_says_nothing_clear_is_refused(tmp_path: Path, text: str, what: str) -> None:
    file = tmp_path / "bad.trace.yaml"
    file.write_text(text + "\n")
    result = run(policy.app, "simulate", str(POLICIES), str(file))
    assert result.exit_code == 2, result.output
    assert what in result.stderr
    assert "bad.trace.yaml:" in result.stderr
