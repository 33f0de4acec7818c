"""Toolzz webhooks: https://docs.toolzz.dev/lxp-reference/webhooks/ (and lms-reference/, in Portuguese)

One JSON object a callback: `event` says what it is, `data` holds one object for each noun. `event.slug` names
the type; `event.name` is a label with accents and is never compared. No signature, no event id.

Times have no zone (the source's setting says which one is meant, São Paulo by default) and differ in form
from field to field. Ids are integers, some beyond 32 bits. `null` stands in nearly every optional field.

In `Event.data` the nouns keep the vendor's names; `institution` is a list, since the vendor sends an object
or an array of them; times are UTC; nothing that is null is in it. `cpf` and `cnpj`, national numbers of
persons and companies, are in none of it: they are redacted before anything is read.
"""

from __future__ import annotations

from typing import Any, ClassVar

from coursewire.event import Activity, Course, EventType, Learner, Registration, Result
from coursewire.fields import (
    EMAIL_LENGTH,
    TITLE_LENGTH,
    WIRE_TYPE_LENGTH,
    Boolean,
    Choice,
    Date,
    DayFirstDateTime,
    Flag,
    Id,
    JsonObject,
    LocalDateTime,
    Number,
    Objects,
    OneOrMany,
    Part,
    Parts,
    Text,
    Time,
)
from schemas.base import Body, EventSchema, JsonProvider, KeyParts, Meaning, Times, given
from schemas.redaction import Secrets


class Envelope(JsonObject):
    name = Text(TITLE_LENGTH)
    slug = Text(WIRE_TYPE_LENGTH)
    send_at = LocalDateTime()
    acao = Text(TITLE_LENGTH)


class School(JsonObject):
    id = Id(numbers=True)
    role_id = Id(numbers=True)
    created_at = DayFirstDateTime()
    updated_at = DayFirstDateTime()


class Institution(JsonObject):
    id = Id(numbers=True)
    schools = OneOrMany(School)


class User(JsonObject):
    id = Id(numbers=True)
    name = Text(TITLE_LENGTH)
    email = Text(EMAIL_LENGTH)
    cpf = Text()
    nickname = Text(TITLE_LENGTH)
    uuid = Text(TITLE_LENGTH)


class NamedCourse(JsonObject):
    id = Id(numbers=True)
    name = Text(TITLE_LENGTH)


class ToolzzEvent(EventSchema):
    event = Part(Envelope)

    def fact(self, body: Body) -> Body:
        return {**body, "event": {**body["event"], "send_at": None}}

    def day_of_sending(self, body: Body) -> object:
        """The local day, where the LMS sends no time of occurrence."""
        send_at = body["event"]["send_at"]
        return send_at and send_at.date()


class ContentCompleted(ToolzzEvent):
    """A learner completed a content of a course.

    `content.id` is the row of this completion; what was completed is `content_id`. `course.progress` of 100
    completes the course, and earns a certificate where the course has one (`certificate_id`). Where it has
    none, or progress is lower, `earned` stays None: this event has no word on it, and neither is it a "no",
    since `activities.course.completed` may follow.
    """

    class Data(JsonObject):
        class Content(JsonObject):
            id = Id(numbers=True)
            institution_id = Id(numbers=True)
            school_id = Id(numbers=True)
            course_id = Id(numbers=True)
            lesson_id = Id(numbers=True)
            content_id = Id(numbers=True)
            answer = Text()
            correct = Boolean()
            explanation = Text()
            points = Number()
            send_date = LocalDateTime()
            delivered = Flag()
            current_time = LocalDateTime()

        class Course(JsonObject):
            id = Id(numbers=True)
            name = Text(TITLE_LENGTH)
            certificate_id = Id(numbers=True)
            progress = Number(least=0, most=100)

        user = Part(User)
        content = Part(Content)
        course = Part(Course)
        institution = OneOrMany(Institution)

    wire_type = "activities.content.completed"
    means = EventType.ACTIVITY_COMPLETED

    data = Part(Data)

    def identity(self, body: Body) -> KeyParts:
        data = body["data"]
        return data["user"]["id"], data["course"]["id"], data["content"]["id"]

    def values(self, body: Body) -> KeyParts:
        content, course = body["data"]["content"], body["data"]["course"]
        return (
            course["progress"],
            course["certificate_id"],
            content["delivered"],
            content["correct"],
            content["points"],
        )

    def meaning(self, body: Body, times: Times) -> Meaning:
        data = body["data"]
        content, course = data["content"], data["course"]
        completed = course["progress"] == 100 or None
        rest = ("id", "course_id", "answer", "correct", "explanation", "delivered", "current_time")
        return Meaning(
            occurred_at=times.utc(content["send_date"] or body["event"]["send_at"]),
            learner=learner_of(data["user"]),
            course=course_of(course),
            activity=Activity(content["content_id"]) if content["content_id"] else None,
            result=Result(
                score=content["points"],
                progress=course["progress"],
                completed=completed,
                earned=True if completed and course["certificate_id"] else None,
            ),
            certifies=course_subject(data),
            data=rest_of(
                body,
                times,
                content=given(content, *rest),
                course=given(course, "certificate_id"),
                lesson_id=content["lesson_id"],
                school={"id": content["school_id"]},
                institution=data["institution"] or institution_of(content),
            ),
        )


class ActivityAnswered(ToolzzEvent):
    """A learner answered an activity. Here `content.id` is the content itself.

    `date_delivery` is a day at most, so the event occurred when it was sent; in the key it is the time of
    occurrence, and the day of sending stands in where it is null, as it is in the documented sample.
    """

    class Data(JsonObject):
        class Content(JsonObject):
            id = Id(numbers=True)
            type = Id(numbers=True)
            answer = Text()
            correct = Boolean()
            explanation = Text()
            points = Number()
            date_delivery = Date()
            content_delivery = Number()
            current_time = Time()

        user = Part(User)
        course = Part(NamedCourse)
        content = Part(Content)
        institution = OneOrMany(Institution)

    wire_type = "activities.answered.activity"
    means = EventType.ACTIVITY_ANSWERED

    data = Part(Data)

    def identity(self, body: Body) -> KeyParts:
        data = body["data"]
        delivered = data["content"]["date_delivery"]
        day = (delivered, "delivered") if delivered else (self.day_of_sending(body), "sent")
        return data["user"]["id"], data["course"]["id"], data["content"]["id"], *day

    def values(self, body: Body) -> KeyParts:
        content = body["data"]["content"]
        return content["answer"], content["correct"], content["points"]

    def meaning(self, body: Body, times: Times) -> Meaning:
        data = body["data"]
        content = data["content"]
        rest = ("answer", "explanation", "date_delivery", "content_delivery", "current_time")
        return Meaning(
            occurred_at=times.utc(body["event"]["send_at"]),
            learner=learner_of(data["user"]),
            course=course_of(data["course"]),
            activity=Activity(content["id"], content["type"]),
            result=Result(score=content["points"], passed=content["correct"]),
            data=rest_of(
                body,
                times,
                content=given(content, *rest),
            ),
        )


class CourseEvent(ToolzzEvent):
    """`enrollment.course_id` of the documented sample is not `course.id`: they are not compared."""

    class Data(JsonObject):
        class Enrollment(JsonObject):
            id = Id(numbers=True)
            date_expire = Date()
            course_id = Id(numbers=True)
            actived = Flag()
            status = Flag()

        institution = OneOrMany(Institution)
        course = Part(NamedCourse)
        enrollment = Part(Enrollment)
        user = Part(User)

    data = Part(Data)

    def identity(self, body: Body) -> KeyParts:
        data = body["data"]
        ids = data["user"]["id"], data["course"]["id"], data["enrollment"]["id"]
        return *ids, self.day_of_sending(body)

    def values(self, body: Body) -> KeyParts:
        enrollment = body["data"]["enrollment"]
        return enrollment["date_expire"], enrollment["actived"], enrollment["status"]

    def meaning(self, body: Body, times: Times) -> Meaning:
        data = body["data"]
        enrollment = data["enrollment"]
        return Meaning(
            occurred_at=times.utc(body["event"]["send_at"]),
            learner=learner_of(data["user"]),
            course=course_of(data["course"]),
            registration=Registration(enrollment["id"]) if enrollment["id"] else None,
            result=self.result(),
            certifies=course_subject(data),
            data=rest_of(
                body,
                times,
                enrollment=given(enrollment, "date_expire", "course_id", "actived", "status"),
            ),
        )

    def result(self) -> Result | None:
        return None


class CourseCompleted(CourseEvent):
    """A learner completed a course. There is no failed completion, so each earns a certificate."""

    wire_type = "activities.course.completed"
    means = EventType.COURSE_COMPLETED

    def result(self) -> Result:
        return Result(completed=True, earned=True)


class CourseEnrollment(CourseEvent):
    """A learner is enrolled; sent from five places, so it may come more than once for one enrolment."""

    wire_type = "activities.course.enrollment"
    means = EventType.REGISTRATION_CREATED


class TrailCompleted(ToolzzEvent):
    """A learner completed a trail, a sequence of courses, which has `title` where a course has `name`."""

    class Data(JsonObject):
        class Trail(JsonObject):
            class Course(JsonObject):
                id = Id(numbers=True)
                title = Text(TITLE_LENGTH)

            id = Id(numbers=True)
            name = Text(TITLE_LENGTH)
            finished_at = LocalDateTime()
            courses = Parts(Course)

        institution = OneOrMany(Institution)
        user = Part(User)
        trail = Part(Trail)

    wire_type = "activities.trail.completed"
    means = EventType.PATH_COMPLETED

    data = Part(Data)

    def identity(self, body: Body) -> KeyParts:
        trail = body["data"]["trail"]
        return body["data"]["user"]["id"], trail["id"], trail["finished_at"]

    def meaning(self, body: Body, times: Times) -> Meaning:
        data = body["data"]
        trail = data["trail"]
        return Meaning(
            occurred_at=times.utc(trail["finished_at"] or body["event"]["send_at"]),
            learner=learner_of(data["user"]),
            course=Course(trail["id"], trail["name"], "trail") if trail["id"] else None,
            result=Result(completed=True),
            data=rest_of(body, times, trail=given(trail, "courses")),
        )


class CertificateIssued(ToolzzEvent):
    """A learner opened "View Certificate": it may come long after the completion, and more than once."""

    class Data(JsonObject):
        class Course(JsonObject):
            id = Id(numbers=True)
            name = Text(TITLE_LENGTH)
            workload = Text(TITLE_LENGTH)
            enrolled_at = LocalDateTime()
            concluded_at = LocalDateTime()

        class NamedSchool(JsonObject):
            class Manager(JsonObject):
                manager_id = Id(numbers=True)
                manager_name = Text(TITLE_LENGTH)

            id = Id(numbers=True)
            name = Text(TITLE_LENGTH)
            managers = Parts(Manager)

        class Certificate(JsonObject):
            certified_at = LocalDateTime()
            type = Choice(
                {
                    "participation": "participation",
                    "achievement": "achievement",
                    "participação": "participation",
                    "aproveitamento": "achievement",
                }
            )
            approval_rate = Number(least=0, most=100)

        institution = OneOrMany(Institution)
        user = Part(User)
        course = Part(Course)
        school = Part(NamedSchool)
        certificate = Part(Certificate)

    wire_type = "activities.certificate.issued"
    means = EventType.CERTIFICATE_ISSUED

    data = Part(Data)

    def identity(self, body: Body) -> KeyParts:
        data = body["data"]
        return data["user"]["id"], data["course"]["id"], data["certificate"]["certified_at"]

    def meaning(self, body: Body, times: Times) -> Meaning:
        data = body["data"]
        return Meaning(
            occurred_at=times.utc(data["certificate"]["certified_at"] or body["event"]["send_at"]),
            learner=learner_of(data["user"]),
            course=course_of(data["course"]),
            certifies=course_subject(data),
            data=rest_of(
                body,
                times,
                certificate=given(data["certificate"], "type", "approval_rate"),
                course=given(data["course"], "workload", "enrolled_at", "concluded_at"),
                school=given(data["school"], "id", "name", "managers"),
            ),
        )


class MemberEvent(ToolzzEvent):
    """Here `institution` belongs to the user, is an array, and its dates begin with the day."""

    class Data(JsonObject):
        class Member(User):
            class Address(JsonObject):
                cep = Text(TITLE_LENGTH)
                uf = Text(TITLE_LENGTH)
                cidade = Text(TITLE_LENGTH)
                bairro = Text(TITLE_LENGTH)
                logradouro = Text(TITLE_LENGTH)
                numero = Text(TITLE_LENGTH)
                complemento = Text(TITLE_LENGTH)

            cnpj = Text()
            date_of_birth = Text(TITLE_LENGTH)  # its form is not documented
            phone = Text(TITLE_LENGTH)
            address = Part(Address)
            institution = OneOrMany(Institution)

        user = Part(Member)
        institution = OneOrMany(Institution)
        formulario_respostas = Objects()

    data = Part(Data)

    def identity(self, body: Body) -> KeyParts:
        return (body["data"]["user"]["id"],)

    def meaning(self, body: Body, times: Times) -> Meaning:
        data = body["data"]
        user = data["user"]
        return Meaning(
            occurred_at=times.utc(body["event"]["send_at"]),
            learner=learner_of(user),
            data=rest_of(
                body,
                times,
                user=given(user, "nickname", "uuid", "date_of_birth", "phone", "address"),
                institution=user["institution"] or data["institution"],
                formulario_respostas=data["formulario_respostas"],
            ),
        )


class MemberCreated(MemberEvent):
    """A user registered, or was registered, imported (in bursts) or made by the API."""

    wire_type = "members.created"
    means = EventType.LEARNER_CREATED


class MemberUpdated(MemberEvent):
    """A user's status changed, though no field says to what. Each sending is an event of its own."""

    wire_type = "members.updated"
    means = EventType.LEARNER_UPDATED

    def identity(self, body: Body) -> KeyParts:
        return *super().identity(body), body["event"]["send_at"]


class NewsletterAccepted(MemberEvent):
    """A user accepted the newsletter. The slug is misspelt by the vendor."""

    wire_type = "newslatter.created"
    means = EventType.LEARNER_SUBSCRIBED

    def identity(self, body: Body) -> KeyParts:
        return *super().identity(body), self.day_of_sending(body)


class Toolzz(JsonProvider):
    """Toolzz proves itself by the source's secret only: it signs nothing."""

    name: ClassVar[str] = "toolzz"
    default_timezone: ClassVar[str] = "America/Sao_Paulo"
    events = (
        ContentCompleted,
        ActivityAnswered,
        CourseCompleted,
        CourseEnrollment,
        TrailCompleted,
        CertificateIssued,
        MemberCreated,
        MemberUpdated,
        NewsletterAccepted,
    )
    wire_type_at = ("event", "slug")
    secrets = Secrets("cpf", "cnpj")


def learner_of(user: Body) -> Learner | None:
    if user["id"] is None:
        return None
    return Learner(id=user["id"], email=user["email"] or None, name=user["name"] or None)


def course_of(course: Body) -> Course | None:
    return Course(course["id"], course["name"]) if course["id"] else None


def course_subject(data: Body) -> tuple[str, ...] | None:
    """Both events of one completion name the learner and the course, and only those."""
    learner, course = data["user"]["id"], data["course"]["id"]
    return ("course", learner, "course", course) if learner and course else None


def institution_of(content: Body) -> list[dict[str, Any]]:
    return [{"id": content["institution_id"]}] if content["institution_id"] else []


def rest_of(body: Body, times: Times, **nouns: Any) -> dict[str, Any]:
    """`Event.data`: when it was sent, and what has no place in the event's other parts."""
    data = body["data"]
    common = {
        "sent_at": body["event"]["send_at"],
        "institution": data["institution"],
        "user": given(data["user"], "nickname", "uuid"),
    }
    plain: dict[str, Any] = times.plain(common | nouns)
    return plain
