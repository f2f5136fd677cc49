"""The registry over TCP: who may, who may not, and who could answer there."""

from __future__ import annotations

import asyncio
import ssl
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from broker.adapters.spire.registry import SpireWorkloadRegistry
from broker.adapters.spire.tcp_channel import AdminSvid, tcp_channel
from broker.devstack.spire import Entry
from broker.devstack.state import NODE_ID, TRUST_DOMAIN
from broker.domain.spiffe import SpiffeId
from broker.domain.workload import WorkloadEntry
from broker.ports.registry import RegistryRefusedError, RegistryUnavailableError
from broker.usecases.apply_workloads import Applied, ApplyWorkloads
from tests.integration.registry.conftest import Registrar
from tests.integration.registry.spire_alone import make_admin, minted, server_port
from tests.unit.spire.certificates import Authority
from tests.unit.usecases.test_plan_workloads import a_class, wanted

ADMIN = "/platform/registrar"
ADMIN_GROUP = 60001


def bots(*instances: str) -> tuple[WorkloadEntry, ...]:
    return wanted(
        a_class(instances=instances),
        own_id=SpiffeId.parse(f"spiffe://{TRUST_DOMAIN}/tasklease/broker"),
        parent=SpiffeId.parse(NODE_ID),
    )


async def applied(registry: SpireWorkloadRegistry, entries: tuple[WorkloadEntry, ...]) -> list[Applied]:
    use_case = ApplyWorkloads(registry)
    found = await use_case.plan(entries)
    return [one async for one in use_case.apply(found.changes)]


@asynccontextmanager
async def over_tcp(registrar: Registrar, svid: AdminSvid) -> AsyncIterator[SpireWorkloadRegistry]:
    async with tcp_channel("127.0.0.1", server_port(registrar.stack), svid) as channel:
        yield SpireWorkloadRegistry(channel, address="tcp")


async def test_an_admin_registers_over_tcp(registrar: Registrar, tmp_path: Path) -> None:
    make_admin(registrar.stack, ADMIN, f"unix:supplementary_gid:{ADMIN_GROUP}")
    theirs = registrar.entries()
    async with over_tcp(registrar, minted(registrar.stack, ADMIN, tmp_path)) as registry:
        assert [one.done for one in await applied(registry, bots("1", "2"))] == [True, True]
        assert await applied(registry, bots("1", "2")) == []
        assert set(registrar.entries()) == {*theirs, "tasklease.catalog.bot.1", "tasklease.catalog.bot.2"}
        assert all(one.done for one in await applied(registry, ()))
    assert registrar.entries() == theirs


def test_the_command_takes_its_identity_from_the_workload_api(registrar: Registrar) -> None:
    make_admin(registrar.stack, ADMIN, f"unix:supplementary_gid:{ADMIN_GROUP}")
    admin = Entry(entry_id="", spiffe_id=ADMIN, group=ADMIN_GROUP)
    registrar.stack.spire.wait_for_identity(admin)
    registrar.write_bots(1)
    server = ["--server", f"127.0.0.1:{server_port(registrar.stack)}"]
    done = registrar.typed("apply", "--yes", *server, groups=[ADMIN_GROUP])
    assert (done.returncode, done.stderr) == (0, "")
    assert "tasklease.catalog.bot.1" in registrar.entries()
    nobody = registrar.typed("plan", *server)
    assert nobody.returncode == 1
    assert "SPIRE's server wants the SVID of an admin entry for this process" in nobody.stderr


async def test_who_is_no_admin_registers_nothing(registrar: Registrar, tmp_path: Path) -> None:
    registrar.make("agent", "/agent/bot/hijacked", "-selector", "unix:uid:12345")
    before = registrar.entries()
    async with over_tcp(registrar, minted(registrar.stack, "/agent/bot/hijacked", tmp_path)) as registry:
        with pytest.raises(RegistryRefusedError, match="admin"):
            await registry.create(bots("1"))
        with pytest.raises(RegistryRefusedError):
            await registry.delete([bots("1")[0].entry_id])
        with pytest.raises(RegistryRefusedError):
            await anext(registry.pages())
    assert registrar.entries() == before


async def test_an_admin_that_is_one_no_longer_is_refused_on_the_open_channel(
    registrar: Registrar, tmp_path: Path
) -> None:
    make_admin(registrar.stack, ADMIN, f"unix:supplementary_gid:{ADMIN_GROUP}")
    async with over_tcp(registrar, minted(registrar.stack, ADMIN, tmp_path)) as registry:
        await applied(registry, bots("1"))
        for entry_id, entry in registrar.entries().items():
            if entry.get("admin"):
                registrar.stack.spire.delete(entry_id)
        with pytest.raises(RegistryRefusedError):
            await registry.create(bots("1", "2"))
    assert set(registrar.entries()) == {"tasklease.catalog.bot.1"}


async def test_a_server_of_another_authority_is_sent_nothing(registrar: Registrar, tmp_path: Path) -> None:
    svid = replace(minted(registrar.stack, ADMIN, tmp_path), authorities_pem=Authority().pem)
    with pytest.raises(RegistryUnavailableError, match="is not this trust domain's SPIRE server"):
        async with over_tcp(registrar, svid):
            pass


async def test_an_agent_that_takes_the_servers_place_is_sent_nothing(
    registrar: Registrar, tmp_path: Path
) -> None:
    minted(registrar.stack, "/agent/bot/hijacked", tmp_path / "hijacked")
    heard: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            heard.append(await reader.read())
        except OSError:
            pass
        finally:
            writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "hijacked/svid.pem", tmp_path / "hijacked/key.pem")
    server = await asyncio.start_server(listen, "127.0.0.1", 0, ssl=context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        svid = minted(registrar.stack, ADMIN, tmp_path / "admin")
        with pytest.raises(RegistryUnavailableError, match="is of this trust domain, but is not"):
            async with tcp_channel("127.0.0.1", port, svid):
                pass
    assert b"".join(heard) == b""


async def test_nobody_there_is_said_at_once(registrar: Registrar, tmp_path: Path) -> None:
    svid = minted(registrar.stack, ADMIN, tmp_path)
    with pytest.raises(RegistryUnavailableError, match=r"does not answer at 127\.0\.0\.1:1: "):
        async with tcp_channel("127.0.0.1", 1, svid):
            pass


async def test_the_way_in_is_this_users_alone_and_is_gone_afterwards(
    registrar: Registrar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    svid = minted(registrar.stack, ADMIN, tmp_path / "svid")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def left() -> list[Path]:
        return list(tmp_path.glob("tasklease-*"))

    async with over_tcp(registrar, svid):
        (folder,) = left()
        assert folder.stat().st_mode & 0o777 == 0o700
        (only,) = folder.iterdir()  # no key, no certificate
        assert only.is_socket()
    assert left() == []
