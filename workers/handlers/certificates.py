"""`certificates`: awards one certificate, for ever, for each certificate subject that was earned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from sqlalchemy import Column, Connection, MetaData, String, Table, Text, Uuid

from coursewire.errors import Code, Skip
from coursewire.event import Event, EventType, new_id
from coursewire.ledger.engine import insert
from coursewire.ledger.tables import Instant, utc_now
from coursewire.plugins import Handler, Outcome

metadata = MetaData()

_id = Uuid(as_uuid=False)

awarded = Table(
    "certificates_awarded",
    metadata,
    Column("id", _id, primary_key=True),
    Column("subject", Text, nullable=False, unique=True),  # a JSON array, as the provider names it
    Column("source", String(64), nullable=False),
    Column("learner_id", Text),
    Column("learner_name", Text),
    Column("learner_email", Text),
    Column("course_id", Text),
    Column("course_title", Text),
    Column("course_kind", Text),
    Column("registration_id", Text),
    Column("event_id", _id, nullable=False),
    Column("awarded_at", Instant, nullable=False),
)


class Certificates(Handler):
    """Awards where the provider's mapping says that a completion earns a certificate.

    Several events may tell of one completion; the first one awards, and the others are skipped. A new
    certificate is followed by `certificate.awarded`, whose `data.certificate` is its id.
    """

    wants = frozenset({EventType.COURSE_COMPLETED, EventType.ACTIVITY_COMPLETED, EventType.PATH_COMPLETED})
    metadata = metadata

    def record_batch(self, events: Sequence[Event], db: Connection) -> Sequence[Outcome]:
        candidates: dict[str, Event] = {}
        for event in events:
            if _obstacle(event) is None:
                candidates.setdefault(_subject(event), event)
        certificates = _award(db, candidates)
        return [self._outcome(event, candidates, certificates) for event in events]

    def _outcome(self, event: Event, candidates: dict[str, Event], certificates: dict[str, str]) -> Outcome:
        obstacle = _obstacle(event)
        if obstacle is not None:
            return Skip(obstacle)
        subject = _subject(event)
        if subject not in certificates or candidates[subject] is not event:
            return Skip(Code.ALREADY_AWARDED)
        return [event.follow_up(EventType.CERTIFICATE_AWARDED, data={"certificate": certificates[subject]})]


def _obstacle(event: Event) -> Code | None:
    """Why this event awards nothing, as far as it tells itself."""
    if event.result is None or event.result.earned is not True:
        return Code.NOT_EARNED
    return Code.NO_SUBJECT if event.certificate_subject is None else None


def _subject(event: Event) -> str:
    return orjson.dumps(event.certificate_subject).decode()


def _award(db: Connection, candidates: dict[str, Event]) -> dict[str, str]:
    """The ids of the certificates that are new, by subject."""
    if not candidates:
        return {}
    # In the order of the subjects: two workers that insert the same ones in opposite orders would deadlock.
    rows = [_row(subject, event) for subject, event in sorted(candidates.items(), key=lambda item: item[0])]
    statement = insert(db, awarded).on_conflict_do_nothing(index_elements=["subject"])
    new = db.execute(statement.returning(awarded.c.subject, awarded.c.id), rows)
    return {row.subject: row.id for row in new}


def _row(subject: str, event: Event) -> dict[str, Any]:
    learner, course, registration = event.learner, event.course, event.registration
    return {
        "id": new_id(),
        "subject": subject,
        "source": event.source,
        "learner_id": learner and learner.id,
        "learner_name": learner and learner.name,
        "learner_email": learner and learner.email,
        "course_id": course and course.id,
        "course_title": course and course.title,
        "course_kind": course and course.kind,
        "registration_id": registration and registration.id,
        "event_id": event.id,
        "awarded_at": utc_now(),
    }
