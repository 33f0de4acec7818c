"""What our own handlers know of learners: certificates and progress, as dictionaries ready for JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Engine, Row, Select, Table, func, or_, select

from coursewire.ledger.pages import pages
from workers.handlers.certificates import awarded
from workers.handlers.progress import KEY, states

Record = dict[str, Any]


def list_certificates(
    engine: Engine,
    *,
    source: str | None = None,
    learner: str | None = None,
    course: str | None = None,
    limit: int | None = None,
) -> Iterator[Record]:
    """Newest first. `learner` is an id or an e-mail address."""

    def make(db: Connection, rows: Sequence[Row[Any]]) -> Iterable[Record]:
        for row in rows:
            yield {
                "id": row.id,
                "source": row.source,
                "learner": _learner(row),
                "course": _course(row),
                "registration": row.registration_id,
                "event": row.event_id,
                "awarded_at": row.awarded_at,
            }

    statement = _narrowed(select(awarded), awarded, source, learner, course)
    return islice(pages(engine, statement, (awarded.c.id,), make), limit)


def list_progress(
    engine: Engine,
    *,
    source: str | None = None,
    learner: str | None = None,
    course: str | None = None,
    limit: int | None = None,
) -> Iterator[Record]:
    """By source, learner and course. `learner` is an id or an e-mail address."""

    def make(db: Connection, rows: Sequence[Row[Any]]) -> Iterable[Record]:
        for row in rows:
            yield {
                "source": row.source,
                "learner": _learner(row),
                "course": _course(row),
                "progress": row.progress,
                "completed": row.completed,
                "passed": row.passed,
                "updated_at": row.updated_at,
            }

    statement = _narrowed(select(states), states, source, learner, course)
    return islice(pages(engine, statement, KEY, make, newest_first=False), limit)


def _narrowed(
    statement: Select[Any], table: Table, source: str | None, learner: str | None, course: str | None
) -> Select[Any]:
    if source is not None:
        statement = statement.where(table.c.source == source)
    if learner is not None:
        email = func.lower(table.c.learner_email) == learner.lower()
        statement = statement.where(or_(table.c.learner_id == learner, email))
    if course is not None:
        statement = statement.where(table.c.course_id == course)
    return statement


def _learner(row: Row[Any]) -> Record:
    return {"id": row.learner_id, "name": row.learner_name, "email": row.learner_email}


def _course(row: Row[Any]) -> Record:
    return {"id": row.course_id, "title": row.course_title}
