"""What every store keeps of findings, holds, what was learned, sightings and messages."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from broker.domain import changes as c
from broker.domain.errors import FieldInvalidError
from broker.domain.findings import Answer, Found, Hold, Mark, RecordedFinding, Severity
from broker.domain.identifiers import ActionId, FindingId, MessageId, TaskId
from broker.domain.lease import LeaseState
from broker.domain.messages import Message
from broker.domain.sightings import MOST_SIGHTINGS, Sighting
from broker.domain.task import TaskState
from broker.ports.store import Conflict, FindingFilter, Store, StoredModel
from tests.contract.chaining import close, record
from tests.contract.quarantining import a_quarantine
from tests.contract.storing import MANY, NEVER, SECOND, add_lease, add_task, end, issue, refused, the_task
from tests.fakes.samples import ACCESSOR, LEASE, OTHER, OWNER, TASK, a_lease, a_task, an_event
from tests.fakes.system import NOON


def a_finding(key: str = "", **changed: object) -> RecordedFinding:
    """One about TASK, that waits for its answer."""
    answer = changed.pop("answer", Answer.END_TASK)
    found = Found(
        **{
            "detector": "canary",
            "rule": "touched",
            "severity": Severity.HIGH,
            "confidence": 0.75,
            "instance": OWNER,
            "task_id": TASK,
            "at": NOON,
            "evidence": (ActionId("action-1"), ActionId("action-2")),
            "expected": "nothing",
            "happened": "something",
            "key": key,
            **changed,
        }  # type: ignore[arg-type]
    )
    assert isinstance(answer, Answer)
    return RecordedFinding(finding_id=found.finding_id, found=found, found_at=NOON + SECOND, answer=answer)


async def add_finding(store: Store, finding: RecordedFinding | None = None) -> RecordedFinding:
    """Record it, and read it as it is then."""
    finding = finding or a_finding()
    await store.commit([c.RecordFinding(finding=finding)])
    found = await store.finding(finding.finding_id)
    assert found is not None
    return found


def a_message(name: str = "one", after: timedelta = timedelta()) -> Message:
    return Message(
        message_id=MessageId(f"message-{name}"),
        receiver="soc",
        kind="finding",
        body='{"finding": "x"}',
        created_at=NOON + after,
        next_attempt_at=NOON + after,
    )


def a_sighting(number: int) -> Sighting:
    return Sighting(at=NOON + SECOND * number, address=f"10.0.0.{number}", svid_sha256="ab" * 32)


class FindingCases:
    async def test_a_finding_comes_back_as_it_was_with_its_number(self, store: Store) -> None:
        first = await add_finding(store, a_finding("a"))
        assert first == replace(a_finding("a"), number=1)
        about_none = await add_finding(
            store, a_finding("b", task_id=None, evidence=(), source="spiffe://x/edr", answer=Answer.NOTE)
        )
        assert (about_none.found.task_id, about_none.number, about_none.answer) == (None, 2, Answer.NOTE)
        assert await store.finding(FindingId("finding-never")) is None
        assert await store.newest_finding() == 2
        assert await store.findings_after(0, 10) == (first, about_none)
        assert await store.findings_after(1, 10) == (about_none,)
        assert await store.findings_after(0, 1) == (first,)

    async def test_the_same_finding_is_recorded_once(self, store: Store) -> None:
        await add_finding(store)
        again = c.RecordFinding(finding=a_finding(answer=Answer.NOTE))
        assert await refused(store, c.Append(event=an_event()), again) is Conflict.FINDING_KNOWN
        assert await store.audit_head() is None

    async def test_findings_that_are_recorded_at_once_get_a_number_each(self, store: Store) -> None:
        ones = [a_finding(str(n)) for n in range(20)]
        await asyncio.gather(*(store.commit([c.RecordFinding(finding=one)]) for one in ones))
        assert [one.number for one in await store.findings_after(0, 50)] == list(range(1, 21))

    async def test_a_finding_and_the_end_of_its_task_are_durable_together_or_not_at_all(
        self, store: Store
    ) -> None:
        await add_task(store)
        await add_finding(store)
        assert await refused(store, end(), c.RecordFinding(finding=a_finding())) is Conflict.FINDING_KNOWN
        assert (await the_task(store)).state is TaskState.ACTIVE
        await store.commit([c.RecordFinding(finding=a_finding("other")), end(), c.Append(event=an_event())])
        assert (await the_task(store)).state is TaskState.ENDING
        assert await store.newest_finding() == 2

    async def test_of_a_commit_that_is_refused_at_its_end_nothing_is_left(self, store: Store) -> None:
        await add_task(store)
        await store.commit([end()])
        finding, message = a_finding("lost"), c.AddMessage(message=a_message())
        tried = c.RecordFinding(finding=finding), c.Append(event=an_event()), message, end()
        assert await refused(store, *tried) is Conflict.TASK_NOT_ACTIVE
        assert (await store.finding(finding.finding_id), await store.audit_head()) == (None, None)
        figures = await store.figures()
        assert (figures.unanswered_findings, figures.messages) == (0, 0)
        assert (await add_finding(store, a_finding("kept"))).number == 1

    async def test_findings_of_one_commit_are_numbered_in_its_order(self, store: Store) -> None:
        await store.commit([c.RecordFinding(finding=a_finding(key)) for key in "ba"])
        assert [one.found.key for one in await store.findings_after(0, 10)] == ["b", "a"]

    async def test_an_answer_takes_effect_once(self, store: Store) -> None:
        finding = await add_finding(store)
        assert await store.unanswered_findings(10) == (finding,)
        assert (await store.figures()).unanswered_findings == 1
        change = c.AnswerFinding(finding_id=finding.finding_id, at=NOON + SECOND)
        await store.commit([change])
        assert await store.unanswered_findings(10) == ()
        assert (await store.figures()).unanswered_findings == 0
        assert await refused(store, change) is Conflict.FINDING_STATE
        unknown = c.AnswerFinding(finding_id=FindingId("finding-never"), at=NOON)
        assert await refused(store, unknown) is Conflict.FINDING_STATE

    async def test_the_last_word_about_a_finding_counts(self, store: Store) -> None:
        await add_task(store)
        finding = await add_finding(store)
        assert (await store.action_facts(TASK, NOON, 10)).open_anomalies == 1
        for mark, still in ((Mark.FALSE, 0), (Mark.CONFIRMED, 1)):
            await store.commit([c.MarkFinding(finding_id=finding.finding_id, mark=mark, by="ann")])
            marked = await store.finding(finding.finding_id)
            assert marked is not None
            assert (marked.mark, marked.marked_by) == (mark, "ann")
            assert (await store.action_facts(TASK, NOON, 10)).open_anomalies == still
        unknown = c.MarkFinding(finding_id=FindingId("finding-never"), mark=Mark.FALSE, by="ann")
        assert await refused(store, unknown) is Conflict.FINDING_STATE

    async def test_findings_count_for_their_own_task(self, store: Store) -> None:
        await add_task(store)
        await add_task(store, a_task("task-b"))
        assert (await store.action_facts(TASK, NOON, 10)).open_anomalies == 0
        finding = await add_finding(store, a_finding(task_id=TaskId("task-b")))
        await add_finding(store, a_finding(task_id=None))
        assert (await store.action_facts(TASK, NOON, 10)).open_anomalies == 0
        assert (await store.action_facts(TaskId("task-b"), NOON, 10)).open_anomalies == 1
        assert await store.findings_of_task(TaskId("task-b"), 10) == (finding,)
        assert await store.findings_of_task(TASK, 10) == ()

    @pytest.mark.parametrize(
        ("wanted", "found"),
        [
            (FindingFilter(), "cba"),
            (FindingFilter(detector="pivot"), "b"),
            (FindingFilter(instance=str(OTHER)), "c"),
            (FindingFilter(task_id=TASK), "ba"),
            (FindingFilter(least=Severity.HIGH), "ca"),
            (FindingFilter(unmarked=True), "cb"),
            (FindingFilter(unanswered=True), "ba"),
            (FindingFilter(detector="pivot", unanswered=True, least=Severity.CRITICAL), ""),
        ],
        ids=repr,
    )
    async def test_a_page_has_what_is_wanted_newest_first(
        self, store: Store, wanted: FindingFilter, found: str
    ) -> None:
        first = await add_finding(store, a_finding("a"))
        await add_finding(store, a_finding("b", detector="pivot", severity=Severity.LOW))
        third = await add_finding(
            store, a_finding("c", instance=OTHER, task_id=None, severity=Severity.CRITICAL)
        )
        await store.commit(
            [
                c.MarkFinding(finding_id=first.finding_id, mark=Mark.CONFIRMED, by="ann"),
                c.AnswerFinding(finding_id=third.finding_id, at=NOON),
            ]
        )
        page = await store.finding_page(wanted, page_size=10, page_token="")
        assert ("".join(one.found.key for one in page.findings), page.next_token) == (found, "")

    async def test_pages_follow_each_other(self, store: Store) -> None:
        for key in "abcde":
            await add_finding(store, a_finding(key))
        token, seen = "", ""
        while True:
            page = await store.finding_page(FindingFilter(), page_size=2, page_token=token)
            seen += "".join(one.found.key for one in page.findings)
            token = page.next_token
            if not token:
                break
        assert seen == "edcba"
        with pytest.raises(FieldInvalidError):
            await store.finding_page(FindingFilter(), page_size=2, page_token="nonsense")

    # Holds -------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("hold", Hold)
    async def test_a_task_on_hold_gets_nothing_new(self, store: Store, hold: Hold) -> None:
        await add_task(store)
        await add_lease(store)
        await store.commit([record(1), c.HoldTask(task_id=TASK, hold=hold)])
        assert (await the_task(store)).hold is hold
        facts = await store.action_facts(TASK, NOON, 10)
        assert facts.task is not None
        assert facts.task.hold is hold
        assert await refused(store, record(2)) is Conflict.TASK_ON_HOLD
        assert await refused(store, record(2, allowed=False)) is Conflict.TASK_ON_HOLD
        assert await refused(store, issue()) is Conflict.TASK_ON_HOLD
        another = c.CreateLease(lease=a_lease("lease-b", idempotency_key="another-key"), max_live=MANY)
        assert await refused(store, another) is Conflict.TASK_ON_HOLD
        await store.commit([close(1), c.VoidLease(lease_id=LEASE, at=NOON)])
        await store.commit([c.LiftHold(task_id=TASK)])
        assert (await the_task(store)).hold is None
        await store.commit([record(2)])

    async def test_a_frozen_task_stays_frozen(self, store: Store) -> None:
        await add_task(store)
        for hold in (Hold.APPROVAL, Hold.FROZEN, Hold.APPROVAL):
            await store.commit([c.HoldTask(task_id=TASK, hold=hold)])
        assert (await the_task(store)).hold is Hold.FROZEN

    async def test_an_end_and_a_quarantine_are_told_before_a_hold(self, store: Store) -> None:
        await add_task(store)
        await add_lease(store)
        another = c.CreateLease(lease=a_lease("lease-b"), max_live=MANY)
        await store.commit([c.HoldTask(task_id=TASK, hold=Hold.FROZEN)])
        await store.commit([c.AddQuarantine(quarantine=a_quarantine())])
        for change in (record(1), another, issue()):
            assert await refused(store, change) is Conflict.OWNER_QUARANTINED
        await store.commit([end()])
        for change in (record(1), another, issue()):
            assert await refused(store, change) is Conflict.TASK_NOT_ACTIVE

    async def test_a_hold_is_read_with_the_task_wherever_it_is_read(self, store: Store) -> None:
        await add_task(store, a_task(idempotency_key="key"))
        await store.commit(
            [
                c.HoldTask(task_id=TASK, hold=Hold.APPROVAL),
                c.AddTaskToken(task_id=TASK, accessor=ACCESSOR, at=NOON),
                c.AddQuarantine(quarantine=a_quarantine()),
            ]
        )
        held = await the_task(store)
        assert held.hold is Hold.APPROVAL
        page = await store.tasks_of(OWNER, states=frozenset(), page_size=10, page_token="")
        assert page.tasks == (held,)
        assert await store.task_by_key(OWNER, "key") == held
        assert await store.task_of_token(ACCESSOR) == held
        assert await store.take_lapsed_tasks(held.deadline, 10) == (held,)
        assert await store.quarantined_tasks(10) == (held,)

    async def test_only_an_active_task_is_held_or_let_go(self, store: Store) -> None:
        await add_task(store)
        assert await refused(store, c.LiftHold(task_id=TASK)) is Conflict.HOLD_MISSING
        await store.commit([end()])
        for change in (
            c.LiftHold(task_id=TASK),
            c.HoldTask(task_id=TASK, hold=Hold.FROZEN),
            c.HoldTask(task_id=TaskId(NEVER), hold=Hold.FROZEN),
        ):
            assert await refused(store, change) is Conflict.TASK_NOT_ACTIVE

    async def test_a_held_task_ends_like_any_other(self, store: Store) -> None:
        await add_task(store)
        await add_lease(store)
        await store.commit([c.HoldTask(task_id=TASK, hold=Hold.FROZEN)])
        await store.commit([end()])
        (lease,) = await store.leases_of(TASK)
        assert lease.state is LeaseState.REVOKING

    async def test_whoever_has_an_active_task_is_named_once(self, store: Store) -> None:
        await add_task(store)
        await add_task(store, a_task("task-b"))
        await add_task(store, a_task("task-c", owner=OTHER))
        assert await store.active_owners("", 10) == (OWNER, OTHER)
        assert await store.active_owners("", 1) == (OWNER,)
        assert await store.active_owners(str(OWNER), 10) == (OTHER,)
        await store.commit([end(TaskId("task-c"))])
        assert await store.active_owners("", 10) == (OWNER,)

    # What was learned, and seen ----------------------------------------------------------------------------

    async def test_a_model_replaces_the_version_before(self, store: Store) -> None:
        assert await store.model() is None
        assert await refused(store, c.SaveModel(version=2, data="{}")) is Conflict.MODEL_MOVED_ON
        await store.commit([c.SaveModel(version=1, data="{}")])
        assert await refused(store, c.SaveModel(version=1, data="[]")) is Conflict.MODEL_MOVED_ON
        await store.commit([c.SaveModel(version=2, data='{"a": 1}')])
        assert await store.model() == StoredModel(version=2, data='{"a": 1}')

    async def test_the_newest_sightings_of_each_instance_are_kept(self, store: Store) -> None:
        seen = [a_sighting(number) for number in range(MOST_SIGHTINGS + 3)]
        for one in seen:
            await store.commit([c.SeeInstance(instance=OWNER, sighting=one)])
        await store.commit([c.SeeInstance(instance=OTHER, sighting=seen[0])])
        assert await store.sightings_of(OWNER) == tuple(seen[3:])
        assert await store.sightings_of(OTHER) == (seen[0],)

    # Messages ----------------------------------------------------------------------------------------------

    async def test_a_message_waits_until_it_is_removed(self, store: Store) -> None:
        first, second, later = a_message("b"), a_message("a", SECOND), a_message("c", SECOND * 60)
        await store.commit([c.AddMessage(message=one) for one in (second, later, first)])
        assert (await store.figures()).messages == 3
        until = NOON + SECOND * 30
        await store.commit(
            [
                c.PostponeMessage(message_id=first.message_id, next_attempt_at=until),
                c.RemoveMessage(message_id=second.message_id),
            ]
        )
        postponed = replace(first, attempts=1, next_attempt_at=until)
        assert await store.messages_to(first.receiver, 10) == (postponed, later)
        gone = MessageId("message-gone")
        await store.commit(
            [c.RemoveMessage(message_id=gone), c.PostponeMessage(message_id=gone, next_attempt_at=until)]
        )
        assert (await store.figures()).messages == 2

    async def test_messages_to_a_receiver_come_in_order_due_or_not(self, store: Store) -> None:
        first, second, later = a_message("b"), a_message("a", SECOND), a_message("c", SECOND * 60)
        other = replace(a_message("d"), receiver="siem")
        await store.commit([c.AddMessage(message=one) for one in (later, other, second, first)])
        assert dict(await store.message_counts()) == {"soc": 3, "siem": 1}
        assert await store.messages_to("soc", 10) == (first, second, later)
        assert await store.messages_to("soc", 2) == (first, second)
        assert await store.messages_to("nobody", 10) == ()
        until = NOON + SECOND * 300
        await store.commit(
            [
                c.PostponeMessage(message_id=first.message_id, next_attempt_at=until),
                c.RemoveMessage(message_id=other.message_id),
            ]
        )
        postponed = replace(first, attempts=1, next_attempt_at=until)
        assert await store.messages_to("soc", 10) == (postponed, second, later)
        assert dict(await store.message_counts()) == {"soc": 3}
