"""What only PostgreSQL makes hard: locks of others, and the price of a statement."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import event, func, select, text

from coursewire.ledger import deliveries as queue
from coursewire.ledger.deliveries import Decision
from coursewire.ledger.tables import State, attempts, deliveries, duplicates, events, receipts, utc_now
from workers.handlers.certificates import awarded
from workers.sweep import Sweep

SAMPLES = Path(__file__).parents[2] / "schemas" / "samples" / "digitalchalk"
HANDLERS = {"audit": {}, "certificates": {}, "progress": {}}


@pytest.fixture
def ledger_url(postgresql: str) -> str:
    return postgresql


def completion(number: int, **registration: object) -> bytes:
    body = json.loads((SAMPLES / "offering_completed.json").read_bytes())
    body["user"]["id"] = f"u{number}"
    body["registration"] |= {"id": f"r{number}", "passed": True, **registration}
    return json.dumps(body).encode()


def count(pipeline, table, *conditions) -> int:
    return pipeline.rows(select(func.count()).select_from(table).where(*conditions))[0][0]


@contextmanager
def counted(pipeline) -> Iterator[list[str]]:
    """The statements that go to the database; each row of an `executemany` counts, as psycopg sends each."""
    said: list[str] = []

    def note(conn, cursor, statement, parameters, context, executemany) -> None:
        said.extend([statement] * (len(parameters) if isinstance(parameters, list) else 1))

    event.listen(pipeline.ctx.engine, "before_cursor_execute", note)
    try:
        yield said
    finally:
        event.remove(pipeline.ctx.engine, "before_cursor_execute", note)


def test_ingest_workers_with_the_same_keys_in_opposite_orders_do_not_deadlock(make_pipeline):
    """Two installations of one ledger get the same facts, shuffled, hundreds of times, at the same moment."""
    two = [make_pipeline(HANDLERS, installation_key="one key", ingest_batch=20) for _ in range(2)]
    dice = random.Random(7)
    for number in range(0, 6000, 20):
        bodies = [completion(each) for each in range(number, number + 20)]
        for pipeline in two:
            pipeline.append(*dice.sample(bodies, len(bodies)))
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda pipeline: pipeline.ingest(), two))
    assert count(two[0], receipts) == 12_000
    assert count(two[0], events) == 6000
    assert count(two[0], duplicates) == 6000
    assert count(two[0], receipts, receipts.c.outcome == "quarantined") == 0


def test_handler_workers_with_the_same_rows_in_opposite_orders_do_not_deadlock(make_pipeline):
    """Many events of few learners: every batch wants the same rows of `progress` and of `certificates`."""
    pipeline = make_pipeline({name: {"batch": 25} for name in HANDLERS})
    bodies = [completion(learner, grade=50.0 + grade) for grade in range(40) for learner in range(20)]
    pipeline.append(*random.Random(7).sample(bodies, len(bodies)))
    pipeline.ingest()

    def work(name: str) -> None:
        deliverer = pipeline.deliverer(name)
        while deliverer.run_once():
            pass

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, ["progress", "certificates"] * 4))
    pipeline.deliver()
    assert count(pipeline, deliveries, deliveries.c.state.in_(("done", "skipped"))) == count(
        pipeline, deliveries
    )
    assert count(pipeline, awarded) == 20
    assert count(pipeline, attempts) == 0


def test_a_worker_that_is_stopped_within_a_transaction_does_not_block_the_others(make_pipeline):
    """Others go on with other work at once, and with what it held when its session was ended."""
    pipeline = make_pipeline({"audit": {}, "progress": {}}, lease_margin_seconds=0.5)
    pipeline.append(*[completion(number) for number in range(40)])
    pipeline.ingest()
    stopped = pipeline.deliverer("progress")
    engine = pipeline.ctx.engine
    with engine.begin() as db:
        claim = queue.claim(db, "progress", 10)
    assert claim is not None
    db = engine.connect()
    held = queue.hold(db, claim, lock=True)
    stopped._handler.record_batch([each.event for each in held], db)

    began = time.monotonic()
    pipeline.deliver("audit", "progress")
    assert pipeline.states() == {"audit": ["done"] * 40, "progress": ["done"] * 30 + ["running"] * 10}
    sweep = Sweep(pipeline.ctx)
    sweep._abandon("progress", claim.token)
    assert pipeline.states()["progress"] == ["done"] * 30 + ["running"] * 10
    assert time.monotonic() - began < 10, "nobody waited for it"

    # The same learners again: these rows are its own, until its session is ended.
    pipeline.append(*[completion(number, grade=12.0) for number in range(10)])
    pipeline.ingest()
    pipeline.deliver("progress")
    assert time.monotonic() - began < 20
    sweep._abandon("progress", claim.token)
    pipeline.deliver("progress")
    assert pipeline.states()["progress"] == ["done"] * 50
    db.invalidate()
    db.close()
    assert count(pipeline, attempts, attempts.c.outcome == "failed") == 0


@pytest.mark.parametrize("size", [20, 200])
def test_a_batch_costs_as_many_statements_as_a_small_one(make_pipeline, size):
    """A statement for each batch, not for each row: in ingest and in every handler of ours that records."""
    pipeline = make_pipeline(HANDLERS, installation_key="one key")
    pipeline.append(*[completion(number, grade=40.0) for number in range(size)])
    with counted(pipeline) as said:
        pipeline.ingest()
    assert 6 <= len(said) <= 12
    # The same callbacks with another grade, so that `progress` has rows to change, and duplicates.
    pipeline.deliver()
    pipeline.append(*[completion(number, grade=91.0) for number in range(size)], b"{}")
    pipeline.append(*[completion(number, grade=40.0) for number in range(size)])
    with counted(pipeline) as said:
        pipeline.ingest()
    assert len(said) <= 16
    for name in HANDLERS:
        with counted(pipeline) as said:
            assert pipeline.deliverer(name).run_once()
        assert len(said) <= 14, name


def test_verdicts_of_a_batch_cost_a_statement_for_each_kind_of_verdict(make_pipeline):
    pipeline = make_pipeline()
    pipeline.append(*[completion(number) for number in range(200)])
    pipeline.ingest()
    with pipeline.ctx.engine.begin() as db:
        claim = queue.claim(db, "audit", 200)
        assert claim is not None
        late = {event_id: utc_now() for event_id in claim.event_ids}
        with counted(pipeline) as said:
            queue.fail(
                db,
                claim,
                [
                    (each, Decision(State.RETRYING, "temporary", "away", attempts=1, due_at=late[each]))
                    for each in claim.event_ids
                ],
            )
    assert len(said) == 2
    assert count(pipeline, attempts) == 200
    found = pipeline.rows(select(deliveries.c.event_id, deliveries.c.due_at, deliveries.c.attempts))
    assert {event_id: (due_at, failed) for event_id, due_at, failed in found} == {
        event_id: (at, 1) for event_id, at in late.items()
    }


def test_no_statement_of_the_queue_reads_a_ledger_of_a_hundred_thousand_deliveries(make_pipeline):
    """Claims, leases and the sweep's looks take their partial index; a claim of 200 takes milliseconds."""
    pipeline = make_pipeline(lease_margin_seconds=0.5)
    with pipeline.ctx.engine.begin() as db:
        db.execute(
            text("""
                INSERT INTO deliveries (event_id, handler, state, due_at, attempts, crashes)
                SELECT gen_random_uuid(), 'audit',
                       CASE WHEN n % 10 = 0 THEN 'pending' ELSE 'done' END, n, 0, 0
                FROM generate_series(1, 100000) AS n
            """)
        )
    with pipeline.ctx.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as db:
        db.execute(text("VACUUM ANALYZE deliveries"))
    before = full_reads(pipeline)
    seconds = []
    # Often enough that PostgreSQL takes a plan that serves any parameters.
    for _ in range(20):
        began = time.monotonic()
        with pipeline.ctx.engine.begin() as db:
            claim = queue.claim(db, "audit", 200)
        seconds.append(time.monotonic() - began)
        assert claim is not None
        assert len(claim.event_ids) == 200
        with pipeline.ctx.engine.begin() as db:
            queue.claim(db, "audit", 1, suspects=True)
            queue.running(db)
            assert queue.due_handlers(db) == ["audit"]
            assert queue.finish(db, claim, claim.event_ids[:100]) == 100
            assert len(queue.abandoned(db, "audit", claim.token)) == 100
            queue.give_back(db, claim)
    assert full_reads(pipeline) == before
    assert sorted(seconds)[10] < 0.1
    print(f"a claim of 200 among 100,000: {sorted(seconds)[10] * 1000:.1f} ms")  # noqa: T201


def full_reads(pipeline) -> int:
    with pipeline.ctx.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as db:
        db.execute(text("SELECT pg_stat_force_next_flush()"))
        db.execute(text("SELECT 1"))
        found = text("SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'deliveries'")
        scans: int = db.scalar(found)
        return scans


def test_claims_by_eight_workers_with_connections_of_their_own_never_overlap(make_pipeline):
    pipelines = [make_pipeline({"audit": {}}, installation_key="one key")]
    pipelines[0].append(*[completion(number) for number in range(1500)])
    pipelines[0].ingest()
    pipelines += [make_pipeline({"audit": {}}, installation_key="one key") for _ in range(7)]

    def claim_all(pipeline) -> list[str]:
        mine: list[str] = []
        while True:
            with pipeline.ctx.engine.begin() as db:
                claim = queue.claim(db, "audit", 17)
            if claim is None:
                return mine
            mine += claim.event_ids

    with ThreadPoolExecutor(8) as pool:
        taken = [event_id for mine in pool.map(claim_all, pipelines) for event_id in mine]
    # One that another was taking at that moment is passed over; a last look finds it.
    taken += claim_all(pipelines[0])
    assert len(taken) == len(set(taken)) == 1500
