"""From a finding in the store's file to receivers that answer over TLS, and over a restart."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from broker.adapters.signals.building import receivers_of
from broker.adapters.store.sqlite import SqliteStore
from broker.domain.audit import AuditKind
from broker.domain.changes import AnswerFinding, RecordFinding
from broker.usecases.tell_others import GIVE_UP, TellOthers
from tests.fakes.outbox import Watched
from tests.fakes.samples import BROKER, a_finding
from tests.fakes.system import CountingIds, FakeClock
from tests.unit.telling.places import KEY, SECRET, Answer, Place, settings_of, write
from tests.unit.telling.test_webhooks import signed_by


class World:
    """A process: what it leaves is in the file."""

    def __init__(self, folder: Path, store: SqliteStore, clock: FakeClock, urls: dict[str, str]) -> None:
        secret = write(folder, "secret", SECRET)
        kinds = {"soc": {"kind": "webhook", "secret_file": secret}, "siem": {"kind": "ocsf"}}
        tell = {
            name: settings_of(folder, url, **{"from": "low", "timeout": "2s", **kinds[name]})
            for name, url in urls.items()
        }
        self.store = store
        self.clock = clock
        self.telling = TellOthers(
            store=store,
            receivers=receivers_of(tell, clock),
            clock=clock,
            ids=CountingIds(),
            actor=BROKER,
            watched=Watched(),
        )

    async def record(self) -> None:
        finding = a_finding()
        await self.store.commit(
            [RecordFinding(finding=finding), *self.telling.messages_for(finding, ["soc"])]
        )

    async def answer(self) -> None:
        at = self.clock.now() + timedelta(milliseconds=300)
        finding = replace(a_finding(), answered_at=at)
        answered = AnswerFinding(finding_id=finding.finding_id, at=at)
        self.clock.advance(seconds=0.3)
        await self.store.commit([answered, *self.telling.messages_for(finding, ["soc"])])


@asynccontextmanager
async def running(folder: Path, clock: FakeClock, **urls: str) -> AsyncIterator[World]:
    store = SqliteStore.open(f"sqlite:///{folder / 'broker.db'}")
    world = World(folder, store, clock, urls)
    try:
        yield world
    finally:
        await world.telling.close()
        await store.close()


def files_of(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.glob("broker.db*"))


async def test_a_finding_reaches_a_receiver_that_failed_after_a_restart_before_its_answer(
    place: Place, tmp_path: Path
) -> None:
    clock = FakeClock()
    place.answers.append(Answer(status=500))
    async with running(tmp_path, clock, soc=place.url) as world:
        await world.record()
        assert await world.telling.deliver() == 0
        await world.answer()
        assert (await world.store.figures()).messages == 2
    async with running(tmp_path, clock, soc=place.url) as world:
        assert await world.telling.deliver() == 0, "what failed is not due yet, and nothing overtakes it"
        clock.advance(seconds=2)
        assert await world.telling.deliver() == 2
        assert (await world.store.figures()).messages == 0
    assert [json.loads(one.body)["type"] for one in place.got] == [
        "finding.finding", "finding.finding", "finding.answered",
    ]  # fmt: skip
    first, again, answered = place.got
    assert first.headers["webhook-id"] == again.headers["webhook-id"] != answered.headers["webhook-id"]
    assert all(signed_by(KEY, one) for one in place.got)


async def test_a_receiver_that_hangs_keeps_no_other_from_being_told(place: Place, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    quick = Place(tmp_path / "other")
    await quick.start()
    place.open.clear()
    try:
        async with running(tmp_path, FakeClock(), soc=place.url, siem=quick.url) as world:
            await world.record()
            assert await world.telling.deliver() == 1
            assert (len(place.got), len(quick.got)) == (1, 1)
            assert json.loads(quick.got[0].body)["class_uid"] == 2004
    finally:
        await quick.stop()


async def test_what_nobody_takes_for_a_day_is_given_up_in_the_trail(place: Place, tmp_path: Path) -> None:
    clock = FakeClock()
    async with running(tmp_path, clock, soc=place.url) as world:
        await world.record()
        clock.advance(seconds=GIVE_UP.total_seconds())
        place.answers.append(Answer(status=503, body=b"planted"))
        await world.telling.deliver()
        (event,) = [
            one.event
            for one in await world.store.audit_records(0, 10)
            if one.event.kind == AuditKind.SIGNAL_UNDELIVERED
        ]
        assert (event.facts["finding"], event.facts["why"]) == (a_finding().finding_id, "status 503")
        assert (await world.store.figures()).messages == 0


async def test_no_secret_and_nothing_a_receiver_said_is_in_the_store_s_file(
    place: Place, tmp_path: Path
) -> None:
    place.answers.append(Answer(status=500, body=b"planted-by-the-receiver"))
    async with running(tmp_path, FakeClock(), soc=place.url) as world:
        await world.record()
        await world.telling.deliver()
    written = files_of(tmp_path)
    assert b"finding-" in written
    for planted in (SECRET.encode(), KEY, b"planted-by-the-receiver"):
        assert planted not in written
