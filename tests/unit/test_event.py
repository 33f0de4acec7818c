"""The event: one value that survives its journey through the ledger."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from coursewire import Activity, Course, Event, EventType, Learner, Registration, Result
from coursewire.event import new_id

EVENT = Event(
    id="01a20885-3ffa-7453-9f95-0ab5e2efa19c",
    source="chalk",
    provider="digitalchalk",
    type=EventType.COURSE_COMPLETED,
    wire_type="offering_completed",
    key="k",
    occurred_at=datetime(2014, 4, 18, 0, 39, 57, 123456, tzinfo=UTC),
    received_at=datetime(2026, 11, 23, tzinfo=UTC),
    zone_assumed=True,
    learner=Learner("u1", "ada@example.org", "Ada Lovelace", "ada", "en"),
    course=Course("c1", "Conteúdo", "offering"),
    activity=Activity("a1", "test", "Module"),
    registration=Registration("r1", datetime(2013, 9, 19, tzinfo=UTC), None),
    result=Result(58.0, False, 33.0, True, False),
    triggered_by="learner",
    certificate_subject=("registration", "chalk", "r1"),
    data={"question": "?", "n": 1},
)


def test_an_event_comes_back_from_json_as_it_was():
    assert Event.from_json(EVENT.to_json()) == EVENT


def test_an_event_without_its_optional_parts_comes_back_too():
    bare = Event("i", "s", "p", "t", "w", "k", EVENT.occurred_at, EVENT.received_at)
    assert Event.from_json(bare.to_json()) == bare


def test_an_event_cannot_be_changed():
    with pytest.raises(AttributeError):
        EVENT.type = "x"  # type: ignore[misc]


def test_a_follow_up_is_about_the_same_and_has_a_key_that_repeats():
    first = EVENT.follow_up(EventType.CERTIFICATE_AWARDED, data={"certificate": "x"})
    again = EVENT.follow_up(EventType.CERTIFICATE_AWARDED, data={"certificate": "y"})
    assert (first.type, first.wire_type, first.data) == ("certificate.awarded",) * 2 + ({"certificate": "x"},)
    assert first.learner == EVENT.learner
    assert first.key == again.key
    assert first.key != EVENT.follow_up(EventType.CERTIFICATE_AWARDED, about="other").key
    assert first.id != again.id


def test_ids_sort_by_the_time_they_were_made():
    made = [new_id() for _ in range(1000)]
    assert sorted(made) == made
