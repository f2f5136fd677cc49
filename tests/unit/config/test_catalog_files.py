"""A catalog that changes while the broker runs (broker.adapters.catalog): all of the new one, or the old one."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from broker.adapters.catalog.files import CatalogFiles
from broker.config.reading import ConfigError
from tests.unit.config.texts import CATALOG, write

OTHER = CATALOG.replace("max_tasks: 8", "max_tasks: 2")
BAD = CATALOG.replace("max_tasks: 8", "max_tasks: many")


def loud(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_changed_catalog_is_taken_up_once_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write(tmp_path, CATALOG)
    files = CatalogFiles(file)
    before = files.current()
    assert not await files.reload_if_changed()
    write(tmp_path, OTHER)
    assert await files.reload_if_changed()
    after = files.current()
    assert after.agent_classes["invoice-bot"].max_tasks == 2
    assert f"catalog changed: {before.digest[:12]} is now {after.digest[:12]}" in caplog.text
    assert not await files.reload_if_changed()
    assert files.current() is after


async def test_what_somebody_holds_stays_as_it_was(tmp_path: Path) -> None:
    files = CatalogFiles(write(tmp_path, CATALOG))
    held = files.current()
    write(tmp_path, OTHER)
    await files.reload_if_changed()
    assert held.agent_classes["invoice-bot"].max_tasks == 8


@pytest.mark.parametrize(
    "bad",
    [BAD, "", "version: [", "version: 1\nunknown: 1\n", CATALOG.replace("roles: [orders]", "roles: [customers]"), b"\xff",
     "version: 1\n" + "#" * (1 << 20)],
)  # fmt: skip
async def test_a_bad_catalog_leaves_the_old_one_and_is_loud_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, bad: str | bytes
) -> None:
    file = write(tmp_path, CATALOG)
    files = CatalogFiles(file)
    before = files.current()
    write(tmp_path, bad)
    for _ in range(3):
        assert not await files.reload_if_changed()
        assert files.current() is before
    (line,) = loud(caplog)
    assert line.startswith(
        f"the changed catalog is REFUSED, the one before it stays ({before.digest[:12]}):\n{file}"
    )
    write(tmp_path, OTHER)
    assert await files.reload_if_changed()
    assert files.current().agent_classes["invoice-bot"].max_tasks == 2


async def test_a_catalog_that_is_gone_leaves_the_old_one_and_is_loud(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write(tmp_path, CATALOG)
    files = CatalogFiles(file)
    before = files.current()
    file.unlink()
    assert not await files.reload_if_changed()
    assert files.current() is before
    assert "there is no catalog here" in "".join(loud(caplog))
    write(tmp_path, CATALOG)
    assert not await files.reload_if_changed()  # back, as it was
    assert files.current() is before


async def test_another_way_of_writing_the_same_is_no_change(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = CatalogFiles(write(tmp_path, CATALOG))
    before = files.current()
    write(tmp_path, "# a comment\n" + CATALOG)
    assert not await files.reload_if_changed()
    assert files.current() is before
    assert caplog.records == []


async def test_a_change_is_seen_whatever_the_clock_and_the_size_say(tmp_path: Path) -> None:
    file = write(tmp_path, CATALOG)
    files = CatalogFiles(file)
    about = file.stat()
    write(tmp_path, OTHER)
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (about.st_size, about.st_mtime_ns)
    assert await files.reload_if_changed()


async def test_a_folder_is_seen_to_change_with_each_of_its_files(tmp_path: Path) -> None:
    write(tmp_path, CATALOG, "a.yaml")
    files = CatalogFiles(tmp_path)
    more = write(tmp_path, "version: 1\nagent_classes: {other: {task_types: []}}\n", "b.yaml")
    assert await files.reload_if_changed()
    assert set(files.current().agent_classes) == {"invoice-bot", "other"}
    more.unlink()
    assert await files.reload_if_changed()
    assert set(files.current().agent_classes) == {"invoice-bot"}
    write(tmp_path, "not: [yaml", "README.md")
    assert not await files.reload_if_changed()


async def test_one_bad_file_of_a_folder_takes_nothing_of_the_others_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, CATALOG, "a.yaml")
    files = CatalogFiles(tmp_path)
    write(tmp_path, OTHER, "a.yaml")
    write(tmp_path, "version: 1\nunknown: 1\n", "b.yaml")
    assert not await files.reload_if_changed()
    assert files.current().agent_classes["invoice-bot"].max_tasks == 8
    assert "b.yaml:2: unknown: unknown key: remove it" in "".join(loud(caplog))


@pytest.mark.parametrize("text", [BAD, "", "version: ["])
def test_the_first_catalog_must_be_good(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError):
        CatalogFiles(write(tmp_path, text))
