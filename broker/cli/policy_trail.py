"""`tasklease policy replay` and `shadow`: policies against decisions that were really made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated

import typer

from broker.adapters.policy.bounded import BoundedPolicy
from broker.adapters.policy.catalog_bounds import CatalogBoundsPolicy
from broker.adapters.policy.comparing import said
from broker.adapters.policy.files import FixedPolicies
from broker.cli.output import fail, out
from broker.cli.policy_inputs import (
    WITHOUT,
    CatalogOption,
    DomainOption,
    FolderArgument,
    catalog_of,
    policies_of,
)
from broker.cli.trail import ConfigOption, StoreOption, records_of
from broker.config.reading import parse_duration
from broker.domain.decision import Decision, Verdict
from broker.domain.errors import DenialClass
from broker.usecases.recorded import Recorded, Trail
from broker.usecases.replaying import Flip, replay

SinceOption = Annotated[str, typer.Option(help="Only decisions of the last so long, such as 24h.")]


def replay_trail(
    folder: FolderArgument,
    catalog: CatalogOption,
    config: ConfigOption = None,
    store: StoreOption = "",
    since: SinceOption = "",
    trust_domain: DomainOption = WITHOUT,
) -> None:
    """Decide every recorded decision again, by these policies; exit code 1 when one flips."""
    listed = catalog_of(catalog, trust_domain)
    policy = BoundedPolicy(CatalogBoundsPolicy(), FixedPolicies(policies_of(folder, listed)))
    trail = Trail(listed)
    # What was denied before sticks, so that the older ones have to be decided as well.
    found = replay(trail.decisions(records_of(config, store)), policy=policy, catalog=listed)
    begin = begin_of(since)
    flips = [flip for flip in found.flips if begin is None or flip.recorded.at.timestamp() >= begin]
    if not found.decisions:
        fail("there is no recorded decision: nothing was replayed", code=2)
    for flip in flips:
        print(_line(flip))
    for count, what in (
        (found.other_catalog, "were made with another catalog than this one"),
        (found.not_exact, "may have rested on arguments that were too long to be recorded"),
        (found.unlisted, "are about what this catalog no longer has, and were not compared"),
        (trail.unreadable, "say too little to be decided again, and were not compared"),
    ):
        if count:
            out.print(f"[dim]{count} {what}[/]", highlight=False)
    out.print(f"{len(flips)} of {found.decisions} decisions would differ", highlight=False)
    raise typer.Exit(1 if flips else 0)


def shadow(
    catalog: CatalogOption,
    config: ConfigOption = None,
    store: StoreOption = "",
    since: SinceOption = "",
    policy_set: Annotated[
        str, typer.Option(help="Only this version of the candidate; the newest if not said.")
    ] = "",
    trust_domain: DomainOption = WITHOUT,
) -> None:
    """Say where the candidate in the shadow decided otherwise than the live policies; exit code 1 when it did."""
    begin = begin_of(since)
    trail = Trail(catalog_of(catalog, trust_domain))
    decided = [
        one
        for one in trail.decisions(records_of(config, store))
        if one.shadow is not None and (begin is None or one.at.timestamp() >= begin)
    ]
    if not decided:
        fail("no decision was made beside a candidate: set shadow_policies, and wait for decisions", code=2)
    version = policy_set or str((decided[-1].shadow or {}).get("policy_set", ""))
    counted = [one for one in decided if (one.shadow or {}).get("policy_set") == version]
    differing = Counter(line for one in counted for line in _differing(one))
    for line, times in differing.most_common():
        print(f"{times:>6} {line}")
    total = sum(differing.values())
    out.print(f"candidate {version}: {total} of {len(counted)} decisions differ", highlight=False)
    raise typer.Exit(1 if total else 0)


def _differing(one: Recorded) -> Iterator[str]:
    """One decision, as far as the candidate would have it otherwise; without who and when, so that alike ones add up."""
    shadow = one.shadow or {}
    policies = shadow.get("policies")
    denial_class = str(shadow.get("denial_class", ""))
    candidate = Decision(
        verdict=Verdict(str(shadow.get("verdict", ""))),
        policies=tuple(map(str, policies)) if isinstance(policies, list) else (),
        denial_class=DenialClass(denial_class) if denial_class else None,
    )
    if candidate.verdict is not one.decision.verdict:
        yield f"{one.what}: {said(one.decision)} -> {said(candidate)}"


def _line(flip: Flip) -> str:
    one = flip.recorded
    follows = " (follows from one before)" if flip.follows else ""
    return (
        f"record {one.sequence} {one.at:%Y-%m-%d %H:%M:%S} {one.instance}: {one.what}: {said(one.decision)} -> "
        f"{said(flip.after)}{follows}"
    )


def begin_of(since: str, option: str = "--since") -> float | None:
    """The moment that lies so long back, in seconds; None where nothing is said."""
    if not since:
        return None
    try:
        lasting = parse_duration(since)
    except ValueError as error:
        fail(f"{option}: {error}", code=2)
    return (datetime.now().astimezone() - lasting).timestamp()
