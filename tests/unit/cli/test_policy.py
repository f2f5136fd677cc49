"""`tasklease policy`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from broker.cli.policy import app

EXAMPLES = Path(__file__).parents[3] / "examples"
CATALOG = ("--catalog", str(EXAMPLES / "catalog"))


def policy(*words: str) -> Result:
    return CliRunner().invoke(app, [*words, *CATALOG])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EXAMPLES / "policies", tmp_path / "policies"))


def test_the_shipped_ones_are_good_and_pass(folder: Path) -> None:
    assert policy("check", str(folder)).output == "good: 5 policies\n"
    result = policy("test", str(folder))
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "11 cases, 0 failed")


def test_what_is_wrong_is_said(folder: Path) -> None:
    (folder / "bad.cedar").write_text("permit (principal, action, resource);")
    for words in (("check",), ("test",), ("explain", "--case", "x")):
        result = policy(words[0], str(folder), *words[1:])
        assert result.exit_code == 2
        assert "bad.cedar" in result.stderr
    assert policy("check", str(folder / "never")).exit_code == 2


def test_a_case_that_fails_is_named(folder: Path) -> None:
    (folder / "flows.cedar").unlink()
    result = policy("test", str(folder))
    assert result.exit_code == 1
    assert (
        "nothing leaves after confidential data and untrusted content: FAILED: expected deny" in result.stderr
    )
    assert "11 cases, 2 failed" in result.stdout


def test_policies_without_a_test_are_not_tested(folder: Path) -> None:
    for file in folder.glob("*.test.yaml"):
        file.unlink()
    result = policy("test", str(folder))
    assert (result.exit_code, "no .test.yaml file" in result.stderr) == (2, True)


def test_a_decision_is_explained(folder: Path) -> None:
    text = policy("explain", str(folder), "--case", "nothing leaves").stdout
    assert "deny, by cedar:flows.no-exfiltration" in text
    assert "flows.no-exfiltration must not hold" in text
    assert "context.labels is" in text
    text = policy("explain", str(folder), "--case", "no policy gives a tool").stdout
    assert "deny, by the catalog: tool 'query-orders' is not in the scope" in text
    assert policy("explain", str(folder), "--case", "no such case").exit_code == 2


def test_what_a_change_flips_is_listed(folder: Path, tmp_path: Path) -> None:
    changed = Path(shutil.copytree(folder, tmp_path / "changed"))
    assert policy("diff", str(folder), str(changed)).output == "0 of 11 decisions differ\n"
    (changed / "flows.cedar").write_text(
        '@id("new") forbid (principal, action, resource) when { context.hour == 3 };'
    )
    result = policy("diff", str(folder), str(changed), "--cases", str(folder))
    assert result.exit_code == 1
    assert {"- flows.no-exfiltration", "- flows.no-destruction-after-untrusted", "+ new"} <= set(
        result.stdout.splitlines()
    )
    assert "2 of 11 decisions differ" in result.stdout
    assert "deny (structural; cedar:flows.no-exfiltration) -> allow" in result.stdout


def test_a_flip_is_counted_once_and_what_a_denial_means_is_one_too(folder: Path, tmp_path: Path) -> None:
    changed = Path(shutil.copytree(folder, tmp_path / "changed"))
    flows = changed / "flows.cedar"
    flows.write_text(flows.read_text().replace('@denial("structural")', '@denial("grantable")', 1))
    result = policy("diff", str(folder), str(changed))
    assert result.exit_code == 1
    assert result.stdout.count("no-exfiltration) -> deny (grantable; cedar:flows.no-exfiltration)") == 1
    assert "1 of 11 decisions differ" in result.stdout


def test_comparing_nothing_is_no_agreement(folder: Path, tmp_path: Path) -> None:
    result = policy("diff", str(folder), str(folder), "--cases", str(tmp_path / "never"))
    assert (result.exit_code, "there is no such folder" in result.stderr) == (2, True)
    (tmp_path / "empty").mkdir()
    result = policy("diff", str(folder), str(folder), "--cases", str(tmp_path / "empty"))
    assert (result.exit_code, "no decision was compared" in result.stderr) == (2, True)


def test_a_case_without_expect_is_explained_and_is_no_test(folder: Path) -> None:
    (folder / "asked.test.yaml").write_text(
        "cases:\n  - {name: why, action: call, class: invoice-bot, task: {type: reconcile-invoices}, tool: read-mail}\n"
    )
    result = policy("test", str(folder))
    assert result.exit_code == 2
    assert "asked.test.yaml:2: why: expect: say allow or deny" in result.stderr
    text = policy("explain", str(folder), "--case", "why").stdout
    assert "permits it (" in text
    assert "baseline.cedar:" in text


def test_what_yaml_makes_of_an_argument_is_refused_by_name(folder: Path) -> None:
    for value, what in (("2026-03-01", "is read as a date"), (".inf", "has no such number")):
        (folder / "bad.test.yaml").write_text(
            "cases:\n  - name: x\n    action: call\n    class: invoice-bot\n    task: {type: reconcile-invoices}\n"
            f"    tool: query-orders\n    arguments:\n      day: {value}\n    expect: allow\n"
        )
        result = policy("test", str(folder))
        assert result.exit_code == 2, result.output
        assert "bad.test.yaml:8: cases.0.arguments.day: " in result.stderr
        assert what in result.stderr


def test_the_schema_has_the_catalogs_arguments() -> None:
    assert '"recipient"?: String' in policy("schema").stdout
