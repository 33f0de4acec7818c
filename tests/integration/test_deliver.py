"""Deliveries: claimed once, run, and finished only where the claim still holds."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, func, select, update

from coursewire import Handler, NotNow, Permanent, Skip, Temporary
from coursewire.handlers import Configured
from coursewire.ledger import deliveries as queue
from coursewire.ledger import registry
from coursewire.ledger.events import MAX_DEPTH
from coursewire.ledger.tables import attempts, deliveries, events, handlers, utc_now
from workers.deliver import Deliverer

SAMPLES = Path(__file__).parents[2] / "schemas" / "samples"

effects = Table(
    "effects",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("event", String(36), nullable=False),
)


class Effect(Handler):
    """Writes a row for each event, without a unique key: a doubled effect is seen."""

    wants = frozenset({"*"})
    batch = 10
    backoff_seconds = (1e6, 1e6)  # not again within a test

    def record(self, event, db):
        db.execute(effects.insert().values(event=event.id))
        return self.then(event)

    def then(self, event):
        return None


class Sender(Handler):
    wants = frozenset({"*"})
    backoff_seconds = (0.0, 0.0)
    max_attempts = 3

    def __init__(self, name="probe", options=None, fail=()):
        super().__init__(name, options or {})
        self.sent = []
        self.fail = list(fail)
        self.lock = threading.Lock()

    def send(self, event, key):
        with self.lock:
            self.sent.append(key)
            if self.fail:
                raise self.fail.pop(0)


@pytest.fixture
def probe(make_pipeline):
    """A pipeline with the events r0, r1, ... delivered to one handler, `probe`."""

    def make(handler, count=1):
        pipeline = make_pipeline({})
        with pipeline.ctx.engine.begin() as db:
            effects.create(db)
            registry.register(
                db, {"probe": Configured("probe", "probe", type(handler), frozenset({"*"}), {})}
            )
        body = json.loads((SAMPLES / "digitalchalk" / "offering_completed.json").read_bytes())
        bodies = []
        for number in range(count):
            body["registration"]["id"] = f"r{number}"
            bodies.append(json.dumps(body).encode())
        pipeline.append(*bodies)
        pipeline.ingest()
        return pipeline, Deliverer(pipeline.ctx, handler)

    return make


def drain(deliverer):
    while deliverer.run_once():
        pass


def state_counts(pipeline):
    return {
        state: len([s for s in pipeline.states()["probe"] if s == state])
        for state in pipeline.states()["probe"]
    }


def effect_count(pipeline):
    return pipeline.rows(select(func.count()).select_from(effects))[0][0]


def test_effects_and_verdicts_are_one_transaction(probe):
    pipeline, deliverer = probe(Effect("probe", {}), 25)
    drain(deliverer)
    assert state_counts(pipeline) == {"done": 25}
    assert effect_count(pipeline) == 25


def test_one_event_that_spoils_a_batch_leaves_its_neighbours_done_and_no_effect_of_its_own(probe):
    class Spoilt(Effect):
        def record_batch(self, events, db):
            outcomes = [self.record(event, db) for event in events]
            if any(event.registration.id == "r3" for event in events):
                raise ValueError("r3")
            return outcomes

    pipeline, deliverer = probe(Spoilt("probe", {}), 10)
    drain(deliverer)
    assert state_counts(pipeline) == {"done": 9, "retrying": 1}
    assert effect_count(pipeline) == 9
    (row,) = pipeline.rows(select(attempts))
    assert (row.outcome, row.code) == ("failed", "temporary")


@pytest.mark.parametrize(
    ("verdict", "state", "code"),
    [
        (Skip("not_earned"), "skipped", "not_earned"),
        (Skip("of no interest here"), "skipped", "skipped"),
        (Permanent("never"), "dead", "permanent"),
        (Temporary("later"), "retrying", "temporary"),
        (ZeroDivisionError(), "retrying", "temporary"),
    ],
)
def test_a_verdict_takes_back_what_record_wrote_before_it(probe, verdict, state, code):
    class Raising(Effect):
        def then(self, event):
            raise verdict

    pipeline, deliverer = probe(Raising("probe", {}))
    deliverer.run_once()
    (row,) = pipeline.rows(select(deliveries))
    assert (row.state, row.code) == (state, code)
    assert effect_count(pipeline) == 0


def test_a_failing_delivery_is_retried_under_one_key_until_it_is_dead(probe):
    sender = Sender(fail=[Temporary("away")] * 3)
    pipeline, deliverer = probe(sender)
    drain(deliverer)
    (row,) = pipeline.rows(select(deliveries))
    assert (row.state, row.code, row.attempts, row.detail) == ("dead", "temporary", 3, "away")
    assert len(sender.sent) == 3
    assert set(sender.sent) == {f"{row.event_id}.probe"}
    assert len(pipeline.rows(select(attempts))) == 3


def test_not_now_burns_no_attempt_and_waits(probe):
    sender = Sender(fail=[NotNow(utc_now() + timedelta(hours=1))])
    pipeline, deliverer = probe(sender)
    drain(deliverer)
    (row,) = pipeline.rows(select(deliveries))
    assert (row.state, row.attempts) == ("retrying", 0)
    assert row.due_at > utc_now() + timedelta(minutes=59)
    assert not deliverer.run_once()


def test_a_late_finisher_is_fenced(probe):
    """Its claim was given to somebody else meanwhile: it can overwrite nothing."""
    pipeline, _ = probe(Sender())
    with pipeline.ctx.engine.begin() as db:
        slow = queue.claim(db, "probe", 1)
    with pipeline.ctx.engine.begin() as db:
        queue.give_back(db, slow)
        quick = queue.claim(db, "probe", 1)
        assert queue.finish(db, quick, quick.event_ids) == 1
    with pipeline.ctx.engine.begin() as db:
        assert queue.hold(db, slow, lock=True) == []
        assert queue.finish(db, slow, slow.event_ids) == 0
        decision = queue.Decision(queue.State.DEAD, "permanent", "too late", attempts=1)
        queue.fail(db, slow, [(slow.event_ids[0], decision)])
    assert state_counts(pipeline) == {"done": 1}
    assert pipeline.rows(select(attempts)) == []


def test_a_record_handler_that_lost_its_claim_has_no_effect(probe):
    pipeline, deliverer = probe(Effect("probe", {}))
    with pipeline.ctx.engine.begin() as db:
        slow = queue.claim(db, "probe", 1)
        queue.give_back(db, slow)
    deliverer._work(slow)
    assert effect_count(pipeline) == 0
    drain(deliverer)
    assert effect_count(pipeline) == 1


def test_claims_by_eight_workers_never_overlap(probe):
    pipeline, _ = probe(Sender(), 400)

    def claim_all(_):
        taken = []
        while True:
            with pipeline.ctx.engine.begin() as db:
                claim = queue.claim(db, "probe", 7)
            if claim is None:
                return taken
            taken += claim.event_ids

    with ThreadPoolExecutor(8) as pool:
        taken = [event_id for part in pool.map(claim_all, range(8)) for event_id in part]
    assert len(taken) == 400
    assert len(set(taken)) == 400


def test_the_oldest_due_are_claimed_first(probe):
    pipeline, _ = probe(Sender(), 5)
    first = [row.id for row in pipeline.rows(select(events.c.id).order_by(events.c.id).limit(2))]
    with pipeline.ctx.engine.begin() as db:
        assert sorted(queue.claim(db, "probe", 2).event_ids) == first


def test_what_was_never_tried_is_due_whatever_the_clocks_say(probe):
    """It was written by a host whose clock is a day ahead."""
    pipeline, deliverer = probe(Sender())
    with pipeline.ctx.engine.begin() as db:
        db.execute(update(deliveries).values(due_at=utc_now() + timedelta(days=1)))
    assert deliverer.run_once()
    assert state_counts(pipeline) == {"done": 1}


def test_a_suspect_is_claimed_alone(probe):
    """Its last claim ended without a verdict: it may kill the worker, so it takes no neighbour with it."""
    pipeline, _ = probe(Sender(), 6)
    with pipeline.ctx.engine.begin() as db:
        oldest = queue.claim(db, "probe", 1).event_ids[0]
        db.execute(
            update(deliveries)
            .where(deliveries.c.event_id == oldest)
            .values(state="retrying", token=None, crashes=1)
        )
    with pipeline.ctx.engine.begin() as db:
        together = queue.claim(db, "probe", 10)
        alone = queue.claim(db, "probe", 10, suspects=True)
    assert len(together.event_ids) == 5
    assert alone.event_ids == (oldest,)


def test_a_paused_handler_keeps_its_deliveries(probe):
    pipeline, deliverer = probe(Sender(), 2)
    with pipeline.ctx.engine.begin() as db:
        db.execute(update(handlers).values(paused=True))
    assert not deliverer.run_once()
    assert state_counts(pipeline) == {"pending": 2}
    with pipeline.ctx.engine.begin() as db:
        assert queue.due_handlers(db) == []
        db.execute(update(handlers).values(paused=False))
        assert queue.due_handlers(db) == ["probe"]
    drain(deliverer)
    assert state_counts(pipeline) == {"done": 2}


def test_a_send_handler_works_as_many_at_once_as_it_says(probe):
    class Together(Sender):
        concurrency = 4

        def __init__(self):
            super().__init__()
            self.barrier = threading.Barrier(4)

        def send(self, event, key):
            self.barrier.wait(10)  # breaks unless four are here at once

    pipeline, deliverer = probe(Together(), 4)
    deliverer.run_once()
    assert state_counts(pipeline) == {"done": 4}


def test_an_outcome_for_each_item_of_a_batch(probe):
    class Batch(Handler):
        batch = 3

        def send_batch(self, items):
            by_id = {"r0": None, "r1": Skip("not_earned"), "r2": Permanent("never")}
            return [by_id[event.registration.id] for event, _ in items]

    pipeline, deliverer = probe(Batch("probe", {}), 3)
    drain(deliverer)
    assert state_counts(pipeline) == {"dead": 1, "done": 1, "skipped": 1}


def test_a_follow_up_enters_once_with_its_own_deliveries_and_the_callbacks_receipt(probe):
    class Following(Effect):
        def then(self, event):
            return (
                [event.follow_up("certificate.awarded", data={"n": 1})]
                if event.type != "certificate.awarded"
                else None
            )

    pipeline, deliverer = probe(Following("probe", {}), 2)
    drain(deliverer)
    assert state_counts(pipeline) == {"done": 4}
    rows = pipeline.rows(select(events.c.receipt_id, events.c.type, events.c.depth, events.c.parent_id))
    assert sorted(row.type for row in rows) == ["certificate.awarded"] * 2 + ["course.completed"] * 2
    assert len({row.receipt_id for row in rows}) == 2
    assert {(row.depth, row.parent_id is None) for row in rows} == {(0, True), (1, False)}


def test_follow_ups_of_follow_ups_are_bounded(probe):
    class Endless(Effect):
        def then(self, event):
            return [event.follow_up("certificate.awarded", about=event.id)]

    pipeline, deliverer = probe(Endless("probe", {}))
    drain(deliverer)
    assert state_counts(pipeline) == {"done": MAX_DEPTH, "dead": 1}
    assert effect_count(pipeline) == MAX_DEPTH
    dead = pipeline.rows(select(deliveries.c.code).where(deliveries.c.state == "dead"))
    assert [row.code for row in dead] == ["follow_ups_too_deep"]


def test_a_fault_of_the_database_burns_no_attempt(probe):
    """The connection broke while the handler was at it."""
    from sqlalchemy.exc import OperationalError

    class Unlucky(Effect):
        broken = True

        def record_batch(self, events, db):
            if self.broken:
                raise OperationalError("", {}, Exception())
            return super().record_batch(events, db)

    handler = Unlucky("probe", {})
    pipeline, deliverer = probe(handler, 3)
    with pytest.raises(OperationalError):
        deliverer.run_once()
    assert [(row.attempts, row.crashes) for row in pipeline.rows(select(deliveries))] == [(0, 0)] * 3
    handler.broken = False
    drain(deliverer)
    assert state_counts(pipeline) == {"done": 3}
    assert effect_count(pipeline) == 3
