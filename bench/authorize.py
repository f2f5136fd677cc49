"""AuthorizeAction, durable and with a hundred policies, against a bare grpc.aio echo over the same mTLS; and the decision alone.

Both servers are processes of their own, on the same kind of event loop; both are sent the same message, by raw stubs of this
process, sixteen connections at once, each with an SVID of its own: what differs is everything that the broker does. They take turns in rounds. A round is twenty calls of each
client, in a task of their own, so that chains are twenty links long at their end; declaring and completing are not timed.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

import grpc

from bench.echo import METHOD
from bench.figures import percentile
from bench.stack import AGENT_CLASS, TASK_TYPE, Measured
from broker.adapters.policy.cedar import CedarPolicies
from broker.api.v1 import tasks_pb2, tasks_pb2_grpc, tools_pb2, tools_pb2_grpc
from broker.config.catalog import load_catalog
from broker.devstack.spire import BROKER_DNS_NAME
from broker.devstack.state import BROKER_ID, TRUST_DOMAIN
from broker.domain.actions import Action, ActionKind, chain_of, digest_of
from broker.domain.catalog import Catalog
from broker.domain.decision import CallContext, Fingerprint
from broker.domain.identifiers import ActionId, TaskId
from broker.domain.spiffe import SpiffeId
from broker.domain.task import Scope, Task

TOOL = "query-orders"
ARGUMENTS = '{"day": "2026-03-01"}'
CHAIN = 20
_NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
_OPTIONS = (("grpc.ssl_target_name_override", BROKER_DNS_NAME), ("grpc.use_local_subchannel_pool", 1))


Round = Callable[[list[grpc.aio.Channel]], Awaitable[tuple[float, list[float]]]]


async def calls(measured: Measured, gate_round: Round, *, clients: int, rounds: int) -> dict[str, float]:
    """Calls a second and p99 of both, and of `gate_round` between them, with all clients at once; and one client with 1,000 policies against 100."""
    broker = measured.stack.broker
    turns: dict[str, Round] = {"echo": _echo_round, "gate": gate_round, "broker": broker_round}
    taken: dict[str, list[float]] = {name: [] for name in turns}
    rates: dict[str, list[float]] = {name: [] for name in turns}
    few: list[float] = []
    many: list[float] = []
    with _echo(measured) as address:
        await have_policies(broker.policies, applying=100, others=0)
        async with (
            channels(measured, address, clients) as echoes,
            channels(measured, broker.address, clients) as lines,
        ):
            for number in range(rounds + 1):
                for name, turn in turns.items():
                    seconds, times = await turn(echoes if name == "echo" else lines)
                    if number:  # the first warms up
                        taken[name] += times
                        rates[name].append(clients * CHAIN / seconds)
            for others, kept in ((50, few), (950, many)):
                await have_policies(broker.policies, applying=50, others=others)
                for number in range(rounds + 1):
                    _, times = await broker_round(lines[:1])
                    kept.extend(times if number else [])
            (broker.policies / "bench.cedar").unlink()
            await asyncio.sleep(2.5)
    ratio = [ours / bare for ours, bare in zip(rates["broker"], rates["echo"], strict=True)]
    return {
        f"authorize.rounds_{clients}": rounds,
        f"authorize.echo_per_s_{clients}": median(rates["echo"]),
        f"authorize.gate_per_s_{clients}": median(rates["gate"]),
        f"authorize.broker_per_s_{clients}": median(rates["broker"]),
        f"authorize.throughput_ratio_{clients}": median(ratio),
        f"authorize.echo_p99_ms_{clients}": percentile(taken["echo"], 99) * 1000,
        f"authorize.broker_p99_ms_{clients}": percentile(taken["broker"], 99) * 1000,
        f"authorize.p99_ratio_{clients}": percentile(taken["broker"], 99) / percentile(taken["echo"], 99),
        "authorize.p50_ms_100": median(few) * 1000,
        "authorize.p50_ms_1000": median(many) * 1000,
        "authorize.policies_1000_over_100": median(many) / median(few),
    }


def decision_alone(measured: Measured, folder: Path, *, runs: int) -> dict[str, float]:
    """The policy engine and its context, in this process, with 100 policies that all apply and a chain of 20."""
    folder.mkdir(parents=True)
    (folder / "baseline.cedar").write_text(policies_text(applying=100, others=0))
    (folder / "permit.cedar").write_text('@id("all") permit (principal, action, resource);')
    catalog = load_catalog(measured.stack.broker.catalog, trust_domain=TRUST_DOMAIN)
    loaded = CedarPolicies.load(folder, catalog)
    policies = CedarPolicies(loaded.policies, catalog, remembers=False)  # else it would be asked once
    context = _context(catalog)
    times = []
    for _ in range(runs + runs // 5):
        began = time.perf_counter()
        decision = policies.decide_call(context, catalog)
        times.append(time.perf_counter() - began)
        assert decision.allowed, decision
    times = times[runs // 5 :]
    return {
        "decision.runs_100": runs,
        "decision.p50_ms_100": percentile(times, 50) * 1000,
        "decision.p99_ms_100": percentile(times, 99) * 1000,
    }


def policies_text(*, applying: int, others: int) -> str:
    """Policies that look at several attributes and forbid nothing that is done here."""
    heads = ['principal, action == Tasklease::Action::"call", resource'] * applying + [
        f'principal in Tasklease::AgentClass::"other-{n}", action == Tasklease::Action::"call", resource'
        for n in range(others)
    ]
    return "\n".join(
        f'@id("bench.{n}") forbid ({head}) when {{ context.labels.contains("label-{n}") &&'
        f" context.chain.length > {n} && resource.classification_level > 2 }};"
        for n, head in enumerate(heads)
    )


async def have_policies(folder: Path, *, applying: int, others: int) -> None:
    (folder / "bench.cedar").write_text(policies_text(applying=applying, others=others))
    await asyncio.sleep(4)  # the broker takes them up by itself


def _context(catalog: Catalog) -> CallContext:
    owner = SpiffeId.parse(f"spiffe://{TRUST_DOMAIN}/agent/{AGENT_CLASS}/bench")
    tool = catalog.tools[TOOL]
    task = Task(
        task_id=TaskId("task-bench"),
        owner=owner,
        agent_class=AGENT_CLASS,
        task_type=TASK_TYPE,
        intent="bench",
        scope=Scope(roles=frozenset(), tools=frozenset(catalog.tools)),
        environment="staging",
        created_at=_NOON,
        deadline=_NOON + timedelta(hours=1),
        heartbeat_interval=timedelta(seconds=10),
        heartbeat_due=_NOON + timedelta(seconds=30),
    )
    arguments = {"day": "2026-03-01"}
    chain = chain_of(
        [
            Action(
                action_id=ActionId(f"action-{position}"),
                task_id=task.task_id,
                owner=owner,
                position=position,
                kind=ActionKind.TOOL,
                name=TOOL,
                effect=tool.effect(arguments),
                arguments_digest=digest_of(arguments),
                at=_NOON,
                allowed=True,
            )
            for position in range(1, CHAIN + 1)
        ]
    )
    return CallContext(
        caller=owner,
        task=task,
        tool_name=TOOL,
        tool=tool,
        arguments=arguments,
        arguments_digest=digest_of(arguments),
        effect=tool.effect(arguments),
        fingerprint=Fingerprint.ABSENT,
        live_leases=0,
        earlier_denials=0,
        at=_NOON,
        chain=chain,
    )


async def _echo_round(channels: list[grpc.aio.Channel]) -> tuple[float, list[float]]:
    def calling(channel: grpc.aio.Channel) -> Callable[[], Awaitable[object]]:
        call: grpc.aio.UnaryUnaryMultiCallable[
            tools_pb2.AuthorizeActionRequest, tools_pb2.AuthorizeActionRequest
        ] = channel.unary_unary(
            METHOD,
            request_serializer=tools_pb2.AuthorizeActionRequest.SerializeToString,
            response_deserializer=tools_pb2.AuthorizeActionRequest.FromString,
        )
        return lambda: call(_request("task-" + "0" * 26))

    return await timed([calling(channel) for channel in channels])


def _request(task_id: str) -> tools_pb2.AuthorizeActionRequest:
    return tools_pb2.AuthorizeActionRequest(
        task_id=task_id, call=tools_pb2.Call(tool=TOOL, arguments=ARGUMENTS)
    )


async def broker_round(channels: list[grpc.aio.Channel]) -> tuple[float, list[float]]:
    tasks = [tasks_pb2_grpc.TaskServiceStub(channel) for channel in channels]  # type: ignore[no-untyped-call]
    tools = [tools_pb2_grpc.ToolServiceStub(channel) for channel in channels]  # type: ignore[no-untyped-call]
    scope = tasks_pb2.Scope(tools=[TOOL])
    declared = [
        await stub.DeclareTask(
            tasks_pb2.DeclareTaskRequest(
                task_type=TASK_TYPE, intent="bench", scope=scope, idempotency_key=secrets.token_urlsafe(12)
            )
        )
        for stub in tasks
    ]

    def calling(stub: tools_pb2_grpc.ToolServiceStub, task_id: str) -> Callable[[], Awaitable[object]]:
        async def call() -> None:
            answer = await stub.AuthorizeAction(_request(task_id))
            assert answer.authorization.allowed, answer

        return call

    found = await timed(
        [calling(stub, answer.task.task_id) for stub, answer in zip(tools, declared, strict=True)]
    )
    for stub, answer in zip(tasks, declared, strict=True):
        await stub.CompleteTask(
            tasks_pb2.CompleteTaskRequest(
                task_id=answer.task.task_id, outcome=tasks_pb2.TASK_OUTCOME_SUCCEEDED
            )
        )
    return found


async def timed(clients: list[Callable[[], Awaitable[object]]]) -> tuple[float, list[float]]:
    times: list[float] = []

    async def one(call: Callable[[], Awaitable[object]]) -> None:
        for _ in range(CHAIN):
            began = time.perf_counter()
            await call()
            times.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(one(call) for call in clients))
    return time.perf_counter() - began, times


@asynccontextmanager
async def channels(measured: Measured, address: str, clients: int) -> AsyncIterator[list[grpc.aio.Channel]]:
    """Of as many instances, each of its own."""
    async with AsyncExitStack() as block:
        yield [await block.enter_async_context(_channel(measured, address)) for _ in range(clients)]


def _channel(measured: Measured, address: str) -> grpc.aio.Channel:
    svid = measured.svid()
    credentials = grpc.ssl_channel_credentials(svid.authorities, svid.key, svid.chain)
    return grpc.aio.secure_channel(address, credentials, options=_OPTIONS)


@contextmanager
def _echo(measured: Measured) -> Iterator[str]:
    """The bare server, with an SVID of the broker's name; its address."""
    chain, key, bundle = measured.stack.spire.mint(
        BROKER_ID, ttl=timedelta(hours=1), folder=measured.folder / "echo", dns_names=[BROKER_DNS_NAME]
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    process = subprocess.Popen([sys.executable, "-m", "bench.echo", address, key, chain, bundle])
    try:
        yield address
    finally:
        process.terminate()
        process.wait()
