"""Chains: every action has its place, refused ones as well; labels grow alone; arguments have one digest."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import accumulate
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.domain.actions import Action, ActionKind, Chain, chain_of, digest_of
from broker.domain.effects import Effect, Verb
from broker.domain.errors import DenialClass
from broker.domain.identifiers import ActionId, TaskId
from tests.fakes.samples import OWNER, TASK
from tests.fakes.system import NOON

EFFECT = Effect(verbs=frozenset({Verb.READ}), resource="orders", destination="")


def an_action(
    position: int = 1,
    name: str = "read",
    *,
    at: datetime = NOON,
    allowed: bool = True,
    labels: frozenset[str] = frozenset(),
) -> Action:
    return Action(
        action_id=ActionId(f"action-{position:026}"),
        task_id=TASK,
        owner=OWNER,
        position=position,
        kind=ActionKind.TOOL,
        name=name,
        effect=EFFECT,
        arguments_digest=digest_of({}),
        at=at,
        allowed=allowed,
        labels=labels,
    )


def a_chain(*steps: tuple[str, datetime], refused: frozenset[int] = frozenset()) -> Chain:
    return chain_of(
        [
            an_action(position, name, at=at, allowed=position not in refused)
            for position, (name, at) in enumerate(steps, 1)
        ]
    )


def test_the_first_action_is_the_first() -> None:
    assert Chain().after(an_action()).length == 1
    assert chain_of([]) == Chain()


@pytest.mark.parametrize("position", [-1, 0, 1, 2, 4, 5])
def test_an_action_that_is_not_the_next_one_is_refused(position: int) -> None:
    chain = a_chain(("read", NOON), ("read", NOON), refused=frozenset({2}))
    with pytest.raises(ValueError, match=f"^action {position} does not follow 2$"):
        chain.after(an_action(position))
    assert chain.after(an_action(3)).length == 3


def test_a_refused_action_has_a_place_and_leaves_nothing_else() -> None:
    before = a_chain(("read", NOON))
    after = before.after(an_action(2, "send", allowed=False, labels=frozenset({"untrusted"})))
    assert (after.length, after.denials, after.last_refused) == (2, 1, "send")
    assert (after.steps, after.times, after.labels, after.last) == (
        ("read",),
        before.times,
        frozenset(),
        "read",
    )


def test_steps_and_their_times_are_in_order() -> None:
    later = NOON + timedelta(seconds=1)
    chain = a_chain(("read", NOON), ("send", NOON), ("read", later))
    assert chain.steps == ("read", "send", "read")
    assert chain.times == {"read": (NOON, later), "send": (NOON,)}
    assert chain.last == "read"


def test_a_chain_does_not_change_when_it_goes_on() -> None:
    chain = a_chain(("read", NOON))
    chain.after(an_action(2, labels=frozenset({"untrusted"})))
    assert chain == a_chain(("read", NOON))


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["read", "send", "change"]),
        st.booleans(),
        st.frozensets(st.sampled_from(["untrusted", "read.internal", "read.restricted"])),
    ),
    max_size=20,
).map(
    lambda drawn: [
        an_action(position, name, allowed=allowed, labels=labels)
        for position, (name, allowed, labels) in enumerate(drawn, 1)
    ]
)


@given(ACTIONS)
def test_a_chain_counts_everything_and_its_labels_never_shrink(actions: list[Action]) -> None:
    chains = list(accumulate(actions, lambda chain, action: chain.after(action), initial=Chain()))
    for action, before, after in zip(actions, chains, chains[1:], strict=False):
        assert after.labels == before.labels | (action.labels if action.allowed else set())
        assert after.length == before.length + 1
        assert after.denials + len(after.steps) == after.length
        assert sum(map(len, after.times.values())) == len(after.steps)
    assert chain_of(actions) == chains[-1]


# Digests -----------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_a_digest_is_of_one_form() -> None:
    wanted = hashlib.sha256('{"a":[1,"ü",null,true],"b":{"c":2.5,"d":""}}'.encode()).hexdigest()
    assert digest_of({"b": {"d": "", "c": 2.5}, "a": [1, "ü", None, True]}) == wanted
    assert (
        digest_of(MappingProxyType({"a": (1, "ü", None, True), "b": MappingProxyType({"c": 2.5, "d": ""})}))
        == wanted
    )


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_the_order_in_which_arguments_come_does_not_matter(arguments: dict[str, object]) -> None:
    assert digest_of(dict(reversed(arguments.items()))) == digest_of(arguments)
    assert digest_of(json.loads(json.dumps(arguments))) == digest_of(arguments)


@given(st.dictionaries(st.text(), JSON, max_size=3), st.dictionaries(st.text(), JSON, max_size=3))
def test_other_arguments_have_another_digest(one: dict[str, object], other: dict[str, object]) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (digest_of(one) == digest_of(other)) is same


@pytest.mark.parametrize(
    ("one", "other"), [("a", " a"), ("1", 1), (1, True), (1, 1.0), (None, ""), ([], {}), ("\ud800", "\ud801")]
)
def test_what_looks_alike_has_another_digest(one: object, other: object) -> None:
    assert digest_of({"x": one}) != digest_of({"x": other})


@pytest.mark.parametrize(
    ("value", "error"), [(float("nan"), ValueError), (float("inf"), ValueError), ({1}, TypeError)]
)
def test_what_json_does_not_have_has_no_digest(value: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        digest_of({"x": value})


# Denials that stay -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "seconds", "resource", "holds"),
    [
        (TASK, 0, "orders/17", True),
        (TASK, 9999, "orders/17", True),
        (TASK, 0, "customers", False),
        (TaskId("task-other"), 59, "orders", True),
        (TaskId("task-other"), 60, "orders", False),
        (TaskId("task-other"), 0, "customers", False),
    ],
)
def test_a_denial_holds_for_its_task_and_for_a_while_for_the_others(
    task: TaskId,
    seconds: int,
    resource: str,
    *,
    holds: bool,
) -> None:
    denied = replace(
        an_action(allowed=False),
        reason="POLICY_DENIED",
        denial_class=DenialClass.STRUCTURAL,
        sticks_until=NOON + timedelta(minutes=1),
    )
    effect = Effect(verbs=frozenset({Verb.READ}), resource=resource, destination="")
    assert denied.denies(task, effect, NOON + timedelta(seconds=seconds)) is holds


def test_what_was_allowed_or_does_not_stick_denies_nothing() -> None:
    for action in (an_action(), an_action(allowed=False), replace(an_action(), sticks_until=NOON)):
        assert not action.denies(TASK, EFFECT, NOON)
