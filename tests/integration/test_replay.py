from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

import orjson
import pytest
from sqlalchemy import func, select, update

from coursewire.errors import NotFound, Permanent, SchemaViolation
from coursewire.event import Event
from coursewire.ledger import replay
from coursewire.ledger.deliveries import claim
from coursewire.ledger.engine import reading
from coursewire.ledger.handler_state import retire, set_paused
from coursewire.ledger.ids import Found
from coursewire.ledger.replay_plan import Plan, make_plan
from coursewire.ledger.selection import Selection
from coursewire.ledger.states import CallbackState
from coursewire.ledger.story import tell
from coursewire.ledger.tables import (
    attempts,
    audit,
    deliveries,
    duplicates,
    events,
    keys,
    quarantine,
    receipts,
    utc_now,
)
from coursewire.plugins import Callback, Handler, Reading
from coursewire.settings import HandlerSettings
from schemas import samples
from schemas.digitalchalk import DigitalChalk
from workers.deliver import Deliverer
from workers.read import Reader

TWO = {"audit": {}, "certificates": {}}


class NoCompletions(DigitalChalk):
    """DigitalChalk as a version would know it that has no schema for completions yet."""

    events = tuple(schema for schema in DigitalChalk.events if schema.wire_type != "offering_completed")


class Stricter(DigitalChalk):
    """A version with a mistake: it takes no grade above 90."""

    def read(self, item: Any, callback: Callback, zone: ZoneInfo) -> Reading:
        if item.get("registration", {}).get("grade", 0) > 90:
            raise SchemaViolation({"registration.grade": ["must be at most 90"]}, wire_type=item["event"])
        return super().read(item, callback, zone)


class Fails(Handler):
    def record(self, event: Event, db: Any) -> None:
        raise Permanent("no room for it")


def completion(user: str = "ana", name: str = "Ana", grade: float = 91.0) -> dict[str, Any]:
    body = samples.body("digitalchalk", "offering_completed")
    body["registration"] |= {"id": f"r-{user}", "grade": grade, "passed": True}
    body["user"] |= {"id": user, "firstName": name}
    return body


def with_schemas(pipeline: Any, provider: type[DigitalChalk]) -> Callable[..., list[str]]:
    """Appends and ingests bodies as a version with other schemas would."""

    def take(*bodies: Any) -> list[str]:
        ids: list[str] = pipeline.append(
            *(body if isinstance(body, bytes) else orjson.dumps(body) for body in bodies)
        )
        today = pipeline.ctx
        other = Reader(pipeline.settings.sources, {"digitalchalk": provider()})
        pipeline.ctx = replace(today, reader=other)
        try:
            pipeline.ingest()
        finally:
            pipeline.ctx = today
        return ids

    return take


@pytest.fixture
def restart() -> Iterator[Callable[..., Any]]:
    """The same installation after its handlers were configured otherwise and the stack was started again."""
    made = []

    def make(pipeline: Any, *names: str) -> Any:
        handlers = {name: HandlerSettings(name, name) for name in names}
        made.append(type(pipeline)(replace(pipeline.settings, handlers=handlers)))
        return made[-1]

    yield make
    for pipeline in made:
        pipeline.ctx.engine.dispose()
        pipeline.ctx.inbox.redis.close()
        pipeline.app.close()


def plan(pipeline: Any, **chosen: Any) -> Plan:
    ctx = pipeline.ctx
    return make_plan(ctx.engine, Selection(**chosen), ctx.reader.read, ctx.secret)


def run(pipeline: Any, **chosen: Any) -> replay.Result:
    ctx = pipeline.ctx
    return replay.run(ctx.engine, Selection(**chosen), ctx.reader.read, ctx.secret)


def outcomes(pipeline: Any) -> dict[str, str]:
    return {row.id: row.outcome for row in pipeline.rows(select(receipts.c.id, receipts.c.outcome))}


def count(pipeline: Any, table: Any) -> int:
    (row,) = pipeline.rows(select(func.count()).select_from(table))
    return int(row[0])


def everything(pipeline: Any) -> Mapping[str, Any]:
    """All rows that a replay could touch, but for the audit trail."""
    tables = (receipts, events, keys, duplicates, quarantine, deliveries, attempts)
    return {table.name: sorted(map(repr, pipeline.rows(select(table)))) for table in tables}


def trail(pipeline: Any) -> list[tuple[str | None, Any]]:
    statement = select(audit.c.outcome, audit.c.detail).where(audit.c.kind == "replay").order_by(audit.c.id)
    return [(row.outcome, row.detail) for row in pipeline.rows(statement)]


def test_what_validates_today_leaves_quarantine(make_pipeline: Callable[..., Any]) -> None:
    """Its items become events with deliveries, as if they came today; the receipt is done with."""
    pipeline = make_pipeline(TWO)
    (receipt,) = with_schemas(pipeline, Stricter)(completion())
    assert outcomes(pipeline) == {receipt: "quarantined"}
    planned = plan(pipeline, receipts=[receipt])
    assert (planned.read_again, planned.looked_at, planned.would_be.events) == (1, 1, 1)
    assert (planned.run_again, planned.offer, planned.empty) == (0, 0, False)
    assert count(pipeline, events) == 0
    done = run(pipeline, receipts=[receipt])
    assert (done.read_again, done.became.events, done.handlers) == (1, 1, {"audit", "certificates"})
    assert count(pipeline, quarantine) == 0
    assert outcomes(pipeline) == {receipt: "events"}
    assert pipeline.states() == {"audit": ["pending"], "certificates": ["pending"]}
    (event,) = pipeline.rows(select(events.c.receipt_id, events.c.received_at))
    (row,) = pipeline.rows(select(receipts.c.received_at))
    assert (event.receipt_id, event.received_at) == (receipt, row.received_at)
    assert trail(pipeline) == [("events", {"events": 1, "duplicates": 0, "quarantined": 0})]


def test_a_replay_may_be_repeated(make_pipeline: Callable[..., Any]) -> None:
    """The second one changes nothing, whatever the first one did."""
    pipeline = make_pipeline(TWO)
    with_schemas(pipeline, Stricter)(completion(), completion("bo"), b"{", completion("cleo", grade=80))
    with_schemas(pipeline, NoCompletions)(completion("dan"), [completion("eva"), {"event": "odd"}])
    Deliverer(pipeline.ctx, Fails("audit", {})).run_once()
    first = run(pipeline, source="chalk")
    assert (first.became.events, first.run_again) == (4, 1)
    before = everything(pipeline)
    length = len(trail(pipeline))
    second = run(pipeline, source="chalk")
    assert (second.became.events, second.became.duplicates, second.became.quarantined) == (0, 0, 0)
    assert (second.run_again, second.offered) == (0, 0)
    assert everything(pipeline) == before
    assert len(trail(pipeline)) == length


def test_what_still_fails_gets_todays_errors(make_pipeline: Callable[..., Any]) -> None:
    """It stays in quarantine; errors that are the same stay as they are, with their time."""
    pipeline = make_pipeline()
    spoilt = completion() | {"date": "yesterday"}
    (receipt,) = with_schemas(pipeline, Stricter)(spoilt)
    run(pipeline, receipts=[receipt])
    (row,) = pipeline.rows(select(quarantine))
    assert list(row.errors) == ["date"]
    assert row.reason == "schema_violation"
    assert run(pipeline, receipts=[receipt]).became.unchanged == 1
    assert pipeline.rows(select(quarantine.c.quarantined_at)) == [(row.quarantined_at,)]


def test_what_became_known_replaces_the_unknown_event(make_pipeline: Callable[..., Any]) -> None:
    """The ignored event and its key give way to the real one; bodies that repeated it repeat that one."""
    pipeline = make_pipeline(TWO)
    first, again = with_schemas(pipeline, NoCompletions)(completion(), completion())
    assert outcomes(pipeline) == {first: "ignored", again: "duplicate"}
    ((unknown,),) = pipeline.rows(select(events.c.id))
    assert run(pipeline, events=[unknown]).became.events == 1
    ((event, kind),) = pipeline.rows(select(events.c.id, events.c.type))
    assert (kind, event == unknown) == ("course.completed", False)
    assert pipeline.rows(select(keys.c.event_id)) == [(event,)]
    assert pipeline.rows(select(duplicates.c.receipt_id, duplicates.c.event_id)) == [(again, event)]
    assert outcomes(pipeline) == {first: "events", again: "duplicate"}
    assert plan(pipeline, receipts=[first, again]).empty


def test_an_unknown_event_that_came_again_meanwhile_is_a_duplicate(make_pipeline: Callable[..., Any]) -> None:
    """The schema came, then the same fact again, and only then the replay: there is one event."""
    pipeline = make_pipeline()
    (old,) = with_schemas(pipeline, NoCompletions)(completion())
    (new,) = with_schemas(pipeline, DigitalChalk)(completion())
    result = run(pipeline, state=CallbackState.IGNORED)
    assert (result.became.events, result.became.duplicates) == (0, 1)
    assert outcomes(pipeline) == {old: "duplicate", new: "events"}
    assert count(pipeline, events) == count(pipeline, keys) == 1


def test_an_unknown_event_that_breaks_todays_rules_is_quarantined(make_pipeline: Callable[..., Any]) -> None:
    """It shows its errors, and is replayed again when the rules change."""
    pipeline = make_pipeline()
    (receipt,) = with_schemas(pipeline, NoCompletions)(completion())
    stricter = Reader(pipeline.settings.sources, {"digitalchalk": Stricter()})
    ctx = pipeline.ctx
    replay.run(ctx.engine, Selection(receipts=[receipt]), stricter.read, ctx.secret)
    assert outcomes(pipeline) == {receipt: "quarantined"}
    assert count(pipeline, quarantine) == 1
    assert run(pipeline, receipts=[receipt]).became.events == 1
    assert outcomes(pipeline) == {receipt: "events"}
    assert (count(pipeline, quarantine), count(pipeline, events)) == (0, 1)


def test_a_body_that_did_not_parse_becomes_all_its_items(make_pipeline: Callable[..., Any]) -> None:
    """One quarantined body may hold many items, some good and some not."""

    class Splits(DigitalChalk):
        def split(self, callback: Callback) -> Any:
            raise RuntimeError("a mistake of that version")

    pipeline = make_pipeline()
    (receipt,) = with_schemas(pipeline, Splits)([completion(), completion("bo"), {"event": 5}])
    assert pipeline.rows(select(quarantine.c.item, quarantine.c.reason)) == [(0, "internal_error")]
    result = run(pipeline, reason="internal_error")
    assert (result.became.events, result.became.quarantined) == (2, 1)
    assert pipeline.rows(select(quarantine.c.item, quarantine.c.reason)) == [(2, "schema_violation")]
    assert sorted(row.item for row in pipeline.rows(select(events.c.item))) == [0, 1]
    assert outcomes(pipeline) == {receipt: "quarantined"}


def test_items_that_are_events_already_are_left_alone(make_pipeline: Callable[..., Any]) -> None:
    """Reading a callback again for one item does nothing to the others, nor to their deliveries."""
    pipeline = make_pipeline()
    take = with_schemas(pipeline, Stricter)
    (receipt,) = take([completion("low", grade=50), completion("high"), completion("low", grade=50)])
    pipeline.deliver()
    before = pipeline.rows(select(events))
    result = run(pipeline, receipts=[receipt])
    assert (result.became.events, result.became.unchanged) == (1, 2)
    assert pipeline.states() == {"audit": ["done", "pending"]}
    assert [row for row in pipeline.rows(select(events)) if row in before] == before


def test_a_conflict_is_never_entered(make_pipeline: Callable[..., Any]) -> None:
    """Which of the two is right only a person can tell; the plan says so."""
    pipeline = make_pipeline()
    first, conflicting = with_schemas(pipeline, DigitalChalk)(completion(), completion(name="Eva"))
    before = everything(pipeline)
    planned = plan(pipeline, state=CallbackState.QUARANTINED)
    assert (planned.would_be.conflicts, planned.would_be.events) == (1, 0)
    assert [row.now for row in planned.rows] == ["1 in conflict"]
    result = run(pipeline, receipts=[first, conflicting])
    assert (result.became.conflicts, result.became.unchanged) == (1, 1)
    assert everything(pipeline) == before


def test_a_redacted_password_is_no_error(make_pipeline: Callable[..., Any]) -> None:
    """The stored body has no password any more; it reads and counts as the same event."""
    pipeline = make_pipeline()

    class NoUsers(DigitalChalk):
        events = tuple(schema for schema in DigitalChalk.events if schema.wire_type != "user_created")

    (old,) = with_schemas(pipeline, NoUsers)(samples.body("digitalchalk", "user_created"))
    (new,) = with_schemas(pipeline, DigitalChalk)(samples.body("digitalchalk", "user_created"))
    assert run(pipeline, receipts=[old]).became.duplicates == 1
    assert outcomes(pipeline) == {old: "duplicate", new: "events"}


def test_a_callback_whose_source_is_gone_is_left_alone(make_pipeline: Callable[..., Any]) -> None:
    """Its errors would be worse than those that are there."""
    pipeline = make_pipeline()
    with_schemas(pipeline, Stricter)(completion())
    before = everything(pipeline)
    ctx = pipeline.ctx
    nobody = Reader({}, {})
    result = replay.run(ctx.engine, Selection(source="chalk"), nobody.read, ctx.secret)
    assert result.became.obstacles == {"its source is not configured": 1}
    assert everything(pipeline) == before


def test_a_callback_without_its_body_is_left_alone(make_pipeline: Callable[..., Any]) -> None:
    """Where the provider was not configured nothing could be redacted, so no body was kept."""
    pipeline = make_pipeline()
    ids = pipeline.append(orjson.dumps(completion()))
    today = pipeline.ctx
    pipeline.ctx = replace(today, reader=Reader({}, {}))
    pipeline.ingest()
    pipeline.ctx = today
    result = run(pipeline, receipts=ids)
    assert list(result.became.obstacles) == [
        "its body was not kept: the provider was not configured when it came"
    ]
    assert outcomes(pipeline) == {ids[0]: "quarantined"}


def test_dead_deliveries_run_again(make_pipeline: Callable[..., Any]) -> None:
    """As if they had never been tried; what was tried stays in the attempts."""
    pipeline = make_pipeline(TWO)
    with_schemas(pipeline, DigitalChalk)(completion(), completion("bo"))
    Deliverer(pipeline.ctx, Fails("audit", {})).run_once()
    Deliverer(pipeline.ctx, Fails("certificates", {})).run_once()
    assert plan(pipeline, handler="audit").run_again == 2
    result = run(pipeline, handler="audit")
    assert (result.run_again, result.handlers) == (2, {"audit"})
    assert pipeline.states() == {"audit": ["pending"] * 2, "certificates": ["dead"] * 2}
    (row, _) = pipeline.rows(select(deliveries).where(deliveries.c.handler == "audit"))
    assert (row.attempts, row.crashes, row.code, row.detail, row.token) == (0, 0, None, None, None)
    assert (row.claimed_at, row.finished_at) == (None, None)
    assert trail(pipeline) == [("run_again", {"handler": "audit", "died_of": "permanent"})] * 2
    pipeline.deliver("audit")
    assert pipeline.states()["audit"] == ["done", "done"]
    assert count(pipeline, attempts) == 4


def test_dead_deliveries_are_chosen(make_pipeline: Callable[..., Any]) -> None:
    """By id of event or receipt, by reason, type and time."""
    pipeline = make_pipeline()
    first, second = with_schemas(pipeline, DigitalChalk)(completion(), completion("bo"))
    Deliverer(pipeline.ctx, Fails("audit", {})).run_once()
    ((event,),) = pipeline.rows(select(events.c.id).where(events.c.receipt_id == first))
    hour = timedelta(hours=1)
    for chosen, expected in [
        ({"events": [event]}, 1),
        ({"receipts": [second]}, 1),
        ({"receipts": [first], "events": [event]}, 1),
        ({"reason": "permanent"}, 2),
        ({"reason": "temporary"}, 0),
        ({"type": "course.completed"}, 2),
        ({"type": "offering_completed"}, 2),
        ({"type": "learner.created"}, 0),
        ({"state": CallbackState.DEAD}, 2),
        ({"state": CallbackState.QUARANTINED}, 0),
        ({"source": "toolzz"}, 0),
        ({"since": utc_now() - hour}, 2),
        ({"since": utc_now() + hour}, 0),
        ({"until": utc_now() - hour}, 0),
    ]:
        planned = plan(pipeline, **chosen)
        assert (planned.run_again, planned.read_again, planned.offer) == (expected, 0, 0), chosen


def test_what_is_finished_stays_as_it_is(make_pipeline: Callable[..., Any]) -> None:
    """A plan says how much there is of it, and of what is under way."""
    pipeline = make_pipeline(TWO)
    (receipt,) = with_schemas(pipeline, DigitalChalk)(completion(grade=91.0))
    pipeline.deliver("audit")
    before = everything(pipeline)
    planned = plan(pipeline, receipts=[receipt])
    assert (planned.empty, planned.finished, planned.waiting) == (True, 1, 1)
    assert plan(pipeline, state=CallbackState.DONE).finished == 1
    assert run(pipeline, receipts=[receipt]) == replay.Result()
    assert everything(pipeline) == before


def test_a_handler_that_came_later_gets_older_events(
    make_pipeline: Callable[..., Any], restart: Callable[..., Any]
) -> None:
    """Those of types that it wants, received since then, of which it has no delivery."""
    pipeline = make_pipeline({"progress": {"events": ["registration.created"]}})
    (first, _) = with_schemas(pipeline, DigitalChalk)(
        completion(), samples.body("digitalchalk", "user_created")
    )
    assert set(outcomes(pipeline).values()) == {"ignored"}
    later = restart(pipeline, "progress", "audit")
    hour = timedelta(hours=1)
    assert plan(later, handler="progress").offer == 0
    assert plan(later, handler="progress", since=utc_now() + hour).offer == 0
    assert plan(later, handler="progress", since=utc_now() - hour, type="learner.created").offer == 0
    assert plan(later, handler="progress", since=utc_now() - hour).offer == 1
    result = run(later, handler="progress", since=utc_now() - hour)
    assert (result.offered, result.handlers) == (1, {"progress"})
    assert later.states() == {"progress": ["pending"]}
    assert outcomes(later)[first] == "events"
    assert sorted(outcomes(later).values()) == ["events", "ignored"]
    assert trail(later) == [("offered", {"handler": "progress"})]
    assert run(later, handler="progress", since=utc_now() - hour).offered == 0
    later.deliver()
    assert later.states() == {"progress": ["done"]}


def test_what_nobody_wanted_is_offered_to_who_wants_it_now(
    make_pipeline: Callable[..., Any], restart: Callable[..., Any]
) -> None:
    """Replaying what was ignored also reaches handlers that came since; what somebody took is not theirs."""
    pipeline = make_pipeline({"progress": {"events": ["course.completed"]}})
    taken, ignored = with_schemas(pipeline, DigitalChalk)(
        completion(), samples.body("digitalchalk", "user_created")
    )
    later = restart(pipeline, "progress", "audit")
    planned = plan(later, state=CallbackState.IGNORED)
    assert [(row.kind, row.receipt, row.handler) for row in planned.rows] == [("offer", ignored, "audit")]
    assert run(later, state=CallbackState.IGNORED).offered == 1
    assert later.states() == {"audit": ["pending"], "progress": ["pending"]}
    assert outcomes(later) == {taken: "events", ignored: "events"}


def test_an_event_is_offered_by_its_id(
    make_pipeline: Callable[..., Any], restart: Callable[..., Any]
) -> None:
    """With a handler, whenever it came; a handler that the ledger does not have is not found."""
    pipeline = make_pipeline({"progress": {}})
    (receipt,) = with_schemas(pipeline, DigitalChalk)(completion())
    later = restart(pipeline, "audit", "certificates", "progress")
    assert plan(later, receipts=[receipt]).offer == 0
    assert run(later, receipts=[receipt], handler="certificates").offered == 1
    assert later.states() == {"certificates": ["pending"], "progress": ["pending"]}
    with pytest.raises(NotFound, match="no handler nobody"):
        plan(later, handler="nobody")


def test_a_retired_handler_gets_nothing(make_pipeline: Callable[..., Any]) -> None:
    """Nobody would run it: its dead letters stay, and the plan says so."""
    pipeline = make_pipeline()
    with_schemas(pipeline, DigitalChalk)(completion())
    Deliverer(pipeline.ctx, Fails("audit", {})).run_once()
    assert sum(retire(pipeline.ctx.engine, "audit")) == 0
    planned = plan(pipeline, source="chalk")
    assert (planned.run_again, planned.retired) == (0, 1)
    with pytest.raises(NotFound, match="is retired"):
        plan(pipeline, handler="audit")


def test_retiring_ends_what_is_open(make_pipeline: Callable[..., Any]) -> None:
    """Pending ones are skipped; of one in hand it is written that its outcome is unknown."""
    pipeline = make_pipeline()
    first, _ = with_schemas(pipeline, DigitalChalk)(completion(), completion("bo"))
    with pipeline.ctx.engine.begin() as db:
        claimed = claim(db, "audit", 1)
    assert claimed is not None
    assert list(retire(pipeline.ctx.engine, "audit")) == [2]
    assert list(retire(pipeline.ctx.engine, "audit")) == []
    rows = pipeline.rows(select(deliveries.c.state, deliveries.c.code))
    assert rows == [("skipped", "retired")] * 2
    (attempt,) = pipeline.rows(select(attempts))
    assert (attempt.event_id, attempt.outcome, attempt.code) == (*claimed.event_ids, "unknown", "retired")
    with reading(pipeline.ctx.engine) as db:
        told = tell(db, Found("receipt", first))["attempts"]
    assert [each["outcome"] for each in told] == ["unknown"]
    with_schemas(pipeline, DigitalChalk)(completion("cleo"))
    assert len(pipeline.rows(select(deliveries))) == 2
    with pytest.raises(NotFound):
        list(retire(pipeline.ctx.engine, "nobody"))


def test_a_paused_handler_keeps_its_deliveries(make_pipeline: Callable[..., Any]) -> None:
    """They wait until it is resumed; both are told to whoever asks twice."""
    pipeline = make_pipeline()
    with_schemas(pipeline, DigitalChalk)(completion())
    with pipeline.ctx.engine.begin() as db:
        assert set_paused(db, "audit", True) is True
        assert set_paused(db, "audit", True) is False
    pipeline.deliver()
    assert pipeline.states() == {"audit": ["pending"]}
    with pipeline.ctx.engine.begin() as db:
        assert set_paused(db, "audit", False) is True
    pipeline.deliver()
    assert pipeline.states() == {"audit": ["done"]}


def test_a_long_replay_runs_in_many_transactions(
    make_pipeline: Callable[..., Any], restart: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row is reached, however many batches there are."""
    monkeypatch.setattr(replay, "PAGE_ROWS", 10)
    pipeline = make_pipeline({"progress": {"events": ["registration.created"]}})
    with_schemas(pipeline, DigitalChalk)(*(completion(f"u{number}") for number in range(25)))
    later = restart(pipeline, "progress", "audit")
    assert run(later, state=CallbackState.IGNORED).offered == 50
    assert {name: len(states) for name, states in later.states().items()} == {"audit": 25, "progress": 25}
    with later.ctx.engine.begin() as db:
        db.execute(update(deliveries).values(state="dead", code="temporary"))
    assert run(later, reason="temporary").run_again == 50
    assert later.states() == {"audit": ["pending"] * 25, "progress": ["pending"] * 25}
