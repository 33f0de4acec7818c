"""The sweep finds whatever waits, by its own monotonic clock, and gives back what is abandoned."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import select

from coursewire.hints import INGEST
from coursewire.ledger import deliveries as queue
from coursewire.ledger.tables import EPOCH, attempts, deliveries, receipts
from workers import sweep as module
from workers.sweep import Sweep, Watch

BODY = (Path(__file__).parents[2] / "schemas/samples/digitalchalk/offering_completed.json").read_bytes()
SHORT = {"ingest_time_limit_seconds": 1, "lease_margin_seconds": 0.5}


def test_a_watch_tells_what_stayed_the_same_for_its_whole_lease():
    watch: Watch[str] = Watch()
    assert watch.expired([("a", 10.0)], now=100.0) == []
    assert watch.expired([("a", 10.0), ("b", 10.0)], now=105.0) == []
    assert watch.expired([("a", 10.0), ("b", 10.0)], now=110.0) == ["a"]
    assert watch.expired([("b", 10.0)], now=111.0) == []
    assert watch.expired([("a", 10.0)], now=120.0) == [], "it was gone in between: its time begins anew"


def test_callbacks_whose_hint_was_lost_are_found(make_pipeline):
    pipeline = make_pipeline()
    pipeline.append(BODY)
    Sweep(pipeline.ctx).look()
    assert pipeline.ctx.hints.waiting(INGEST) == 1


def test_deliveries_whose_hint_was_lost_are_found(make_pipeline):
    pipeline = make_pipeline()
    pipeline.append(BODY)
    pipeline.ingest()
    redis = pipeline.ctx.inbox.redis
    for key in redis.keys(f"{pipeline.settings.namespace}:*handler*"):
        redis.delete(key)
    Sweep(pipeline.ctx).look()
    assert pipeline.ctx.hints.waiting("handler.audit") == 1


def test_hints_do_not_pile_up_while_workers_are_away(make_pipeline, until):
    pipeline = make_pipeline()
    pipeline.append(BODY)
    sweep = Sweep(pipeline.ctx)
    for _ in range(3 * module.HINTS_ENOUGH):
        pipeline.ctx.hints.awake(INGEST)
        sweep.look()
    assert pipeline.ctx.hints.waiting(INGEST) == module.HINTS_ENOUGH


def test_without_a_broker_the_sweep_does_the_work_itself(make_pipeline):
    pipeline = make_pipeline({"audit": {}}, broker_url="redis://127.0.0.1:1/0")
    pipeline.append(BODY)
    sweep = Sweep(pipeline.ctx)
    sweep.look()
    sweep.look()
    assert pipeline.states() == {"audit": ["done"]}


def test_two_sweeps_do_no_harm(make_pipeline):
    pipeline = make_pipeline({"audit": {}}, broker_url="redis://127.0.0.1:1/0")
    pipeline.append(BODY)
    first, second = Sweep(pipeline.ctx), Sweep(pipeline.ctx)
    for _ in range(3):
        first.look()
        second.look()
    assert pipeline.states() == {"audit": ["done"]}
    assert len(pipeline.rows(select(receipts))) == 1


def test_entries_of_a_dead_ingest_worker_come_back_after_the_lease(make_pipeline, monkeypatch):
    pipeline = make_pipeline(**SHORT)
    pipeline.append(BODY)
    pipeline.ctx.inbox.read(10)  # and the worker dies
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])  # the clock is what the rule is about
    sweep = Sweep(pipeline.ctx)
    sweep.look()
    now[0] += 6.4
    sweep.look()
    assert pipeline.ctx.inbox.read_returned(10) == [], "the lease is not over"
    now[0] += 0.2
    sweep.look()
    pipeline.ingest()
    assert [row.outcome for row in pipeline.rows(select(receipts))] == ["events"]


def test_a_delivery_that_kills_its_worker_is_given_back_and_in_the_end_dead(make_pipeline, monkeypatch):
    pipeline = make_pipeline()
    pipeline.append(BODY)
    pipeline.ingest()
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])  # the clock is what the rule is about
    sweep = Sweep(pipeline.ctx)
    for crashes, state in ((1, "retrying"), (2, "retrying"), (3, "dead")):
        with pipeline.ctx.engine.begin() as db:
            db.execute(deliveries.update().values(due_at=EPOCH))
            assert queue.claim(db, "audit", 1, suspects=crashes > 1) is not None  # and the worker dies
        sweep.look()
        assert pipeline.states() == {"audit": ["running"]}
        now[0] += 41
        sweep.look()
        (row,) = pipeline.rows(select(deliveries))
        assert (row.crashes, row.attempts, row.state) == (crashes, 0, state)
    assert row.code == "crashed"
    assert [each.outcome for each in pipeline.rows(select(attempts))] == ["crashed"] * 3
