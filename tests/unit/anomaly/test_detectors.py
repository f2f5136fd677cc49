"""Each detector by what it is for: the cause, and what looks like it and is none."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from broker.anomaly.canaries import Canaries
from broker.anomaly.detector import Detector
from broker.anomaly.drift import Drift, Standing
from broker.anomaly.escalation import Escalation
from broker.anomaly.events import Event, EventKind
from broker.anomaly.findings import Finding
from broker.anomaly.identity_misuse import IdentityMisuse, place
from broker.anomaly.learning import Model, lesson_of, merged
from broker.anomaly.pivots import Pivots
from broker.anomaly.retries import RetryStorms
from broker.anomaly.volume import Volume
from broker.domain.actions import ActionOutcome
from broker.domain.answers import Answers
from broker.domain.classification import Classification
from broker.domain.effects import Verb
from broker.domain.errors import DenialClass
from broker.domain.findings import Answer
from broker.domain.flows import Writes
from broker.domain.identifiers import TaskId
from broker.domain.task import EndCause
from broker.usecases.watch_instances import found_of
from tests.unit.anomaly.making import an_event, called, closed, decided, declared, model_of

NEVER, ASK, LATER = DenialClass.STRUCTURAL, DenialClass.GRANTABLE, DenialClass.TRANSIENT


def rules(detector: Detector, events: Iterable[Event]) -> list[str]:
    return [one.rule for one in findings(detector, events)]


def findings(detector: Detector, events: Iterable[Event]) -> list[Finding]:
    return [one for event in events for one in detector.observe(event)]


# Canaries ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("denial", [None, NEVER])
def test_one_touch_of_a_canary_is_enough_allowed_or_not(denial: DenialClass | None) -> None:
    events = [decided(1), decided(2, "bait", canary=True, denial=denial), decided(3, "bait", canary=True)]
    assert rules(Canaries(), events) == ["touched"]


# Retry storms ------------------------------------------------------------------------------------------------


def test_asking_a_fourth_time_for_what_is_never_allowed_is_a_storm() -> None:
    assert rules(RetryStorms(), [decided(at, denial=NEVER) for at in (1, 5, 9)]) == []
    found = findings(RetryStorms(), [decided(at, denial=NEVER) for at in (1, 5, 9, 12, 15)])
    assert [one.rule for one in found] == ["refused-again"]
    assert len(found[0].evidence) == 4


def test_asking_for_good_at_any_pace_ends_at_the_fifth_time_in_a_task() -> None:
    assert rules(RetryStorms(), [decided(at * 90_000, denial=NEVER) for at in range(4)]) == []
    assert rules(RetryStorms(), [decided(at * 90_000, denial=NEVER) for at in range(5)]) == ["refused-again"]


def test_each_task_may_learn_of_the_same_denial_by_itself() -> None:
    events = [decided(day * 86_400, denial=NEVER, task=f"task-{day}") for day in range(30)]
    assert rules(RetryStorms(), events) == []


def test_waiting_longer_each_time_is_no_storm_and_not_waiting_is() -> None:
    honest = [decided(2**power, denial=LATER) for power in range(12)]
    assert rules(RetryStorms(), honest) == []
    assert rules(RetryStorms(), [decided(at / 5, denial=LATER) for at in range(12)]) == ["refused-again"]


def test_asking_a_person_again_after_minutes_is_no_storm() -> None:
    assert rules(RetryStorms(), [decided(at * 60, denial=ASK) for at in range(12)]) == []
    assert rules(RetryStorms(), [decided(at, denial=ASK) for at in range(8)]) == ["refused-again"]


def test_a_yes_between_ends_the_count() -> None:
    events = [decided(at, denial=NEVER if at % 3 else None) for at in range(12)]
    assert "refused-again" not in rules(RetryStorms(), events)


def test_failing_again_and_again_without_a_pause_is_a_storm() -> None:
    attempts = [decided(at) for at in range(10)]
    events = [each for one, at in zip(attempts, range(10), strict=True) for each in
              (one, closed(one, at + 0.5, ActionOutcome.FAILED))]  # fmt: skip
    assert rules(RetryStorms(), events) == ["failed-again"]
    assert rules(RetryStorms(), events[:6]) == []


def test_one_refusal_each_of_many_effects_is_probing() -> None:
    assert rules(RetryStorms(), [decided(at, resource=f"o/{at}", denial=NEVER) for at in range(4)]) == []
    assert rules(RetryStorms(), [decided(at, resource=f"o/{at}", denial=NEVER) for at in range(6)]) == [
        "probing"
    ]


def test_refusals_among_many_that_are_allowed_are_no_probing() -> None:
    events = [decided(at, resource=f"o/{at}", denial=NEVER if at % 10 == 0 else None) for at in range(150)]
    assert rules(RetryStorms(), events) == []


def test_a_few_refusals_in_each_of_many_tasks_are_probing_and_one_in_each_is_not() -> None:
    def over_tasks(each: int) -> list[Event]:
        found = []
        for turn in range(20):
            task, at = f"task-{turn}", turn * 1000.0
            found += [declared(at, task=task)]
            found += [decided(at + 1 + good, resource=f"good/{turn}-{good}", task=task) for good in range(5)]
            found += [
                decided(at + 9 + n, resource=f"o/{turn}-{n}", denial=NEVER, task=task) for n in range(each)
            ]
        return found

    assert rules(RetryStorms(), over_tasks(1)) == []
    assert "probing" in rules(RetryStorms(), over_tasks(2))


def test_what_a_person_allowed_after_all_was_no_probing() -> None:
    asked = [
        decided(at + half, resource=f"o/{at}", denial=denial)
        for at in range(30)
        for half, denial in ((0.0, ASK), (0.5, None))
    ]
    assert rules(RetryStorms(), asked) == []


def test_earlier_good_conduct_buys_no_refusals() -> None:
    honest = [decided(at, resource=f"good/{at}") for at in range(200)]
    bad = [decided(300 + at, resource=f"o/{at}", denial=NEVER) for at in range(6)]
    assert rules(RetryStorms(), honest + bad) == ["probing"]


# Pivots ------------------------------------------------------------------------------------------------------

DENIED = decided(1, "delete", verb=Verb.DELETE, denial=NEVER)


def test_the_denied_effect_by_another_tool_is_a_pivot_also_days_later() -> None:
    found = findings(Pivots(), [DENIED, decided(400_000, "purge", verb=Verb.DELETE)])
    assert [one.rule for one in found] == ["another-way"]
    assert len(found[0].evidence) == 2


def test_another_resource_and_another_verb_are_none() -> None:
    other = [
        decided(2, "purge", "orders/18", verb=Verb.DELETE),
        decided(3, "read"),
        decided(4, "read", "orders/18"),
        decided(5, "delete", verb=Verb.DELETE, denial=NEVER),
    ]
    assert rules(Pivots(), [DENIED, *other]) == []


def test_the_same_tool_in_another_task_is_a_pivot_while_the_denial_sticks() -> None:
    again = decided(600, "delete", verb=Verb.DELETE, denial=NEVER, task="task-2")
    later = decided(2000, "delete", verb=Verb.DELETE, denial=NEVER, task="task-3")
    assert rules(Pivots(), [DENIED, again]) == ["another-way"]
    assert rules(Pivots(), [DENIED, later]) == []


def test_what_was_denied_for_now_or_for_its_name_may_be_had_elsewhere() -> None:
    for_now = decided(1, "delete", verb=Verb.DELETE, denial=LATER)
    out_of_scope = decided(1, "delete", verb=Verb.DELETE, denial=NEVER, reason="TOOL_NOT_ALLOWED")
    assert rules(Pivots(), [for_now, decided(2, "purge", verb=Verb.DELETE)]) == []
    assert rules(Pivots(), [out_of_scope, decided(2, "purge", verb=Verb.DELETE)]) == []


def test_asking_for_less_to_read_is_forgiven_once() -> None:
    everything = decided(1, "read-all", "orders", denial=NEVER)
    less = [decided(2, "read-one", "orders/1"), decided(3, "export-one", "orders/2")]
    assert rules(Pivots(), [everything, less[0]]) == []
    assert rules(Pivots(), [everything, *less]) == ["another-way"]


def test_a_wide_tool_that_the_task_used_before_is_no_way_around() -> None:
    wide = decided(0.5, "read-all", "orders")
    denied = decided(1, "read-one", "orders/1", denial=NEVER)
    again = decided(2, "read-all", "orders")
    assert rules(Pivots(), [wide, denied, again]) == []
    assert rules(Pivots(), [denied, again]) == ["another-way"]


def test_the_same_message_to_another_place_is_a_pivot() -> None:
    denied = decided(1, "mail", "reports/9", verb=Verb.SEND, destination="smtp://a:25", denial=NEVER)
    elsewhere = decided(2, "post", "reports/9", verb=Verb.SEND, destination="https://b:443")
    assert rules(Pivots(), [denied, elsewhere]) == ["another-way"]


def test_another_spelling_is_the_same_resource() -> None:
    denied = decided(1, "delete", "orders/ab", verb=Verb.DELETE, denial=NEVER)
    assert rules(Pivots(), [denied, decided(2, "purge", "ORDERS//Ab", verb=Verb.DELETE)]) == ["another-way"]


# Escalation --------------------------------------------------------------------------------------------------

SECRET = decided(1, "read-secret", "secrets/db")
OUT = decided(5, "post", "pastes", verb=Verb.SEND, destination="https://x:443", writes=Writes.EXTERNAL)


def test_a_secret_and_then_the_way_out() -> None:
    assert rules(Escalation(), [declared(), SECRET, OUT]) == ["secrets-then-egress"]
    assert rules(Escalation(), [declared(), OUT, SECRET]) == []


@pytest.mark.parametrize(
    ("tasks", "confidence", "answer"), [(49, 0.6, Answer.WARN), (50, 0.9, Answer.QUARANTINE)]
)
def test_a_combination_is_sure_where_enough_such_tasks_were_seen(
    tasks: int, confidence: float, answer: Answer
) -> None:
    said = findings(Escalation(model=model_of("read", tasks=tasks)), [declared(), SECRET, OUT])
    (found,) = [one for one in said if one.rule == "secrets-then-egress"]
    assert found.confidence == confidence
    assert Answers().to(found_of(found), agent_class="bot", task_type="sort").answer is answer


def test_a_combination_over_two_tasks_is_no_surer_before_anything_was_learned() -> None:
    second = [
        declared(4, task="task-2"),
        decided(
            5,
            "post",
            "pastes",
            verb=Verb.SEND,
            destination="https://x:443",
            writes=Writes.EXTERNAL,
            task="task-2",
        ),
    ]
    (found,) = findings(Escalation(), [declared(), SECRET, *second])
    assert found.confidence == 0.6


def test_a_secret_that_was_refused_is_not_carried_out() -> None:
    assert rules(Escalation(), [declared(), decided(1, resource="secrets/db", denial=NEVER), OUT]) == []


def test_identities_are_listed_and_another_is_made() -> None:
    events = [declared(), decided(1, "list", "users"), decided(2, "make", "users/eve", verb=Verb.CREATE)]
    assert rules(Escalation(), events) == ["identities-then-another"]


def test_what_such_tasks_have_always_put_together_is_usual() -> None:
    model = merged([lesson_of([declared(), SECRET, OUT])] * 60)
    assert rules(Escalation(model=model), [declared(), SECRET, OUT]) == []


def _answers(events: list[Event], *, tasks: int) -> set[Answer]:
    """What is done about it where the catalog says nothing, and so many tasks of the type were learned."""
    said = findings(Escalation(model=model_of("read", "write", tasks=tasks)), events)
    alarms = [one for one in said if one.rule == "secrets-then-egress"]
    assert alarms
    return {Answers().to(found_of(one), agent_class="bot", task_type="").answer for one in alarms}


@pytest.mark.parametrize(
    ("events", "afterwards"),
    [
        ([declared(), SECRET, OUT], Answer.QUARANTINE),
        (
            [declared(), SECRET, declared(3, task="task-2"), replace(OUT, task_id=TaskId("task-2"))],
            Answer.END_TASK,
        ),
    ],
)
def test_before_enough_was_learned_a_combination_is_warned_of_and_afterwards_it_has_consequences(
    events: list[Event], afterwards: Answer
) -> None:
    assert _answers(events, tasks=0) == _answers(events, tasks=49) == {Answer.WARN}
    assert _answers(events, tasks=50) == {afterwards}


def test_data_above_what_such_tasks_had_is_a_climb_and_one_refused_mistake_is_not() -> None:
    model = model_of("read", "write")
    high = decided(3, "dump", level=Classification.RESTRICTED)
    assert rules(Escalation(model=model), [declared(), decided(1), high]) == ["above-usual"]
    refused = decided(3, "dump", level=Classification.RESTRICTED, denial=NEVER)
    another = decided(4, "dump-all", level=Classification.RESTRICTED, denial=NEVER)
    assert rules(Escalation(model=model), [declared(), decided(1), refused]) == []
    assert rules(Escalation(model=model), [declared(), decided(1), refused, another]) == ["above-usual"]


def test_asking_for_more_after_each_refusal_is_a_climb() -> None:
    levels = (
        Classification.PUBLIC,
        Classification.INTERNAL,
        Classification.CONFIDENTIAL,
        Classification.RESTRICTED,
    )
    asked = [
        decided(number, f"tool-{number}", level=level, denial=NEVER if number > 1 else None)
        for number, level in enumerate(levels)
    ]
    assert rules(Escalation(), [declared(), *asked]) == ["climbs"]
    assert rules(Escalation(), [declared(), *asked[:3]]) == []


def test_halves_in_two_tasks_belong_together_where_one_is_unusual() -> None:
    model = merged([model_of("read-secret", tasks=60), model_of("fetch", tasks=60, task_type="look")])
    second = [
        declared(4, task="task-2", task_type="look"),
        decided(5, "post", verb=Verb.SEND, writes=Writes.EXTERNAL, task="task-2", task_type="look"),
    ]
    assert "secrets-then-egress" in rules(Escalation(model=model), [declared(), SECRET, *second])


def test_an_action_in_another_environment_than_the_tasks() -> None:
    assert rules(Escalation(), [declared(), decided(1, environment="production")]) == ["moved"]


def test_production_after_a_refusal_in_staging_is_a_climb() -> None:
    refused = decided(1, denial=NEVER)
    up = declared(60, task="task-2", environment="production")
    assert rules(Escalation(), [declared(), refused, up]) == ["environment"]
    assert rules(Escalation(), [declared(), decided(1), up]) == []


# Drift -------------------------------------------------------------------------------------------------------


def test_too_little_was_seen_to_say() -> None:
    drift = Drift(model=model_of("read", "write", tasks=10))
    assert rules(drift, [declared(), *(decided(at, f"tool-{at}") for at in range(9))]) == []
    assert drift.standing(TaskId("task-1")) is Standing.NOT_ENOUGH_SEEN


def test_the_usual_order_is_usual_and_another_one_is_not() -> None:
    model = model_of("open", "read", "write", "close")
    drift = Drift(model=model)
    usual = [decided(at, name) for at, name in enumerate(("open", "read", "read", "write", "close"), 1)]
    assert rules(drift, [declared(), *usual]) == []
    assert drift.standing(TaskId("task-1")) is Standing.USUAL
    turned = [decided(at, name) for at, name in enumerate(("close", "write", "open", "close"), 1)]
    assert rules(drift, [declared(task="task-1"), *turned]) == ["unlikely-order"]
    assert drift.standing(TaskId("task-1")) is Standing.UNUSUAL


def test_one_rare_step_is_forgiven() -> None:
    model = model_of("open", "read", "write", "close")
    events = [decided(at, name) for at, name in enumerate(("open", "peek", "read", "write", "close"), 1)]
    assert rules(Drift(model=model), [declared(), *events[:2]]) == []


# Volume ------------------------------------------------------------------------------------------------------


def _batch(many: int, *, pace: float = 5.0, task: str = "task-1", begin: float = 0) -> list[Event]:
    return [decided(begin + at * pace, resource=f"o/{at}", task=task) for at in range(many)]


def _usual_batches() -> Model:
    return merged([lesson_of([declared(), *_batch(many)]) for many in range(20, 80)])


def test_a_batch_of_usual_size_is_left_alone_and_a_far_larger_one_is_not() -> None:
    model = _usual_batches()
    assert rules(Volume(model=model), [declared(), *_batch(90)]) == []
    assert {"resources", "total"} <= set(rules(Volume(model=model), [declared(), *_batch(600)]))


def test_a_batch_as_large_as_two_that_completed_is_usual() -> None:
    lessons = [lesson_of([declared(), *_batch(many)]) for many in (*[20, 22, 24] * 40, 600, 600)]
    assert rules(Volume(model=merged(lessons)), [declared(), *_batch(590)]) == []
    assert "total" in rules(Volume(model=merged(lessons[:-1])), [declared(), *_batch(590)])


def test_slow_scraping_is_found_by_its_sum() -> None:
    found = rules(Volume(model=_usual_batches()), [declared(), *_batch(600, pace=900.0)])
    assert "resources" in found
    assert "burst" not in found


def test_a_burst_is_found_by_its_speed() -> None:
    assert "burst" in rules(Volume(model=_usual_batches()), [declared(), *_batch(60, pace=0.01)])


def test_tasks_that_are_each_a_little_too_large_are_found_together() -> None:
    volume, found = Volume(model=_usual_batches()), []
    for number in range(12):
        task, begin = f"task-{number}", number * 10_000.0
        ended = an_event(EventKind.TASK_ENDED, begin + 9000, task=task)
        found += rules(volume, [declared(begin, task=task), *_batch(120, task=task, begin=begin), ended])
        if number == 0:
            assert found == []
    assert "resources-over-tasks" in found


def test_without_a_model_only_the_extreme_is_said_and_with_little_confidence() -> None:
    assert rules(Volume(), [declared(), *_batch(250)]) == []
    assert [one.confidence for one in findings(Volume(), [declared(), *_batch(320)])] == [0.5]


# Identity ----------------------------------------------------------------------------------------------------


def test_one_svid_at_two_addresses_and_with_two_keys() -> None:
    assert rules(IdentityMisuse(), [called(1), called(2, "10.0.0.2")]) == ["two-places"]
    assert rules(IdentityMisuse(), [called(1), called(2, key="other")]) == ["two-keys"]
    assert rules(IdentityMisuse(), [called(1), called(2, "10.0.0.2", svid="b", key="m")]) == []


def test_two_svids_that_take_turns_from_two_addresses() -> None:
    there, here = called(2, "10.0.0.2", svid="b"), called(3)
    assert rules(IdentityMisuse(), [called(1), there, here]) == ["in-turns"]
    assert rules(IdentityMisuse(), [called(1), called(2, svid="b"), here]) == []


def test_nothing_comes_after_an_instances_end_but_what_was_under_way() -> None:
    ended = an_event(EventKind.INSTANCE_ENDED, 10, task=None)
    assert rules(IdentityMisuse(), [called(1), ended, called(10.5)]) == []
    assert rules(IdentityMisuse(), [called(1), ended, called(60)]) == ["after-instance"]


@pytest.mark.parametrize(("cause", "late"), [(EndCause.COMPLETED, 1), (EndCause.DEADLINE, 4)])
def test_a_task_is_not_used_after_its_end(cause: EndCause, late: int) -> None:
    ended = an_event(EventKind.TASK_ENDED, 10, end=cause)
    calls = [called(100 + at) for at in range(late)]
    assert rules(IdentityMisuse(), [called(1), ended, *calls]) == ["outside-task"]
    assert rules(IdentityMisuse(), [called(1), ended, *calls[:-1]]) == []
    assert rules(IdentityMisuse(), [called(1), ended, decided(30)]) == ["outside-task"]


def test_nothing_is_decided_before_the_declaration() -> None:
    assert rules(IdentityMisuse(), [decided(1), declared(2)]) == ["outside-task"]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("127.0.0.1", "loopback"),
        ("::1", "loopback"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("10.1.2.3:55123", "10.1.2.3"),
        ("ipv4:10.1.2.3:9", "10.1.2.3"),
        ("ipv6:[2001:db8::1]:9", "2001:db8::1"),
        ("[2001:DB8::1]", "2001:db8::1"),
    ],
)
def test_an_address_is_one_in_every_way_of_writing(written: str, meant: str) -> None:
    assert place(written) == meant
    assert place("unix:Agent") == "unix:agent"
