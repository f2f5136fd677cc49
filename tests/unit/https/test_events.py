"""The door for Security Event Tokens, over real TLS: nobody shows who they are, and the signature counts."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from broker.domain.audit import AuditKind
from broker.domain.errors import StoreUnavailableError
from broker.domain.findings import Answer, Severity
from broker.domain.security_events import EVENTS
from broker.domain.signals import ReporterBounds
from broker.server.https import open_door as module
from broker.usecases import receive_event as receive_module
from tests.fakes.samples import OTHER, OWNER, a_caller
from tests.unit.https.conftest import Build
from tests.unit.https.doors import Limits
from tests.unit.https.pushing import CONTENT_TYPE, Events
from tests.unit.jose.sets import ISSUER, SESSION_REVOKED, a_set, jwk, write_jwks
from tests.unit.server.served import Authority
from tests.unit.spire.tokens import ABSENT

PLANTED = "planted-4711"


Start = Callable[[Limits], Any]


@pytest_asyncio.fixture
async def start(build: Build, folder: Path) -> AsyncIterator[Start]:
    made: list[Events] = []

    async def make(limits: Limits) -> Events:
        made.append(Events(build(limits), folder, limits))
        await made[-1].start()
        return made[-1]

    yield make
    for events in made:
        await events.door.stop(timedelta(seconds=1))


@pytest_asyncio.fixture
async def events(start: Start) -> Events:
    found: Events = await start(Limits())
    return found


# What is taken.


async def test_a_token_is_taken_and_durable_and_answered_without_a_body(events: Events) -> None:
    reply = await events.push()
    assert (reply.status, reply.body, reply.headers.get("Content-Length", "0")) == (202, None, "0")
    (recorded,) = events.answers.recorded.values()
    assert (recorded.found.instance, recorded.found.source, recorded.found.key) == (OWNER, ISSUER, "event-1")
    assert recorded.answer is Answer.END_TASK
    event, found = await events.trail()
    assert (event.kind, event.actor) == (AuditKind.SIGNAL_RECEIVED, ISSUER)
    assert found.kind == AuditKind.ANOMALY_FOUND
    assert event.facts.items() >= {"event": "event-1", "key_id": "ES256", "kind": "session-revoked"}.items()
    assert event.facts["happened"] == "logged out by an admin"


async def test_a_session_names_the_task(events: Events) -> None:
    task = await events.behind.broker.declared()
    subject = {
        "format": "complex",
        "user": {"format": "uri", "uri": str(OWNER)},
        "session": {"format": "opaque", "id": task.task_id},
    }
    assert (await events.push(events.a_set(sub_id=subject))).status == 202
    (recorded,) = events.answers.recorded.values()
    assert recorded.found.task_id == task.task_id


async def test_an_event_that_does_not_count_is_taken_and_nothing_comes_of_it(events: Events) -> None:
    verification = {"https://schemas.openid.net/secevent/ssf/event-type/verification": {"state": "x"}}
    token = events.a_set(events=verification, sub_id={"format": "opaque", "id": "stream-1"})
    assert (await events.push(token)).status == 202
    assert not events.answers.asked
    assert not await events.trail()


async def test_a_token_that_is_replayed_is_answered_as_the_first_time_and_leaves_nothing(
    events: Events,
) -> None:
    token = events.a_set()
    for _ in range(8):
        assert (await events.push(token)).status == 202
    assert len(await events.trail()) == 2
    assert len(events.answers.asked) == 1


async def test_a_jti_is_remembered_whatever_restarts(events: Events) -> None:
    await events.push()
    events.report._budget = type(events.report._budget)()
    other = events.a_set(sub_id={"format": "uri", "uri": str(OTHER)})
    reply = await events.push(other)
    assert (reply.status, reply.body["err"]) == (400, "invalid_request")
    assert len(events.answers.recorded) == 1


async def test_a_new_key_of_the_issuer_counts_without_a_restart(events: Events, folder: Path) -> None:
    write_jwks(folder / "jwks.json", jwk("RS256"))
    await events.keys.reload_if_changed()
    assert (await events.push(events.a_set("ES256"))).body["err"] == "invalid_key"
    assert (await events.push(events.a_set("RS256"))).status == 202


async def test_the_door_serves_the_brokers_newest_svid(events: Events) -> None:
    events.behind.turn(Authority())
    assert (await events.push()).status == 202


# What is refused.


@pytest.mark.parametrize(
    ("changed", "err"),
    [
        ({"header": {"typ": "JWT"}}, "invalid_request"),
        ({"iss": "https://evil.test"}, "invalid_issuer"),
        ({"aud": "https://another.test"}, "invalid_audience"),
        ({"header": {"kid": PLANTED}}, "invalid_key"),
    ],
)
async def test_what_nobody_known_signed_is_refused_by_its_code_and_not_written_down(
    events: Events, changed: dict[str, Any], err: str
) -> None:
    reply = await events.push(events.a_set(**changed))
    assert (reply.status, set(reply.body), reply.body["err"]) == (400, {"err", "description"}, err)
    assert (reply.headers["Content-Type"].partition(";")[0], reply.headers["Content-Language"]) == (
        "application/json",
        "en",
    )
    assert PLANTED not in json.dumps(reply.body)
    assert not events.answers.asked
    assert not await events.trail()


@pytest.mark.parametrize("case", ["nobody", "unlisted", "another's task", "no subject"])
async def test_what_a_known_issuer_signed_about_nobody_is_refused_and_written_down(
    events: Events, case: str
) -> None:
    task = await events.behind.broker.declared(a_caller(OTHER))
    before = len(await events.trail())
    subject: object = {
        "nobody": {"format": "opaque", "id": PLANTED},
        "unlisted": {"format": "uri", "uri": "spiffe://example.test/agent/unlisted/one"},
        "another's task": {
            "user": {"format": "uri", "uri": str(OWNER)},
            "session": {"format": "opaque", "id": task.task_id},
        },
        "no subject": ABSENT,
    }[case]
    reply = await events.push(events.a_set(sub_id=subject))
    err = "access_denied" if case == "unlisted" else "invalid_request"
    assert (reply.status, reply.body["err"]) == (400, err)
    assert not events.answers.asked
    (event,) = (await events.trail())[before:]
    assert (event.kind, event.actor, event.facts["refused"]) == (AuditKind.SIGNAL_RECEIVED, ISSUER, err)
    assert PLANTED not in json.dumps([reply.body, dict(event.facts)])


async def test_a_refused_token_that_is_brought_again_and_again_does_not_fill_the_trail(
    events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receive_module, "_WRITTEN_DOWN", 3)
    token = events.a_set(sub_id=ABSENT)
    assert {(await events.push(token)).status for _ in range(6)} == {400}
    assert len(await events.trail()) == 3
    assert (await events.push(events.a_set(jti="event-2"))).status == 202, (
        "and takes nothing of its issuer's budget"
    )


async def test_another_instances_task_is_as_if_it_did_not_exist(events: Events) -> None:
    task = await events.behind.broker.declared(a_caller(OTHER))
    replies = []
    for number, name in enumerate((task.task_id, "task-" + "0" * 26)):
        subject = {
            "user": {"format": "uri", "uri": str(OWNER)},
            "session": {"format": "opaque", "id": name},
        }
        replies.append(await events.push(events.a_set(jti=f"event-{number}", sub_id=subject)))
    assert replies[0].body == replies[1].body


async def test_an_issuers_word_weighs_as_much_as_the_settings_say(events: Events) -> None:
    events.bounds = ReporterBounds(most_severe=Severity.MEDIUM, agent_classes=frozenset({"invoice-bot"}))
    await events.push(events.a_set(events={EVENTS["account-disabled"]: {}}))
    (recorded,) = events.answers.recorded.values()
    assert recorded.found.severity is Severity.MEDIUM
    events.bounds = ReporterBounds(agent_classes=frozenset({"other-bot"}))
    reply = await events.push(events.a_set(jti="event-2"))
    assert (reply.status, reply.body["err"]) == (400, "access_denied")


async def test_an_issuer_that_says_too_much_is_told_to_come_again(events: Events) -> None:
    statuses = [(await events.push(events.a_set(jti=f"event-{n}"))).status for n in range(7)]
    assert statuses == [202] * 5 + [429] * 2
    events.clock.advance(minutes=1)
    reply = await events.push(events.a_set(jti="event-6"))
    assert reply.status == 202


@pytest.mark.parametrize("down", ["store", "answers"])
async def test_what_is_not_durable_is_to_be_sent_again(
    events: Events, monkeypatch: pytest.MonkeyPatch, down: str
) -> None:
    async def fail(_changes: object) -> None:
        raise StoreUnavailableError

    if down == "store":
        monkeypatch.setattr(events.store, "commit", fail)
    events.answers.down = True
    for subject in (
        (ABSENT, {"format": "uri", "uri": str(OWNER)})
        if down == "store"
        else ({"format": "uri", "uri": str(OWNER)},)
    ):
        reply = await events.push(events.a_set(sub_id=subject))
        assert (reply.status, reply.reason, reply.headers["Retry-After"]) == (503, "STORE_UNAVAILABLE", "1")
    monkeypatch.undo()
    events.answers.down = False
    assert (await events.push()).status == 202


# The request itself.


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content_Type": "application/json"}, 415),
        ({"Content_Type": "application/jwt"}, 415),
        ({"Content_Type": CONTENT_TYPE + "; charset=utf-16"}, 415),
        ({"Content_Encoding": "gzip"}, 415),
    ],
)
async def test_what_is_said_to_be_something_else_is_not_looked_at(
    events: Events, headers: dict[str, str], status: int
) -> None:
    assert (await events.push(**headers)).status == status
    assert not events.answers.asked


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"{}", PLANTED.encode(), b"a.b.c", b"." * 60_000])
async def test_what_is_no_token_is_a_clear_refusal(events: Events, body: bytes) -> None:
    reply = await events.push(body)
    assert (reply.status, reply.body["err"]) == (400, "invalid_request")
    assert PLANTED not in json.dumps(reply.body)


async def test_a_body_that_is_too_large_is_not_read(events: Events) -> None:
    assert (await events.push(b"x" * 65_537)).status == 413


@pytest.mark.parametrize(
    "path", ["/", "/events/", "/events?x=1", "/access/v1/evaluation", "/events/../events"]
)
async def test_there_is_one_path_and_no_other(events: Events, path: str) -> None:
    assert (await events.push(path=path)).status == 404


async def test_there_is_one_method_and_no_other(events: Events) -> None:
    reply = await events.on_one(lambda one: one.get("/events"))
    assert (reply.status, reply.headers["Allow"]) == (405, "POST")


async def test_no_header_makes_anybody_somebody(events: Events) -> None:
    reply = await events.push(
        events.a_set(header={"kid": "none"}),
        Authorization=f"Bearer {a_set()}",
        X_Forwarded_Client_Cert=f"URI={OWNER}",
        X_Request_ID=PLANTED,
    )
    assert (reply.status, reply.body["err"]) == (400, "invalid_key")
    assert reply.headers["X-Request-ID"].startswith("req-")


async def test_a_stopping_broker_takes_nothing(events: Events) -> None:
    events.behind.stopping.set()
    assert (await events.push()).reason == "SHUTTING_DOWN"
    assert not events.answers.asked


async def test_strangers_keep_to_a_rate_of_their_own(start: Start) -> None:
    events: Events = await start(Limits(rate=0.001, burst=8))
    statuses = [(await events.push(b"x")).status for _ in range(3)]
    assert statuses == [400, 400, 429]
    from broker.server.authzen import METADATA

    await events.behind.start()
    reply = await events.behind.on_one(lambda one: one.get(METADATA))
    assert reply.status == 200, "instances have theirs"


async def test_strangers_have_room_for_so_many_requests(start: Start) -> None:
    events: Events = await start(Limits(most=1))
    entered, go = asyncio.Event(), asyncio.Event()
    take = events.answers.__class__.__call__

    async def wait(found: Any, *, request_id: str = "") -> Any:
        entered.set()
        await go.wait()
        return await take(events.answers, found, request_id=request_id)

    events.report._answer_findings = wait
    first = asyncio.ensure_future(events.push())
    await entered.wait()
    assert (await events.push()).reason == "OVERLOADED"
    go.set()
    assert (await first).status == 202


async def test_what_is_unforeseen_says_nothing(
    events: Events, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(_found: object, *, request_id: str = "") -> None:
        raise RuntimeError(PLANTED + request_id)

    monkeypatch.setattr(events.report, "_answer_findings", fail)
    with caplog.at_level(logging.INFO):
        reply = await events.push()
    assert (reply.status, reply.reason) == (500, "INTERNAL")
    assert PLANTED not in json.dumps(reply.body) + caplog.text


async def test_what_takes_too_long_is_given_up(events: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(_found: object, *, request_id: str = "") -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(module, "_MOST_TIME", timedelta(seconds=0.05))
    monkeypatch.setattr(events.report, "_answer_findings", hang)
    assert (await events.push()).status == 504


async def test_no_token_is_in_a_log(events: Events, caplog: pytest.LogCaptureFixture) -> None:
    token = events.a_set(jti=PLANTED, events={SESSION_REVOKED: {"reason_admin": PLANTED}})
    with caplog.at_level(logging.DEBUG):
        await events.push(token)
        await events.push(events.a_set(header={"kid": PLANTED}))
        await events.push(PLANTED)
    assert PLANTED not in caplog.text
    assert token.rpartition(".")[2] not in caplog.text


@pytest.mark.parametrize(
    ("remote", "site"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::9", "2001:db8:1:2::/64"),
        ("", ""),
        (None, ""),
    ],
)
def test_who_shares_a_rate(remote: str | None, site: str) -> None:
    assert module._site(remote) == site
