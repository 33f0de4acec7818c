from __future__ import annotations

import math
from datetime import UTC, date, datetime, time
from typing import Any

import pytest
from marshmallow import ValidationError

from coursewire.event import key_of
from coursewire.fields import (
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
    Timestamp,
    field_errors,
    in_utc,
)


class Inner(JsonObject):
    id = Id(numbers=True)
    name = Text(5)


class Outer(JsonObject):
    inner = Part(Inner)
    many = Parts(Inner)
    either = OneOrMany(Inner)
    score = Number()


@pytest.mark.parametrize(
    "field",
    [
        Text(),
        Id(),
        Number(),
        Boolean(),
        Flag(),
        Choice({}),
        Timestamp(),
        LocalDateTime(),
        Date(),
        Time(),
        Objects(),
    ],
)
def test_every_field_is_optional(field: Any) -> None:
    """Absent and null both load as None."""
    assert field.deserialize(None) is None
    assert JsonObject.from_dict({"it": field})().load({}) == {"it": None}


@pytest.mark.parametrize(
    ("field", "value", "loaded"),
    [
        (Text(), "", ""),
        (Text(), "é🎓\n" * 1000, "é🎓\n" * 1000),
        (Text(3), "ção", "ção"),
        (Id(), "9f56e3ad46d94063bb9985d9ee6143cf", "9f56e3ad46d94063bb9985d9ee6143cf"),
        (Id(), "x" * 255, "x" * 255),
        (Id(numbers=True), 19123424393, "19123424393"),
        (Id(numbers=True), "19123424393", "19123424393"),
        (Id(numbers=True), 0, "0"),
        (Id(numbers=True), 2**63 - 1, "9223372036854775807"),
        (Number(), 95.0, 95),
        (Number(), 0.5, 0.5),
        (Number(), -0.0, 0),
        (Number(least=0, most=100), 100, 100),
        (Boolean(), False, False),
        (Flag(), 0, False),
        (Flag(), 1, True),
        (Flag(), True, True),
        (Choice({"SELF": "learner"}), "SELF", "learner"),
        (Date(), "2024-02-29", date(2024, 2, 29)),
        (Time(), "23:59:59", time(23, 59, 59)),
        (LocalDateTime(), "2022-03-10 12:01:43", datetime(2022, 3, 10, 12, 1, 43)),  # noqa: DTZ001
        (DayFirstDateTime(), "03/07/2023 12:52:18", datetime(2023, 7, 3, 12, 52, 18)),  # noqa: DTZ001
        (Objects(), [{"a": [1]}], [{"a": [1]}]),
    ],
)
def test_documented_forms_are_taken(field: Any, value: object, loaded: object) -> None:
    """Ids load as strings, integral numbers as integers, documented times as times."""
    result = field.deserialize(value)
    assert result == loaded
    assert type(result) is type(loaded)


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        (Text(), 5, "must be a string"),
        (Text(), {"a": 1}, "must be a string"),
        (Text(3), "abcd", "must be at most 3 characters long"),
        (Text(), "a\0b", "must not contain NUL"),
        (Text(), "a\ud800b", "must not contain lone surrogates"),
        (Id(), 5, "must be a string"),
        (Id(), {}, "must be a string"),
        (Id(), "", "must not be empty"),
        (Id(), " ", "must not be empty"),
        (Id(), "x" * 256, "must be at most 255 characters long"),
        (Id(numbers=True), 1.0, "must be an integer or a string"),
        (Id(numbers=True), 1.8446744073709552e19, "must be an integer or a string"),
        (Id(numbers=True), True, "must be an integer or a string"),
        (Id(numbers=True), 2**63, "must be an integer of at most 64 bits"),
        (Id(numbers=True), -(2**63) - 1, "must be an integer of at most 64 bits"),
        (Id(numbers=True), "", "must not be empty"),
        (Number(), "0.5", "must be a number"),
        (Number(), True, "must be a number"),
        (Number(), math.nan, "must be a finite number of at most 64 bits"),
        (Number(), math.inf, "must be a finite number of at most 64 bits"),
        (Number(), 2**63, "must be a finite number of at most 64 bits"),
        (Number(), 1.8446744073709552e19, "must be a finite number of at most 64 bits"),
        (Number(least=0), -0.1, "must be at least 0"),
        (Number(most=100), 100.1, "must be at most 100"),
        (Boolean(), 1, "must be true or false"),
        (Boolean(), "true", "must be true or false"),
        (Flag(), 2, "must be 0 or 1"),
        (Flag(), 1.0, "must be 0 or 1"),
        (Flag(), "1", "must be 0 or 1"),
        (Flag(), "yes", "must be 0 or 1"),
        (Flag(), "on", "must be 0 or 1"),
        (Choice({"SELF": "a", "ADMIN": "b"}), "self", "must be one of: SELF, ADMIN"),
        (Choice({"SELF": "a"}), ["SELF"], "must be one of: SELF"),
        (Objects(), {}, "must be an array of objects"),
        (Objects(), [1], "must be an array of objects"),
    ],
)
def test_what_merely_looks_alike_is_refused(field: Any, value: object, rule: str) -> None:
    """Strings are no numbers, numbers no booleans, floats no ids; the message is the rule alone."""
    with pytest.raises(ValidationError) as refusal:
        field.deserialize(value)
    assert refusal.value.messages == [rule]


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2014-04-18T00:59:12Z", datetime(2014, 4, 18, 0, 59, 12, tzinfo=UTC)),
        ("2014-04-18t00:59:12z", datetime(2014, 4, 18, 0, 59, 12, tzinfo=UTC)),
        ("2014-04-18 00:59:12+00:00", datetime(2014, 4, 18, 0, 59, 12, tzinfo=UTC)),
        ("2014-04-18T00:59Z", datetime(2014, 4, 18, 0, 59, tzinfo=UTC)),
        ("2014-04-18T00:59:12+11:00", datetime(2014, 4, 17, 13, 59, 12, tzinfo=UTC)),
        ("2014-04-18T00:59:12-0330", datetime(2014, 4, 18, 4, 29, 12, tzinfo=UTC)),
        ("2014-04-18T00:59:12+05", datetime(2014, 4, 17, 19, 59, 12, tzinfo=UTC)),
        ("2014-04-18T00:59:12.5Z", datetime(2014, 4, 18, 0, 59, 12, 500000, tzinfo=UTC)),
        ("2014-04-18T00:59:12,019Z", datetime(2014, 4, 18, 0, 59, 12, 19000, tzinfo=UTC)),
        ("2014-04-18T00:59:12.123456789Z", datetime(2014, 4, 18, 0, 59, 12, 123456, tzinfo=UTC)),
        ("9999-12-31T23:59:59-05:00", datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("0001-01-01T00:00:00+14:00", datetime(1, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_timestamp_may_have_any_offset_and_fraction(text: str, moment: datetime) -> None:
    """It loads as the same instant in UTC."""
    loaded = Timestamp().deserialize(text)
    assert loaded == moment
    assert loaded.tzinfo is UTC


@pytest.mark.parametrize(
    ("field", "text", "rule"),
    [
        (
            Timestamp(),
            "2014-04-18T00:59:12",
            "must have an offset or Z: a time without a zone is not documented",
        ),
        (Timestamp(), "2014-04-18", "must be of the form 2014-04-18T00:59:12Z (ISO 8601)"),
        (Timestamp(), "20140418T005912Z", "must be of the form 2014-04-18T00:59:12Z (ISO 8601)"),
        (Timestamp(), "18/04/2014 00:59:12", "must be of the form 2014-04-18T00:59:12Z (ISO 8601)"),
        (Timestamp(), "٢٠١٤-04-18T00:59:12Z", "must be of the form 2014-04-18T00:59:12Z (ISO 8601)"),
        (Timestamp(), "2014-04-18T00:59:12Z\n", "must be of the form 2014-04-18T00:59:12Z (ISO 8601)"),
        (Timestamp(), 1397782752, "must be a string of the form 2014-04-18T00:59:12Z (ISO 8601)"),
        (Timestamp(), "2014-02-30T00:00:00Z", "must be a time that exists"),
        (Timestamp(), "2014-04-18T00:59:12+24:00", "must be a time that exists"),
        (LocalDateTime(), "2022-03-10T12:01:43", "must be of the form yyyy-MM-dd HH:mm:ss"),
        (LocalDateTime(), "2022-03-10 12:01:43Z", "must be of the form yyyy-MM-dd HH:mm:ss"),
        (LocalDateTime(), "03/07/2023 12:52:18", "must be of the form yyyy-MM-dd HH:mm:ss"),
        (LocalDateTime(), "0000-00-00 00:00:00", "must be a time that exists"),
        (DayFirstDateTime(), "2023-07-03 12:52:18", "must be of the form dd/MM/yyyy HH:mm:ss"),
        (DayFirstDateTime(), "07/13/2023 12:52:18", "must be a time that exists"),
        (Date(), "2022-03-10 12:01:43", "must be of the form yyyy-MM-dd"),
        (Time(), "2022-03-10 12:01:43", "must be of the form HH:mm:ss"),
        (Time(), "25:00:00", "must be a time that exists"),
    ],
)
def test_each_time_has_its_one_form(field: Any, text: object, rule: str) -> None:
    """A form that belongs to another field, or that Python happens to know, is refused."""
    with pytest.raises(ValidationError) as refusal:
        field.deserialize(text)
    assert refusal.value.messages == [rule]


def test_the_ends_of_the_calendar_do_not_overflow() -> None:
    """A time that has no UTC date keeps its digits."""
    east = datetime.fromisoformat("0001-01-01T00:00:00+01:00")
    assert in_utc(east) == datetime(1, 1, 1, tzinfo=UTC)


def test_nested_objects_are_always_there() -> None:
    """Absent, null and empty parts load alike, so that a mapping need not ask."""
    empty = {"inner": {"id": None, "name": None}, "many": [], "either": [], "score": None}
    assert Outer().load({}) == empty
    assert Outer().load({"inner": None, "many": None, "either": None, "score": None}) == empty
    assert Outer().load({"inner": {}}) == empty


def test_one_or_many() -> None:
    """An object and an array of it load as the same list."""
    assert Outer().load({"either": {"id": 1}})["either"] == [{"id": "1", "name": None}]
    assert Outer().load({"either": [{"id": 1}]})["either"] == [{"id": "1", "name": None}]


def test_errors_name_the_path_and_the_rule() -> None:
    """Dotted paths reach into objects and arrays; all errors are told at once."""
    wrong = {
        "inner": {"id": 1.5, "name": "too long"},
        "many": [{"id": 1}, None, {"id": ""}],
        "either": {"id": True},
        "score": "95",
    }
    with pytest.raises(ValidationError) as refusal:
        Outer().load(wrong)
    assert field_errors(refusal.value) == {
        "inner.id": ["must be an integer or a string"],
        "inner.name": ["must be at most 5 characters long"],
        "many.1": ["must be an object"],
        "many.2.id": ["must not be empty"],
        "either.id": ["must be an integer or a string"],
        "score": ["must be a number"],
    }


@pytest.mark.parametrize(
    ("item", "errors"),
    [
        ({"inner": "x"}, {"inner": ["must be an object"]}),
        ({"inner": []}, {"inner": ["must be an object"]}),
        ({"many": {"id": 1}}, {"many": ["must be an array of objects"]}),
        ({"either": "x"}, {"either": ["must be an object or an array of objects"]}),
        ({"either": [{"id": 1}, 2]}, {"either.1": ["must be an object"]}),
        ([], {"": ["Invalid input type."]}),
    ],
)
def test_errors_of_shape(item: Any, errors: dict[str, list[str]]) -> None:
    """A value of another shape is an error at its own path."""
    with pytest.raises(ValidationError) as refusal:
        Outer().load(item)
    assert field_errors(refusal.value) == errors


def test_unknown_fields_are_found_at_every_level() -> None:
    """They do not refuse the item, do not mix with known fields, and their paths are unambiguous."""
    item = {
        "new": 1,
        "inner": {"id": 1, "new": 2},
        "many": [{"id": 1}, {"a.b": 3, "back\\slash": 4}],
        "either": {"new": 5},
        "inner.new": 6,
    }
    assert Outer().load(item)["inner"] == {"id": "1", "name": None}
    assert dict(Outer().unknown_in(item)) == {
        "new": 1,
        "inner.new": 2,
        "many.1.a\\.b": 3,
        "many.1.back\\\\slash": 4,
        "either.new": 5,
        "inner\\.new": 6,
    }
    assert list(Outer().unknown_in({"inner": {"id": 1}, "many": None})) == []


def test_key_parts_are_joined_unambiguously() -> None:
    """No two different lists of parts give one key; null, true, 1 and "1" are four values."""
    keys = [
        key_of(parts) for parts in (["a", "b"], ["a,b"], ['a","b'], ["ab"], [["a", "b"]], ["a", "b", None])
    ]
    assert len(set(keys)) == len(keys)
    assert len({key_of([part]) for part in (None, True, 1, "1", "null", "")}) == 6


def test_key_parts_of_one_value_are_equal() -> None:
    """95 is 95.0, and an instant is the same whatever its offset."""
    assert key_of([95]) == key_of([95.0]) == "[95]"
    utc = datetime(2014, 4, 18, 0, 59, 12, tzinfo=UTC)
    assert key_of([utc]) == key_of([datetime.fromisoformat("2014-04-18T11:59:12+11:00")])
    assert key_of([date(2023, 7, 3), None, 0.5]) == '["2023-07-03",null,0.5]'
