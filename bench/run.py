"""`make bench`: measures, prints a table, writes build/bench.json."""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path

from rich.console import Console

from bench import (
    acquire,
    anomaly,
    authorize,
    authorize_parts,
    complete,
    figures,
    launch,
    registry,
    replicas,
    revocation,
    verify,
    where,
)
from bench import scale as scale_
from bench.stack import measured
from broker.devstack.parts import REPOSITORY

FILE = REPOSITORY / "build/bench.json"
TARGETS = {
    "acquire.p50_ratio_1": ("at most", 1.5),
    "acquire.throughput_ratio_16": ("at least", 0.85),
    "complete.refused_p99_s_20": ("under", 1.0),
    "authorize.throughput_ratio_16": ("at least", 0.4),
    "authorize.p99_ratio_16": ("at most", 4.0),
    "authorize.policies_1000_over_100": ("at most", 1.3),
    "decision.p50_ms_100": ("under", 0.25),
    "anomaly.recall": ("at least", 0.95),
    "anomaly.false_per_1000": ("at most", 2.0),
    "anomaly.median_actions": ("at most", 2.0),
    "anomaly.overhead_ratio": ("at most", 1.15),
    "anomaly.refused_p99_s": ("under", 1.0),
    "registry.apply_1000_ratio": ("at most", 1.5),
    "registry.again_1000_ratio": ("at most", 1.5),
    "verify.p50_ms": ("under", 0.3),
    "launch.warm_p50_s": ("under", 0.5),
    "revoke.500_ratio": ("at most", 1.3),
    "storm.issue_p99_ratio": ("at most", 2.0),
    "scale.acquire_100k_ratio": ("at most", 1.2),
    "scale.complete_100k_ratio": ("at most", 1.2),
    "replicas.throughput_ratio_2": ("at least", 0.95),
}


async def run(console: Console, scale: float) -> dict[str, float]:
    """Everything, in one run on one stack."""
    found: dict[str, float] = {}
    with measured(lambda line: console.print(f"  {line}", style="dim")) as stack:
        console.print("acquire, one client")
        found |= await acquire.one_client(stack, runs=_at_least(300 * scale))
        console.print("acquire, where the time goes")
        parts, rows = await where.where_it_goes(stack, stack.folder, runs=_at_least(200 * scale))
        found |= parts
        figures.show(console, "one acquire, one client: medians", ["part", "time"], rows)
        console.print("verifying the caller")
        found |= await verify.a_call(stack, stack.folder / "verify", runs=_at_least(3000 * scale))
        console.print("acquire, 16 clients")
        found |= await acquire.many_clients(stack, clients=16, each=20, rounds=_at_least(5 * scale))
        console.print("authorizing tool calls, 16 clients, and the decision alone")
        found |= authorize.decision_alone(stack, stack.folder / "decision", runs=_at_least(3000 * scale))
        found |= await authorize_parts.without_grpc(
            stack, stack.folder / "alone", rounds=_at_least(10 * scale)
        )
        found |= await authorize.calls(
            stack, authorize_parts.gate_round, clients=16, rounds=_at_least(30 * scale)
        )
        console.print("anomalies: what watching costs, and how soon a credential is refused")
        found |= anomaly.detectors(benign=_at_least(4000 * scale), each=_at_least(20 * scale))
        found |= await anomaly.overhead(stack, clients=16, rounds=_at_least(20 * scale))
        found |= await anomaly.overhead_alone(stack, stack.folder / "anomalies", rounds=_at_least(20 * scale))
        found |= await anomaly.until_refused(stack, runs=_at_least(100 * scale))
        console.print("launch, with and without a pool")
        found |= await asyncio.to_thread(launch.first_call, stack, runs=_at_least(20 * scale))
        for leases, runs in ((1, 100), (20, 100)):
            console.print(f"complete, {leases} leases")
            found |= await complete.until_refused(stack, leases=leases, runs=_at_least(runs * scale))
        console.print("500 leases of one task, and a storm")
        found |= await revocation.of_one_task(stack, leases=500, rounds=_at_least(5 * scale))
        found |= await revocation.storm(stack, leases=2000, tasks=40)
        console.print("registry, 1000 entries")
        found |= await asyncio.to_thread(registry.apply, stack, entries=1000, rounds=_at_least(5 * scale))
        console.print("100,000 live leases")  # last: they stay
        found |= await scale_.with_leases(stack, many=100_000, runs=_at_least(150 * scale))
    console.print("two replicas and one, 16 clients")  # by themselves: the stack above is down
    found |= await replicas.one_and_two(
        lambda line: console.print(f"  {line}", style="dim"),
        clients=16,
        each=20,
        rounds=_at_least(10 * scale),
    )
    return found


def _at_least(count: float) -> int:
    return max(int(count), 2)


def report(console: Console, found: dict[str, float]) -> None:
    """The tables."""
    rows = []
    for clients in (1, 16):
        for name, unit in (("p50", "ms"), ("p99", "ms")):
            ours, bare = (found[f"acquire.{who}_{name}_ms_{clients}"] for who in ("broker", "direct"))
            rows.append(
                [f"{clients}", name, f"{ours:.1f} {unit}", f"{bare:.1f} {unit}", f"{ours / bare:.2f}"]
            )
    ours, bare = found["acquire.broker_per_s_16"], found["acquire.direct_per_s_16"]
    ratio = found["acquire.throughput_ratio_16"]
    rows.append(["16", "credentials a second", f"{ours:.0f}", f"{bare:.0f}", f"{ratio:.2f}"])
    figures.show(
        console,
        f"acquire ({found['acquire.runs_1']:.0f} runs with one client, {found['acquire.runs_16']:.0f} with 16)",
        ["clients", "", "broker", "direct Vault read", "ratio"],
        rows,
    )
    figures.show(
        console,
        "from complete until PostgreSQL refuses every credential of the task",
        ["leases", "runs", "p50", "p99", "longest"],
        [
            [
                f"{leases}",
                f"{found[f'complete.runs_{leases}']:.0f}",
                *(
                    f"{found[f'complete.refused_{name}_s_{leases}'] * 1000:.0f} ms"
                    for name in ("p50", "p99", "max")
                ),
            ]
            for leases in (1, 20)
        ],
    )
    figures.show(
        console,
        f"AuthorizeAction, 100 policies, chains of 20, 16 clients ({found['authorize.rounds_16']:.0f} rounds)",
        ["", "broker", "beside it", "ratio"],
        [
            [
                "calls a second; bare grpc.aio echo over mTLS",
                *(f"{found[f'authorize.{who}_per_s_16']:.0f}" for who in ("broker", "echo")),
                f"{found['authorize.throughput_ratio_16']:.2f}",
            ],
            [
                "p99; echo",
                *(f"{found[f'authorize.{who}_p99_ms_16']:.1f} ms" for who in ("broker", "echo")),
                f"{found['authorize.p99_ratio_16']:.2f}",
            ],
            [
                "one client, p50, 1,000 policies of which 50 can apply; 100",
                *(f"{found[f'authorize.p50_ms_{number}']:.2f} ms" for number in (1000, 100)),
                f"{found['authorize.policies_1000_over_100']:.2f}",
            ],
            [
                "of it: the same connections, only through the gate; echo",
                *(f"{found[f'authorize.{who}_per_s_16']:.0f}" for who in ("gate", "echo")),
                f"{found['authorize.gate_per_s_16'] / found['authorize.echo_per_s_16']:.2f}",
            ],
            [
                "of it: decided and durable, without gRPC; echo",
                *(f"{found[f'authorize.{who}_per_s_16']:.0f}" for who in ("alone", "echo")),
                f"{found['authorize.alone_per_s_16'] / found['authorize.echo_per_s_16']:.2f}",
            ],
            [
                "the policies alone, asked anew, p50",
                f"{found['decision.p50_ms_100']:.3f} ms",
                "",
                "",
            ],
        ],
    )
    figures.show(
        console,
        f"anomalies ({found['anomaly.attacks']:.0f} attacks and {found['anomaly.benign_tasks']:.0f} benign tasks of held-out seeds)",
        ["", ""],
        [
            ["attacks found", f"{found['anomaly.recall']:.3f}"],
            ["false alarms in 1,000 benign tasks", f"{found['anomaly.false_per_1000']:.2f}"],
            ["further actions until it is found, median", f"{found['anomaly.median_actions']:.1f}"],
            [
                f"AuthorizeAction watched over not watched ({found['anomaly.overhead_rounds']:.0f} rounds)",
                f"{found['anomaly.overhead_ratio']:.2f}",
            ],
            ["of it: decided and durable, without gRPC", f"{found['anomaly.overhead_alone_ratio']:.2f}"],
            ["values that one watch holds", f"{found['anomaly.values_per_watch']:.0f}"],
            [
                f"from the call until PostgreSQL refuses, p50; p99 ({found['anomaly.refused_runs']:.0f} runs)",
                "; ".join(f"{found[f'anomaly.refused_{name}_s'] * 1000:.0f} ms" for name in ("p50", "p99")),
            ],
        ],
    )
    figures.show(
        console,
        "many leases",
        ["", "broker", "beside it", "ratio"],
        [
            [
                "500 of one task until it has ended; Vault alone, one after the other",
                *(f"{found[f'revoke.500_{who}_s']:.2f} s" for who in ("ours", "vault")),
                f"{found['revoke.500_ratio']:.2f}",
            ],
            [
                f"acquire, p99, while {found['storm.leases']:.0f} are revoked; usual",
                *(f"{found[f'storm.{who}_p99_ms']:.0f} ms" for who in ("issue", "usual")),
                f"{found['storm.issue_p99_ratio']:.2f}",
            ],
            *(
                [
                    f"{what}, p50, with 100,000 in the store; with 1,000",
                    *(f"{found[f'scale.{what}_{how}_ms']:.1f} ms" for how in ("many", "few")),
                    f"{found[f'scale.{what}_100k_ratio']:.2f}",
                ]
                for what in ("acquire", "complete")
            ),
            [
                "the broker's memory, with 100,000; with 1,000",
                *(f"{found[f'scale.memory_{how}_mib']:.0f} MiB" for how in ("many", "few")),
                f"{found['scale.memory_many_mib'] / found['scale.memory_few_mib']:.2f}",
            ],
        ],
    )
    figures.show(
        console,
        f"1000 entries in SPIRE ({found['registry.rounds']:.0f} rounds)",
        ["", "tasklease workload apply", "spire-server entry create -data", "ratio"],
        [
            [
                what,
                *(f"{found[f'registry.{key}_1000_{who}_s']:.2f} s" for who in ("ours", "spire")),
                f"{found[f'registry.{key}_1000_ratio']:.2f}",
            ]
            for key, what in (("apply", "none there yet"), ("again", "all there already"))
        ],
    )
    figures.show(
        console,
        f"from `launch` to the instance's first successful call ({found['launch.runs']:.0f} runs)",
        ["", "p50", "longest"],
        [
            [what, *(f"{found[f'launch.{way}_{name}_s']:.2f} s" for name in ("p50", "max"))]
            for way, what in (("warm", "an identity waits"), ("cold", "none waits"))
        ],
    )
    figures.show(
        console,
        f"verifying the caller, medians of {found['verify.runs']:.0f} calls",
        ["", "seen before", "for the first time"],
        [
            [what, *(f"{found[f'verify.{name}p50_ms']:.3f} ms" for name in names)]
            for what, names in (("X.509-SVID", ("", "cold_")), ("JWT-SVID", ("jwt_", "jwt_cold_")))
        ],
    )
    figures.show(
        console,
        f"credentials a second, 16 clients, on PostgreSQL ({found['replicas.rounds']:.0f} rounds)",
        ["", "a second", "p99"],
        [
            ["one replica", f"{found['replicas.one_per_s']:.0f}", f"{found['replicas.one_p99_ms']:.0f} ms"],
            ["two replicas", f"{found['replicas.two_per_s']:.0f}", f"{found['replicas.two_p99_ms']:.0f} ms"],
            ["Vault alone, which bounds both", f"{found['replicas.direct_per_s']:.0f}", ""],
        ],
    )
    for key, (how, target) in TARGETS.items():
        met = found[key] >= target if how == "at least" else found[key] <= target
        console.print(f"  {key} = {found[key]:.2f}, {how} {target}: {'met' if met else '[red]not met[/]'}")


def main() -> None:
    """Parse, run, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="a tenth (0.1) of the runs is a quick look")
    parser.add_argument("--output", type=Path, default=FILE, help="JSON; figures of other benchmarks stay")
    arguments = parser.parse_args()
    os.environ |= {"GRPC_VERBOSITY": "ERROR", "GRPC_ENABLE_FORK_SUPPORT": "0"}
    console = Console(highlight=False)
    found = asyncio.run(run(console, arguments.scale))
    report(console, found)
    figures.keep(arguments.output, found)
    console.print(f"  written to {arguments.output}")


if __name__ == "__main__":
    main()
