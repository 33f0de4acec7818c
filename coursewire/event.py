"""The one value that crosses the pipe: an `Event`, in our own model, the same for every LMS."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self

import orjson
from uuid_utils import uuid7


def new_id() -> str:
    """A UUIDv7: sorts by the time it was made, so that tables grow at their end."""
    return str(uuid7())


class EventType(StrEnum):
    """The types of our model. "Completed" is not "passed": see `Result`."""

    ACTIVITY_COMPLETED = "activity.completed"
    ACTIVITY_ANSWERED = "activity.answered"
    ACTIVITY_AWAITING_GRADE = "activity.awaiting_grade"
    ACTIVITY_PUBLISHED = "activity.published"
    COURSE_COMPLETED = "course.completed"
    PATH_COMPLETED = "path.completed"
    REGISTRATION_CREATED = "registration.created"
    CERTIFICATE_ISSUED = "certificate.issued"
    """The LMS says that it issued a certificate of its own."""
    CERTIFICATE_AWARDED = "certificate.awarded"
    """We awarded one."""
    LEARNER_CREATED = "learner.created"
    LEARNER_UPDATED = "learner.updated"
    LEARNER_SUBSCRIBED = "learner.subscribed"
    UNKNOWN = "unknown"
    """The LMS sent a wire type that its provider has no schema for. Kept, and delivered to nobody."""


class TriggeredBy(StrEnum):
    LEARNER = "learner"
    ADMIN = "admin"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Learner:
    id: str
    email: str | None = None
    name: str | None = None
    username: str | None = None
    locale: str | None = None


@dataclass(frozen=True, slots=True)
class Course:
    """What is completed as a whole. `kind` belongs to its identity: ids of different kinds may coincide."""

    id: str
    title: str | None = None
    kind: str = "course"


@dataclass(frozen=True, slots=True)
class Activity:
    """A part of a course."""

    id: str | None = None
    type: str | None = None
    title: str | None = None


@dataclass(frozen=True, slots=True)
class Registration:
    id: str
    begin: datetime | None = None
    end: datetime | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """`score` in the LMS's own scale; `progress` of the course in percent, 0 to 100.

    `earned` is the mapping's word on whether this completion earns a certificate; None where it says nothing.
    """

    score: float | None = None
    passed: bool | None = None
    progress: float | None = None
    completed: bool | None = None
    earned: bool | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. Ids are strings; times are aware UTC.

    `key` makes it the same event when it is sent again. `zone_assumed` says that the LMS sent times without a
    zone and the source's setting was taken. `certificate_subject` names what at most one certificate may be
    awarded for, as the provider defines it (None where the event is about no such thing). `data` is the
    validated, provider-specific rest.
    """

    id: str
    source: str
    provider: str
    type: str
    wire_type: str
    key: str
    occurred_at: datetime
    received_at: datetime
    zone_assumed: bool = False
    learner: Learner | None = None
    course: Course | None = None
    activity: Activity | None = None
    registration: Registration | None = None
    result: Result | None = None
    triggered_by: str = TriggeredBy.UNKNOWN
    certificate_subject: tuple[str, ...] | None = None
    data: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> bytes:
        return orjson.dumps(self, option=orjson.OPT_UTC_Z)

    @classmethod
    def from_json(cls, document: bytes) -> Self:
        raw = orjson.loads(document)
        for name, part in _PARTS.items():
            if raw.get(name) is not None:
                raw[name] = part(**raw[name])
        for name in ("occurred_at", "received_at"):
            raw[name] = _time(raw[name])
        registration = raw.get("registration")
        if registration is not None:
            raw["registration"] = replace(
                registration, begin=_time(registration.begin), end=_time(registration.end)
            )
        if raw.get("certificate_subject") is not None:
            raw["certificate_subject"] = tuple(raw["certificate_subject"])
        return cls(**raw)

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionaries; times stay datetimes."""
        return asdict(self)

    def follow_up(self, type: str, *, about: str = "", data: Mapping[str, Any] | None = None) -> Event:
        """An event that a handler returns because of this one: same learner, course and registration.

        The handler that returns two follow-ups of one type tells them apart by `about`. The ledger derives
        its key from this event's, so a repeated attempt makes no second one.
        """
        return replace(
            self,
            id=new_id(),
            type=type,
            wire_type=type,
            key=follow_up_key(self.key, type, about),
            occurred_at=datetime.now(UTC),
            data=dict(data or {}),
        )


def key_of(parts: Iterable[object]) -> str:
    """The parts of a key as one text: a JSON array, so that no two lists of parts give the same text.

    A part is a string, a number, a boolean, None, a date or a time. 95 and 95.0 are the same part, and so
    are two times of one instant; a time without a zone stays as it is.
    """
    return orjson.dumps([_settled(part) for part in parts]).decode()


def _settled(part: object) -> object:
    if type(part) is float and part.is_integer() and abs(part) < 2**53:
        return int(part)
    if isinstance(part, datetime) and part.tzinfo is not None:
        return part.astimezone(UTC)
    return part


def follow_up_key(parent: str, type: str, about: str) -> str:
    return orjson.dumps(["follow_up", parent, type, about]).decode()


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


_PARTS = {
    "learner": Learner,
    "course": Course,
    "activity": Activity,
    "registration": Registration,
    "result": Result,
}
