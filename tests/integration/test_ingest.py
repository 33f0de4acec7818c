"""From the inbox to the ledger: nothing is lost, nothing doubles, wherever ingest ends in between."""

from __future__ import annotations

import dataclasses
import json
import zlib
from pathlib import Path

import pytest
from sqlalchemy import create_engine, func, select
from sqlalchemy.exc import OperationalError

from coursewire.errors import Code
from coursewire.hints import INGEST, handler_queue
from coursewire.inbox import Entry
from coursewire.ledger import registry
from coursewire.ledger.inbox_generations import appended_before
from coursewire.ledger.receipts import Problem, Read, write
from coursewire.ledger.tables import (
    deliveries,
    duplicates,
    events,
    keys,
    metadata,
    quarantine,
    reappends,
    receipts,
)
from coursewire.settings import build_settings
from workers.ingest import MAX_READS, ingest_batch, run_once
from workers.read import Reader

SAMPLES = Path(__file__).parents[2] / "schemas" / "samples"


def completion(**changes: object) -> bytes:
    body = json.loads((SAMPLES / "digitalchalk" / "offering_completed.json").read_bytes())
    for path, value in changes.items():
        *outer, last = path.split("__")
        target = body
        for name in outer:
            target = target[name]
        target[last] = value
    return json.dumps(body).encode()


def count(pipeline, table):
    return pipeline.rows(select(func.count()).select_from(table))[0][0]


def outcomes(pipeline):
    return dict(
        tuple(row)
        for row in pipeline.rows(select(receipts.c.outcome, func.count()).group_by(receipts.c.outcome))
    )


def test_a_callback_becomes_a_receipt_an_event_and_a_delivery_for_each_taker(make_pipeline):
    pipeline = make_pipeline({"audit": {}, "certificates": {}, "progress": {}, "notifications": {}})
    (receipt,) = pipeline.append(completion())
    pipeline.ingest()
    (row,) = pipeline.rows(select(receipts))
    assert (row.id, row.source, row.outcome, row.verified_by) == (receipt, "chalk", "events", "path_token")
    assert zlib.decompress(row.body) == completion()
    assert pipeline.states() == {
        "audit": ["pending"],
        "certificates": ["pending"],
        "notifications": ["pending"],
        "progress": ["pending"],
    }
    assert pipeline.ctx.inbox.depth().waiting == 0


def test_the_same_fact_sent_again_is_a_duplicate_within_a_batch_and_across_batches(make_pipeline):
    pipeline = make_pipeline()
    pipeline.append(*[completion()] * 60)
    pipeline.ingest()
    pipeline.append(*[completion()] * 40)
    pipeline.ingest()
    assert outcomes(pipeline) == {"events": 1, "duplicate": 99}
    assert count(pipeline, events) == 1
    assert count(pipeline, duplicates) == 99


def test_a_regrade_is_a_new_event(make_pipeline):
    pipeline = make_pipeline()
    pipeline.append(completion(), completion(registration__passed=True, registration__grade=91.0))
    pipeline.ingest()
    assert outcomes(pipeline) == {"events": 2}


def test_the_same_key_with_other_content_is_quarantined_as_conflict(make_pipeline):
    pipeline = make_pipeline()
    pipeline.append(completion(), completion(user__firstName="Somebody", user__lastName="Else"))
    pipeline.ingest()
    assert outcomes(pipeline) == {"events": 1, "quarantined": 1}
    (row,) = pipeline.rows(select(quarantine))
    assert (row.reason, row.wire_type) == ("conflict", "offering_completed")
    assert row.event_id == pipeline.rows(select(events.c.id))[0][0]


def test_one_key_at_two_sources_is_two_events(make_pipeline):
    sources = {name: {"provider": "digitalchalk", "token": name} for name in ("north", "south")}
    pipeline = make_pipeline(sources=sources)
    pipeline.append(completion(), source="north")
    pipeline.append(completion(), source="south")
    pipeline.ingest()
    assert outcomes(pipeline) == {"events": 2}


def test_what_does_not_validate_is_quarantined_and_hurts_no_other(make_pipeline):
    pipeline = make_pipeline()
    pipeline.append(completion(), b"garbage", completion(registration__passed="yes", registration__id="x"))
    pipeline.ingest()
    assert outcomes(pipeline) == {"events": 1, "quarantined": 2}
    found = {row.reason: row.errors for row in pipeline.rows(select(quarantine))}
    assert sorted(found) == ["schema_violation", "unparsable"]
    assert list(found["schema_violation"]) == ["registration.passed"]


def test_an_unknown_event_is_kept_and_ignored(make_pipeline):
    pipeline = make_pipeline()
    pipeline.append(b'{"event": "user_deleted", "user": {"id": "u"}}')
    pipeline.ingest()
    assert outcomes(pipeline) == {"ignored": 1}
    (row,) = pipeline.rows(select(events))
    assert (row.type, row.wire_type) == ("unknown", "user_deleted")
    assert count(pipeline, deliveries) == 0


def test_an_event_that_no_handler_wants_is_ignored(make_pipeline):
    pipeline = make_pipeline({"certificates": {}})
    pipeline.append((SAMPLES / "digitalchalk" / "user_created.json").read_bytes())
    pipeline.ingest()
    assert outcomes(pipeline) == {"ignored": 1}


def test_a_callback_of_a_source_that_this_worker_does_not_know_is_quarantined(make_pipeline):
    pipeline = make_pipeline()
    pipeline.append(completion())
    ctx = dataclasses.replace(pipeline.ctx, reader=Reader({}, {}))
    while run_once(ctx):
        pass
    assert [row.reason for row in pipeline.rows(select(quarantine))] == ["unknown_source"]


def test_a_crash_before_the_commit_loses_nothing(make_pipeline):
    """The entries stay pending; given back, they are read again."""
    pipeline = make_pipeline()
    pipeline.append(completion())
    entries = pipeline.ctx.inbox.read(10)  # and the process dies
    assert not run_once(pipeline.ctx)
    pipeline.ctx.inbox.abandon([entry.id for entry in entries])
    pipeline.ingest()
    assert outcomes(pipeline) == {"events": 1}


def test_a_crash_after_the_commit_doubles_nothing(make_pipeline):
    pipeline = make_pipeline()
    pipeline.append(completion())
    entries = pipeline.ctx.inbox.read(10)
    with pipeline.ctx.engine.begin() as db:
        write(
            db,
            [pipeline.ctx.reader.read(entry) for entry in entries],
            pipeline.ctx.secret,
            registry.wanted(db),
        )  # and the process dies
    pipeline.ctx.inbox.abandon([entry.id for entry in entries])
    pipeline.ingest()
    assert outcomes(pipeline) == {"events": 1}
    assert count(pipeline, duplicates) == 0
    assert pipeline.ctx.inbox.depth().waiting == 0


def test_a_receipt_appended_twice_is_one_receipt_and_is_known_as_appended_twice(make_pipeline):
    """A lost reply makes the receiver append again; the count of accepted callbacks stays right."""
    pipeline = make_pipeline()
    (receipt,) = pipeline.append(completion())
    pipeline.append(completion(), receipts=[receipt])
    pipeline.ingest()
    pipeline.append(completion(), receipts=[receipt])
    pipeline.ingest()
    assert outcomes(pipeline) == {"events": 1}
    assert count(pipeline, reappends) == 2
    with pipeline.ctx.engine.begin() as db:
        assert pipeline.ctx.inbox.depth().appended + appended_before(db) == 1


class SpoiltReader(Reader):
    """Reads as the real one, but one receipt's result cannot be written: JSON has no such value."""

    spoilt = ""

    def read(self, entry: Entry) -> Read:
        read = super().read(entry)
        if read.receipt == self.spoilt:
            return dataclasses.replace(
                read,
                items=[Problem(Code.UNPARSABLE, {"": [object()]})],  # type: ignore[list-item]
            )
        return read


def test_one_poisonous_callback_in_a_batch_of_50_hurts_no_other(make_pipeline):
    """The batch is taken apart; the poison alone is read again and in the end quarantined unparsed."""
    pipeline = make_pipeline()
    ids = pipeline.append(*[completion(registration__id=f"r{number}") for number in range(50)])
    reader = SpoiltReader(pipeline.settings.sources, pipeline.ctx.reader._providers)
    reader.spoilt = ids[25]
    ctx = dataclasses.replace(pipeline.ctx, reader=reader)
    while run_once(ctx):
        pass
    assert outcomes(pipeline) == {"events": 49, "quarantined": 1}
    (row,) = pipeline.rows(select(quarantine))
    assert (row.receipt_id, row.reason) == (ids[25], "poison")
    (kept,) = pipeline.rows(select(receipts.c.body).where(receipts.c.id == ids[25]))
    assert json.loads(zlib.decompress(kept.body))["registration"]["id"] == "r25"


def test_an_entry_whose_readers_die_is_quarantined_unparsed_after_some_reads(make_pipeline):
    pipeline = make_pipeline()
    pipeline.append(completion(), completion(registration__id="other"))
    inbox = pipeline.ctx.inbox
    (victim, _) = inbox.read(2)
    for _ in range(MAX_READS - 1):
        inbox.abandon([victim.id])
        (again,) = inbox.read_returned(1)
        assert again.id == victim.id
    inbox.abandon([victim.id])
    pipeline.ingest()
    assert [row.reason for row in pipeline.rows(select(quarantine))] == ["poison"]


def test_a_fault_of_the_database_counts_against_no_entry(make_pipeline, tmp_path):
    pipeline = make_pipeline()
    pipeline.append(completion())
    broken = dataclasses.replace(pipeline.ctx, engine=create_engine(f"sqlite:///{tmp_path / 'empty'}"))
    for _ in range(MAX_READS + 2):
        with pytest.raises(OperationalError):
            run_once(broken)
    broken.engine.dispose()
    pipeline.ingest()
    assert outcomes(pipeline) == {"events": 1}


def test_a_stream_that_lost_everything_is_made_again_and_the_count_goes_on(make_pipeline):
    pipeline = make_pipeline()
    pipeline.append(completion(), completion(registration__id="other"))
    pipeline.ingest()
    redis = pipeline.ctx.inbox.redis
    for key in redis.keys(f"{pipeline.settings.namespace}:*"):
        redis.delete(key)
    pipeline.append(completion(registration__id="third"))
    pipeline.ingest()
    pipeline.ingest()
    assert outcomes(pipeline) == {"events": 3}
    with pipeline.ctx.engine.begin() as db:
        assert pipeline.ctx.inbox.depth().appended + appended_before(db) == 3


def test_ingest_hints_each_handler_that_has_work_and_the_hint_carries_nothing(make_pipeline):
    pipeline = make_pipeline({"audit": {}, "certificates": {}})
    pipeline.append(completion())
    pipeline.ingest()
    redis, namespace = pipeline.ctx.inbox.redis, pipeline.settings.namespace
    queues = sorted(key.decode() for key in redis.keys(f"{namespace}:{namespace}.handler.*"))
    assert queues == [f"{namespace}:{namespace}.{handler_queue(name)}" for name in ("audit", "certificates")]
    message = json.loads(redis.lindex(queues[0], 0))
    assert message["headers"]["task"] == "coursewire.handler.audit"
    assert message["headers"]["argsrepr"] == "()"
    assert message["headers"]["kwargsrepr"] == "{}"
    assert pipeline.ctx.hints.waiting(handler_queue("audit")) == 1
    assert pipeline.ctx.hints.send([handler_queue("audit"), INGEST]) == []
    assert pipeline.ctx.hints.waiting(handler_queue("audit")) == 1, "the token keeps hints few"


def test_no_secret_of_a_body_reaches_the_ledger(make_pipeline):
    """DigitalChalk sends the new user's password in clear; also in bodies that do not parse or validate."""
    pipeline = make_pipeline()
    created = (SAMPLES / "digitalchalk" / "user_created.json").read_text()
    password = json.loads(created)["user"]["password"]
    pipeline.append(
        created.encode(),
        created[:-3].encode(),
        created.replace("user_created", "user_creatd").encode(),
        created.replace('"en"', "5").encode(),
    )
    pipeline.ingest()
    pipeline.deliver()
    assert outcomes(pipeline) == {"events": 1, "quarantined": 2, "ignored": 1}
    for table in metadata.sorted_tables:
        for row in pipeline.rows(select(table)):
            for name, value in row._mapping.items():
                text = zlib.decompress(value) if name in ("body", "document") else value
                assert password not in str(text), table.name


def test_a_batch_is_bounded_by_bytes(make_pipeline):
    pipeline = make_pipeline()
    pipeline.append(*[b"x" * 1_000_000] * 70)
    assert len(pipeline.ctx.inbox.read(500)) == 64
    ingest_batch(pipeline.ctx, pipeline.ctx.inbox.read(500))
    assert outcomes(pipeline) == {"quarantined": 6}
    assert count(pipeline, keys) == 0


def test_a_source_that_was_added_a_moment_ago_is_known(make_pipeline, tmp_path):
    """The receiver takes its callbacks before the workers are started again."""
    pipeline = make_pipeline()
    added = {"provider": "digitalchalk", "token": "t"}
    now = build_settings({"sources": {"chalk": added}}, data_dir=tmp_path)
    pipeline.append(completion())
    ctx = dataclasses.replace(pipeline.ctx, reader=Reader({}, {}, refresh=lambda: now))
    while run_once(ctx):
        pass
    assert outcomes(pipeline) == {"events": 1}
