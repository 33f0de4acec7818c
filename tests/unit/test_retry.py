"""What an attempt's outcome means for its delivery."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from coursewire import Handler, NotNow, Permanent, Temporary
from coursewire.ledger.tables import State
from workers.retry import judge, judge_crash, pause_seconds

NOW = datetime(2026, 3, 1, tzinfo=UTC)


class Record(Handler):
    max_attempts = 3
    max_crashes = 2
    backoff_seconds = (10.0, 100.0)

    def record(self, event, db):
        return None


class Send(Record):
    record = Handler.record

    def send(self, event, key):
        return None


class SendOnce(Send):
    may_repeat = False


def test_a_temporary_failure_is_tried_again_after_a_pause():
    decision = judge(Temporary("away"), 0, Record, NOW, 0.5)
    assert (decision.state, decision.attempts, decision.outcome) == (State.RETRYING, 1, "failed")
    assert decision.due_at == NOW + timedelta(seconds=5)


def test_any_other_exception_is_temporary_and_its_message_is_not_kept():
    """It may quote what the callback holds."""
    decision = judge(ValueError("ada@example.org is no address"), 0, Record, NOW, 0.5)
    assert decision.state is State.RETRYING
    assert "ada@example.org" not in decision.detail
    assert decision.detail.startswith("ValueError")


def test_the_last_attempt_ends_dead():
    assert judge(Temporary("away"), 1, Record, NOW, 0.5).state is State.RETRYING
    decision = judge(Temporary("away"), 2, Record, NOW, 0.5)
    assert (decision.state, decision.attempts, decision.code) == (State.DEAD, 3, "temporary")


def test_a_permanent_failure_ends_dead_at_once():
    decision = judge(Permanent("no such address"), 0, Record, NOW, 0.5)
    assert (decision.state, decision.code, decision.detail) == (State.DEAD, "permanent", "no such address")


def test_not_now_burns_no_attempt():
    later = NOW + timedelta(hours=9)
    decision = judge(NotNow(later), 2, Record, NOW, 0.5)
    assert (decision.state, decision.attempts, decision.due_at) == (State.RETRYING, None, later)
    assert decision.outcome == "not_now"


@pytest.mark.parametrize(
    ("failures", "luck", "asked", "seconds"),
    [
        (1, 1.0, None, 10),
        (2, 1.0, None, 20),
        (4, 1.0, None, 80),
        (5, 1.0, None, 100),
        (5000, 1.0, None, 100),
        (4, 0.0, None, 0),
        (1, 1.0, 50, 50),
        (4, 1.0, 50, 80),
        (1, 0.0, 10**9, 6 * 3600),
        (1, 0.0, -5, 0),
    ],
)
def test_pauses_grow_up_to_a_cap_and_respect_what_the_other_side_asked(failures, luck, asked, seconds):
    assert pause_seconds(failures, (10.0, 100.0), luck, asked) == seconds


def test_crashes_are_counted_apart_and_end_dead():
    assert judge_crash(1, Record, NOW, 0.5).state is State.RETRYING
    assert judge_crash(1, Record, NOW, 0.5).outcome == "crashed"
    decision = judge_crash(2, Record, NOW, 0.5)
    assert (decision.state, decision.code, decision.attempts) == (State.DEAD, "crashed", None)


def test_what_a_send_handler_did_before_it_died_is_unknown():
    assert judge_crash(1, Send, NOW, 0.5).outcome == "unknown"
    assert judge_crash(1, Send, NOW, 0.5).state is State.RETRYING


def test_a_handler_that_forbids_repetition_ends_dead_when_the_outcome_is_unknown():
    decision = judge_crash(1, SendOnce, NOW, 0.5)
    assert (decision.state, decision.code) == (State.DEAD, "unknown_outcome")
