"""`tasklease pool`: identities that are ready before anybody asks, each used once."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor

from broker.domain.launching import IdentityState
from tests.integration.launching.node import FOREVER, Node, eventually


def test_a_launch_takes_one_that_is_ready_and_another_takes_its_place(node: Node) -> None:
    node.write(ready=2)
    with node.pool(ready=2):
        waiting = {one.spiffe_id for one in node.identities(IdentityState.READY)}
        done = node.launch(*node.whose())
        assert done.stdout.split()[0] in waiting, done.stderr
        eventually(lambda: len(node.identities(IdentityState.READY)) == 2)
        again = {one.spiffe_id for one in node.identities(IdentityState.READY)}
        assert done.stdout.split()[0] not in again


def test_each_is_used_once_however_many_come_at_once(node: Node) -> None:
    node.write(ready=3)
    with node.pool(ready=3), ThreadPoolExecutor(6) as threads:
        done = list(threads.map(lambda _: node.launch(*node.whose()), range(6)))
        assert [one.returncode for one in done] == [0] * 6, [one.stderr for one in done]
        assert len({one.stdout for one in done}) == 6


def test_a_pool_that_is_gone_leaves_entries_that_expire_and_the_next_one_takes_over(node: Node) -> None:
    node.write(ready=2)
    with node.pool(ready=2) as pool:
        pool.kill()
        pool.wait()
        assert all(int(entry["expires_at"]) > 0 for entry in node.entries().values())
        assert node.launch("true").returncode == 0
    with node.pool(ready=2):
        assert len(node.entries()) == 2


def test_what_the_catalog_no_longer_wants_is_taken_away(node: Node) -> None:
    node.write(ready=3)
    with node.pool(ready=3):
        node.write(ready=1)
        eventually(lambda: len(node.entries()) == 1)
        node.catalog.write_text("version: 1\n")
        eventually(lambda: not node.entries())


def test_what_was_made_otherwise_than_the_catalog_says_now_is_replaced(node: Node) -> None:
    node.write(ready=2)
    with node.pool(ready=2):
        before = {one.spiffe_id for one in node.identities(IdentityState.READY)}
        node.write(ready=2, unix=", user: nobody")

        def replaced() -> bool:
            now = {one.spiffe_id: one.user for one in node.identities(IdentityState.READY)}
            return len(now) == 2 and not before & set(now) and set(now.values()) == {"nobody"}

        eventually(replaced)


def test_it_ends_what_others_left_behind(node: Node) -> None:
    launched = node.start(*FOREVER)
    launched.kill("watcher", "launcher", "child")
    launched.wait()
    with node.pool(ready=0):
        eventually(lambda: node.identity(launched.spiffe_id).state is IdentityState.COOLING)
        assert not node.entries()


def test_there_is_one_on_each_node(node: Node) -> None:
    node.write(ready=1)
    with node.pool(ready=1) as pool:
        done = subprocess.run(pool.args, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "a pool runs in" in done.stderr
