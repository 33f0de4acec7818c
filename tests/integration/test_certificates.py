from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from sqlalchemy import Engine, select

from coursewire.errors import Skip
from coursewire.event import Event, Registration, Result
from workers.handlers.certificates import Certificates, awarded

EARNED = Result(score=91.0, passed=True, completed=True, earned=True)
SUBJECT = ("school", "r-1")


def award(ledger: Engine, events: Sequence[Event]) -> list[str]:
    """Record a batch; for each event the reason why it was skipped, or the id of its certificate."""
    with ledger.begin() as db:
        outcomes = Certificates("certificates", {}).record_batch(events, db)
    said = []
    for outcome in outcomes:
        if isinstance(outcome, Skip):
            said.append(outcome.reason)
        else:
            assert not isinstance(outcome, Exception)
            (follow_up,) = outcome or ()
            said.append(follow_up.data["certificate"])
    return said


def rows(ledger: Engine) -> list[dict[str, Any]]:
    with ledger.connect() as db:
        return [row._asdict() for row in db.execute(select(awarded).order_by(awarded.c.subject))]


def test_an_earned_completion_is_a_row_and_a_follow_up(
    fresh_ledger: Engine, make_event: Callable[..., Event]
) -> None:
    """The row tells who, what and because of which event; the follow-up names the certificate."""
    event = make_event(
        result=EARNED, certificate_subject=SUBJECT, registration=Registration(id="r-1"), data={"grade": "A"}
    )
    with fresh_ledger.begin() as db:
        (outcome,) = Certificates("certificates", {}).record_batch([event], db)
    assert isinstance(outcome, list)
    (follow_up,) = outcome
    (row,) = rows(fresh_ledger)
    assert row.pop("awarded_at") > event.occurred_at
    assert row == {
        "id": follow_up.data["certificate"],
        "subject": '["school","r-1"]',
        "source": "school",
        "learner_id": "ana",
        "learner_name": "Ana Souza",
        "learner_email": "ana@example.org",
        "course_id": "algebra",
        "course_title": "Algebra",
        "course_kind": "course",
        "registration_id": "r-1",
        "event_id": event.id,
    }
    assert (follow_up.type, follow_up.learner, follow_up.course) == (
        "certificate.awarded",
        event.learner,
        event.course,
    )
    assert follow_up.data == {"certificate": row["id"]}


@pytest.mark.parametrize(
    ("result", "subject", "reason"),
    [
        (None, SUBJECT, "not_earned"),
        (Result(passed=True, completed=True), SUBJECT, "not_earned"),
        (Result(passed=False, completed=True, earned=False), SUBJECT, "not_earned"),
        (EARNED, None, "no_subject"),
    ],
)
def test_what_awards_nothing_is_skipped_with_the_reason(
    fresh_ledger: Engine,
    make_event: Callable[..., Event],
    result: Result | None,
    subject: tuple[str, ...] | None,
    reason: str,
) -> None:
    """Only the mapping's `earned` counts, never `passed`; and a certificate needs its subject."""
    event = make_event(result=result, certificate_subject=subject)
    assert award(fresh_ledger, [event]) == [reason]
    assert rows(fresh_ledger) == []


def test_a_subject_is_awarded_once_for_ever(fresh_ledger: Engine, make_event: Callable[..., Event]) -> None:
    """A second event of the subject is skipped: in a later batch, and in the same one."""
    first, same_batch, later = (
        make_event(kind, result=EARNED, certificate_subject=SUBJECT)
        for kind in ("activity.completed", "course.completed", "course.completed")
    )
    certificate, second = award(fresh_ledger, [first, same_batch])
    assert second == "already_awarded"
    assert award(fresh_ledger, [later]) == ["already_awarded"]
    (row,) = rows(fresh_ledger)
    assert (row["id"], row["event_id"]) == (certificate, first.id)


def test_one_batch_mixes_all_verdicts_in_its_order(
    fresh_ledger: Engine, make_event: Callable[..., Event]
) -> None:
    """Outcomes stand in the order of the events, whatever order the rows were written in."""

    def earned(subject: tuple[str, ...]) -> Event:
        return make_event(result=EARNED, certificate_subject=subject)

    award(fresh_ledger, [earned(("school", "old"))])
    said = award(
        fresh_ledger,
        [
            earned(("school", "z")),
            make_event(result=None),
            earned(("school", "old")),
            earned(("school", "a")),
            earned(("school", "z")),
        ],
    )
    ids = {row["subject"]: row["id"] for row in rows(fresh_ledger)}
    assert said == [
        ids['["school","z"]'],
        "not_earned",
        "already_awarded",
        ids['["school","a"]'],
        "already_awarded",
    ]


def test_parts_of_a_subject_are_joined_unambiguously(
    fresh_ledger: Engine, make_event: Callable[..., Event]
) -> None:
    """("a", "bc") and ("ab", "c") are two subjects."""
    events = [
        make_event(result=EARNED, certificate_subject=subject)
        for subject in (("a", "bc"), ("ab", "c"), ("a,b", "c"), ('a","b', "c"))
    ]
    assert len(set(award(fresh_ledger, events)) - {"already_awarded"}) == 4


def test_record_raises_what_the_batch_would_say(
    fresh_ledger: Engine, make_event: Callable[..., Event]
) -> None:
    """`record` is a batch of one: it returns the follow-up, and raises Skip."""
    handler = Certificates("certificates", {})
    event = make_event(result=EARNED, certificate_subject=SUBJECT, learner=None, course=None)
    with fresh_ledger.begin() as db:
        (follow_up,) = handler.record(event, db) or ()
        assert follow_up.type == "certificate.awarded"
        with pytest.raises(Skip, match="already_awarded"):
            handler.record(event, db)
