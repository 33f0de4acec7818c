"""DigitalChalk webhooks: https://developer.digitalchalk.com/document/webhooks

One JSON object a callback, `event` says what it is. No signature, no event id, no delivery id. A call that is
not answered 2xx within 5 seconds is sent again. Fields without a value are left out. Dates are ISO 8601 UTC;
one without an offset is not documented and is refused rather than guessed.

The documentation names no range for grades. They are percents, but nothing says that extra credit cannot
exceed 100, so only numbers below 0 are refused. In the documented sample `registration.endDate` lies after
the event, so dates are not compared with one another.
"""

from __future__ import annotations

from typing import ClassVar

from coursewire.event import Activity, Course, EventType, Learner, Registration, Result, TriggeredBy
from coursewire.fields import (
    EMAIL_LENGTH,
    TITLE_LENGTH,
    WIRE_TYPE_LENGTH,
    Boolean,
    Choice,
    Id,
    JsonObject,
    Number,
    Part,
    Text,
    Timestamp,
)
from schemas.base import Body, EventSchema, JsonProvider, KeyParts, Meaning, Times, given
from schemas.redaction import Secrets

ELEMENT_TYPES = ("chalkboard", "test", "file", "assignment", "sco", "webarchive")


class User(JsonObject):
    id = Id()
    firstName = Text(TITLE_LENGTH)
    lastName = Text(TITLE_LENGTH)
    username = Text(EMAIL_LENGTH)
    email = Text(EMAIL_LENGTH)
    locale = Text(EMAIL_LENGTH)
    password = Text()  # in clear, in user_created; redacted before it is loaded


class Offering(JsonObject):
    id = Id()
    title = Text(TITLE_LENGTH)


class PublishedInto(JsonObject):
    id = Id()
    title = Text(TITLE_LENGTH)
    instructor = Text(TITLE_LENGTH)
    passingGrade = Number(least=0)


class Enrolment(JsonObject):
    id = Id()
    beginDate = Timestamp()
    endDate = Timestamp()
    grade = Number(least=0)
    passed = Boolean()


class Element(JsonObject):
    """`grade` and `passed` are in the samples but not in the tables; `question` and `response` are documented
    for assignments and taken with any type."""

    id = Id()
    type = Choice({word: word for word in ELEMENT_TYPES})
    title = Text(TITLE_LENGTH)
    grade = Number(least=0)
    passed = Boolean()
    question = Text()
    response = Text()


class DigitalChalkEvent(EventSchema):
    event = Text(WIRE_TYPE_LENGTH)
    date = Timestamp()
    source = Choice({"SELF": TriggeredBy.LEARNER, "ADMIN": TriggeredBy.ADMIN})


class OfferingEvent(DigitalChalkEvent):
    user = Part(User)
    registration = Part(Enrolment)
    offering = Part(Offering)

    def identity(self, body: Body) -> KeyParts:
        return body["user"]["id"], body["registration"]["id"], body["date"]

    def values(self, body: Body) -> KeyParts:
        return body["registration"]["grade"], body["registration"]["passed"]

    def meaning(self, body: Body, times: Times) -> Meaning:
        registration = body["registration"]
        return Meaning(
            occurred_at=body["date"],
            learner=learner_of(body["user"]),
            course=offering_of(body["offering"]),
            registration=registration_of(registration),
            result=self.result(registration),
            triggered_by=body["source"] or TriggeredBy.UNKNOWN,
            # The same offering may be taken again: only the registration tells one attempt from another.
            certifies=("registration", registration["id"]) if registration["id"] else None,
        )

    def result(self, registration: Body) -> Result | None:
        if registration["grade"] is None and registration["passed"] is None:
            return None
        return Result(score=registration["grade"], passed=registration["passed"])


class OfferingRegistered(OfferingEvent):
    """A learner is registered for an offering."""

    wire_type = "offering_registered"
    means = EventType.REGISTRATION_CREATED


class OfferingCompleted(OfferingEvent):
    """A learner completed an offering. `passed` may be false, and alone decides on a certificate.

    Nothing is derived from the grade: the rules of passing can change (REST API v5, Registrations).
    """

    wire_type = "offering_completed"
    means = EventType.COURSE_COMPLETED

    def result(self, registration: Body) -> Result:
        passed = registration["passed"]
        return Result(score=registration["grade"], passed=passed, completed=True, earned=passed)


class ElementEvent(DigitalChalkEvent):
    """There is no registration in it, so it can neither earn a certificate nor be told from a retake's."""

    user = Part(User)
    element = Part(Element)
    offering = Part(Offering)

    def identity(self, body: Body) -> KeyParts:
        return body["user"]["id"], body["offering"]["id"], body["element"]["id"], body["date"]

    def values(self, body: Body) -> KeyParts:
        return body["element"]["grade"], body["element"]["passed"]

    def meaning(self, body: Body, times: Times) -> Meaning:
        element = body["element"]
        return Meaning(
            occurred_at=body["date"],
            learner=learner_of(body["user"]),
            course=offering_of(body["offering"]),
            activity=activity_of(element),
            result=Result(score=element["grade"], passed=element["passed"]),
            triggered_by=body["source"] or TriggeredBy.UNKNOWN,
            data=given(element, "question", "response"),
        )


class ElementCompleted(ElementEvent):
    """A learner completed an element. "Completed" is the element's, not the course's."""

    wire_type = "element_completed"
    means = EventType.ACTIVITY_COMPLETED


class ElementAwaitingGrade(ElementEvent):
    """A learner completed an element that an administrator must grade by hand. The page for it
    (.../webhooks/element-awaiting-grade/) shows the fields of `element_completed`, without `source`."""

    wire_type = "element_awaiting_grade"
    means = EventType.ACTIVITY_AWAITING_GRADE


class ElementPublished(DigitalChalkEvent):
    """An element is activated in a course. It has no user and no `source`, and no offering but a `course`."""

    wire_type = "element_published"
    means = EventType.ACTIVITY_PUBLISHED

    element = Part(Element)
    course = Part(PublishedInto)

    def identity(self, body: Body) -> KeyParts:
        return body["course"]["id"], body["element"]["id"], body["date"]

    def meaning(self, body: Body, times: Times) -> Meaning:
        course = body["course"]
        return Meaning(
            occurred_at=body["date"],
            course=Course(course["id"], course["title"], "course") if course["id"] else None,
            activity=activity_of(body["element"]),
            triggered_by=body["source"] or TriggeredBy.UNKNOWN,
            data={
                **given(body["element"], "question", "response"),
                **given(course, "instructor", "passingGrade"),
            },
        )


class UserCreated(DigitalChalkEvent):
    """A user is created in the organisation. Carries the password in clear."""

    wire_type = "user_created"
    means = EventType.LEARNER_CREATED

    user = Part(User)

    def identity(self, body: Body) -> KeyParts:
        return (body["user"]["id"],)

    def meaning(self, body: Body, times: Times) -> Meaning:
        return Meaning(
            occurred_at=body["date"],
            learner=learner_of(body["user"]),
            triggered_by=body["source"] or TriggeredBy.UNKNOWN,
        )


class DigitalChalk(JsonProvider):
    """DigitalChalk proves itself by the source's secret only: it signs nothing."""

    name: ClassVar[str] = "digitalchalk"
    events = (
        OfferingRegistered,
        OfferingCompleted,
        ElementPublished,
        ElementCompleted,
        ElementAwaitingGrade,
        UserCreated,
    )
    wire_type_at = ("event",)
    secrets = Secrets("password")


def learner_of(user: Body) -> Learner | None:
    if user["id"] is None:
        return None
    name = " ".join(part.strip() for part in (user["firstName"], user["lastName"]) if part and part.strip())
    return Learner(
        id=user["id"],
        email=user["email"] or None,
        name=name or None,
        username=user["username"] or None,
        locale=user["locale"] or None,
    )


def offering_of(offering: Body) -> Course | None:
    return Course(offering["id"], offering["title"], "offering") if offering["id"] else None


def activity_of(element: Body) -> Activity:
    return Activity(element["id"], element["type"], element["title"])


def registration_of(registration: Body) -> Registration | None:
    if registration["id"] is None:
        return None
    return Registration(registration["id"], registration["beginDate"], registration["endDate"])
