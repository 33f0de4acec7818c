"""Each command that reads: its table, its JSON, an empty ledger, and what is not found."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner

from console.cli import main
from coursewire.errors import Permanent
from coursewire.event import Event
from coursewire.plugins import Handler
from schemas import samples
from workers.deliver import Deliverer

FOUR: dict[str, dict[str, Any]] = {"audit": {}, "progress": {}, "certificates": {}, "notifications": {}}
LISTS = ("events", "quarantine", "dead-letters", "certificates", "progress", "handlers", "sources")


class Fails(Handler):
    def record(self, event: Event, db: Any) -> None:
        raise Permanent("no room for it")


def completion(user: str = "ana", **more: Any) -> bytes:
    body = samples.body("digitalchalk", "offering_completed")
    body["registration"] |= {"id": f"r-{user}", "grade": 91.0, "passed": True}
    body["user"] |= {"id": user, "firstName": "Ana", "lastName": "Souza", "email": f"{user}@example.org"}
    return orjson.dumps(body | more)


def is_time(text: str) -> bool:
    """ISO 8601 UTC with Z."""
    return text.endswith("Z") and datetime.fromisoformat(text).tzinfo is not None


@pytest.fixture
def operator(make_operator: Callable[..., Any]) -> Any:
    """An installation where one of each happened: done, dead, quarantined, duplicate, ignored, waiting."""
    operator = make_operator(FOUR)
    pipeline = operator.pipeline
    spoilt = samples.body("digitalchalk", "element_completed")
    spoilt["element"]["type"] = "podcast"
    operator.ids = pipeline.append(
        completion(), completion(), orjson.dumps(spoilt), orjson.dumps({"event": "odd"}), b"{"
    )
    pipeline.ingest()
    for _ in range(2):
        pipeline.deliver()
    (operator.dead,) = pipeline.append(completion("bo"))
    pipeline.ingest()
    Deliverer(pipeline.ctx, Fails("progress", {})).run_once()
    for _ in range(2):
        pipeline.deliver("audit", "certificates", "notifications")
    (operator.waiting,) = pipeline.append(completion("cleo"))
    return operator


@pytest.mark.parametrize("name", LISTS)
def test_an_empty_installation_has_empty_lists(make_operator: Callable[..., Any], name: str) -> None:
    """JSON is an empty array, and people read a sentence."""
    operator = make_operator({})
    shown = operator.json(name)
    if name == "sources":
        assert [source["name"] for source in shown] == ["chalk", "toolzz"]
    else:
        assert shown == []
        assert operator.table(name).strip().endswith(".")


@pytest.mark.parametrize("name", [*LISTS[:-1], "stats", "explain", "replay"])
def test_without_a_ledger_there_is_nothing_to_find(tmp_path: Path, name: str) -> None:
    """Exit code 3, nothing on standard output, and no file is made."""
    more = {"explain": ["0190b6e4"], "replay": ["--source", "x"], "handlers": ["--all"]}.get(name, [])
    result = CliRunner().invoke(main, [name, *more, "--data-dir", str(tmp_path)])
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.startswith("error: not_found: there is no ledger")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["events", "quarantine", "dead-letters", "certificates", "progress"])
def test_a_source_that_never_was_is_not_found(operator: Any, name: str) -> None:
    """A typing error must not look like an empty list; one that has no such rows is an empty list."""
    assert "there is no source chalc; configured: chalk, toolzz" in operator.run(
        name, "--source", "chalc", code=3
    )
    assert operator.json(name, "--source", "toolzz") == []


def test_events_in_json(operator: Any) -> None:
    """The shape that other programs rely on."""
    shown = operator.json("events", "--type", "course.completed", "--learner", "ana")
    (event,) = shown
    assert is_time(event.pop("received_at"))
    assert len(event.pop("id")) == 36
    assert len(event.pop("key")) == 64
    assert event == {
        "receipt": operator.ids[0],
        "source": "chalk",
        "provider": "digitalchalk",
        "type": "course.completed",
        "wire_type": "offering_completed",
        "occurred_at": "2014-04-18T00:39:57Z",
        "state": "done",
        "deliveries": {
            "audit": "done",
            "certificates": "done",
            "notifications": "skipped",
            "progress": "done",
        },
    }


def test_events_are_filtered_and_limited(operator: Any) -> None:
    """All filters count together."""
    assert len(operator.json("events")) == 5
    assert len(operator.json("events", "--limit", "2")) == 2
    assert [event["wire_type"] for event in operator.json("events", "--state", "ignored")] == ["odd"]
    assert len(operator.json("events", "--learner", "BO@example.org", "--state", "dead")) == 1
    assert len(operator.json("events", "--since", "1h")) == 5
    assert operator.json("events", "--until", "1h") == []
    assert operator.json("events", "--since", "2999-01-01") == []


def test_events_for_people(operator: Any) -> None:
    """Ids are whole, so that they can be copied, and what is not done is named."""
    printed = operator.table("events")
    for event in operator.json("events"):
        assert event["id"] in printed
    assert "progress dead" in printed


@pytest.mark.parametrize(
    "words",
    [
        ("events", "--state", "broken"),
        ("events", "--since", "yesterday"),
        ("events", "--limit", "0"),
        ("events", "--colour", "red"),
        ("explain",),
        ("replay",),
        ("replay", "--state", "duplicate"),
        ("handlers", "pause"),
        ("send", "chalk", "no-such-file.json"),
        ("check", "digitalchalk", "no-such-file.json"),
    ],
)
def test_wrong_words_are_a_matter_of_usage(make_operator: Callable[..., Any], words: tuple[str, ...]) -> None:
    """Exit code 2."""
    make_operator().run(*words, code=2)


def test_quarantine(operator: Any) -> None:
    """One object for each item, with the rules by the field's path."""
    garbage, spoilt = operator.ids[4], operator.ids[2]
    assert operator.json("quarantine") == [
        {
            "receipt": garbage,
            "source": "chalk",
            "reason": "unparsable",
            "errors": {"": ["the body is not JSON, at character 2"]},
        },
        {
            "receipt": spoilt,
            "source": "chalk",
            "reason": "schema_violation",
            "errors": {
                "element.type": ["must be one of: chalkboard, test, file, assignment, sco, webarchive"]
            },
        },
    ]
    assert [row["receipt"] for row in operator.json("quarantine", "--reason", "unparsable")] == [garbage]
    assert len(operator.json("quarantine", "--limit", "1")) == 1
    printed = operator.table("quarantine")
    assert spoilt in printed
    assert "element.type: must be one of" in printed
    assert "podcast" not in printed


def test_dead_letters(operator: Any) -> None:
    """One object for each dead delivery; attempts are failures and crashes together."""
    (event,) = operator.json("events", "--state", "dead")
    (letter,) = operator.json("dead-letters", "--handler", "progress")
    assert is_time(letter.pop("died_at"))
    assert letter == {
        "event": event["id"],
        "handler": "progress",
        "error": "permanent: no room for it",
        "attempts": 1,
    }
    assert operator.json("dead-letters", "--handler", "audit") == []
    assert operator.json("dead-letters", "--reason", "temporary") == []
    assert event["id"] in operator.table("dead-letters")
    assert "no handler nobody" in operator.run("dead-letters", "--handler", "nobody", code=3)


def test_certificates(operator: Any) -> None:
    """One object for each, newest first."""
    newest, oldest = operator.json("certificates")
    assert [row["learner"]["id"] for row in (newest, oldest)] == ["bo", "ana"]
    assert is_time(oldest.pop("awarded_at"))
    assert len(oldest.pop("id")) == 36
    (event,) = operator.json("events", "--learner", "ana", "--type", "course.completed")
    assert oldest == {
        "source": "chalk",
        "learner": {"id": "ana", "name": "Ana Souza", "email": "ana@example.org"},
        "course": {"id": "c07fba9bfea94358b3fdd906b7d601a4", "title": "Sample Course"},
        "registration": "r-ana",
        "event": event["id"],
    }
    by_email = operator.json(
        "certificates", "--learner", "Ana@Example.org", "--course", oldest["course"]["id"]
    )
    assert [row["registration"] for row in by_email] == ["r-ana"]
    assert operator.json("certificates", "--course", "another") == []
    assert len(operator.json("certificates", "--limit", "1")) == 1
    assert newest["id"] in operator.table("certificates")


def test_progress(operator: Any) -> None:
    """One object for each learner and course."""
    (row,) = operator.json("progress")
    assert is_time(row.pop("updated_at"))
    assert row == {
        "source": "chalk",
        "learner": {"id": "ana", "name": "Ana Souza", "email": "ana@example.org"},
        "course": {"id": "c07fba9bfea94358b3fdd906b7d601a4", "title": "Sample Course"},
        "progress": None,
        "completed": True,
        "passed": True,
    }
    assert operator.json("progress", "--learner", "nobody") == []
    assert "passed" in operator.table("progress")


def test_handlers(operator: Any) -> None:
    """By name, with what waits and what is dead."""
    wants = ["certificate.awarded", "course.completed", "path.completed"]
    shown = {row["name"]: row for row in operator.json("handlers")}
    assert list(shown) == ["audit", "certificates", "notifications", "progress"]
    assert shown["notifications"] == {
        "name": "notifications",
        "kind": "send",
        "wants": wants,
        "queue": "handler.notifications",
        "waiting": 0,
        "dead": 0,
        "paused": False,
    }
    assert (shown["progress"]["kind"], shown["progress"]["dead"]) == ("record", 1)
    assert "certificate.awarded" in operator.table("handlers")


def test_handlers_are_paused_and_resumed(operator: Any) -> None:
    """The flag shows; both commands may be repeated; what is not there is not found."""
    assert operator.run("handlers", "pause", "audit") == "audit is paused.\n"
    assert operator.run("handlers", "pause", "audit") == "audit was paused already.\n"
    assert {row["name"]: row["paused"] for row in operator.json("handlers")}["audit"] is True
    assert "(paused)" in operator.table("handlers")
    assert operator.run("handlers", "resume", "audit") == "audit goes on.\n"
    assert {row["name"]: row["paused"] for row in operator.json("handlers")}["audit"] is False
    for verb in ("pause", "resume", "retire"):
        assert "no handler nobody" in operator.run("handlers", verb, "nobody", code=3)


def test_a_handler_is_retired_when_it_is_configured_no_more(operator: Any) -> None:
    """Before that the next start would bring it back, so it must be said twice."""
    operator.pipeline.ingest()
    assert "still configured" in operator.run("handlers", "retire", "audit", code=2)
    text = operator.config.read_text()
    operator.config.write_text(text.replace("[handlers.audit]", ""))
    assert "(not configured here" in operator.table("handlers").replace("\n", " ")
    said = operator.run("handlers", "retire", "audit")
    assert said == "audit is retired; 1 delivery that waited for it is skipped.\n"
    assert "audit" not in {row["name"] for row in operator.json("handlers")}
    assert "audit" in {row["name"] for row in operator.json("handlers", "--all")}
    assert operator.run("handlers", "retire", "progress", "--yes").startswith("progress is retired; 1 ")


def test_stats(operator: Any) -> None:
    """The equation, in callbacks, and each source's part of it."""
    shown = operator.json("stats")
    assert 0 < shown.pop("oldest_waiting_seconds") < 60
    assert shown == {
        "accepted": 7,
        "done": 1,
        "ignored": 1,
        "duplicate": 1,
        "quarantined": 2,
        "dead": 1,
        "waiting": 1,
        "unexplained": 0,
        "events": 5,
        "sources": {
            "chalk": {"done": 1, "ignored": 1, "duplicate": 1, "quarantined": 2, "dead": 1, "waiting": 0}
        },
    }
    printed = operator.table("stats")
    assert "unexplained            0" in printed
    assert "the oldest callback that waits is" in printed


def test_stats_that_do_not_balance_are_bad(operator: Any) -> None:
    """Exit code 1 when callbacks are unexplained."""
    redis, stream = operator.pipeline.ctx.inbox.redis, operator.pipeline.ctx.inbox.stream
    redis.xdel(stream, redis.xinfo_stream(stream)["first-entry"][0])
    assert operator.json("stats", code=1)["unexplained"] == 1
    assert "unexplained            1" in operator.run("stats", code=1)


def test_stats_need_the_inbox(make_operator: Callable[..., Any], tmp_path: Path) -> None:
    """Exit code 4 when its server does not answer: without it nobody knows what was accepted."""
    operator = make_operator()
    text = operator.config.read_text()
    away = f"unix://{tmp_path}/nobody.sock"
    operator.config.write_text(text.replace(operator.pipeline.settings.redis_url, away))
    assert "server_unreachable" in operator.run("stats", code=4)
    assert operator.json("events") == []


def test_explain_a_callback(operator: Any) -> None:
    """Receipt, events, deliveries and attempts, in JSON and for people."""
    story = operator.json("explain", operator.ids[0])
    assert list(story) == ["receipt", "events", "deliveries", "attempts"]
    receipt = story["receipt"]
    assert (receipt["id"], receipt["state"], receipt["outcome"]) == (operator.ids[0], "done", "events")
    assert (receipt["verified_by"], receipt["remote_address"]) == ("path_token", "127.0.0.1")
    assert "body" not in receipt
    event, awarded = story["events"]
    assert (event["type"], event["item"], event["parent"]) == ("course.completed", 0, None)
    assert event["key_parts"] == [
        "offering_completed", "ana", "r-ana", "2014-04-18T00:39:57+00:00", 91, True,
    ]  # fmt: skip
    assert (awarded["type"], awarded["parent"]) == ("certificate.awarded", event["id"])
    assert event["repeated_by"] == [{"receipt": operator.ids[1], "item": 0}]
    assert {(row["handler"], row["state"], row["code"]) for row in story["deliveries"]} == {
        ("audit", "done", None),
        ("certificates", "done", None),
        ("progress", "done", None),
        ("notifications", "skipped", "not_configured"),
    }
    assert {row["outcome"] for row in story["attempts"]} == {"done", "skipped"}
    printed = operator.run("explain", operator.ids[0])
    for said in (
        "verified by  path_token",
        "state        done",
        f"Event {event['id']}, item 0, valid",
        f"Event {awarded['id']}, following {event['id']}",
        "handler      notifications: skipped, not_configured",
        "handler      certificates: not asked, does not want certificate.awarded",
        f"repeated by  receipt {operator.ids[1]}, item 0",
    ):
        assert said in printed


def test_explain_an_event(operator: Any) -> None:
    """By its own id, or the first digits of it: the same story."""
    (event,) = operator.json("events", "--state", "dead")
    story = operator.json("explain", event["id"])
    assert story["receipt"]["id"] == operator.dead
    assert [row["outcome"] for row in story["attempts"] if row["handler"] == "progress"] == ["failed"]
    assert operator.json("explain", event["id"][:-1]) == story
    assert "progress: dead, permanent: no room for it" in operator.run("explain", event["id"])


def test_explain_what_came_to_nothing(operator: Any) -> None:
    """Quarantined, duplicate and ignored callbacks have their story too."""
    _, again, spoilt, odd, _ = operator.ids
    printed = operator.run("explain", spoilt)
    assert "Item 0 is in quarantine since" in printed
    assert "element.type: must be one of" in printed
    (event,) = operator.json("events", "--learner", "ana", "--type", "course.completed")
    assert f"Item 0 is a duplicate of event {event['id']}" in operator.run("explain", again)
    assert "not asked, no schema knows this event" in operator.run("explain", odd)


def test_explain_shows_the_body_when_asked(make_operator: Callable[..., Any]) -> None:
    """As it is stored: without what the provider redacts."""
    operator = make_operator()
    (receipt,) = operator.pipeline.append(orjson.dumps(samples.body("digitalchalk", "user_created")))
    operator.pipeline.ingest()
    body = orjson.loads(operator.json("explain", receipt, "--body")["receipt"]["body"])
    assert body["user"]["password"] == "[redacted]"
    assert '"password": "[redacted]"' in operator.run("explain", receipt, "--body")
    assert "Kneeland" not in operator.run("explain", receipt).partition("learner")[0]


def test_explain_works_without_todays_configuration(operator: Any) -> None:
    """What made the key can then not be told; all else can."""
    operator.config.write_text(f'database_url = "{operator.pipeline.settings.database_url}"\n')
    (operator.data_dir / "installation.key").unlink()
    story = CliRunner().invoke(
        main, ["explain", operator.ids[0], "--json", "--data-dir", str(operator.data_dir)]
    )
    assert story.exit_code == 0
    assert [event["key_parts"] for event in orjson.loads(story.stdout)["events"]] == [None, None]


def test_what_does_not_exist_cannot_be_explained(operator: Any) -> None:
    """Exit code 3, also for what still lies in the inbox, and it says so."""
    assert "may still be in the inbox" in operator.run("explain", operator.waiting, code=3)
    assert "is no id" in operator.run("explain", "nonsense", code=3)


def test_a_ledger_that_is_older_is_refused(make_operator: Callable[..., Any]) -> None:
    """A command that reads it by today's tables would tell nonsense."""
    operator = make_operator()
    with operator.pipeline.ctx.engine.begin() as db:
        db.exec_driver_sql("DELETE FROM alembic_version")
    assert "ledger_outdated" in operator.run("events", code=1, errors=True)


def test_the_data_directory_may_come_from_the_environment(operator: Any) -> None:
    """COURSEWIRE_DATA_DIR, in a process of its own; a closed pipe is no error message."""
    words = [sys.executable, "-m", "console", "events", "--json", "--limit", "1"]
    done = subprocess.run(
        words, env={"COURSEWIRE_DATA_DIR": str(operator.data_dir)}, capture_output=True, check=True
    )
    assert len(orjson.loads(done.stdout)) == 1
    assert done.stderr == b""


def test_what_came_with_a_callback_cannot_steer_the_terminal(make_operator: Callable[..., Any]) -> None:
    """Control characters are replaced, and markup of our own tables means nothing."""
    operator = make_operator({"progress": {}})
    body = samples.body("toolzz", "activities.course.completed")
    body["data"]["user"]["name"] = "[red]Ana[/red]\x1b[2J\u202egnirts"
    operator.pipeline.append(orjson.dumps(body), source="toolzz")
    operator.pipeline.ingest()
    operator.pipeline.deliver()
    printed = operator.table("progress")
    assert "\x1b" not in printed
    assert "\u202e" not in printed
    assert "[red]Ana[/red]" in printed
