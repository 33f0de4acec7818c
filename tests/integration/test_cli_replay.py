from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest

from coursewire.errors import Permanent
from coursewire.event import Event
from coursewire.hints import make_celery
from coursewire.plugins import Handler
from schemas import samples
from schemas.digitalchalk import DigitalChalk
from workers.context import Context
from workers.deliver import Deliverer
from workers.read import Reader


class NoCompletions(DigitalChalk):
    events = tuple(schema for schema in DigitalChalk.events if schema.wire_type != "offering_completed")


class Fails(Handler):
    def record(self, event: Event, db: Any) -> None:
        raise Permanent("no room for it")


def body(wire_type: str = "offering_completed") -> bytes:
    return orjson.dumps(samples.body("digitalchalk", wire_type))


@pytest.fixture
def operator(make_operator: Callable[..., Any]) -> Any:
    """An installation with an ignored callback that is known today, a dead delivery, and a conflict."""
    operator = make_operator()
    pipeline = operator.pipeline
    today = pipeline.ctx
    pipeline.ctx = replace(today, reader=Reader(pipeline.settings.sources, {"digitalchalk": NoCompletions()}))
    (operator.ignored,) = pipeline.append(body())
    pipeline.ingest()
    pipeline.ctx = today
    other = samples.body("digitalchalk", "user_created") | {"source": "ADMIN"}
    operator.dead, operator.conflict = pipeline.append(body("user_created"), orjson.dumps(other))
    pipeline.ingest()
    Deliverer(pipeline.ctx, Fails("audit", {})).run_once()
    return operator


def test_without_yes_only_a_plan_is_printed(operator: Any) -> None:
    """Exit code 0, and nothing is changed."""
    before = operator.json("events"), operator.json("dead-letters"), operator.json("quarantine")
    shown = operator.json("replay", "--source", "chalk")
    assert shown["done"] is None
    plan = shown["plan"]
    rows = plan.pop("rows")
    assert plan == {
        "read_again": 2,
        "run_again": 1,
        "offer": 0,
        "finished": 0,
        "waiting": 0,
        "retired": 0,
        "looked_at": 2,
        "would_be": {
            "events": 1,
            "duplicates": 0,
            "quarantined": 0,
            "unchanged": 1,
            "conflicts": 1,
            "obstacles": {},
        },
    }
    (event,) = operator.json("events", "--state", "dead")
    assert rows == [
        {"kind": "read_again", "receipt": operator.ignored, "event": None, "handler": None, "now": "1 new"},
        {
            "kind": "read_again",
            "receipt": operator.conflict,
            "event": None,
            "handler": None,
            "now": "1 in conflict",
        },
        {
            "kind": "run_again",
            "receipt": operator.dead,
            "event": event["id"],
            "handler": "audit",
            "now": "permanent: no room for it",
        },
    ]
    printed = operator.table("replay", "--source", "chalk")
    assert printed.endswith("Nothing is changed yet: add --yes to run this.\n")
    assert (operator.json("events"), operator.json("dead-letters"), operator.json("quarantine")) == before


def test_with_yes_it_is_run(operator: Any) -> None:
    """What it did is told, and a second run has nothing to do but what stays."""
    shown = operator.json("replay", "--source", "chalk", "--yes")
    assert shown["done"] == {
        "read_again": 2,
        "became": {
            "events": 1,
            "duplicates": 0,
            "quarantined": 0,
            "unchanged": 1,
            "conflicts": 1,
            "obstacles": {},
        },
        "run_again": 1,
        "offered": 0,
        "handlers": ["audit"],
    }
    assert [row["deliveries"] for row in operator.json("events")] == [{"audit": "pending"}] * 2
    assert [row["receipt"] for row in operator.json("quarantine")] == [operator.conflict]
    assert operator.json("dead-letters") == []
    assert "replayed" in operator.run("explain", operator.ignored)
    operator.pipeline.deliver()
    again = operator.json("replay", "--source", "chalk", "--yes")
    assert (again["plan"]["finished"], again["plan"]["run_again"]) == (2, 0)
    assert again["done"]["became"]["events"] == 0
    assert operator.json("stats")["unexplained"] == 0


def test_people_are_told_what_was_done(operator: Any) -> None:
    """Plan and result, one after the other."""
    printed = operator.table("replay", "--source", "chalk", "--yes")
    assert "Read again with today's schemas: 2 callbacks." in printed
    assert "Run again: 1 dead delivery." in printed
    assert "Read 2 callbacks again: 1 new events, 1 in conflict." in printed
    assert "Waiting to run again: 1 delivery." in printed


def test_ids_are_chosen_from_their_first_digits(operator: Any) -> None:
    """Several at once; one that is not there is not found, and then nothing is done."""
    assert "not_found" in operator.run("replay", operator.ignored, "ffffffff", "--yes", code=3)
    assert operator.json("events", "--state", "ignored") != []
    shown = operator.json("replay", operator.ignored[:-1], operator.dead, "--yes")
    assert (shown["done"]["became"]["events"], shown["done"]["run_again"]) == (1, 1)


def test_what_has_nothing_to_replay_is_said(make_operator: Callable[..., Any]) -> None:
    """An empty ledger, and one where all is done: exit code 0."""
    operator = make_operator()
    assert operator.run("replay", "--state", "dead") == "There is nothing to replay.\n"
    assert operator.json("replay", "--since", "1h", "--yes")["done"] is None
    (receipt,) = operator.pipeline.append(body())
    operator.pipeline.ingest()
    operator.pipeline.deliver()
    assert operator.run("replay", receipt, "--yes") == (
        "There is nothing to replay.\nFinished, and stay as they are: 1 delivery.\n"
    )


def test_what_is_not_there_cannot_be_replayed(operator: Any) -> None:
    """Sources and handlers by name: exit code 3."""
    assert "there is no source chalc" in operator.run("replay", "--source", "chalc", code=3)
    assert "no handler nobody" in operator.run("replay", "--handler", "nobody", code=3)


def test_a_handler_that_came_later_is_offered_what_it_missed(operator: Any) -> None:
    """After `migrate` has registered it."""
    operator.config.write_text(f"{operator.config.read_text()}\n[handlers.second]\nuses = 'audit'\n")
    assert "Configured but not in the ledger yet: second" in operator.table("handlers")
    assert "coursewire migrate" in operator.run("replay", "--handler", "second", "--since", "1d", code=3)
    operator.run("migrate")
    shown = operator.json("replay", "--handler", "second", "--since", "1d", "--yes")
    assert (shown["plan"]["offer"], shown["done"]["offered"]) == (1, 1)
    assert shown["done"]["handlers"] == ["second"]
    assert operator.json("replay", "--handler", "second", "--since", "1d")["plan"]["waiting"] == 1


def test_a_replay_hints_the_queues(operator: Any) -> None:
    """So that the work begins at once when the stack runs."""
    settings = operator.pipeline.settings
    operator.run("replay", "--state", "dead", "--yes")
    app = make_celery(settings)
    ctx = Context.open(settings, app)
    assert ctx.hints.waiting("handler.audit") == 1
    operator.run("handlers", "pause", "audit")
    assert ctx.hints.waiting("handler.audit") == 1
    ctx.hints.awake("handler.audit")
    operator.run("handlers", "resume", "audit")
    assert ctx.hints.waiting("handler.audit") == 2
    ctx.engine.dispose()
    ctx.inbox.redis.close()
    app.close()


def test_a_replay_works_without_the_inbox(operator: Any, tmp_path: Any) -> None:
    """With the stack stopped nobody is hinted; the sweep finds the work."""
    text = operator.config.read_text()
    away = f"unix://{tmp_path}/nobody.sock"
    operator.config.write_text(text.replace(operator.pipeline.settings.redis_url, away))
    assert operator.json("replay", "--state", "dead", "--yes")["done"]["run_again"] == 1
