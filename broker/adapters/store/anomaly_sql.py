"""Findings, holds, what was learned and sightings: statements, and what applies and reads them.

A finding's number is one more than the highest there is. That is safe where every commit waits for the one before it, as all
commits of a store do: each takes its place in the audit trail.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import and_, bindparam, case, delete, func, insert, or_, select, update

from broker.adapters.store.rows import time_of, time_or_none
from broker.adapters.store.schema import findings, models, sightings, tasks
from broker.adapters.store.session import Row, Session, Statement, UniqueViolationError
from broker.domain import changes as c
from broker.domain.errors import FieldInvalidError, FieldViolation
from broker.domain.findings import Answer, Found, Hold, Mark, RecordedFinding, Severity
from broker.domain.identifiers import ActionId, FindingId, TaskId
from broker.domain.sightings import MOST_SIGHTINGS, Sighting
from broker.domain.spiffe import SpiffeId
from broker.domain.task import TaskState
from broker.ports.store import Conflict, ConflictError, FindingFilter, FindingPage, StoredModel

_NAME: Final = "usual"
_TOKEN: Final = re.compile(r"[1-9][0-9]{0,17}")
_COLUMNS: Final = (
    "finding_id", "number", "detector", "rule", "severity", "confidence", "instance", "task_id", "at", "found_at",
    "evidence", "expected", "happened", "source", "event_key", "answer", "answered_at", "mark", "marked_by",
)  # fmt: skip
_BY_ID: Final = findings.c.finding_id == bindparam("b_finding")

_INSERT: Final = Statement(insert(findings), columns=_COLUMNS)
_NEWEST: Final = Statement(select(func.coalesce(func.max(findings.c.number), 0).label("number")))
_ONE: Final = Statement(select(findings).where(_BY_ID))
_ANSWERED: Final = Statement(
    update(findings).where(_BY_ID, findings.c.answered_at.is_(None)).values(answered_at=bindparam("b_at"))
)
_MARKED: Final = Statement(
    update(findings).where(_BY_ID).values(mark=bindparam("b_mark"), marked_by=bindparam("b_by"))
)
_AFTER: Final = Statement(
    select(findings)
    .where(findings.c.number > bindparam("b_after"))
    .order_by(findings.c.number)
    .limit(bindparam("b_limit"))
)
_UNANSWERED: Final = Statement(
    select(findings)
    .where(findings.c.answered_at.is_(None))
    .order_by(findings.c.number)
    .limit(bindparam("b_limit"))
)
_OF_TASK: Final = Statement(
    select(findings)
    .where(findings.c.task_id == bindparam("b_task"))
    .order_by(findings.c.number)
    .limit(bindparam("b_limit"))
)
_PAGE: Final = Statement(
    select(findings)
    .where(
        findings.c.number < bindparam("b_before"),
        or_(bindparam("b_any_detector") == 1, findings.c.detector == bindparam("b_detector")),
        or_(bindparam("b_any_instance") == 1, findings.c.instance == bindparam("b_instance")),
        or_(bindparam("b_any_task") == 1, findings.c.task_id == bindparam("b_task")),
        or_(bindparam("b_any_mark") == 1, findings.c.mark == Mark.NONE.value),
        or_(bindparam("b_any_state") == 1, findings.c.answered_at.is_(None)),
        or_(*(and_(findings.c.severity == one.value, bindparam(f"b_{one.value}") == 1) for one in Severity)),
    )
    .order_by(findings.c.number.desc())
    .limit(bindparam("b_limit"))
)
COUNT_UNANSWERED: Final = Statement(
    select(func.count().label("number")).select_from(findings).where(findings.c.answered_at.is_(None))
)
OPEN_OF_TASK: Final = (
    select(func.count())
    .select_from(findings)
    .where(findings.c.task_id == tasks.c.task_id, findings.c.mark != Mark.FALSE.value)
    .correlate(tasks)
    .scalar_subquery()
)
"""How many findings about a task stand."""

_ACTIVE: Final = tasks.c.state == TaskState.ACTIVE.value
_HOLD: Final = Statement(
    update(tasks)
    .where(tasks.c.task_id == bindparam("b_task"), _ACTIVE)
    .values(hold=case((tasks.c.hold == Hold.FROZEN.value, tasks.c.hold), else_=bindparam("b_hold")))
)
_LIFT: Final = Statement(
    update(tasks)
    .where(tasks.c.task_id == bindparam("b_task"), _ACTIVE, tasks.c.hold.is_not(None))
    .values(hold=None)
)
_STATE: Final = Statement(select(tasks.c.state).where(tasks.c.task_id == bindparam("b_task")))
_OWNERS: Final = Statement(
    select(tasks.c.owner)
    .where(_ACTIVE, tasks.c.owner > bindparam("b_after"))
    .distinct()
    .order_by(tasks.c.owner)
    .limit(bindparam("b_limit"))
)
_MODEL: Final = Statement(select(models).where(models.c.name == _NAME))
_NEW_MODEL: Final = Statement(insert(models), columns=("name", "version", "data"))
_NEXT_MODEL: Final = Statement(
    update(models)
    .where(models.c.name == _NAME, models.c.version == bindparam("b_version") - 1)
    .values(version=bindparam("b_version"), data=bindparam("b_data"))
)
_SIGHTINGS: Final = Statement(
    select(sightings)
    .where(sightings.c.instance == bindparam("b_instance"))
    .order_by(sightings.c.number.desc())
    .limit(bindparam("b_limit"))
)
_LAST_SIGHTING: Final = Statement(
    select(func.coalesce(func.max(sightings.c.number), 0).label("number")).where(
        sightings.c.instance == bindparam("b_instance")
    )
)
_INSERT_SIGHTING: Final = Statement(
    insert(sightings), columns=("instance", "number", "at", "address", "svid_sha256", "key_fingerprint")
)
_FORGET_SIGHTINGS: Final = Statement(
    delete(sightings).where(
        sightings.c.instance == bindparam("b_instance"), sightings.c.number <= bindparam("b_until")
    )
)


def record(session: Session, change: c.RecordFinding) -> None:
    """A new finding, with the next number."""
    if session.rows(_ONE, b_finding=change.finding.finding_id):
        raise ConflictError(Conflict.FINDING_KNOWN)
    number = newest(session) + 1
    try:
        session.change(_INSERT, **_row(change.finding, number))
    except UniqueViolationError as error:
        raise ConflictError(Conflict.FINDING_KNOWN) from error


def answered(session: Session, change: c.AnswerFinding) -> None:
    """Its answer has taken effect."""
    if session.change(_ANSWERED, b_finding=change.finding_id, b_at=change.at) != 1:
        raise ConflictError(Conflict.FINDING_STATE)


def marked(session: Session, change: c.MarkFinding) -> None:
    """What a person said of it."""
    changed = session.change(_MARKED, b_finding=change.finding_id, b_mark=change.mark.value, b_by=change.by)
    if changed != 1:
        raise ConflictError(Conflict.FINDING_STATE)


def hold(session: Session, change: c.HoldTask) -> None:
    """A task gets nothing new."""
    if session.change(_HOLD, b_task=change.task_id, b_hold=change.hold.value) != 1:
        raise ConflictError(Conflict.TASK_NOT_ACTIVE)


def lift(session: Session, change: c.LiftHold) -> None:
    """It does again."""
    if session.change(_LIFT, b_task=change.task_id) == 1:
        return
    rows = session.rows(_STATE, b_task=change.task_id)
    active = bool(rows) and rows[0]["state"] == TaskState.ACTIVE.value
    raise ConflictError(Conflict.HOLD_MISSING if active else Conflict.TASK_NOT_ACTIVE)


def save_model(session: Session, change: c.SaveModel) -> None:
    """In place of the version before."""
    if change.version == 1:
        try:
            session.change(_NEW_MODEL, name=_NAME, version=1, data=change.data)
        except UniqueViolationError as error:
            raise ConflictError(Conflict.MODEL_MOVED_ON) from error
    elif session.change(_NEXT_MODEL, b_version=change.version, b_data=change.data) != 1:
        raise ConflictError(Conflict.MODEL_MOVED_ON)


def see(session: Session, change: c.SeeInstance) -> None:
    """One more sighting; the oldest is forgotten."""
    instance, sighting = str(change.instance), change.sighting
    number = session.rows(_LAST_SIGHTING, b_instance=instance)[0]["number"] + 1
    session.change(
        _INSERT_SIGHTING,
        instance=instance,
        number=number,
        at=sighting.at,
        address=sighting.address,
        svid_sha256=sighting.svid_sha256,
        key_fingerprint=sighting.key_fingerprint,
    )
    if number > MOST_SIGHTINGS:
        session.change(_FORGET_SIGHTINGS, b_instance=instance, b_until=number - MOST_SIGHTINGS)


def finding(session: Session, finding_id: FindingId) -> RecordedFinding | None:
    """One finding."""
    rows = session.rows(_ONE, b_finding=finding_id)
    return finding_of(rows[0]) if rows else None


def finding_page(session: Session, wanted: FindingFilter, page_size: int, page_token: str) -> FindingPage:
    """See ports.store; the token is the last finding's number."""
    if page_token and not _TOKEN.fullmatch(page_token):
        raise FieldInvalidError(
            [FieldViolation(field="page_token", remedy="give back next_page_token as it was")]
        )
    rows = session.rows(
        _PAGE,
        b_before=int(page_token) if page_token else 2**62,
        b_any_detector=int(not wanted.detector),
        b_detector=wanted.detector,
        b_any_instance=int(not wanted.instance),
        b_instance=wanted.instance,
        b_any_task=int(not wanted.task_id),
        b_task=wanted.task_id,
        b_any_mark=int(not wanted.unmarked),
        b_any_state=int(not wanted.unanswered),
        b_limit=page_size + 1,
        **{f"b_{one.value}": int(one.rank >= wanted.least.rank) for one in Severity},
    )
    found = tuple(map(finding_of, rows[:page_size]))
    return FindingPage(findings=found, next_token=str(found[-1].number) if len(rows) > page_size else "")


def after(session: Session, number: int, limit: int) -> tuple[RecordedFinding, ...]:
    """In order."""
    return tuple(map(finding_of, session.rows(_AFTER, b_after=number, b_limit=limit)))


def newest(session: Session) -> int:
    """The highest number."""
    return int(session.rows(_NEWEST)[0]["number"])


def unanswered(session: Session, limit: int) -> tuple[RecordedFinding, ...]:
    """Oldest first."""
    return tuple(map(finding_of, session.rows(_UNANSWERED, b_limit=limit)))


def of_task(session: Session, task_id: TaskId, limit: int) -> tuple[RecordedFinding, ...]:
    """Oldest first."""
    return tuple(map(finding_of, session.rows(_OF_TASK, b_task=task_id, b_limit=limit)))


def active_owners(session: Session, beyond: str, limit: int) -> tuple[SpiffeId, ...]:
    """Instances with an active task."""
    rows = session.rows(_OWNERS, b_after=beyond, b_limit=limit)
    return tuple(SpiffeId.parse(row["owner"]) for row in rows)


def model(session: Session) -> StoredModel | None:
    """What was learned."""
    rows = session.rows(_MODEL)
    return StoredModel(version=rows[0]["version"], data=rows[0]["data"]) if rows else None


def sightings_of(session: Session, instance: SpiffeId) -> tuple[Sighting, ...]:
    """Oldest first."""
    rows = session.rows(_SIGHTINGS, b_instance=str(instance), b_limit=MOST_SIGHTINGS)
    return tuple(
        Sighting(
            at=time_of(row["at"]),
            address=row["address"],
            svid_sha256=row["svid_sha256"],
            key_fingerprint=row["key_fingerprint"],
        )
        for row in reversed(rows)
    )


def finding_of(row: Row) -> RecordedFinding:
    """A row as a finding."""
    return RecordedFinding(
        finding_id=FindingId(row["finding_id"]),
        found=Found(
            detector=row["detector"],
            rule=row["rule"],
            severity=Severity(row["severity"]),
            confidence=float(row["confidence"]),
            instance=SpiffeId.parse(row["instance"]),
            task_id=TaskId(row["task_id"]) if row["task_id"] else None,
            at=time_of(row["at"]),
            evidence=tuple(map(ActionId, json.loads(row["evidence"]))),
            expected=row["expected"],
            happened=row["happened"],
            source=row["source"],
            key=row["event_key"],
        ),
        found_at=time_of(row["found_at"]),
        answer=Answer(row["answer"]),
        answered_at=time_or_none(row["answered_at"]),
        mark=Mark(row["mark"]),
        marked_by=row["marked_by"],
        number=row["number"],
    )


def _row(recorded: RecordedFinding, number: int) -> Mapping[str, Any]:
    found = recorded.found
    return {
        "finding_id": recorded.finding_id,
        "number": number,
        "detector": found.detector,
        "rule": found.rule,
        "severity": found.severity.value,
        "confidence": found.confidence,
        "instance": str(found.instance),
        "task_id": found.task_id or "",
        "at": found.at,
        "found_at": recorded.found_at,
        "evidence": json.dumps(list(found.evidence)),
        "expected": found.expected,
        "happened": found.happened,
        "source": found.source,
        "event_key": found.key,
        "answer": recorded.answer.value,
        "answered_at": recorded.answered_at,
        "mark": recorded.mark.value,
        "marked_by": recorded.marked_by,
    }
