"""The ledger of launched identities: what is durable, who gets what, and that no number is ever in two hands."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from broker.adapters.node.ledger import LedgerError, SqliteLedger
from broker.domain.attestation import Groups, UnixAttestation
from broker.domain.launching import TAKEN_BEFORE, IdentityState, LaunchedIdentity
from broker.ports.launching import NoRoomError
from tests.fakes.system import NOON
from tests.unit.node.samples import DOCKER, ME, OTHER, a_class

HOUR = timedelta(hours=1)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[SqliteLedger]:
    ledger = SqliteLedger(tmp_path / "node")
    yield ledger
    ledger.close()


def reserve(ledger: SqliteLedger, *names: str, used: bool = True) -> tuple[LaunchedIdentity, ...]:
    return ledger.reserve(a_class(), names, holder=ME, now=NOON, used=used, broker="broker:1")


def ready(ledger: SqliteLedger, name: str) -> LaunchedIdentity:
    (one,) = reserve(ledger, name, used=False)
    moved = ledger.move(one, IdentityState.READY, now=NOON, holder=None, expires_at=NOON + HOUR)
    assert moved is not None
    return moved


def cooling(ledger: SqliteLedger, name: str) -> LaunchedIdentity:
    (one,) = reserve(ledger, name)
    retiring = ledger.move(one, IdentityState.RETIRING, now=NOON)
    assert retiring is not None
    cool = ledger.move(retiring, IdentityState.COOLING, now=NOON, holder=None, free_at=NOON + HOUR)
    assert cool is not None
    return cool


def test_what_was_reserved_is_there_after_a_crash(ledger: SqliteLedger) -> None:
    made = reserve(ledger, "one", "two")
    again = SqliteLedger(ledger.folder)
    assert again.identities() == made
    assert again.identity("two") == made[1]
    again.close()


def test_each_has_a_number_of_its_own_until_it_is_forgotten(ledger: SqliteLedger) -> None:
    groups = [cooling(ledger, name).group for name in ("one", "two", "three", "four")]
    assert groups == [70000, 70001, 70002, 70003]
    with pytest.raises(NoRoomError, match=r"every group 70000-70003 .* free in 3600 s"):
        reserve(ledger, "five")
    one = ledger.identity("one")
    assert one is not None
    ledger.forget(one)
    (five,) = reserve(ledger, "five")
    assert five.group == 70000


def test_only_what_is_cooling_is_forgotten(ledger: SqliteLedger) -> None:
    (one,) = reserve(ledger, "one")
    ledger.forget(one)
    assert ledger.identity("one") is not None


def test_the_number_that_was_free_for_the_longest_comes_next(ledger: SqliteLedger) -> None:
    ledger.forget(cooling(ledger, "one"))
    assert cooling(ledger, "two").group == 70001


def test_no_more_run_than_may_and_the_pools_do_not_count(ledger: SqliteLedger) -> None:
    ready(ledger, "waiting")
    reserve(ledger, "one", "two", "three")
    with pytest.raises(NoRoomError, match="3 instances of bot run, and 3 may"):
        ledger.take("bot", holder=OTHER, now=NOON, broker="")
    one = ledger.identity("one")
    assert one is not None
    ledger.move(one, IdentityState.RETIRING, now=NOON)
    assert ledger.take("bot", holder=OTHER, now=NOON, broker="") is not None


def test_a_ready_one_is_taken_by_one_of_many(ledger: SqliteLedger) -> None:
    ready(ledger, "one")

    def take(_number: int) -> LaunchedIdentity | None:
        mine = SqliteLedger(ledger.folder)
        try:
            return mine.take("bot", holder=OTHER, now=NOON, broker="there:1")
        finally:
            mine.close()

    with ThreadPoolExecutor(8) as threads:
        taken = [one for one in threads.map(take, range(16)) if one is not None]
    assert [(one.name, one.state, one.holder, one.broker) for one in taken] == [
        ("one", IdentityState.USED, OTHER, "there:1")
    ]
    assert ledger.identity("one") == taken[0]


def test_one_whose_entry_expires_soon_is_not_handed_out(ledger: SqliteLedger) -> None:
    ready(ledger, "one")
    late = NOON + HOUR - TAKEN_BEFORE
    assert ledger.take("bot", holder=ME, now=late, broker="") is None
    assert ledger.take("bot", holder=ME, now=late - timedelta(seconds=1), broker="") is not None


def test_of_two_who_move_the_same_one_succeeds(ledger: SqliteLedger) -> None:
    one = ready(ledger, "one")
    assert ledger.move(one, IdentityState.RETIRING, now=NOON) is not None
    assert ledger.move(one, IdentityState.USED, now=NOON, holder=ME) is None
    found = ledger.identity("one")
    assert found is not None
    assert found.state is IdentityState.RETIRING


def test_kinds_without_numbers_are_known_by_what_the_machine_calls_them(ledger: SqliteLedger) -> None:
    (one,) = ledger.reserve(a_class(DOCKER), ["one"], holder=ME, now=NOON, used=True)
    assert (one.group, one.handle) == (None, "tasklease.instance=bot/one")
    assert ledger.identity("one") == one


def test_as_many_as_there_is_room_for_are_reserved(ledger: SqliteLedger) -> None:
    two = a_class(UnixAttestation(groups=Groups(first=70000, last=70001)))
    made = ledger.reserve(two, ["one", "two", "three"], holder=ME, now=NOON, used=False)
    assert [one.name for one in made] == ["one", "two"]


def test_a_name_twice_is_refused_and_nothing_of_it_is_kept(ledger: SqliteLedger) -> None:
    reserve(ledger, "one")
    with pytest.raises(Exception, match="UNIQUE"):
        reserve(ledger, "two", "one")
    assert [one.name for one in ledger.identities()] == ["one"]


@pytest.mark.parametrize("mode", [0o750, 0o705, 0o777])
def test_a_folder_that_others_may_enter_is_refused(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "node"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(LedgerError, match="must be its owner's alone"):
        SqliteLedger(folder)


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    folder.mkdir(mode=0o700)
    (folder / "ledger.db").write_text("no database at all, and long enough to be seen" * 100)
    with pytest.raises(LedgerError, match="cannot be used"):
        SqliteLedger(folder)
