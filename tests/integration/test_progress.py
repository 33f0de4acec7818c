from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, select
from sqlalchemy.event import listens_for

from coursewire.errors import Skip
from coursewire.event import Course, Event, Learner, Result
from coursewire.ledger.engine import open_ledger
from coursewire.settings import build_settings
from workers.handlers.progress import Progress, merge, metadata, state_of, states

HANDLER = Progress("progress", {})


def rows(db: Connection) -> list[dict[str, Any]]:
    """All states, without when they were written."""
    found = [row._asdict() for row in db.execute(select(states).order_by(*states.primary_key))]
    return [{name: value for name, value in row.items() if name != "updated_at"} for row in found]


def record(ledger: Engine, *events: Event) -> dict[str, Any]:
    """Each event in a batch of its own; the one row that is there then."""
    for event in events:
        with ledger.begin() as db:
            HANDLER.record(event, db)
    with ledger.connect() as db:
        (row,) = rows(db)
    return row


def said(row: dict[str, Any], *names: str) -> tuple[Any, ...]:
    return tuple(row[name] for name in names)


def test_a_completion_is_one_row_with_what_it_said(
    fresh_ledger: Engine, make_event: Callable[..., Event]
) -> None:
    """The row holds the learner, the course by kind and id, the result, and which event said so."""
    event = make_event(result=Result(score=58.0, passed=False, completed=True))
    assert record(fresh_ledger, event) == {
        "source": "school",
        "learner_id": "ana",
        "course_kind": "course",
        "course_id": "algebra",
        "learner_name": "Ana Souza",
        "learner_name_at": event.occurred_at,
        "learner_email": "ana@example.org",
        "learner_email_at": event.occurred_at,
        "course_title": "Algebra",
        "course_title_at": event.occurred_at,
        "progress": None,
        "completed": True,
        "completed_at": event.occurred_at,
        "passed": False,
        "score": 58.0,
        "result_at": event.occurred_at,
        "occurred_at": event.occurred_at,
        "stage": 2,
        "event_id": event.id,
    }


def test_progress_never_falls_and_completed_stays(
    fresh_ledger: Engine, make_event: Callable[..., Event]
) -> None:
    """A newer event with less progress lowers nothing, and a new registration takes no completion back."""
    at: datetime = make_event().occurred_at
    row = record(
        fresh_ledger,
        make_event("activity.completed", result=Result(progress=66.0)),
        make_event(result=Result(completed=True, passed=True), occurred_at=at + timedelta(hours=1)),
        make_event("activity.completed", result=Result(progress=33.0), occurred_at=at + timedelta(hours=2)),
        make_event(result=Result(completed=True, passed=True), occurred_at=at + timedelta(hours=2)),
        make_event("registration.created", occurred_at=at + timedelta(hours=3)),
    )
    assert said(row, "progress", "completed", "passed") == (66.0, True, True)
    assert row["completed_at"] == at + timedelta(hours=1)
    assert said(row, "occurred_at", "stage") == (at + timedelta(hours=3), 0)


def test_an_older_event_overwrites_nothing_newer_but_may_raise(
    fresh_ledger: Engine, make_event: Callable[..., Event]
) -> None:
    """What came late and is older fills gaps, raises progress and completion, and leaves the rest."""
    new = make_event(
        result=Result(score=90.0, passed=True, progress=50.0, completed=False),
        learner=Learner(id="ana", name="Ana Lima"),
    )
    late = make_event(
        result=Result(score=20.0, passed=False, progress=80.0, completed=True),
        occurred_at=new.occurred_at - timedelta(days=1),
    )
    row = record(fresh_ledger, new, late)
    assert said(row, "score", "passed", "learner_name", "event_id") == (90.0, True, "Ana Lima", new.id)
    assert said(row, "progress", "completed", "learner_email") == (80.0, True, "ana@example.org")
    assert row["completed_at"] == late.occurred_at


def test_a_regrade_from_failed_to_passed_shows(
    fresh_ledger: Engine, make_event: Callable[..., Event]
) -> None:
    """The newest result counts; of two results of the same second the passed one, in either order."""
    failed = make_event(result=Result(score=40.0, passed=False))
    passed = make_event(
        result=Result(score=70.0, passed=True), occurred_at=failed.occurred_at + timedelta(days=1)
    )
    assert said(record(fresh_ledger, failed, passed), "score", "passed") == (70.0, True)
    other = partial(replace, course=Course(id="biology"))
    same_second = other(passed, occurred_at=failed.occurred_at)
    with fresh_ledger.begin() as db:
        HANDLER.record_batch([same_second, other(failed)], db)
        assert [said(row, "score", "passed") for row in rows(db)] == [(70.0, True), (70.0, True)]


def test_an_activitys_score_is_not_the_courses(
    fresh_ledger: Engine, make_event: Callable[..., Event]
) -> None:
    """Of an activity only the course's progress counts, and at 100 percent the course is completed."""
    activity = partial(make_event, "activity.completed")
    row = record(fresh_ledger, activity(result=Result(score=95.0, passed=True, completed=True)))
    assert said(row, "score", "passed", "progress", "completed") == (None, None, None, False)
    row = record(fresh_ledger, activity(result=Result(progress=100.0)))
    assert said(row, "progress", "completed", "stage") == (100.0, True, 1)


def test_the_identity_is_source_learner_and_course_with_its_kind(
    fresh_ledger: Engine, make_event: Callable[..., Event]
) -> None:
    """An offering and a course with one id, or one learner id in two sources, never mix."""
    events = [
        make_event(),
        make_event(course=Course(id="algebra", kind="offering")),
        make_event(course=Course(id="geometry")),
        make_event(learner=Learner(id="bia")),
        make_event(source="academy"),
    ]
    with fresh_ledger.begin() as db:
        assert HANDLER.record_batch(events, db) == [None] * 5
        assert HANDLER.record_batch(events, db) == [None] * 5
        assert len(rows(db)) == 5


def test_without_learner_or_course_it_is_skipped(
    fresh_ledger: Engine, make_event: Callable[..., Event]
) -> None:
    """What is about no learner, or no course, has no row; its neighbours in the batch have theirs."""
    with fresh_ledger.begin() as db:
        first, second, third = HANDLER.record_batch(
            [make_event(learner=None), make_event(), make_event(course=None)], db
        )
        assert (isinstance(first, Skip), second, isinstance(third, Skip)) == (True, None, True)
        assert (str(first), str(third)) == ("no_learner", "no_course")
        assert len(rows(db)) == 1


def test_a_repetition_leaves_the_row_as_it_was(
    fresh_ledger: Engine, make_event: Callable[..., Event]
) -> None:
    """Telling the same again does not even touch `updated_at`."""
    event = make_event(result=Result(progress=10.0))
    record(fresh_ledger, event)
    with fresh_ledger.connect() as db:
        before = db.scalar(select(states.c.updated_at))
    record(fresh_ledger, event)
    with fresh_ledger.connect() as db:
        assert db.scalar(select(states.c.updated_at)) == before


@pytest.mark.parametrize("ledger_url", [None], ids=["sqlite"])
def test_a_batch_never_reads_the_whole_table(fresh_ledger: Engine, make_event: Callable[..., Event]) -> None:
    """What a batch costs does not grow with the number of learners: every look goes through the key
    (told by SQLite's plan)."""
    looks: list[tuple[str, Any]] = []

    @listens_for(fresh_ledger, "before_cursor_execute")
    def keep(db: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if statement.startswith("SELECT"):
            looks.append((statement, parameters))

    events = [make_event(learner=Learner(id=f"learner-{number}")) for number in range(50)]
    for _ in range(2):
        with fresh_ledger.begin() as db:
            HANDLER.record_batch(events, db)
    ((statement, parameters),) = looks
    with fresh_ledger.connect() as db:
        plan = db.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
    assert any("SEARCH progress_states USING PRIMARY KEY" in step.detail for step in plan)
    assert not any("SCAN progress_states" in step.detail for step in plan)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A ledger whose every transaction is rolled back: hypothesis runs many in one test."""
    engine = open_ledger(build_settings({}, data_dir=tmp_path_factory.mktemp("progress")))
    metadata.create_all(engine)
    yield engine
    engine.dispose()


def few(*values: Any) -> st.SearchStrategy[Any]:
    """Few values, so that ties are common."""
    return st.sampled_from(values)


@st.composite
def histories(draw: st.DrawFn, make_event: Callable[..., Event]) -> list[Event]:
    start = make_event().occurred_at
    return [
        make_event(
            draw(few("registration.created", "activity.completed", "course.completed", "path.completed")),
            occurred_at=start + timedelta(seconds=draw(few(0, 1, 2))),
            learner=Learner(
                id="ana", name=draw(few(None, "Ana", "Bia")), email=draw(few(None, "a@b.c", "d@e.f"))
            ),
            course=Course(id=draw(few("algebra", "biology")), title=draw(few(None, "One", "Two"))),
            result=draw(
                st.none()
                | st.builds(
                    Result,
                    score=few(None, 0.0, 50.5, 99.0),
                    passed=few(None, False, True),
                    progress=few(None, 0.0, 33.3, 100.0),
                    completed=few(None, False, True),
                )
            ),
        )
        for _ in range(draw(st.integers(1, 7)))
    ]


def recorded(ledger: Engine, batches: Sequence[Sequence[Event]]) -> list[dict[str, Any]]:
    with ledger.connect() as db, db.begin() as transaction:
        for batch in batches:
            HANDLER.record_batch(batch, db)
        found = rows(db)
        transaction.rollback()
    return found


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_order_of_arrival_does_not_matter(
    scratch: Engine, make_event: Callable[..., Event], data: st.DataObject
) -> None:
    """Any order of the same events, in any batches, with repetitions, gives the same rows."""
    events = data.draw(histories(make_event))
    shuffled = data.draw(st.permutations(events + data.draw(st.lists(st.sampled_from(events), max_size=2))))
    cut = data.draw(st.integers(0, len(shuffled)))
    expected = recorded(scratch, [events])
    assert recorded(scratch, [shuffled[:cut], shuffled[cut:]]) == expected
    assert recorded(scratch, [[event] for event in shuffled]) == expected


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_merging_is_a_semilattice(make_event: Callable[..., Event], data: st.DataObject) -> None:
    """Commutative, associative and idempotent: why the order of arrival does not matter."""
    a, b, c = (state_of(event) for event in (data.draw(histories(make_event)) * 3)[:3])
    assert merge(a, b) == merge(b, a)
    assert merge(merge(a, b), c) == merge(a, merge(b, c))
    assert merge(merge(a, b), b) == merge(a, b)
