"""Policy files: refused with everything that is wrong, and taken up while the broker runs."""

from __future__ import annotations

import errno
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from broker.adapters.policy.cedar import CedarPolicies
from broker.adapters.policy.files import CandidateFiles, PolicyFiles
from broker.adapters.policy.reading import PolicyFilesError
from broker.domain.catalog import AttributeType, Catalog
from tests.unit.policy.world import BASELINE, CATALOG, READ_ORDERS, a_tool, calling, policies_of, with_tools

SCOPE = "principal, action, resource"
CALL = 'principal, action == Tasklease::Action::"call", resource'
REFUSED: dict[str, tuple[str, str]] = {
    "no Cedar": ("permit(principal", "is no Cedar"),
    "no id": (f"permit({SCOPE});", 'policy0: has no id: write @id("...") before it'),
    "an empty id": (f'@id("") permit({SCOPE});', "has no id"),
    "an id without text": (f"@id permit({SCOPE});", "has no id"),
    "an odd id": (f'@id("a b") permit({SCOPE});', "a b: its id has to be of letters"),
    "a reserved id": (f'@id("default") permit({SCOPE});', "decisions use themselves"),
    "two ids": (f'@id("a") @id("b") permit({SCOPE});', "is no Cedar: duplicate annotation"),
    "a template": ('@id("t") permit(principal == ?principal, action, resource);', "t: is a template"),
    "a template for resources": ('@id("t") permit(principal, action, resource in ?resource);', "t: is a template"),
    "a class of denials": (f'@id("a") @denial("never") forbid({SCOPE});', "@denial is 'never': give \"structural\""),
    "a denial without class": (f'@id("a") @denial forbid({SCOPE});', "@denial is"),
    "a permit that denies": (f'@id("a") @denial("structural") permit({SCOPE});', "permits, and so has no @denial"),
    "a permit that says": (f'@id("a") @says("yes") permit({SCOPE});', "permits, and so has no @denial and no @says"),
    "a misspelt annotation": (f'@id("a") @denail("structural") forbid({SCOPE});', "unknown annotation @denail (did you mean"),
    "a long text": (f'@id("a") @says("{"x" * 501}") forbid({SCOPE});', "@says is longer than 500"),
    "an unknown argument": (
        f'@id("a") forbid({CALL}) when {{ context.asserted.arguments has ordr_id }};',
        "a: asks for context.asserted.arguments.ordr_id, which no tool of the catalog has (did you mean 'order_id'?)",
    ),
    "an unknown attribute that is asked for": (
        f'@id("a") forbid({CALL}) when {{ !(context.chain has lasst) }};',
        "asks for context.chain.lasst, which nothing in the schema has (did you mean 'last'?)",
    ),
    "an unknown attribute": (f'@id("a") forbid({SCOPE}) when {{ context.enviroment == "x" }};', "a: does not fit the schema"),
    "an unguarded attribute": (
        f'@id("a") forbid({CALL}) when {{ context.asserted.arguments.order_id == "x" }};', "guard it with `has`",
    ),
    "an attribute of calls in a declaration": (
        f'@id("a") forbid({SCOPE}) when {{ context.labels.contains("untrusted") }};', "a: does not fit the schema",
    ),
    "another type": (f'@id("a") forbid({SCOPE}) when {{ context.hour == "noon" }};', "a: does not fit the schema"),
    "an unknown action": ('@id("a") forbid(principal, action == Tasklease::Action::"run", resource);', "unrecognized action"),
    "an unknown type": ('@id("a") forbid(principal is Tasklease::User, action, resource);', "a: does not fit the schema"),
    "a deep condition": (
        f'@id("a") forbid({SCOPE}) when {{ {" && ".join(["context.hour > 3"] * 60)} }};', "a: is too deep",
    ),
    "a very deep condition": (
        f'@id("a") forbid({SCOPE}) when {{ {" || ".join(["context.hour > 3"] * 2000)} }};', "has a policy that is too deep",
    ),
    "something for partial evaluation": (f'@id("a") forbid({SCOPE}) when {{ unknown("x") }};', "uses unknown(...)"),
    "that within something": (
        f'@id("a") forbid({SCOPE}) when {{ {{a: [unknown("x")]}} == {{a: [true]}} }};', "uses unknown(...)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_and_how(tmp_path: Path, name: str) -> None:
    text, words = REFUSED[name]
    with pytest.raises(PolicyFilesError) as refused:
        policies_of(tmp_path, text)
    assert words in str(refused.value)
    assert str(tmp_path / "all.cedar") in str(refused.value)


def test_everything_that_is_wrong_is_said_at_once_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "b.cedar").write_text(f'\n@id("same")\npermit({SCOPE});')
    (tmp_path / "c.cedar").write_bytes(b"\xff")
    (tmp_path / "d.cedar").symlink_to(tmp_path / "nothing")
    with pytest.raises(PolicyFilesError) as refused:
        policies_of(
            tmp_path, f'@id("same") permit({SCOPE});\n\n@id("x") permit({SCOPE}) when {{ context.a }};'
        )
    said = {str(problem) for problem in refused.value.problems}
    assert len({(problem.file, problem.field) for problem in refused.value.problems}) == 4
    assert any(line.startswith(f"{tmp_path}/all.cedar:3: x: does not fit the schema") for line in said)
    same = f"{tmp_path}/more/b.cedar:2: same: this id is taken by {tmp_path}/all.cedar:1: give each policy an id of its own"
    assert same in said
    assert f"{tmp_path}/c.cedar: is not UTF-8: save it as UTF-8" in said
    assert any(line.startswith(f"{tmp_path}/d.cedar: cannot be read") for line in said)


def test_an_attribute_of_a_record_may_be_called_unknown(tmp_path: Path) -> None:
    policies_of(tmp_path, f'@id("a") permit({SCOPE}) when {{ {{"unknown": 1}} == {{"unknown": 1}} }};')


def test_many_conditions_are_fine(tmp_path: Path) -> None:
    many = " && ".join(["context.hour > 3"] * 50)
    policies = policies_of(tmp_path, f'@id("a") permit({SCOPE}) when {{ {many} }};')
    assert policies.decide_call(calling(), CATALOG).allowed
    assert policies.could_allow_call(calling(), CATALOG)


def test_a_file_in_place_of_the_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PolicyFilesError, match="there is no such folder"):
        CedarPolicies.load(tmp_path / "file", CATALOG)


def test_a_large_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyFilesError, match="larger than 1 MiB: split it"):
        policies_of(tmp_path, "//" + "x" * (1 << 20))


def test_the_folders_of_a_mount_are_read_once(tmp_path: Path) -> None:
    hidden = tmp_path / "..2026"
    policies_of(hidden, BASELINE)
    (tmp_path / "all.cedar").symlink_to(hidden / "all.cedar")
    assert len(CedarPolicies.load(tmp_path, CATALOG).policies) == 3


def test_a_link_to_a_folder_is_refused_for_it_would_be_left_out(tmp_path: Path) -> None:
    policies_of(tmp_path / "elsewhere", BASELINE)
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "more").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PolicyFilesError, match="is a link to a folder"):
        CedarPolicies.load(tmp_path / "policies", CATALOG)


def test_a_folder_that_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policies_of(tmp_path / "more", BASELINE)
    scan = os.scandir

    def refuses(path: str) -> Any:
        if str(path).endswith("more"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuses)
    with pytest.raises(
        PolicyFilesError, match="more: cannot be read: Permission denied: nothing may be left out"
    ):
        CedarPolicies.load(tmp_path, CATALOG)


def test_a_catalog_that_fits_no_schema_is_said(tmp_path: Path) -> None:
    one = a_tool("one", attributes={"n": AttributeType.INTEGER})
    two = a_tool("two", attributes={"n": AttributeType.STRING})
    with pytest.raises(
        PolicyFilesError, match="the catalog's tools cannot be put into the schema: argument 'n'"
    ):
        policies_of(tmp_path, BASELINE, with_tools(one, two))


def test_a_scope_that_names_what_the_catalog_does_not_have_is_noticed(tmp_path: Path) -> None:
    policies = policies_of(
        tmp_path,
        """
        @id("a") forbid(principal in Tasklease::AgentClass::"invoice-bott", action, resource);
        @id("b") forbid(principal, action, resource == Tasklease::Tool::"read-order");
        @id("c") forbid(principal is Tasklease::Instance in Tasklease::AgentClass::"invoice-bot", action, resource);
        """,
    )
    assert [notice.split(": ", 1)[1] for notice in policies.notices] == [
        "a: is about agent class 'invoice-bott', which the catalog does not have (did you mean 'invoice-bot'?): it has no effect",
        "b: is about tool 'read-order', which the catalog does not have (did you mean 'read-orders'?): it has no effect",
    ]


class Catalogs:
    def __init__(self) -> None:
        self.catalog = CATALOG

    def current(self) -> Catalog:
        return self.catalog


def allowed(files: PolicyFiles) -> bool:
    return files.current().decide_call(calling(), CATALOG).allowed


async def test_changed_files_are_taken_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = PolicyFiles(tmp_path, Catalogs())
    assert not allowed(files)
    assert not await files.reload_if_changed()
    (tmp_path / "a.cedar").write_text(BASELINE)
    assert await files.reload_if_changed()
    assert allowed(files)
    assert "policies changed: 0 are now 3" in caplog.text
    assert not await files.reload_if_changed()
    (tmp_path / "a.cedar").unlink()
    assert await files.reload_if_changed()
    assert not allowed(files)


async def test_files_that_cannot_be_used_are_refused_loudly_and_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.cedar").write_text(BASELINE)
    files = PolicyFiles(tmp_path, Catalogs())
    before = files.current()
    (tmp_path / "b.cedar").write_text(f"permit({SCOPE});")
    with caplog.at_level(logging.ERROR):
        assert not await files.reload_if_changed()
    assert "REFUSED" in caplog.text
    assert "has no id" in caplog.text
    assert files.current() is before
    caplog.clear()
    assert not await files.reload_if_changed()
    assert not caplog.records
    (tmp_path / "b.cedar").unlink()
    assert await files.reload_if_changed()


async def test_a_folder_that_goes_away_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "policies"
    policies_of(folder, BASELINE)
    files = PolicyFiles(folder, Catalogs())
    (folder / "all.cedar").unlink()
    folder.rmdir()
    assert not await files.reload_if_changed()
    assert "there is no such folder" in caplog.text
    assert allowed(files)


async def test_a_changed_catalog_is_taken_up_where_the_policies_fit_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    guarded = "context.asserted.arguments has limit && context.asserted.arguments.limit > 10"
    policies_of(tmp_path, BASELINE + f'@id("limit") forbid({CALL}) when {{ {guarded} }};')
    catalogs = Catalogs()
    files = PolicyFiles(tmp_path, catalogs)
    catalogs.catalog = replace(CATALOG, digest="another")
    assert await files.reload_if_changed()
    assert files.current().catalog_digest == "another"
    before = files.current()
    catalogs.catalog = with_tools(a_tool("read-orders"), digest="without limit")
    assert not await files.reload_if_changed()
    assert "the policies are REFUSED (catalog without limi)" in caplog.text
    assert files.current() is before
    assert not before.decide_call(calling(READ_ORDERS, {"limit": 11}), CATALOG).allowed
    catalogs.catalog = CATALOG
    assert await files.reload_if_changed()


async def test_notices_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    policies_of(tmp_path, '@id("a") forbid(principal, action, resource == Tasklease::Tool::"gone");')
    PolicyFiles(tmp_path, Catalogs())
    assert "policy without effect" in caplog.text
    assert "a: is about tool 'gone'" in caplog.text


async def test_a_candidate_may_be_wrong_or_missing_until_it_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "candidate"
    candidates = CandidateFiles(folder, Catalogs())
    assert candidates.current() is None
    assert "the candidate policies cannot be used, so none runs in the shadow" in caplog.text
    said = caplog.text
    assert not await candidates.reload_if_changed()
    assert caplog.text == said, "once is enough"
    folder.mkdir()
    (folder / "one.cedar").write_text(BASELINE)
    assert await candidates.reload_if_changed()
    first = candidates.current()
    assert first is not None
    (folder / "one.cedar").write_text("nonsense")
    assert not await candidates.reload_if_changed()
    assert candidates.current() is first
    assert "the candidate policies are REFUSED" in caplog.text
    (folder / "one.cedar").write_text('@id("other") forbid(principal, action, resource);')
    assert await candidates.reload_if_changed()
    second = candidates.current()
    assert second is not None
    assert second.digest != first.digest
