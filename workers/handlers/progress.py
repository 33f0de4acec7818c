"""`progress`: how far each learner is in each course, whatever the order in which the events arrive."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Double,
    MetaData,
    Row,
    Select,
    SmallInteger,
    String,
    Table,
    Text,
    Uuid,
    select,
    tuple_,
)

from coursewire.errors import Code, Skip
from coursewire.event import Event, EventType
from coursewire.ledger.engine import insert
from coursewire.ledger.tables import Instant, utc_now
from coursewire.plugins import Handler, Outcome

metadata = MetaData()

# `*_at` without a comment: when the event occurred that said so.
states = Table(
    "progress_states",
    metadata,
    Column("source", String(64), primary_key=True),
    Column("learner_id", Text, primary_key=True),
    Column("course_kind", Text, primary_key=True),
    Column("course_id", Text, primary_key=True),
    Column("learner_name", Text),
    Column("learner_name_at", Instant),
    Column("learner_email", Text),
    Column("learner_email_at", Instant),
    Column("course_title", Text),
    Column("course_title_at", Instant),
    Column("progress", Double),  # percent
    Column("completed", Boolean, nullable=False),
    Column("completed_at", Instant),
    Column("passed", Boolean),
    Column("score", Double),  # in the LMS's own scale
    Column("result_at", Instant),
    Column("occurred_at", Instant, nullable=False),  # of the newest event, as the next two
    Column("stage", SmallInteger, nullable=False),
    Column("event_id", Uuid(as_uuid=False), nullable=False),
    Column("updated_at", Instant, nullable=False),  # when this row was written
    sqlite_with_rowid=False,
)
KEY = tuple(states.primary_key.columns)
KEY_NAMES = tuple(column.name for column in KEY)

REGISTERED, PROGRESSED, COMPLETED = range(3)
STAGES: Mapping[str, int] = {
    EventType.REGISTRATION_CREATED: REGISTERED,
    EventType.ACTIVITY_COMPLETED: PROGRESSED,
    EventType.COURSE_COMPLETED: COMPLETED,
    EventType.PATH_COMPLETED: COMPLETED,
}

Key = tuple[str, str, str, str]
Said = tuple[datetime, str] | None
Result = tuple[datetime, bool | None, float | None] | None
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class State:
    """What is known of one learner in one course."""

    newest: tuple[datetime, int, str]
    """Time, stage and id of the newest event."""
    learner_name: Said = None
    learner_email: Said = None
    course_title: Said = None
    progress: float | None = None
    completed_at: datetime | None = None
    result: Result = None
    """When it was so, passed, score."""


def merge(one: State, other: State) -> State:
    """What both say together: the same in every order and grouping, however often a state is repeated.

    Progress is the highest, completion the first. Of the rest the newest counts; LMSs tell times in whole
    seconds, and of two things said of one second the greater counts (passed before failed).
    """
    completions = [at for at in (one.completed_at, other.completed_at) if at is not None]
    return State(
        newest=max(one.newest, other.newest),
        learner_name=_greater(one.learner_name, other.learner_name),
        learner_email=_greater(one.learner_email, other.learner_email),
        course_title=_greater(one.course_title, other.course_title),
        progress=_greater(one.progress, other.progress),
        completed_at=min(completions, default=None),
        result=_greater(one.result, other.result, key=_result_order),
    )


def state_of(event: Event) -> State:
    """What this event alone says.

    Score and passed are taken from events about the course as a whole: those of an activity are the
    activity's own. Progress is the course's in either, and at 100 percent the course is completed.
    """
    at, result, learner, course = event.occurred_at, event.result, event.learner, event.course
    stage = STAGES.get(event.type, PROGRESSED)
    progress = result.progress if result else None
    completed = progress is not None and progress >= 100
    told = None
    if stage == COMPLETED:
        completed = result is None or result.completed is not False
        if result and (result.passed is not None or result.score is not None):
            told = (at, result.passed, result.score)
    return State(
        newest=(at, stage, event.id),
        learner_name=(at, learner.name) if learner and learner.name else None,
        learner_email=(at, learner.email) if learner and learner.email else None,
        course_title=(at, course.title) if course and course.title else None,
        progress=progress,
        completed_at=at if completed else None,
        result=told,
    )


class Progress(Handler):
    """One row for each source, learner and course; a course's kind belongs to its identity."""

    wants = frozenset(STAGES)
    metadata = metadata

    def record_batch(self, events: Sequence[Event], db: Connection) -> Sequence[Outcome]:
        told: dict[Key, State] = {}
        outcomes: list[Outcome] = []
        for event in events:
            if event.learner is None:
                outcomes.append(Skip(Code.NO_LEARNER))
            elif event.course is None:
                outcomes.append(Skip(Code.NO_COURSE))
            else:
                key = (event.source, event.learner.id, event.course.kind, event.course.id)
                state = state_of(event)
                told[key] = merge(told[key], state) if key in told else state
                outcomes.append(None)
        if told:
            _store(db, told)
        return outcomes


def _store(db: Connection, told: Mapping[Key, State]) -> None:
    """Merge what was `told` into the table.

    Rows are inserted, then locked, in the order of their keys: two workers that take the same rows in
    opposite orders would deadlock. What another worker inserts in between, the lock waits for and sees.
    """
    keys = sorted(told)
    rows = [dict(zip(KEY_NAMES, key, strict=True)) | _values(told[key]) for key in keys]
    missing = insert(db, states).on_conflict_do_nothing().returning(*KEY)
    new = {tuple(row) for row in db.execute(missing, rows)}
    rest = [key for key in keys if key not in new]
    if not rest:
        return
    changed = []
    for row in db.execute(_these(rest).with_for_update()).all():
        known, key = _state(row), tuple(row[: len(KEY)])
        merged = merge(known, told[key])
        if merged != known:
            changed.append(dict(zip(KEY_NAMES, key, strict=True)) | _values(merged))
    if changed:
        # An insert that always meets its row: one statement for all, which an update cannot be, nor an insert
        # that returns nothing.
        upsert = insert(db, states)
        said = {column.name: upsert.excluded[column.name] for column in states.c if column not in set(KEY)}
        db.execute(upsert.on_conflict_do_update(index_elements=KEY, set_=said).returning(KEY[0]), changed)


def _these(keys: Sequence[Key]) -> Select[Any]:
    # For the whole key alone SQLite would read the whole table; for its first columns it takes the index.
    return (
        select(states)
        .where(states.c.source.in_({key[0] for key in keys}))
        .where(states.c.learner_id.in_({key[1] for key in keys}))
        .where(tuple_(*KEY).in_(keys))
        .order_by(*KEY)
    )


def _values(state: State) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in ("learner_name", "learner_email", "course_title"):
        values[f"{name}_at"], values[name] = getattr(state, name) or (None, None)
    values["result_at"], values["passed"], values["score"] = state.result or (None, None, None)
    values["occurred_at"], values["stage"], values["event_id"] = state.newest
    return values | {
        "progress": state.progress,
        "completed": state.completed_at is not None,
        "completed_at": state.completed_at,
        "updated_at": utc_now(),
    }


def _state(row: Row[Any]) -> State:
    def said(at: datetime | None, value: str) -> Said:
        return None if at is None else (at, value)

    return State(
        newest=(row.occurred_at, row.stage, row.event_id),
        learner_name=said(row.learner_name_at, row.learner_name),
        learner_email=said(row.learner_email_at, row.learner_email),
        course_title=said(row.course_title_at, row.course_title),
        progress=row.progress,
        completed_at=row.completed_at,
        result=None if row.result_at is None else (row.result_at, row.passed, row.score),
    )


def _greater(one: T | None, other: T | None, key: Callable[[T], Any] = lambda value: value) -> T | None:
    return max((each for each in (one, other) if each is not None), key=key, default=None)


def _result_order(result: tuple[datetime, bool | None, float | None]) -> tuple[datetime, int, float]:
    at, passed, score = result
    return at, -1 if passed is None else passed, float("-inf") if score is None else score
