"""What a stack remembers."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from broker.devstack import state as module
from broker.devstack.state import FIRST_INSTANCE_GROUP, LAST_INSTANCE_GROUP, State, StateError


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    ports: set[int] = set()
    monkeypatch.setattr(module, "is_free", lambda port: port not in ports)
    return ports


@pytest.fixture
def state(tmp_path: Path, taken: set[int], monkeypatch: pytest.MonkeyPatch) -> State:
    monkeypatch.setattr(module, "_ASIDE", tmp_path / "aside")
    found = State(tmp_path / "dev")
    found.make()
    return found


def test_a_port_stays_the_same(state: State) -> None:
    port = state.port("vault", in_use=False)
    assert State(state.folder).port("vault", in_use=False) == port


def test_a_port_that_somebody_took_meanwhile_is_changed(state: State, taken: set[int]) -> None:
    port = state.port("vault", in_use=False)
    taken.add(port)
    assert state.port("vault", in_use=False) != port


def test_a_port_that_our_own_part_has_is_not_changed(state: State, taken: set[int]) -> None:
    port = state.port("vault", in_use=False)
    taken.add(port)
    assert state.port("vault", in_use=True) == port


def test_parts_that_start_at_the_same_time_get_different_ports_and_none_is_lost(state: State) -> None:
    names = [f"part-{number}" for number in range(24)]
    seen: dict[str, int] = {}

    def ask(name: str) -> None:
        seen[name] = state.port(name, in_use=False)

    threads = [threading.Thread(target=ask, args=[name]) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert state.read()["ports"] == seen
    assert len(set(seen.values())) == len(names)


def test_where_every_port_is_taken_that_is_said(state: State, taken: set[int]) -> None:
    taken.update(range(65_536))
    with pytest.raises(StateError, match="no free port"):
        state.port("vault", in_use=False)


def test_secrets_are_random_kept_and_private(state: State, tmp_path: Path) -> None:
    secret = state.secret("postgres")
    assert State(state.folder).secret("postgres") == secret
    other = State(tmp_path / "other")
    other.make()
    assert other.secret("postgres") != secret
    assert stat.S_IMODE((state.secrets / "postgres").stat().st_mode) == 0o600
    assert stat.S_IMODE(state.secrets.stat().st_mode) == 0o700


def test_a_change_that_fails_changes_nothing(state: State) -> None:
    with state.changing() as content:
        content["ports"] = {"vault": 1}

    def fail() -> None:
        with state.changing() as content:
            content["ports"] = {}
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert state.read() == {"ports": {"vault": 1}}


def test_a_half_written_memory_is_no_memory(state: State) -> None:
    (state.folder / "state.json").write_text('{"ports": {"va')
    assert state.port("vault", in_use=False) == state.read()["ports"]["vault"]


def test_groups_are_not_given_twice_before_all_were_given(state: State) -> None:
    groups = [state.new_group() for _ in range(3)]
    assert groups == [FIRST_INSTANCE_GROUP, FIRST_INSTANCE_GROUP + 1, FIRST_INSTANCE_GROUP + 2]
    with state.changing() as content:
        content["next_group"] = LAST_INSTANCE_GROUP
    assert [state.new_group(), state.new_group()] == [LAST_INSTANCE_GROUP, FIRST_INSTANCE_GROUP]


def test_a_socket_whose_path_is_too_long_is_put_aside(tmp_path: Path, state: State) -> None:
    far = State(tmp_path / ("x" * 120) / "dev")
    path = far.socket("agent.sock")
    assert path.parent == far.aside
    assert path.parent.is_dir()


def test_data_of_another_user_is_put_aside_when_the_folder_is_private(tmp_path: Path, state: State) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    inside = State(home / "dev")
    assert inside.folder_for_others("postgres") == inside.aside / "postgres"
    assert inside.aside.is_relative_to(tmp_path / "aside")
    assert stat.S_IMODE(inside.aside.stat().st_mode) == 0o755


def test_two_folders_have_nothing_in_common_aside(tmp_path: Path, state: State) -> None:
    assert State(tmp_path / "a").aside != State(tmp_path / "b").aside


def test_one_who_waited_for_a_folder_that_was_purged_gets_a_new_one(state: State) -> None:
    entered = threading.Event()

    def wait_for_it() -> None:
        with state.locked():
            assert state.folder.exists()
            entered.set()

    with state.locked():
        thread = threading.Thread(target=wait_for_it)
        thread.start()
        (state.folder / "lock").unlink()
    thread.join(10)
    assert entered.is_set()
    assert (state.folder / "lock").exists()
