"""What holds for every test: its marker is its folder, unit tests reach no network, CI skips nothing.

`pytest-socket` stops Python's own sockets, unix sockets excepted: a unit test that needs a gRPC server starts it on one.
"""

from __future__ import annotations

import gc
import os

# Before anything imports gRPC: this process forks only to start another program, from several threads; gRPC's handlers
# around a fork can wait for its own threads for ever, and are of no use then.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

from pathlib import Path
from typing import Final

import pytest

TESTS: Final = Path(__file__).parent
ROOMS: Final = ("unit", "contract", "integration", "threats", "scenarios", "chaos")
SLOWEST_FIRST: Final = ("chaos", "integration", "threats", "scenarios", "contract", "unit")
ALONE: Final = ("integration/launching", "integration/containers", "threats/test_r4_launched_instances.py")
"""These take groups and ports of the whole machine, and look at all of its processes: nothing runs beside them."""

NOTHING_SKIPPED: Final = os.environ.get("TASKLEASE_CI") == "1"
_skipped: Final[list[str]] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        room = item.path.relative_to(TESTS).parts[0]
        if room in ROOMS:
            item.add_marker(room)
        if room == "unit":
            item.add_marker("disable_socket")
        if str(item.path.relative_to(TESTS)).startswith(ALONE):
            item.add_marker("alone")
        item.add_marker(pytest.mark.xdist_group(_group_of(item)))
    items.sort(key=lambda item: SLOWEST_FIRST.index(item.path.relative_to(TESTS).parts[0]))


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Thousands of tests stay to the end: looking through them for garbage again and again took a twentieth of the time."""
    gc.collect()
    gc.freeze()


def _group_of(item: pytest.Item) -> str:
    """What is run by one worker, one after the other: what shares a stack."""
    path = item.path.relative_to(TESTS)
    if path.parts[0] == "chaos":
        return item.nodeid
    return str(path.parent if path.parts[0] == "integration" else path)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        _skipped.append(report.nodeid)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.skipped:
        _skipped.append(report.nodeid)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if NOTHING_SKIPPED and _skipped:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if NOTHING_SKIPPED and _skipped:
        terminalreporter.write_line(f"in CI nothing may be skipped, but {len(_skipped)} were", red=True)
