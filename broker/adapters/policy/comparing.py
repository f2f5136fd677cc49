"""Two sets of policies beside each other: which policies differ, and which decisions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from broker.adapters.policy.cases import CaseResult
from broker.adapters.policy.reading import Policy
from broker.domain.decision import Decision


class Change(StrEnum):
    """What became of a policy."""

    ADDED = "+"
    REMOVED = "-"
    CHANGED = "~"


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """A decision that comes out differently."""

    what: str
    """What was asked, and where that stands."""
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.what}: {self.before} -> {self.after}"


def changed_policies(before: Iterable[Policy], after: Iterable[Policy]) -> list[tuple[Change, str]]:
    """Ids of the policies that differ in anything that counts, annotations too; sorted."""
    old, new = ({policy.policy_id: policy.as_text() for policy in one} for one in (before, after))
    found = []
    for name in sorted(old.keys() | new.keys()):
        if name not in old:
            found.append((Change.ADDED, name))
        elif name not in new:
            found.append((Change.REMOVED, name))
        elif old[name] != new[name]:
            found.append((Change.CHANGED, name))
    return found


def flips(before: Iterable[CaseResult], after: Iterable[CaseResult]) -> Iterator[Flip]:
    """The cases, the same ones in the same order, that are decided differently."""
    for one, two in zip(before, after, strict=True):
        if differ(one.decision, two.decision):
            yield Flip(
                what=f"{one.file}:{one.line}: {one.name}", before=said(one.decision), after=said(two.decision)
            )


def differ(one: Decision, two: Decision) -> bool:
    """Whether an agent would see a difference: in the verdict, or in what its denial means."""
    return (one.verdict, one.denial_class) != (two.verdict, two.denial_class)


def said(decision: Decision) -> str:
    """`deny (structural; cedar:mail.ours-alone)`."""
    meaning = [] if decision.denial_class is None else [decision.denial_class.value]
    return f"{decision.verdict.value} ({'; '.join([*meaning, ', '.join(decision.policies)])})"
