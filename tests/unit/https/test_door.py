"""What a request meets before and around its endpoint, over real connections."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import ssl
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509

from broker.client import Svid
from broker.domain.audit import AuditKind
from broker.domain.operators import OperatorRole
from broker.domain.peer import VerifiedOperator
from broker.domain.spiffe import SpiffeId
from broker.server.https import connections as connections_module
from broker.server.https import door as door_module
from broker.server.https import reading as reading_module
from broker.server.https.endpoints import Body, Endpoint, Visit
from tests.contract.quarantining import impose
from tests.fakes.samples import OTHER, OWNER
from tests.https import EVALUATION, EVALUATIONS, METADATA, Connection, Reply, an_evaluation
from tests.unit.https.conftest import Build
from tests.unit.https.doors import ANN, GATEWAY, Door, Limits
from tests.unit.server.served import Authority
from tests.unit.server.test_gate import eventually
from tests.unit.spire import certificates

PLANTED = "hvs.planted-vault-token"
REFUSED_BY_TLS = (ssl.SSLError, ConnectionError)


def an_endpoint(serve: Callable[[Visit, Body], Any], path: str = "/test") -> Endpoint:
    return Endpoint(
        method="GET",
        path=path,
        name="Test",
        cost=1,
        roles=frozenset({OperatorRole.ENFORCER}),
        serve=serve,
        outline=lambda _body: "",
    )


class Waiting:
    """An endpoint that answers when it is told to."""

    def __init__(self) -> None:
        self.here = 0
        self.go = asyncio.Event()

    async def __call__(self, _visit: Visit, _body: Body) -> Body:
        self.here += 1
        await self.go.wait()
        return {"done": True}


async def get(door: Door, path: str = METADATA, *, who: SpiffeId = OWNER) -> Reply:
    reply: Reply = await door.on_one(lambda one: one.get(path), who=who)
    return reply


# Who it is.


async def test_who_shows_no_certificate_gets_no_answer(door: Door) -> None:
    def ask() -> None:
        from tests.https import connected

        with connected(door.address, authorities=door.authority.pem, svid=None) as one:
            one.get(METADATA)

    with pytest.raises(REFUSED_BY_TLS):
        await asyncio.to_thread(ask)


async def test_a_foreign_authoritys_certificate_gets_no_answer(door: Door) -> None:
    with pytest.raises(REFUSED_BY_TLS):
        await door.on_one(lambda one: one.get(METADATA), svid=Authority().svid())


def behind_an_intermediate(door: Door) -> Svid:
    """An SVID that an intermediate of the authority signed, with it."""
    now, day = door.clock.now(), timedelta(days=1)
    between = Authority.__new__(Authority)
    certificates.Authority.__init__(
        between, name="between", signer=door.authority, valid_from=now - day, valid_to=now + day
    )
    svid = between.svid()
    return Svid(
        spiffe_id=svid.spiffe_id, chain=svid.chain + between.pem, key=svid.key, authorities=door.authority.pem
    )


async def test_a_chain_with_an_intermediate_is_taken(door: Door) -> None:
    reply = await door.on_one(lambda one: one.get(METADATA), svid=behind_an_intermediate(door))
    assert reply.status == 200


async def between_requests(door: Door, change: Callable[[], None]) -> tuple[Reply, Reply]:
    """Two requests on one connection, and what was changed between them."""
    loop = asyncio.get_running_loop()

    def ask(one: Connection) -> tuple[Reply, Reply]:
        first = one.get(METADATA)
        done = asyncio.run_coroutine_threadsafe(_call(change), loop)
        done.result(10)
        return first, one.get(METADATA)

    found: tuple[Reply, Reply] = await door.on_one(ask)
    return found


async def _call(change: Callable[[], None]) -> None:
    change()


async def test_an_svid_that_has_expired_is_refused_on_an_open_connection(door: Door) -> None:
    first, second = await between_requests(door, lambda: door.clock.advance(hours=2))
    assert first.status == 200
    assert (second.status, second.reason) == (401, "SVID_EXPIRED")


async def test_whose_authority_is_replaced_is_refused_on_an_open_connection(door: Door) -> None:
    first, second = await between_requests(door, lambda: setattr(door, "authority", Authority()))
    assert first.status == 200
    assert (second.status, second.reason) == (401, "SVID_INVALID")


async def test_who_is_quarantined_is_refused(door: Door) -> None:
    await impose(door.broker.store)
    await door.broker.quarantine.refresh()
    reply = await get(door)
    assert (reply.status, reply.reason) == (403, "INSTANCE_QUARANTINED")


async def test_an_id_below_agent_that_is_no_instance_is_refused(door: Door) -> None:
    reply = await get(door, who=SpiffeId.parse("spiffe://example.test/agent/invoice-bot"))
    assert (reply.status, reply.reason) == (403, "AGENT_CLASS_UNKNOWN")


async def test_what_cannot_be_written_down_is_not_answered(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    from broker.domain.errors import StoreUnavailableError

    async def fail(_changes: object) -> None:
        raise StoreUnavailableError

    monkeypatch.setattr(door.broker.store, "commit", fail)
    reply = await get(door, who=ANN)
    assert (reply.status, reply.reason) == (503, "STORE_UNAVAILABLE")
    assert reply.headers["Retry-After"] == "1"


async def test_an_operator_has_a_role_that_the_endpoint_takes(build: Build) -> None:
    door = build(Limits())
    seen: list[Visit] = []

    async def serve(visit: Visit, _body: Body) -> Body:
        seen.append(visit)
        return {}

    await door.start(an_endpoint(serve))
    assert (await get(door, "/test", who=GATEWAY)).status == 200
    assert (await get(door, "/test", who=ANN)).reason == "OPERATOR_ROLE_MISSING"
    (visit,) = seen
    assert isinstance(visit.who, VerifiedOperator)
    assert (visit.who.spiffe_id, visit.who.roles) == (GATEWAY, frozenset({OperatorRole.ENFORCER}))


# The broker's own SVID.


async def test_a_new_connection_sees_the_newest_svid(door: Door) -> None:
    for name in ("first", "second"):
        newer = door.turn()
        leaf = await door.on_one(lambda one: (one.get(METADATA), one.leaf)[1])
        assert leaf == x509.load_pem_x509_certificate(newer.chain), name


async def test_a_client_that_sends_no_name_sees_the_newest_svid(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrap = ssl.SSLContext.wrap_socket

    def without_name(self: ssl.SSLContext, sock: Any, server_hostname: str | None = None) -> Any:
        self.check_hostname = False
        return wrap(self, sock)

    newer = door.turn()
    monkeypatch.setattr(ssl.SSLContext, "wrap_socket", without_name)
    leaf = await door.on_one(lambda one: (one.get(METADATA), one.leaf)[1])
    assert leaf == x509.load_pem_x509_certificate(newer.chain)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_session_that_is_resumed_is_verified_like_any_other(
    door: Door, monkeypatch: pytest.MonkeyPatch, version: ssl.TLSVersion
) -> None:
    """OpenSSL resumes sessions of TLS 1.2 from its memory; what such a connection shows is what the first one showed."""
    contexts: list[ssl.SSLContext] = []
    wrap = ssl.SSLContext.wrap_socket
    loop = asyncio.get_running_loop()

    def remembering(self: ssl.SSLContext, sock: Any, server_hostname: str | None = None) -> Any:
        self.maximum_version = version
        contexts.append(self)
        return wrap(self, sock, server_hostname=server_hostname)

    def again(session: ssl.SSLSession | None) -> tuple[Reply, bool]:
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as plain:
            plain.connect(door.address.removeprefix("unix:"))
            with wrap(contexts[0], plain, server_hostname="tasklease-broker", session=session) as tls:
                return Connection(tls).get(METADATA), tls.session_reused is True

    def ask(one: Connection) -> tuple[Reply, Reply, bool]:
        assert one.get(METADATA).status == 200
        first, resumed = again(one.tls.session)
        replaced = _call(lambda: setattr(door, "authority", Authority()))
        asyncio.run_coroutine_threadsafe(replaced, loop).result(10)
        return first, again(one.tls.session)[0], resumed

    monkeypatch.setattr(ssl.SSLContext, "wrap_socket", remembering)
    first, second, resumed = await door.on_one(ask, svid=behind_an_intermediate(door))
    assert resumed == (version is ssl.TLSVersion.TLSv1_2)
    assert first.status == 200
    assert (second.status, second.reason) == (401, "SVID_INVALID")


async def test_new_connections_follow_the_bundles(door: Door) -> None:
    old = door.authority.svid()
    await door.on_one(lambda one: one.get(METADATA), svid=old)
    door.turn(Authority())
    with pytest.raises(REFUSED_BY_TLS):
        await door.on_one(lambda one: one.get(METADATA), svid=old)
    assert (await get(door)).status == 200


async def test_an_svid_that_cannot_be_served_leaves_the_one_before(door: Door) -> None:
    door.identity._svid = None
    door.identity._version += 1
    assert (await get(door)).status == 200


# How much, and in which form.


@pytest.mark.parametrize(
    ("method", "path", "status", "reason"),
    [
        ("GET", "/", 404, "RPC_UNKNOWN"),
        ("POST", EVALUATION + "/", 404, "RPC_UNKNOWN"),
        ("POST", "/access/v1//evaluation", 404, "RPC_UNKNOWN"),
        ("POST", "/access/v1/search/subject", 404, "RPC_UNKNOWN"),
        ("GET", EVALUATION, 405, "FIELD_INVALID"),
        ("DELETE", EVALUATION, 405, "FIELD_INVALID"),
        ("POST", METADATA, 405, "FIELD_INVALID"),
    ],
)
async def test_what_is_not_listed_is_refused(
    door: Door, method: str, path: str, status: int, reason: str
) -> None:
    reply = await door.on_one(lambda one: one.ask(method, path, b"{}", {"Content_Type": "application/json"}))
    assert (reply.status, reply.reason) == (status, reason)
    assert (reply.headers.get("Allow") is not None) == (status == 405)


BODIES: dict[str, bytes] = {
    "nothing but a word": b"hello",
    "half an object": b'{"subject": ',
    "a list": b"[]",
    "a text": b'"x"',
    "null": b"null",
    "no UTF-8": b'{"subject": "\xff"}',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "a name that stands twice": b'{"subject": {"type": "instance", "type": "instance"}}',
    "a number that is none": b'{"context": {"task": NaN}}',
    "a number without end": b'{"context": {"task": -Infinity}}',
    "a whole number of 30 digits": b'{"context": {"task": ' + b"9" * 30 + b"}}",
    "a number that is too large": b'{"context": {"task": 1e999}}',
    "half a surrogate pair": b'{"context": {"task": "\\ud800"}}',
    "nested too deep": b'{"x": ' + b"[" * 40 + b"]" * 40 + b"}",
    "nested very deep": b'{"x": ' + b"[" * 30000 + b"]" * 30000 + b"}",
    "opened and never closed": b'{"x": ' + b"[" * 60000,
}


@pytest.mark.parametrize("case", BODIES)
@pytest.mark.parametrize("path", [EVALUATION, EVALUATIONS])
async def test_a_body_that_is_no_plain_object_is_refused(door: Door, case: str, path: str) -> None:
    reply = await door.post(path, BODIES[case])
    assert (reply.status, reply.reason) == (400, "FIELD_INVALID")
    assert set(reply.fields) == {"(request)"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content_Type": ""}, 415),
        ({"Content_Type": "application/json; charset=utf-16"}, 415),
        ({"Content_Encoding": "gzip"}, 415),
        ({"Host": "two words"}, 400),
        ({"Host": "user@host"}, 400),
    ],
)
async def test_headers_that_do_not_fit_are_refused(door: Door, headers: dict[str, str], status: int) -> None:
    reply: Reply = await door.on_one(lambda one: one.post(EVALUATION, b"{}", **headers))
    assert (reply.status, reply.reason) == (status, "FIELD_INVALID")


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_is_too_large_is_not_read(build: Build, chunked: bool) -> None:  # noqa: FBT001
    door = build(Limits(max_body=4096))
    await door.start()
    size, most = 0, 400

    def pieces() -> Iterator[bytes]:
        nonlocal size
        for _ in range(most):
            size += 1024
            yield b" " * 1024

    def ask(one: Connection) -> Reply:
        headers = {"Content_Type": "application/json"}
        data = pieces() if chunked else b" " * 4097
        return one.ask(
            "POST", EVALUATION, data, headers | ({"Transfer_Encoding": "chunked"} if chunked else {})
        )

    reply: Reply = await door.on_one(ask)
    assert (reply.status, reply.fields) == (413, {"(request)": "at most 4096 bytes"})


async def test_a_body_of_the_largest_size_is_read(build: Build) -> None:
    door = build(Limits(max_body=4096))
    await door.start()
    task = await door.task()
    body = json.dumps(an_evaluation(str(OWNER), task.task_id)).encode().ljust(4096)
    assert (await door.post(EVALUATION, body)).status == 200


async def test_a_body_that_does_not_come_is_not_waited_for(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading_module, "_FOR_A_BODY", timedelta(seconds=0.1))
    head = f"POST {EVALUATION} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
    reply: Reply = await door.on_one(lambda one: one.raw(head.encode() + b"{"))
    assert (reply.status, reply.reason) == (408, "FIELD_INVALID")
    assert reply.headers["Connection"] == "close"


@pytest.mark.parametrize("sent", [b"", b"GET ", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "])
async def test_headers_that_do_not_come_end_the_connection(
    build: Build, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(connections_module, "_IDLE", timedelta(seconds=0.2))
    door = build(Limits())
    await door.start()

    def wait(one: Connection) -> bytes:
        if sent:
            one.tls.sendall(sent)
        return one.tls.recv(1)

    assert await door.on_one(wait) == b""


@pytest.mark.parametrize(
    "sent",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        PLANTED.encode() + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + PLANTED.encode() + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + PLANTED.encode() * 1000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_refused_and_not_repeated(
    door: Door, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        reply: Reply = await door.on_one(lambda one: one.raw(sent))
    assert (reply.status, reply.reason) == (400, "FIELD_INVALID")
    assert PLANTED not in json.dumps(reply.body) + caplog.text


async def test_connections_are_bounded(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections_module, "_MOST_CONNECTIONS", 1)
    door = build(Limits())
    await door.start()
    loop = asyncio.get_running_loop()

    def ask(one: Connection) -> bytes:
        assert one.get(METADATA).status == 200

        def second(other: Connection) -> bytes:
            other.tls.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            return other.tls.recv(1)

        found: bytes = asyncio.run_coroutine_threadsafe(door.on_one(second), loop).result(10)
        return found

    with contextlib.suppress(ConnectionError):  # it was closed before it was written to
        assert await door.on_one(ask) == b""


async def test_the_callers_name_for_a_request_is_said_again(door: Door) -> None:
    task = await door.task()
    question = an_evaluation(str(OWNER), task.task_id)
    assert (await door.post(EVALUATION, question, X_Request_ID="abc-1")).headers["X-Request-ID"] == "abc-1"
    refused = await door.post(EVALUATION, {}, X_Request_ID="abc-1")
    assert refused.headers["X-Request-ID"] == "abc-1"
    assert refused.body["error"]["request_id"].startswith("req-")
    for given in ("x" * 129, "two words", "\xe9"):
        said = (await door.post(EVALUATION, question, X_Request_ID=given)).headers["X-Request-ID"]
        assert said.startswith("req-")


async def test_answers_are_kept_by_nobody_and_name_no_product(door: Door) -> None:
    reply = await get(door)
    assert (reply.headers["Cache-Control"], reply.headers["Server"]) == ("no-store", "tasklease")
    assert reply.headers["Content-Type"].startswith("application/json")


# How much at once.


async def test_each_caller_has_its_rate(build: Build) -> None:
    door = build(Limits(rate=0.5, burst=4))
    await door.start()
    for _ in range(4):
        assert (await get(door)).status == 200
    reply = await get(door)
    assert (reply.status, reply.reason, reply.headers["Retry-After"]) == (429, "RATE_LIMITED", "2")
    assert (await get(door, who=OTHER)).status == 200
    door.clock.advance(seconds=2)
    assert (await get(door)).status == 200


async def test_what_is_asked_for_an_instance_counts_for_it_too(build: Build) -> None:
    door = build(Limits(rate=0.5, burst=4))
    await door.start()
    task = await door.task()
    for _ in range(4):
        assert (await door.evaluate(task, who=GATEWAY)).status == 200
    other = SpiffeId.parse("spiffe://example.test/enforcer/other")
    for who in (GATEWAY, other, OWNER):
        assert (await door.evaluate(task, who=who)).reason == "RATE_LIMITED"
    assert await door.length(task) == 4


async def test_agents_that_fill_the_door_do_not_keep_an_enforcer_out(build: Build) -> None:
    door, waiting = build(Limits(most=2)), Waiting()
    await door.start(an_endpoint(waiting))
    async with asyncio.TaskGroup() as group:
        first = [group.create_task(get(door, "/test")) for _ in range(2)]
        await eventually(lambda: waiting.here == 2)
        reply = await get(door)
        assert (reply.status, reply.reason) == (429, "OVERLOADED")
        assert (await get(door, who=GATEWAY)).status == 200
        waiting.go.set()
    assert [one.result().status for one in first] == [200, 200]
    assert (await get(door)).status == 200


async def test_operators_room_is_bounded_as_well(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "_KEPT_FOR_OPERATORS", 1)
    door, waiting = build(Limits(most=1)), Waiting()
    await door.start(an_endpoint(waiting))
    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(get(door, "/test", who=GATEWAY))
        await eventually(lambda: waiting.here == 2)
        assert (await get(door, who=GATEWAY)).reason == "OVERLOADED"
        waiting.go.set()


# The end, and what goes wrong.


async def test_a_broker_that_stops_refuses_what_is_new(door: Door) -> None:
    def ask(one: Connection) -> tuple[Reply, Reply]:
        first = one.get(METADATA)
        asyncio.run_coroutine_threadsafe(_call(door.stopping.set), loop).result(10)
        return first, one.get(METADATA)

    loop = asyncio.get_running_loop()
    first, second = await door.on_one(ask)
    assert (first.status, second.status, second.reason) == (200, 503, "SHUTTING_DOWN")


async def test_what_is_under_way_is_answered_within_the_grace(build: Build) -> None:
    door, waiting = build(Limits()), Waiting()
    await door.start(an_endpoint(waiting))
    asked = asyncio.create_task(get(door, "/test"))
    await eventually(lambda: waiting.here == 1)
    stopped = asyncio.create_task(door.stop())
    await asyncio.sleep(0.05)
    assert not stopped.done()
    waiting.go.set()
    assert (await asked).body == {"done": True}
    await asyncio.wait_for(stopped, 2)
    with pytest.raises(OSError, match=r"."):
        await get(door)


async def test_idle_connections_do_not_hold_up_the_end(door: Door) -> None:
    loop = asyncio.get_running_loop()

    def ask(one: Connection) -> bytes:
        one.get(METADATA)
        asyncio.run_coroutine_threadsafe(door.stop(timedelta(seconds=60)), loop).result(5)
        return one.tls.recv(1)

    assert await door.on_one(ask) == b""


async def test_what_is_not_done_in_time_is_given_up(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "_MOST_TIME", timedelta(seconds=0.1))
    door = build(Limits())
    await door.start(an_endpoint(Waiting()))
    reply = await get(door, "/test")
    assert (reply.status, reply.reason) == (504, "CALL_DEADLINE_EXCEEDED")


async def test_what_is_unforeseen_says_its_request_id_alone(
    build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(_visit: Visit, _body: Body) -> Body:
        raise RuntimeError(PLANTED)

    door = build(Limits())
    await door.start(an_endpoint(fail))
    with caplog.at_level(logging.DEBUG):
        reply = await get(door, "/test", who=GATEWAY)
    error = reply.body["error"]
    assert (reply.status, reply.reason) == (500, "INTERNAL")
    assert error["message"] == f"internal error, request {error['request_id']}"
    assert PLANTED not in json.dumps(reply.body) + caplog.text
    assert "RuntimeError at" in caplog.text
    event = await door.last_event()
    assert (event.kind, event.facts["reason"]) == (AuditKind.OPERATOR_REFUSED, "INTERNAL")
