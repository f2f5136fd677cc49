"""`tasklease workload`, as it is typed, on a real SPIRE."""

from __future__ import annotations

import json
import subprocess
import time

import pytest

from broker.devstack import spire
from broker.devstack.state import NODE_ID, TRUST_DOMAIN
from tests.integration.registry.conftest import Registrar

BOT = "tasklease.catalog.bot"


def test_an_instance_that_is_applied_gets_its_own_identity_and_no_other(registrar: Registrar) -> None:
    registrar.write_bots(2)
    registrar.good("apply", "--yes")
    agent, socket = str(registrar.stack.find_parts()[spire.AGENT]), str(registrar.stack.spire.agent_socket)
    for group, name in ((70000, "1"), (70001, "2")):
        end = time.monotonic() + 30
        while True:
            shown = subprocess.run(
                [agent, "api", "fetch", "x509", "-output", "json", "-socketPath", socket],
                extra_groups=[group],
                capture_output=True,
                text=True,
                check=False,
            )
            if shown.returncode == 0:
                break
            assert time.monotonic() < end, shown.stderr
            time.sleep(0.1)
        ids = [svid["spiffe_id"] for svid in json.loads(shown.stdout)["svids"]]
        assert ids == [f"spiffe://{TRUST_DOMAIN}/agent/bot/{name}"]


def test_the_plan_is_shown_and_nothing_is_done_before_the_answer(registrar: Registrar) -> None:
    registrar.write_bots(2)
    planned = registrar.typed("plan")
    assert planned.returncode == 3
    assert f"+ spiffe://{TRUST_DOMAIN}/agent/bot/1  unix:supplementary_gid:70000" in planned.stdout
    assert "0 to delete, 0 to update, 2 to create, 0 as they should be" in planned.stdout
    assert registrar("apply", "--dry-run").stdout == planned.stdout
    refused = registrar.typed("apply", answer="n\n")
    assert (refused.returncode, registrar.entries()) == (1, {})
    registrar.good("apply", answer="y\n")
    assert set(registrar.entries()) == {f"{BOT}.1", f"{BOT}.2"}


def test_a_second_apply_finds_nothing_to_do(registrar: Registrar) -> None:
    registrar.write_bots(2)
    assert f"created spiffe://{TRUST_DOMAIN}/agent/bot/2" in registrar.good("apply", "--yes")
    before = registrar.entries()
    assert "SPIRE matches the catalog: 2 entries" in registrar.good("apply", "--yes")
    assert registrar.good("plan").startswith("SPIRE matches the catalog")
    assert registrar.entries() == before


def test_drift_is_shown_field_by_field_and_put_right(registrar: Registrar) -> None:
    registrar.write_bots(1)
    registrar.good("apply", "--yes")
    (before,) = registrar.entries().values()
    registrar.change(
        f"{BOT}.1", "/agent/bot/other", "-selector", "unix:uid:0", "-admin", "-downstream", "-hint", "x",
        "-dns", "tasklease-broker", "-x509SVIDTTL", "86400", "-jwtSVIDTTL", "1", "-entryExpiry", "4102444800",
    )  # fmt: skip
    shown = registrar("plan")
    assert shown.returncode == 3
    for line in (
        f"spiffe_id: spiffe://{TRUST_DOMAIN}/agent/bot/other -> spiffe://{TRUST_DOMAIN}/agent/bot/1",
        "selectors: unix:uid:0 -> unix:supplementary_gid:70000",
        "x509_svid_ttl: 86400s -> 600s",
        "jwt_svid_ttl: 1s -> 300s",
        "dns_names: tasklease-broker -> none",
        "hint: x -> none",
        "admin: yes -> no",
        "downstream: yes -> no",
        "expires_at: 2100-01-01T00:00:00+00:00 -> none",
    ):
        assert f"    {line}\n" in shown.stdout
    assert "as the catalog says: " in registrar.good("show", f"{BOT}.1")
    registrar.good("apply", "--yes")
    (after,) = registrar.entries().values()
    assert {**after, "revision_number": 0} == {**before, "revision_number": 0}
    assert "ours, and as the catalog says" in registrar.good("show", f"spiffe://{TRUST_DOMAIN}/agent/bot/1")


def test_what_the_catalog_no_longer_lists_is_taken_away(registrar: Registrar) -> None:
    registrar.write_bots(3)
    registrar.good("apply", "--yes")
    registrar.write_bots(1)
    assert f"deleted spiffe://{TRUST_DOMAIN}/agent/bot/3" in registrar.good("apply", "--yes")
    assert set(registrar.entries()) == {f"{BOT}.1"}
    registrar.write("  other:\n    task_types: []\n")
    registrar.good("apply", "--yes")
    assert registrar.entries() == {}


def test_entries_of_others_are_untouched_also_with_the_same_id(registrar: Registrar) -> None:
    registrar.make("broker", "/tasklease/broker", "-selector", "unix:supplementary_gid:60990", "-admin")
    registrar.make("deployment", "/agent/bot/1", "-selector", "unix:uid:12345")
    registrar.make(
        "tasklease", "/agent/bot/9", "-selector", "unix:uid:12346", "-hint", "tasklease.catalog.bot.9"
    )
    theirs = registrar.entries()
    registrar.write_bots(2)
    done = registrar("apply", "--yes")
    assert done.returncode == 0
    assert "is given by entry deployment as well, which is not ours" in done.stderr
    assert set(registrar.entries()) == {*theirs, f"{BOT}.1", f"{BOT}.2"}
    refused = registrar("delete", "--yes", f"spiffe://{TRUST_DOMAIN}/agent/bot/9")
    assert refused.returncode == 1
    assert "tasklease is not ours: left alone" in refused.stderr
    registrar.write("  bot:\n    task_types: []\n")
    registrar.good("apply", "--yes")
    assert registrar.entries() == theirs


def test_an_entry_of_others_in_the_way_is_a_conflict_and_the_others_are_made(registrar: Registrar) -> None:
    registrar.make("theirs", "/agent/bot/1", "-selector", "unix:supplementary_gid:70000")
    theirs = registrar.entries()["theirs"]
    registrar.write_bots(2)
    done = registrar("apply", "--yes")
    assert done.returncode == 1
    assert f"conflict: spiffe://{TRUST_DOMAIN}/agent/bot/1: entry theirs has the same parent" in done.stderr
    assert "error: 1 entries are not as the catalog says" in done.stderr
    assert set(registrar.entries()) == {"theirs", f"{BOT}.2"}
    assert registrar.entries()["theirs"] == theirs
    again = registrar("apply", "--yes")
    assert again.returncode == 1
    assert registrar("plan").returncode == 3


def test_what_is_ours_is_known_after_spire_was_restarted(registrar: Registrar) -> None:
    registrar.write_bots(1)
    registrar.good("apply", "--yes")
    registrar.stack.stop_part(spire.SERVER)
    down = registrar("plan")
    assert down.returncode == 1
    assert "SPIRE's server does not answer at unix://" in down.stderr
    registrar.stack.start_part(spire.SERVER)
    assert registrar.good("plan").startswith("SPIRE matches the catalog: 1 entries")
    registrar.write("  bot:\n    task_types: []\n")
    registrar.good("apply", "--yes")
    assert registrar.entries() == {}


def test_a_thousand_entries_are_applied_changed_and_taken_away(registrar: Registrar) -> None:
    registrar.write_bots(1000)
    planned = registrar("plan")
    assert "and 980 more to create" in planned.stdout
    assert len(registrar("plan", "--all").stdout.splitlines()) == 1001
    made = registrar.good("apply", "--yes")
    assert made.count("\ncreated ") == 1000
    assert "done: 1000 of 1000" in made
    assert len(registrar.entries()) == 1000
    assert registrar.good("apply", "--yes").startswith("SPIRE matches the catalog: 1000 entries")
    assert len(registrar.good("list", "--class", "bot").splitlines()) == 1000
    registrar.write_bots(999, more="    x509_svid_ttl: 5m\n")
    changed = registrar.good("apply", "--yes")
    assert (changed.count("\nupdated "), changed.count("\ndeleted ")) == (999, 1)
    assert {entry["x509_svid_ttl"] for entry in registrar.entries().values()} == {300}
    assert "done: 999 of 999" in registrar.good("delete", "--class", "bot", "--yes")
    assert registrar.entries() == {}


def test_list_and_show_say_what_is_ours(registrar: Registrar) -> None:
    registrar.make("theirs", "/agent/bot/1", "-selector", "unix:uid:12345")
    registrar.write_bots(1)
    registrar.good("apply", "--yes")
    (line,) = registrar.good("list", "--json").splitlines()
    assert json.loads(line)["entry_id"] == f"{BOT}.1"
    assert json.loads(line)["parent_id"] == NODE_ID
    assert "not ours: never touched" in registrar.good("show", "theirs")
    assert registrar("show", "nothing").returncode == 1
    assert registrar.good("list", "--class", "other") == ""


def test_delete_takes_entries_by_name_and_asks(registrar: Registrar) -> None:
    registrar.write_bots(3)
    registrar.good("apply", "--yes")
    assert registrar("delete", f"{BOT}.1", answer="n\n").returncode == 1
    registrar.good("delete", f"{BOT}.1", f"spiffe://{TRUST_DOMAIN}/agent/bot/2", answer="y\n")
    assert set(registrar.entries()) == {f"{BOT}.3"}
    missing = registrar("delete", "--yes", f"{BOT}.1", f"{BOT}.3")
    assert missing.returncode == 1
    assert f"there is no entry of ours: {BOT}.1" in missing.stderr
    assert set(registrar.entries()) == {f"{BOT}.3"}
    assert registrar("delete", "--yes").returncode == 2
    assert registrar("delete", "--yes", "--class", "bot", f"{BOT}.3").returncode == 2


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--server", "unix:///nowhere/api.sock"], 1, "SPIRE's server does not answer at unix:///nowhere/api.sock"),
        (["--server", "http://x"], 2, "--server: give unix:///PATH or HOST:PORT"),
        (["--parent", "spiffe://other.test/spire/agent/x"], 1, "no SPIRE agent of dev.tasklease.test"),
        (["--parent", "no/such"], 2, "--parent: scheme is not spiffe://"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(registrar: Registrar, words: list[str], code: int, message: str) -> None:
    registrar.write_bots(1)
    done = registrar("apply", "--yes", *words)
    assert (done.returncode, registrar.entries()) == (code, {})
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_agents_socket_is_not_taken_for_the_servers(registrar: Registrar) -> None:
    registrar.write_bots(1)
    done = registrar("plan", "--server", f"unix://{registrar.stack.spire.agent_socket}")
    assert done.returncode == 1
    assert "is no SPIRE server: name the server's socket, not the agent's" in done.stderr


def test_a_catalog_with_mistakes_changes_nothing(registrar: Registrar) -> None:
    registrar.write_bots(2)
    registrar.good("apply", "--yes")
    before = registrar.entries()
    registrar.write("  bot:\n    task_types: []\n    instances: many\n")
    done = registrar("apply", "--yes")
    assert done.returncode == 1
    assert "catalog.yaml:5: agent_classes.bot.instances: give how many" in done.stderr
    assert registrar.entries() == before
