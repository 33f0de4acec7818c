from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from sqlalchemy import delete, update

from coursewire.errors import NotFound, Permanent, Temporary
from coursewire.event import Event, new_id
from coursewire.inbox import encode
from coursewire.ledger.engine import reading
from coursewire.ledger.ids import find
from coursewire.ledger.inbox_generations import note_generation
from coursewire.ledger.receipts import CONFLICT_ERRORS
from coursewire.ledger.reports import (
    EventFilter,
    list_dead_letters,
    list_events,
    list_handlers,
    list_quarantine,
)
from coursewire.ledger.states import CallbackState, EventState, callback_state, event_state
from coursewire.ledger.stats import Stats, take_stats
from coursewire.ledger.story import tell
from coursewire.ledger.tables import deliveries, keys, receipts, utc_now
from coursewire.plugins import Callback, Handler
from coursewire.spool import Spool
from schemas import samples
from workers.deliver import Deliverer
from workers.ingest import run_once

TWO = {"audit": {}, "certificates": {}}


class Fails(Handler):
    """Dies of every event."""

    def record(self, event: Event, db: Any) -> None:
        raise Permanent("no room for it")


class Stumbles(Handler):
    """Fails every time, and may be tried again."""

    def record(self, event: Event, db: Any) -> None:
        raise Temporary("come back later")


def completion(**parts: Any) -> bytes:
    """A passed completion, the same unless `user` or `grade` say otherwise."""
    body = samples.body("digitalchalk", "offering_completed")
    body["registration"] |= {"grade": parts.get("grade", 91.0), "passed": True}
    body["registration"]["id"] = parts.get("registration", body["registration"]["id"])
    body["user"] |= {"id": parts.get("user", "ana"), "email": parts.get("email", "Ana@example.org")}
    body["user"]["firstName"] = parts.get("name", "Ana")
    return orjson.dumps(body)


def stats_of(pipeline: Any) -> Stats:
    spool = Spool(pipeline.settings.spool_path, pipeline.settings.spool_max_bytes)
    try:
        return take_stats(pipeline.ctx.engine, pipeline.ctx.inbox, spool)
    finally:
        spool.close()


def counted(pipeline: Any) -> dict[str, int]:
    """The account without what is 0."""
    found = asdict(stats_of(pipeline))
    names = ["accepted", *map(str, CallbackState), "unexplained"]
    return {name: found[name] for name in names if found[name]}


def all_events(pipeline: Any, **wanted: Any) -> list[dict[str, Any]]:
    return list(list_events(pipeline.ctx.engine, EventFilter(**wanted)))


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([], "ignored"),
        (["done", "skipped"], "done"),
        (["skipped"], "done"),
        (["done", "dead"], "dead"),
        (["dead", "retrying"], "waiting"),
        (["running"], "waiting"),
        (["pending"], "waiting"),
    ],
)
def test_an_events_state_is_that_of_its_deliveries(states: list[str], expected: str) -> None:
    """What is open counts before what is dead; skipped is done; without a delivery it is ignored."""
    assert event_state(states) == expected


@pytest.mark.parametrize(
    ("outcome", "states", "expected"),
    [
        ("quarantined", ["pending", "dead"], "waiting"),
        ("quarantined", ["dead"], "dead"),
        ("quarantined", ["done"], "quarantined"),
        ("events", ["done", "skipped"], "done"),
        ("duplicate", [], "duplicate"),
        ("ignored", [], "ignored"),
    ],
)
def test_a_callback_counts_by_the_worst_that_came_of_it(
    outcome: str, states: list[str], expected: str
) -> None:
    """Waiting, dead, quarantined, done, duplicate, ignored: in this order."""
    assert callback_state(outcome, states) == expected


def test_every_callback_is_in_the_account_at_every_stage(make_pipeline: Callable[..., Any]) -> None:
    """Accepted is done, ignored, duplicate, quarantined, dead and waiting together, whatever was done yet."""
    pipeline = make_pipeline(TWO)
    invalid = orjson.dumps({"event": "offering_completed", "date": "yesterday"})
    unknown = orjson.dumps({"event": "coffee_spilled"})
    pipeline.append(completion(), completion(), completion(user="bo"), invalid, unknown, b"{")
    assert counted(pipeline) == {"accepted": 6, "waiting": 6}
    pipeline.ingest()
    assert counted(pipeline) == {
        "accepted": 6, "waiting": 2, "quarantined": 2, "duplicate": 1, "ignored": 1,
    }  # fmt: skip
    pipeline.deliver("certificates")
    Deliverer(pipeline.ctx, Fails("audit", {})).run_once()
    assert counted(pipeline) == {
        "accepted": 6, "dead": 2, "quarantined": 2, "duplicate": 1, "ignored": 1,
    }  # fmt: skip
    assert stats_of(pipeline).sources == {
        "chalk": {"done": 0, "ignored": 1, "duplicate": 1, "quarantined": 2, "dead": 2, "waiting": 0}
    }


def test_a_follow_up_counts_for_the_callback_that_it_came_of(make_pipeline: Callable[..., Any]) -> None:
    """A callback is done when the follow-ups of its events are."""
    pipeline = make_pipeline(TWO)
    pipeline.append(completion())
    pipeline.ingest()
    pipeline.deliver()
    assert counted(pipeline) == {"accepted": 1, "waiting": 1}
    pipeline.deliver()
    assert counted(pipeline) == {"accepted": 1, "done": 1}
    assert stats_of(pipeline).events == 2


def test_the_spool_is_in_the_account(make_pipeline: Callable[..., Any]) -> None:
    """What the spool keeps is accepted and waits; its age counts."""
    pipeline = make_pipeline()
    received = utc_now() - timedelta(hours=1)
    spool = Spool(pipeline.settings.spool_path, 1 << 20)
    spool.add([encode(Callback(new_id(), "chalk", completion(), received), "digitalchalk")])
    spool.close()
    assert counted(pipeline) == {"accepted": 1, "waiting": 1}
    assert 3600 <= stats_of(pipeline).oldest_waiting_seconds < 3700


def test_nothing_waits_for_zero_seconds(make_pipeline: Callable[..., Any]) -> None:
    """An empty installation has an account too."""
    assert asdict(stats_of(make_pipeline())) == {
        "accepted": 0,
        "done": 0,
        "ignored": 0,
        "duplicate": 0,
        "quarantined": 0,
        "dead": 0,
        "waiting": 0,
        "unexplained": 0,
        "events": 0,
        "oldest_waiting_seconds": 0.0,
        "sources": {},
    }


def test_an_entry_that_the_ledger_has_already_counts_once(make_pipeline: Callable[..., Any]) -> None:
    """A crash between the commit and the XDEL leaves it in both places until the sweep comes by."""
    pipeline = make_pipeline()
    pipeline.append(completion(), completion(user="bo"))
    finish = pipeline.ctx.inbox.finish
    pipeline.ctx.inbox.finish = lambda ids: None
    pipeline.ingest()
    assert pipeline.ctx.inbox.depth().waiting == 2
    assert counted(pipeline) == {"accepted": 2, "waiting": 2}
    pipeline.deliver()
    assert counted(pipeline) == {"accepted": 2, "done": 2}
    pipeline.append(completion(user="cleo"))
    assert counted(pipeline) == {"accepted": 3, "done": 2, "waiting": 1}
    finish([entry for entry, _ in pipeline.ctx.inbox.in_hand()])
    assert counted(pipeline) == {"accepted": 3, "done": 2, "waiting": 1}


def test_an_entry_that_was_appended_twice_counts_once(make_pipeline: Callable[..., Any]) -> None:
    """A reply that was lost makes the receiver append again, under the same receipt."""
    pipeline = make_pipeline()
    ids = pipeline.append(completion())
    pipeline.append(completion(), receipts=ids)
    pipeline.ingest()
    pipeline.deliver()
    assert counted(pipeline) == {"accepted": 1, "done": 1}


def test_what_is_missing_from_the_ledger_is_unexplained(make_pipeline: Callable[..., Any]) -> None:
    """The number of appends does not come from the ledger, so a row that is gone shows."""
    pipeline = make_pipeline()
    lost, _ = pipeline.append(completion(), completion(user="bo"))
    pipeline.ingest()
    pipeline.deliver()
    with pipeline.ctx.engine.begin() as db:
        db.execute(delete(receipts).where(receipts.c.id == lost))
    assert counted(pipeline) == {"accepted": 2, "done": 1, "unexplained": 1}


def test_the_account_survives_the_loss_of_the_inbox(make_pipeline: Callable[..., Any]) -> None:
    """When the server lost its data, what the ledger has was accepted before, at once and afterwards."""
    pipeline = make_pipeline()
    pipeline.append(completion())
    pipeline.ingest()
    pipeline.deliver()
    redis, namespace = pipeline.ctx.inbox.redis, pipeline.settings.namespace
    redis.delete(*redis.keys(f"{namespace}:*"))
    assert counted(pipeline) == {"accepted": 1, "done": 1}
    pipeline.append(completion(user="bo"))
    assert counted(pipeline) == {"accepted": 2, "done": 1, "waiting": 1}
    pipeline.ingest()
    pipeline.deliver()
    assert counted(pipeline) == {"accepted": 2, "done": 2}


def test_the_account_balances_while_callbacks_flow(make_pipeline: Callable[..., Any]) -> None:
    """Nothing is unexplained, and nothing counts twice, at any moment of a busy ingest."""
    pipeline = make_pipeline(ingest_batch=7)
    over = threading.Event()

    def flow() -> None:
        for number in range(60):
            users = [f"{number}.{each}" for each in range(5)]
            pipeline.append(*(completion(user=user, registration=user) for user in users))
            run_once(pipeline.ctx)
        pipeline.ingest()
        over.set()

    thread = threading.Thread(target=flow)
    thread.start()
    seen = []
    while not over.is_set():
        stats = stats_of(pipeline)
        seen.append(stats.accepted)
        assert (stats.unexplained, stats.waiting) == (0, stats.accepted)
    thread.join()
    assert seen == sorted(seen)
    assert counted(pipeline) == {"accepted": 300, "waiting": 300}


def test_a_noted_generation_changes_nothing(make_pipeline: Callable[..., Any]) -> None:
    """The first generation of an installation began with nothing."""
    pipeline = make_pipeline()
    with pipeline.ctx.engine.begin() as db:
        note_generation(db, pipeline.ctx.inbox.ensure())
    pipeline.append(completion())
    assert counted(pipeline) == {"accepted": 1, "waiting": 1}


def test_events_are_filtered(make_pipeline: Callable[..., Any]) -> None:
    """By source, our type or the LMS's own, state, learner by id or address, and time of receiving."""
    pipeline = make_pipeline(TWO)
    pipeline.append(completion(), completion(user="bo", registration="r2"), orjson.dumps({"event": "odd"}))
    pipeline.append(orjson.dumps(samples.body("toolzz", "activities.course.completed")), source="toolzz")
    pipeline.ingest()
    Deliverer(pipeline.ctx, Fails("audit", {})).run_once()
    pipeline.deliver("certificates")

    def found(**wanted: Any) -> list[tuple[str, str]]:
        return sorted({(event["source"], event["wire_type"]) for event in all_events(pipeline, **wanted)})

    completed, awarded = ("chalk", "offering_completed"), ("chalk", "certificate.awarded")
    toolzz = [("toolzz", "activities.course.completed"), ("toolzz", "certificate.awarded")]
    assert found(source="toolzz") == toolzz
    assert found(type="course.completed") == [completed, toolzz[0]]
    assert found(type="offering_completed") == [completed]
    assert found(state=EventState.IGNORED) == [("chalk", "odd")]
    assert found(state=EventState.DEAD) == [completed, toolzz[0]]
    assert found(state=EventState.WAITING) == [awarded, toolzz[1]]
    assert found(state=EventState.DONE) == []
    assert found(learner="bo") == [awarded, completed]
    assert found(learner="ANA@example.org", source="chalk") == [awarded, completed]
    assert found(learner="nobody@example.org") == []
    assert found(since=utc_now() + timedelta(hours=1)) == []
    assert found(until=datetime(2020, 1, 1, tzinfo=UTC)) == []
    assert len(found(since=utc_now() - timedelta(hours=1), until=utc_now())) == 5


def test_lists_are_whole_and_newest_first_across_pages(make_pipeline: Callable[..., Any]) -> None:
    """More than a page of events comes without a gap or a repetition, and a limit is kept."""
    pipeline = make_pipeline()
    pipeline.append(*(completion(user=f"u{number}", registration=f"r{number}") for number in range(1203)))
    pipeline.append(*(b"broken %d" % number for number in range(1003)))
    pipeline.ingest()
    ids = [event["id"] for event in all_events(pipeline)]
    assert len(ids) == len(set(ids)) == 1203
    assert ids == sorted(ids, reverse=True)
    limited = list_events(pipeline.ctx.engine, EventFilter(), 1001)
    assert [event["id"] for event in limited] == ids[:1001]
    by_email = list_events(pipeline.ctx.engine, EventFilter(learner="ana@example.org"), 3)
    assert [event["id"] for event in by_email] == ids[:3]
    quarantined = [row["receipt"] for row in list_quarantine(pipeline.ctx.engine)]
    assert len(set(quarantined)) == 1003
    assert quarantined == sorted(quarantined, reverse=True)
    assert len(list(list_quarantine(pipeline.ctx.engine, limit=1002))) == 1002
    while Deliverer(pipeline.ctx, Fails("audit", {})).run_once():
        pass
    dead = [row["event"] for row in list_dead_letters(pipeline.ctx.engine)]
    assert dead == ids


def test_handlers_count_what_waits_and_what_is_dead(make_pipeline: Callable[..., Any]) -> None:
    """Both by handler, from the deliveries themselves."""
    pipeline = make_pipeline(TWO)
    pipeline.append(completion(), completion(user="bo", registration="r2"))
    pipeline.ingest()
    Deliverer(pipeline.ctx, Fails("certificates", {})).run_once()
    Deliverer(pipeline.ctx, Stumbles("audit", {})).run_once()
    with reading(pipeline.ctx.engine) as db:
        counts = {row["name"]: (row["waiting"], row["dead"]) for row in list_handlers(db)}
    assert counts == {"audit": (2, 0), "certificates": (0, 2)}


def test_an_id_is_found_by_its_first_digits(make_pipeline: Callable[..., Any]) -> None:
    """Where no other begins so; hyphens and case do not matter. What is no id is not found either."""
    pipeline = make_pipeline()
    receipt = "0190b6e4-aaaa-7000-8000-000000000001"
    pipeline.append(completion(), completion(user="bo"), receipts=[receipt, receipt.replace("1", "2")])
    pipeline.ingest()
    with reading(pipeline.ctx.engine) as db:
        assert (find(db, "0190B6E4").kind, find(db, "0190B6E4").id) == ("receipt", receipt)
        assert find(db, receipt.replace("-", "")).id == receipt
        (event,) = (event["id"] for event in all_events(pipeline, learner="ana"))
        assert (find(db, event).kind, find(db, event).id) == ("event", event)
        for text, why in [
            ("0190b6e", "no id"),
            ("", "no id"),
            ("../../etc", "no id"),
            ("0190b6e4aaaa70008000000000000009", "has no receipt or event"),
            (event[:9], "beginning of several"),
        ]:
            with pytest.raises(NotFound, match=why):
                find(db, text)


def test_the_story_of_an_event_leaves_out_its_neighbours(make_pipeline: Callable[..., Any]) -> None:
    """Of an array of items: the event, what follows it, and its own item only."""
    pipeline = make_pipeline(TWO)
    items = [orjson.loads(completion(user=user, registration=user)) for user in ("ana", "bo")]
    items.append({"event": "offering_completed", "date": 5})
    (receipt,) = pipeline.append(orjson.dumps(items))
    pipeline.ingest()
    pipeline.deliver()
    (event, *_) = sorted(event["id"] for event in all_events(pipeline, learner="ana"))
    with reading(pipeline.ctx.engine) as db:
        whole = tell(db, find(db, receipt))
        alone = tell(db, find(db, event))
    assert [each["type"] for each in whole["events"]] == ["course.completed", "certificate.awarded"] * 2
    assert [each["learner"]["id"] for each in alone["events"]] == ["ana", "ana"]
    follow_up = alone["events"][1]
    assert (follow_up["parent"], follow_up["depth"]) == (event, 1)
    assert [row["item"] for row in whole["receipt"]["quarantine"]] == [2]
    assert alone["receipt"]["quarantine"] == []
    with reading(pipeline.ctx.engine) as db:
        below = tell(db, find(db, follow_up["id"]))
    assert [each["id"] for each in below["events"]] == [event, follow_up["id"]]


def test_the_story_tells_each_attempt(make_pipeline: Callable[..., Any]) -> None:
    """Failed ones from their table, and the one that ended the delivery from the delivery."""
    pipeline = make_pipeline()
    (receipt,) = pipeline.append(completion())
    pipeline.ingest()
    Deliverer(pipeline.ctx, Stumbles("audit", {})).run_once()
    with pipeline.ctx.engine.begin() as db:
        db.execute(update(deliveries).values(due_at=utc_now()))
    pipeline.deliver()
    with reading(pipeline.ctx.engine) as db:
        story = tell(db, find(db, receipt))
    told = [(each["outcome"], each["code"], each["detail"]) for each in story["attempts"]]
    assert told == [("failed", "temporary", "come back later"), ("done", None, None)]
    assert all(each["started_at"] <= each["ended_at"] for each in story["attempts"])
    (delivery,) = story["deliveries"]
    assert (delivery["state"], delivery["attempts"], delivery["crashes"]) == ("done", 1, 0)


def test_the_story_says_who_passed_over_an_event(make_pipeline: Callable[..., Any]) -> None:
    """Each handler without a delivery has its reason."""
    pipeline = make_pipeline({"audit": {}, "progress": {}, "certificates": {"events": ["path.completed"]}})
    (receipt, odd) = pipeline.append(completion(), orjson.dumps({"event": "odd"}))
    pipeline.ingest()
    with reading(pipeline.ctx.engine) as db:
        (event,) = tell(db, find(db, receipt))["events"]
        (unknown,) = tell(db, find(db, odd))["events"]
    assert event["passed_over"] == {"certificates": "does not want course.completed"}
    assert unknown["passed_over"] == dict.fromkeys(
        ("audit", "certificates", "progress"), "no schema knows this event"
    )


def test_a_conflict_names_the_event_that_has_the_key(make_pipeline: Callable[..., Any]) -> None:
    """The story of the second callback leads to the first one's event, and a duplicate's does too."""
    pipeline = make_pipeline()
    first, conflicting, again = pipeline.append(completion(), completion(name="Eva"), completion())
    pipeline.ingest()
    (event,) = all_events(pipeline)
    with reading(pipeline.ctx.engine) as db:
        conflict = tell(db, find(db, conflicting))["receipt"]
        duplicate = tell(db, find(db, again))["receipt"]
        (told,) = tell(db, find(db, first))["events"]
    assert (conflict["state"], conflict["outcome"]) == ("quarantined", "quarantined")
    (row,) = conflict["quarantine"]
    assert (row["reason"], row["errors"], row["event"]) == ("conflict", CONFLICT_ERRORS, event["id"])
    assert duplicate["state"] == "duplicate"
    (repeat,) = duplicate["duplicates"]
    assert (repeat["item"], repeat["event"], repeat["receipt"]) == (0, event["id"], first)
    assert told["repeated_by"] == [{"receipt": again, "item": 0}]
    assert len(pipeline.rows(keys.select())) == 1
