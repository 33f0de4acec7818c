from __future__ import annotations

import copy
import re
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coursewire.errors import SchemaViolation, UnknownEvent
from coursewire.event import Activity, Course, EventType, Registration, Result
from coursewire.plugins import Callback, Reading
from schemas import samples
from schemas.toolzz import Toolzz

PROVIDER = Toolzz()
SAO_PAULO = ZoneInfo("America/Sao_Paulo")
RECEIVED_AT = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)

CONTENT = "activities.content.completed"
ANSWERED = "activities.answered.activity"
COMPLETED = "activities.course.completed"
ENROLLED = "activities.course.enrollment"
TRAIL = "activities.trail.completed"
ISSUED = "activities.certificate.issued"
CREATED, UPDATED, SUBSCRIBED = "members.created", "members.updated", "newslatter.created"

LOCAL = "must be of the form yyyy-MM-dd HH:mm:ss"
DAY_FIRST = "must be of the form dd/MM/yyyy HH:mm:ss"


def read(item: Any, *, zone: ZoneInfo = SAO_PAULO, source: str = "academy") -> Reading:
    callback = Callback(receipt="r", source=source, body=b"", received_at=RECEIVED_AT)
    return PROVIDER.read(item, callback, zone)


def sample(wire_type: str, **changes: Any) -> Any:
    """The documented body; `user__id=5` sets `data.user.id`, `event__x` the envelope's, and `...` removes."""
    document = samples.body("toolzz", wire_type)
    for path, value in changes.items():
        parent = document if path.startswith("event__") else document["data"]
        *parents, last = path.split("__")
        for name in parents:
            parent = parent[int(name) if name.isdigit() else name]
        if value is ...:
            del parent[last]
        else:
            parent[last] = value
    return document


def errors_of(item: Any) -> dict[str, list[str]]:
    with pytest.raises(SchemaViolation) as violation:
        read(item)
    return violation.value.errors


# What the event is


@pytest.mark.parametrize(
    ("item", "errors"),
    [
        ({}, {"event.slug": ["is missing: it says what the event is"]}),
        ({"event": None}, {"event.slug": ["is missing: it says what the event is"]}),
        ({"event": {}}, {"event.slug": ["is missing: it says what the event is"]}),
        (
            {"event": {"name": "Atividades - Conteúdo"}},
            {"event.slug": ["is missing: it says what the event is"]},
        ),
        ({"event": {"slug": 5}}, {"event.slug": ["must be a string"]}),
        ({"event": "members.created"}, {"event": ["must be an object"]}),
        ({"event": False}, {"event": ["must be an object"]}),
        ({"event": []}, {"event": ["must be an object"]}),
        ([], {"": ["must be an object"]}),
    ],
)
def test_an_item_must_say_what_it_is(item: Any, errors: dict[str, list[str]]) -> None:
    assert errors_of(item) == errors


def test_the_slug_decides_and_the_name_does_not() -> None:
    """The name is a label with accents that the vendor may change."""
    for name in ("Atividades - Curso concluído", "Conteu\u0301do", None, ...):
        assert read(sample(CONTENT, event__name=name)).event.type == EventType.ACTIVITY_COMPLETED
    with pytest.raises(UnknownEvent) as unknown:
        read(sample(CONTENT, event__slug="activities.activity.answered"))
    assert unknown.value.wire_type == "activities.activity.answered"


# What it means


@pytest.mark.parametrize(
    ("progress", "certificate", "result"),
    [
        (33, None, Result(progress=33)),
        (99.9, 77, Result(progress=99.9)),
        (100, None, Result(progress=100, completed=True)),
        (100, 77, Result(progress=100, completed=True, earned=True)),
        (100.0, 77, Result(progress=100, completed=True, earned=True)),
        (None, 77, Result()),
    ],
)
def test_completing_a_content_is_not_completing_the_course(
    progress: float | None, certificate: int | None, result: Result
) -> None:
    """At 100 it is, and earns where the course has a certificate; else the event has no word on earning."""
    event = read(sample(CONTENT, course__progress=progress, course__certificate_id=certificate)).event
    assert event.result == result
    assert event.type == EventType.ACTIVITY_COMPLETED


def test_both_events_of_a_completion_have_one_certificate_subject() -> None:
    """The last content and the course's completion name the same learner and course."""
    last = sample(CONTENT, user__id=5, course__id=7, course__progress=100, course__certificate_id=77)
    events = [read(last).event, read(sample(COMPLETED, user__id=5, course__id="7")).event]
    assert [event.result.earned for event in events if event.result] == [True, True]
    assert {event.certificate_subject for event in events} == {("course", "academy", "5", "course", "7")}
    assert read(last, source="other").event.certificate_subject == ("course", "other", "5", "course", "7")


def test_a_completed_course_earns() -> None:
    """Toolzz has no failed completion."""
    event = read(sample(COMPLETED)).event
    assert event.result == Result(completed=True, earned=True)
    assert event.registration == Registration("11")


def test_a_trail_is_a_course_of_its_own_kind_and_earns_nothing() -> None:
    event = read(sample(TRAIL, trail__id=666)).event
    assert event.course == Course("666", "Trail Name", "trail")
    assert event.result == Result(completed=True)
    assert event.certificate_subject is None
    assert event.data["trail"] == {"courses": [{"id": "123456", "title": "Course Name"}]}


def test_the_activity_is_the_content_and_not_its_completion() -> None:
    """`content.id` is a row of the table of completions; `content_id`, which may be null, is the content."""
    assert read(sample(CONTENT)).event.activity is None
    event = read(sample(CONTENT, content__content_id=5000000000)).event
    assert event.activity == Activity("5000000000")
    assert event.data["content"]["id"] == "4"


def test_an_answer_is_graded_or_not() -> None:
    """Here `content.id` is documented as the content's own."""
    event = read(sample(ANSWERED, content__correct=False, content__points=7.5)).event
    assert event.activity == Activity("35502788", "10")
    assert event.result == Result(score=7.5, passed=False)
    assert event.certificate_subject is None


def test_lesson_school_and_institution_are_in_data() -> None:
    """With ids as strings; what is null is not there."""
    assert read(sample(CONTENT)).event.data == {
        "sent_at": "2022-03-10T15:01:43Z",
        "institution": [{"id": "123"}],
        "content": {"id": "4", "course_id": "666", "delivered": False},
        "lesson_id": "4",
        "school": {"id": "654"},
    }


@pytest.mark.parametrize("wire_type", [COMPLETED, ENROLLED, TRAIL, ANSWERED, ISSUED, CONTENT, CREATED])
def test_an_institution_is_an_object_or_an_array(wire_type: str) -> None:
    """Both are the same institutions, on every event."""
    one = read(sample(wire_type, institution={"id": 9}))
    many = read(sample(wire_type, institution=[{"id": 9}]))
    assert one.content == many.content
    assert read(sample(wire_type, institution=[])).event.key == one.event.key
    if wire_type != CREATED:
        assert one.event.data["institution"] == many.event.data["institution"] == [{"id": "9"}]


@pytest.mark.parametrize("wire_type", [CREATED, UPDATED, SUBSCRIBED])
def test_a_members_institution_is_an_array_or_an_object(wire_type: str) -> None:
    """The Portuguese page shows one object where the English one shows an array."""
    array = sample(wire_type)
    one = copy.deepcopy(array)
    one["data"]["user"]["institution"] = array["data"]["user"]["institution"][0]
    assert read(one).content == read(array).content
    assert read(one).event.data == read(array).event.data


def test_ids_beyond_32_bits() -> None:
    institution = read(sample(CREATED)).event.data["institution"]
    assert (institution[0]["id"], institution[0]["schools"][0]["id"]) == ("5125342498", "19123424393")


def test_course_ids_may_contradict_each_other() -> None:
    """They do in the documented sample."""
    event = read(sample(COMPLETED)).event
    assert event.course == Course("123456", "Course Name")
    assert event.data["enrollment"]["course_id"] == "123456789"


def test_certificate_types_are_known_in_both_languages() -> None:
    types = ["participation", "achievement", "participação", "aproveitamento"]
    read_types = [
        read(sample(ISSUED, certificate__type=word)).event.data["certificate"]["type"] for word in types
    ]
    assert read_types == ["participation", "achievement", "participation", "achievement"]


@pytest.mark.parametrize("given", [0, False])
def test_documented_flags_may_be_booleans(given: Any) -> None:
    """`delivered`, `actived` and `status` are documented as 0 and 1."""
    assert read(sample(CONTENT, content__delivered=given)).event.data["content"]["delivered"] is False
    enrollment = read(sample(ENROLLED, enrollment__actived=given, enrollment__status=given)).event.data[
        "enrollment"
    ]
    assert (enrollment["actived"], enrollment["status"]) == (False, False)


def test_every_field_but_the_slug_may_be_absent() -> None:
    """Such an event has no learner and no course, and occurred when it was received."""
    for wire_type in PROVIDER.wire_types:
        for rest in (
            {},
            {"data": None},
            {"data": {}},
            {"data": dict.fromkeys(sample(wire_type)["data"])},
        ):
            event = read({"event": {"slug": wire_type}, **rest}).event
            assert event.occurred_at == RECEIVED_AT
            assert (event.learner, event.course, event.registration) == (None, None, None)
            assert event.certificate_subject is None
            assert event.zone_assumed is False
            assert event.key.startswith('["digest","')


# Times


@pytest.mark.parametrize(
    ("changes", "occurred_at"),
    [
        ({"wire_type": CONTENT}, datetime(2022, 3, 10, 15, 1, 43, tzinfo=UTC)),
        (
            {"wire_type": CONTENT, "content__send_date": "2022-03-09 08:00:00"},
            datetime(2022, 3, 9, 11, 0, tzinfo=UTC),
        ),
        (
            {"wire_type": TRAIL, "trail__finished_at": "2022-03-09 08:00:00"},
            datetime(2022, 3, 9, 11, tzinfo=UTC),
        ),
        ({"wire_type": TRAIL, "trail__finished_at": None}, datetime(2022, 3, 10, 21, 56, 47, tzinfo=UTC)),
        (
            {"wire_type": ISSUED, "certificate__certified_at": "2023-08-01 10:00:00"},
            datetime(2023, 8, 1, 13, tzinfo=UTC),
        ),
        ({"wire_type": ISSUED, "certificate": None}, datetime(2023, 8, 28, 23, 47, 31, tzinfo=UTC)),
        (
            {"wire_type": ANSWERED, "content__date_delivery": "2023-06-30"},
            datetime(2023, 7, 3, 15, 54, 33, tzinfo=UTC),
        ),
        ({"wire_type": COMPLETED}, datetime(2023, 7, 3, 15, 53, 41, tzinfo=UTC)),
    ],
)
def test_when_it_occurred(changes: dict[str, Any], occurred_at: datetime) -> None:
    """The nested time where there is one, else the time of sending."""
    event = read(sample(**changes)).event
    assert event.occurred_at == occurred_at
    assert event.zone_assumed is True


def test_times_have_no_zone_and_the_source_says_which() -> None:
    """Neither key nor content depend on it, so correcting the setting makes no second event."""
    here, there = read(sample(UPDATED)), read(sample(UPDATED), zone=ZoneInfo("Asia/Tokyo"))
    assert here.event.occurred_at == datetime(2023, 7, 3, 17, 29, 26, tzinfo=UTC)
    assert there.event.occurred_at == datetime(2023, 7, 3, 5, 29, 26, tzinfo=UTC)
    assert here.event.key == there.event.key
    assert here.content == there.content


@pytest.mark.parametrize(
    ("local", "utc"),
    [
        # Summer time began on 2018-11-04 at 00:00: that hour never was.
        ("2018-11-04 00:30:00", datetime(2018, 11, 4, 3, 30, tzinfo=UTC)),
        # It ended on 2018-02-18 at 00:00: the hour before was twice.
        ("2018-02-17 23:30:00", datetime(2018, 2, 18, 1, 30, tzinfo=UTC)),
        ("9999-12-31 23:59:59", datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_times_that_never_were_or_were_twice(local: str, utc: datetime) -> None:
    """The offset from before the change is taken; the end of the calendar does not overflow."""
    assert read(sample(COMPLETED, event__send_at=local)).event.occurred_at == utc


def test_times_in_data_are_utc() -> None:
    """dd/MM/yyyy is read as such; dates and times of day, which have no zone, stay as they are."""
    school = read(sample(UPDATED)).event.data["institution"][0]["schools"][0]
    assert school["created_at"] == "2022-06-29T18:14:10Z"
    assert school["updated_at"] == "2023-07-03T17:29:04Z"
    content = read(
        sample(ANSWERED, content__date_delivery="2023-06-30", content__current_time="12:54:33")
    ).event.data["content"]
    assert (content["date_delivery"], content["current_time"]) == ("2023-06-30", "12:54:33")
    assert read(sample(ENROLLED, enrollment__date_expire="2024-02-29")).event.data["enrollment"] == {
        "date_expire": "2024-02-29",
        "course_id": "123456789",
        "actived": True,
        "status": True,
    }


@pytest.mark.parametrize(
    ("wire_type", "path", "value", "rule"),
    [
        (CONTENT, "event__send_at", "2022-03-10T12:01:43Z", LOCAL),
        (CONTENT, "event__send_at", 1646913703, "must be a string of the form yyyy-MM-dd HH:mm:ss"),
        (CONTENT, "content__send_date", "2022-03-10", LOCAL),
        (CONTENT, "content__current_time", "12:01:43", LOCAL),
        (ANSWERED, "content__current_time", "2022-03-10 12:01:43", "must be of the form HH:mm:ss"),
        (ANSWERED, "content__date_delivery", "2022-03-10 12:01:43", "must be of the form yyyy-MM-dd"),
        (ENROLLED, "enrollment__date_expire", "10/03/2022", "must be of the form yyyy-MM-dd"),
        (TRAIL, "trail__finished_at", "10/03/2022 12:01:43", LOCAL),
        (ISSUED, "certificate__certified_at", "28/08/2023 20:47:31", LOCAL),
        (UPDATED, "user__institution__0__schools__0__updated_at", "2023-07-03 14:29:04", DAY_FIRST),
        (
            SUBSCRIBED,
            "user__institution__0__schools__0__created_at",
            "07/13/2023 14:29:04",
            "must be a time that exists",
        ),
        (CONTENT, "content__delivered", 2, "must be 0 or 1"),
        (CONTENT, "content__delivered", "1", "must be 0 or 1"),
        (ENROLLED, "enrollment__actived", "yes", "must be 0 or 1"),
        (ENROLLED, "enrollment__status", "on", "must be 0 or 1"),
        (CONTENT, "content__correct", 1, "must be true or false"),
        (ANSWERED, "content__correct", 0, "must be true or false"),
        (CONTENT, "content__points", "0.5", "must be a number"),
        (CONTENT, "content__points", True, "must be a number"),
        (CONTENT, "course__progress", "33", "must be a number"),
        (CONTENT, "course__progress", -1, "must be at least 0"),
        (CONTENT, "course__progress", 100.5, "must be at most 100"),
        (ISSUED, "certificate__approval_rate", 101, "must be at most 100"),
        (
            ISSUED,
            "certificate__type",
            "Participação",
            "must be one of: participation, achievement, participação, aproveitamento",
        ),
        (CONTENT, "user__id", 1234.0, "must be an integer or a string"),
        (CONTENT, "user__id", 1.8446744073709552e19, "must be an integer or a string"),
        (CONTENT, "user__id", 2**63, "must be an integer of at most 64 bits"),
        (CONTENT, "user__id", True, "must be an integer or a string"),
        (CONTENT, "user__id", "", "must not be empty"),
        (CONTENT, "user__name", "a\0b", "must not contain NUL"),
        (CONTENT, "user__email", "a" * 321, "must be at most 320 characters long"),
        (CONTENT, "course", [], "must be an object"),
        (TRAIL, "trail__courses", {"id": 1}, "must be an array of objects"),
        (TRAIL, "institution", 5, "must be an object or an array of objects"),
        (TRAIL, "trail__courses__0__id", {}, "must be an integer or a string"),
        (CREATED, "formulario_respostas", {"cor": "azul"}, "must be an array of objects"),
    ],
)
def test_documented_rules(wire_type: str, path: str, value: Any, rule: str) -> None:
    """The error names the field's path and the rule, never the value."""
    dotted = path.replace("__", ".")
    expected = dotted if dotted.startswith("event.") else f"data.{dotted}"
    assert errors_of(sample(wire_type, **{path: value})) == {expected: [rule]}


def test_unknown_fields_are_kept_and_counted() -> None:
    """At any level, under their paths."""
    item = sample(UPDATED, event__attempt=2, user__status="inactive", extra={"a": None})
    item["data"]["user"]["institution"][0]["schools"][0]["level"] = 3.0
    item["version"] = "2"
    reading = read(item)
    unknown = {
        "data.extra": {"a": None},
        "data.user.institution.0.schools.0.level": 3,
        "data.user.status": "inactive",
        "event.attempt": 2,
        "version": "2",
    }
    assert reading.unknown_fields == tuple(unknown)
    assert reading.event.data["unknown"] == unknown


# When it is the same event again

LATER = {"event__send_at": "2022-03-11 09:00:00"}
SAME_DAY = {"event__send_at": "2023-07-03 23:59:59"}
NEXT_DAY = {"event__send_at": "2023-07-04 00:00:00"}


@pytest.mark.parametrize(
    ("wire_type", "changes"),
    [
        (CONTENT, LATER),
        (CONTENT, {"event__send_at": None}),
        (CONTENT, {"user__id": "1234", "course__progress": 33.0, "content__delivered": False}),
        (CONTENT, {"content__points": ...}),
        (ANSWERED, SAME_DAY),
        (COMPLETED, SAME_DAY),
        (ENROLLED, SAME_DAY),
        (TRAIL, LATER),
        (ISSUED, LATER),
        (CREATED, LATER),
        (SUBSCRIBED, SAME_DAY),
    ],
)
def test_the_same_fact_sent_again_is_a_duplicate(wire_type: str, changes: dict[str, Any]) -> None:
    """Key and content are equal, whenever and in whatever equal words it is sent: no conflict either."""
    documented, again = read(sample(wire_type)), read(sample(wire_type, **changes))
    assert again.event.key == documented.event.key
    assert again.content == documented.content


def test_an_answer_with_a_date_of_delivery_is_the_same_whenever_it_is_sent() -> None:
    """Only without that date the day of sending is a part of the key."""
    delivered = {"content__date_delivery": "2023-07-03"}
    keys = {read(sample(ANSWERED, **delivered, **sent)).event.key for sent in (SAME_DAY, NEXT_DAY)}
    assert len(keys) == 1
    assert read(sample(ANSWERED)).event.key not in keys


@pytest.mark.parametrize(
    ("wire_type", "path", "value"),
    [
        (CONTENT, "user__id", 5),
        (CONTENT, "course__id", 5),
        (CONTENT, "content__id", 5),
        (CONTENT, "course__progress", 34),
        (CONTENT, "course__progress", None),
        (CONTENT, "course__certificate_id", 77),
        (CONTENT, "content__delivered", 1),
        (CONTENT, "content__delivered", None),
        (CONTENT, "content__correct", False),
        (CONTENT, "content__points", 0),
        (ANSWERED, "user__id", 5),
        (ANSWERED, "course__id", 5),
        (ANSWERED, "content__id", 5),
        (ANSWERED, "content__answer", "link/to/other"),
        (ANSWERED, "content__answer", None),
        (ANSWERED, "content__correct", True),
        (ANSWERED, "content__points", 1),
        (ANSWERED, "content__date_delivery", "2023-07-02"),
        (ANSWERED, "event__send_at", NEXT_DAY["event__send_at"]),
        (COMPLETED, "user__id", 5),
        (COMPLETED, "course__id", 5),
        (COMPLETED, "enrollment__id", 5),
        (COMPLETED, "enrollment__date_expire", "2024-01-01"),
        (COMPLETED, "enrollment__actived", 0),
        (COMPLETED, "enrollment__status", 0),
        (COMPLETED, "event__send_at", NEXT_DAY["event__send_at"]),
        (COMPLETED, "event__slug", ENROLLED),
        (ENROLLED, "enrollment__id", 5),
        (ENROLLED, "event__send_at", NEXT_DAY["event__send_at"]),
        (TRAIL, "user__id", 5),
        (TRAIL, "trail__id", 5),
        (TRAIL, "trail__finished_at", "2022-03-10 18:56:48"),
        (ISSUED, "user__id", 5),
        (ISSUED, "course__id", 5),
        (ISSUED, "certificate__certified_at", "2023-08-28 20:47:32"),
        (CREATED, "user__id", 5),
        (UPDATED, "user__id", 5),
        (UPDATED, "event__send_at", "2023-07-03 14:29:27"),
        (SUBSCRIBED, "user__id", 5),
        (SUBSCRIBED, "event__send_at", NEXT_DAY["event__send_at"]),
    ],
)
def test_another_fact_is_another_event(wire_type: str, path: str, value: Any) -> None:
    """A re-grade, a retake and a renewal are events of their own; null is a value like any other."""
    assert read(sample(wire_type, **{path: value})).event.key != read(sample(wire_type)).event.key


@pytest.mark.parametrize(
    ("wire_type", "path", "value"),
    [
        (CONTENT, "content__send_date", "2022-03-10 12:00:00"),
        (COMPLETED, "course__name", "Renamed"),
        (TRAIL, "trail__courses", []),
        (ISSUED, "certificate__approval_rate", 71),
        (CREATED, "user__phone", "0"),
        (UPDATED, "user__nickname", "ada"),
    ],
)
def test_other_content_under_the_same_key_is_seen(wire_type: str, path: str, value: Any) -> None:
    """The ledger sets it aside as a conflict."""
    documented, other = read(sample(wire_type)), read(sample(wire_type, **{path: value}))
    assert other.event.key == documented.event.key
    assert other.content != documented.content


@pytest.mark.parametrize(
    ("wire_type", "path"),
    [
        (CONTENT, "user__id"),
        (CONTENT, "course"),
        (CONTENT, "content__id"),
        (ANSWERED, "content"),
        (ANSWERED, "event__send_at"),
        (COMPLETED, "enrollment"),
        (COMPLETED, "event__send_at"),
        (TRAIL, "trail__finished_at"),
        (ISSUED, "certificate"),
        (CREATED, "user"),
        (UPDATED, "event__send_at"),
        (SUBSCRIBED, "event__send_at"),
    ],
)
def test_without_an_identity_the_digest_is_the_key(wire_type: str, path: str) -> None:
    """Never a null: the same body is the same event, and any other body is not."""
    for missing in (..., None):
        item = sample(wire_type, **{path: missing})
        key = read(item).event.key
        assert re.fullmatch(r'\["digest","[0-9a-f]{64}"\]', key)
        assert read(copy.deepcopy(item)).event.key == key
        assert read(item | {"more": 1}).event.key != key


# National numbers


def test_cpf_and_cnpj_reach_nothing() -> None:
    """At any depth, in any letter case, of any type; the rest of the body stays."""
    item = sample(
        CREATED, user__CPF=12345678999, formulario_respostas=[{"Cpf": "987.654.321-00", "cor": "azul"}]
    )
    item["data"]["company"] = {"cnpj": "12.345.678/0001-99"}
    reading = read(item)
    redacted = PROVIDER.redact(orjson.dumps(item))
    for place in (repr(reading), redacted.decode()):
        for number in ("123.456.789-99", "12345678999", "987.654.321-00", "12.345.678/0001-99"):
            assert number not in place
    assert orjson.loads(redacted)["data"]["user"]["phone"] == "+55 11 90000-0000"
    assert reading.event.data["formulario_respostas"] == [{"Cpf": "[redacted]", "cor": "azul"}]
    again = read(orjson.loads(redacted))
    assert (again.event.key, again.content) == (reading.event.key, reading.content)


def test_cpf_is_redacted_where_the_body_does_not_parse() -> None:
    """As in the vendor's Portuguese samples, which have trailing commas."""
    body = b'{"user": {"id": 12345, "cpf": "123.456.789-99", "cnpj" : 12345678000199,}, }'
    assert PROVIDER.redact(body) == (
        b'{"user": {"id": 12345, "cpf": "[redacted]", "cnpj" : "[redacted]",}, }'
    )


# Whatever comes

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


def mutated(document: Any, path: list[str | int], value: Any) -> Any:
    mutation = copy.deepcopy(document)
    parent = mutation
    for name in path[:-1]:
        parent = parent[name]
    parent[path[-1]] = value
    return mutation


def paths(value: Any, path: list[str | int]) -> list[list[str | int]]:
    inner: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    return [found for name, each in inner for found in ([*path, name], *paths(each, [*path, name]))]


@given(st.sampled_from(sorted(PROVIDER.wire_types)), st.data())
def test_any_item_is_read_or_refused(wire_type: str, data: st.DataObject) -> None:
    """Never anything but a reading, a violation or an unknown event; never an event that cannot be stored."""
    document = sample(wire_type)
    item = mutated(document, data.draw(st.sampled_from(paths(document, []))), data.draw(json_values))
    try:
        reading = read(item)
    except (SchemaViolation, UnknownEvent):
        return
    assert orjson.loads(reading.event.to_json())["key"] == reading.event.key


local_times = st.datetimes().map(lambda moment: moment.replace(microsecond=0).isoformat(" "))


@given(local_times, st.sampled_from(["America/Sao_Paulo", "Asia/Tokyo", "Europe/Lisbon", "UTC"]))
def test_any_local_time_becomes_utc(local: str, zone: str) -> None:
    """In any zone, at any point of the calendar."""
    event = read(sample(CONTENT, event__send_at=local), zone=ZoneInfo(zone)).event
    assert event.occurred_at.tzinfo is UTC
    assert orjson.loads(event.to_json())["data"]["sent_at"].endswith("Z")
