"""One documented body for every wire type, and the same bodies made fresh for a demonstration.

A body lies in `<provider>/<wire type>.json`. It is the vendor's sample where the vendor shows one, else
composed from the vendor's tables.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from importlib import resources
from typing import Any
from zoneinfo import ZoneInfo

import orjson

from schemas.digitalchalk import DigitalChalk
from schemas.toolzz import Toolzz

Json = dict[str, Any]

# The forms of times in the samples: what `strptime` makes of them, and the zone that is meant.
ISO = (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"), "%Y-%m-%dT%H:%M:%SZ", UTC)
SAO_PAULO = ZoneInfo(Toolzz.default_timezone)
LOCAL = (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"), "%Y-%m-%d %H:%M:%S", SAO_PAULO)
DAY_FIRST = (re.compile(r"\d\d/\d\d/\d{4} \d\d:\d\d:\d\d"), "%d/%m/%Y %H:%M:%S", SAO_PAULO)
FORMS = (ISO, LOCAL, DAY_FIRST)


@dataclass(frozen=True, slots=True)
class DemoCallback:
    """A callback to post, and what must come of it.

    `expected["state"]` is the callback's: "done" or "quarantined". `expected["certificates"]` is what the
    certificates handler makes of the event: "done", "skipped", "once" (of all callbacks of the demonstration
    that say so exactly one is done and the others are skipped, whichever comes first), or None where the
    event is no completion and nothing is asked of it.
    """

    provider: str
    wire_type: str
    body: bytes
    title: str
    expected: Mapping[str, str | None]


def wire_types(provider: str) -> list[str]:
    """The wire types that have a sample, sorted; empty for a provider that has none."""
    folder = resources.files(__name__) / provider
    if not folder.is_dir():
        return []
    return sorted(file.name.removesuffix(".json") for file in folder.iterdir() if file.name.endswith(".json"))


def body(provider: str, wire_type: str) -> Json:
    """The documented body."""
    document: Json = orjson.loads((resources.files(__name__) / provider / f"{wire_type}.json").read_bytes())
    return document


def fresh(provider: str, wire_type: str, now: datetime, salt: str) -> Json:
    """The documented body as if it happened at `now` (aware) to somebody else.

    Ids come of the old ids and `salt`: what was the same id stays the same. Times keep their distances from
    the event's own and their form. Names and everything else stay.
    """
    document = body(provider, wire_type)
    envelope = document["event"]
    moment = document["date"] if isinstance(envelope, str) else envelope["send_at"]
    shift = now.astimezone(UTC).replace(microsecond=0) - _time(moment)
    refreshed: Json = _refresh(document, shift, salt)
    return refreshed


def demo(now: datetime, salt: str) -> list[DemoCallback]:
    """One callback of every event type, a failed completion beside the passed one, and an invalid body."""

    def documented(provider: str, wire_type: str, title: str, certificates: str | None) -> DemoCallback:
        return callback(provider, wire_type, fresh(provider, wire_type, now, salt), title, certificates)

    def callback(
        provider: str,
        wire_type: str,
        document: Json,
        title: str,
        certificates: str | None,
        state: str = "done",
    ) -> DemoCallback:
        expected = {"state": state, "certificates": certificates}
        return DemoCallback(provider, wire_type, orjson.dumps(document), title, expected)

    chalk, toolzz = DigitalChalk.name, Toolzz.name
    passed = fresh(chalk, "offering_completed", now, salt)
    passed["registration"] |= {"grade": 91.0, "passed": True}
    failed = fresh(chalk, "offering_completed", now, f"{salt} failed")
    invalid = fresh(chalk, "element_completed", now, f"{salt} invalid")
    invalid["element"]["type"] = "podcast"
    completed = fresh(toolzz, "activities.course.completed", now, salt)
    last = fresh(toolzz, "activities.content.completed", now, salt)
    learner, course = completed["data"]["user"], completed["data"]["course"]
    last["data"]["user"] = {name: learner[name] for name in ("id", "name", "email")}
    last["data"]["course"] = course | {"progress": 100, "certificate_id": 77}
    last["data"]["content"] |= {"course_id": course["id"], "delivered": 1}
    return [
        documented(chalk, "user_created", "a user, created (with a password)", None),
        documented(chalk, "offering_registered", "a learner, registered for a course", None),
        documented(chalk, "element_published", "an assignment, published", None),
        documented(chalk, "element_awaiting_grade", "an assignment that awaits its grade", None),
        documented(chalk, "element_completed", "an assignment, completed", "skipped"),
        callback(chalk, "element_completed", invalid, "an element of an unknown type", None, "quarantined"),
        callback(chalk, "offering_completed", passed, "a course, completed and passed", "done"),
        callback(chalk, "offering_completed", failed, "a course, completed but failed", "skipped"),
        documented(toolzz, "members.created", "a member, created", None),
        documented(toolzz, "members.updated", "a member, updated", None),
        documented(toolzz, "newslatter.created", "a newsletter, accepted", None),
        documented(toolzz, "activities.course.enrollment", "a learner, enrolled in a course", None),
        documented(toolzz, "activities.answered.activity", "an activity, answered", None),
        callback(toolzz, "activities.content.completed", last, "the last content: the course at 100", "once"),
        callback(toolzz, "activities.course.completed", completed, "the same course, completed", "once"),
        documented(toolzz, "activities.certificate.issued", "a certificate of the LMS's own", None),
        documented(toolzz, "activities.trail.completed", "a trail of courses, completed", "skipped"),
    ]


def _refresh(value: Any, shift: timedelta, salt: str, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _refresh(inner, shift, salt, key) for key, inner in value.items()}
    if isinstance(value, list):
        return [_refresh(inner, shift, salt, name) for inner in value]
    if name != "role_id" and (name == "id" or name.endswith("_id")):
        return _new_id(value, salt)
    for pattern, form, zone in FORMS:
        if isinstance(value, str) and pattern.fullmatch(value):
            return (_time(value) + shift).astimezone(zone).strftime(form)
    return value


def _new_id(old: Any, salt: str) -> Any:
    digest = sha256(f"{salt}\0{old}".encode()).hexdigest()
    if isinstance(old, str):
        return digest[:32]
    # Beyond 32 bits now and then, as Toolzz's own are.
    return int(digest[:16], 16) % 10**10 + 1 if isinstance(old, int) else old


def _time(text: str) -> datetime:
    form, zone = next((form, zone) for pattern, form, zone in FORMS if pattern.fullmatch(text))
    return datetime.strptime(text, form).replace(tzinfo=zone).astimezone(UTC)
