"""What every LMS that sends JSON has in common: how a body is split, its secrets redacted, an item read.

A provider file declares one `EventSchema` a wire type, and a `JsonProvider` that lists them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from hashlib import sha256
from operator import itemgetter
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

import orjson
from marshmallow import ValidationError

from coursewire.errors import SchemaViolation, UnknownEvent, Unparsable
from coursewire.event import (
    Activity,
    Course,
    Event,
    EventType,
    Learner,
    Registration,
    Result,
    TriggeredBy,
    key_of,
    new_id,
)
from coursewire.fields import WIRE_TYPE_LENGTH, JsonObject, Text, field_errors, in_utc
from coursewire.plugins import Callback, Provider, Reading
from schemas.redaction import Secrets

MAX_DEPTH = 64
MAX_ITEMS = 1000
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

Body = Mapping[str, Any]
"""What an `EventSchema` loaded: every known field is there, None where it was absent or null."""
KeyParts = tuple[object, ...]


class Times:
    """Turns times that were sent without a zone into UTC, and remembers that it had to."""

    def __init__(self, zone: ZoneInfo) -> None:
        self.zone = zone
        self.assumed = False

    def utc(self, local: datetime | None) -> datetime | None:
        """In a gap or a fold of summer time the offset from before the change is taken."""
        if local is None:
            return None
        self.assumed = True
        return in_utc(local.replace(tzinfo=self.zone))

    def plain(self, value: Any) -> Any:
        """`value` as it may stand in `Event.data`: JSON only, times in UTC, nothing null or empty."""
        if isinstance(value, dict):
            plain = {name: self.plain(inner) for name, inner in value.items()}
            return {name: inner for name, inner in plain.items() if inner not in (None, {}, [])}
        if isinstance(value, list):
            return [self.plain(inner) for inner in value]
        if isinstance(value, datetime):
            moment = value if value.tzinfo is not None else self.utc(value)
            return moment.isoformat().replace("+00:00", "Z") if moment else None
        if isinstance(value, date | time):
            return value.isoformat()
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """What an item says, in our own model. `certifies` is the certificate subject without its source."""

    occurred_at: datetime | None
    learner: Learner | None = None
    course: Course | None = None
    activity: Activity | None = None
    registration: Registration | None = None
    result: Result | None = None
    triggered_by: str = TriggeredBy.UNKNOWN
    certifies: tuple[str, ...] | None = None
    data: Mapping[str, Any] = field(default_factory=dict)


class EventSchema(JsonObject):
    """One wire type: its documented fields, what makes it the same event again, and what it means."""

    wire_type: ClassVar[str]
    means: ClassVar[EventType]

    def identity(self, body: Body) -> KeyParts:
        """Ids and times of occurrence. When one is None, the digest of the whole item is the key instead."""
        raise NotImplementedError

    def values(self, body: Body) -> KeyParts:
        """The fields that carry a result; None is a value like any other."""
        return ()

    def fact(self, body: Body) -> Body:
        """The body without the times of sending: what must be equal when the same event comes again."""
        return body

    def meaning(self, body: Body, times: Times) -> Meaning:
        raise NotImplementedError


class JsonProvider(Provider):
    """A provider whose callbacks are one JSON object, or an array of them."""

    events: ClassVar[tuple[type[EventSchema], ...]]
    wire_type_at: ClassVar[tuple[str, ...]]
    """Where the wire type stands: `("event", "slug")` is `item["event"]["slug"]`."""
    secrets: ClassVar[Secrets] = Secrets()
    """The fields that nothing but inbox and spool may hold."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.wire_types = frozenset(schema.wire_type for schema in getattr(cls, "events", ()))

    def __init__(self) -> None:
        # A schema costs more to build than to use three times: each is made once a process.
        self._schemas = {schema.wire_type: schema() for schema in self.events}
        self._wire_type = Text(WIRE_TYPE_LENGTH)

    def redact(self, body: bytes) -> bytes:
        return self.secrets.redact(body)

    def split(self, callback: Callback) -> Sequence[Any]:
        """The content type is not asked: an LMS may label JSON as a form."""
        document = parse(callback.body)
        if isinstance(document, dict):
            return [document]
        if not isinstance(document, list):
            raise Unparsable("the body is neither a JSON object nor an array of objects")
        if not document:
            raise Unparsable("the body is an empty array")
        if len(document) > MAX_ITEMS:
            raise Unparsable(f"the body is an array of more than {MAX_ITEMS} items")
        return document

    def read(self, item: Any, callback: Callback, zone: ZoneInfo) -> Reading:
        wire_type = self.wire_type_of(item)
        schema = self._schemas.get(wire_type)
        if schema is None:
            raise UnknownEvent(wire_type)
        item = self.secrets.removed(item)
        try:
            body: Body = schema.load(item)
        except ValidationError as exc:
            raise SchemaViolation(field_errors(exc), wire_type=wire_type) from exc
        found = sorted(schema.unknown_in(item), key=itemgetter(0))
        unknown = {path: _settled(value) for path, value in found}
        times = Times(zone)
        meaning = schema.meaning(body, times)
        event = Event(
            id=new_id(),
            source=callback.source,
            provider=self.name,
            type=schema.means,
            wire_type=wire_type,
            key=_key(schema, body, unknown),
            occurred_at=meaning.occurred_at or callback.received_at,
            received_at=callback.received_at,
            zone_assumed=times.assumed,
            learner=meaning.learner,
            course=meaning.course,
            activity=meaning.activity,
            registration=meaning.registration,
            result=meaning.result,
            triggered_by=meaning.triggered_by,
            certificate_subject=_subject(meaning.certifies, callback.source),
            data={**meaning.data, "unknown": unknown} if unknown else meaning.data,
        )
        return Reading(event, _canonical(schema.fact(body), unknown), tuple(unknown))

    def wire_type_of(self, item: Any) -> str:
        """Raises `SchemaViolation`, with the path "" for the item itself: what has no type cannot be read."""
        value = item
        for depth, name in enumerate(self.wire_type_at):
            if type(value) is not dict and (depth == 0 or value is not None):
                raise SchemaViolation({".".join(self.wire_type_at[:depth]) or "": ["must be an object"]})
            value = value.get(name) if value else None
        path = ".".join(self.wire_type_at)
        if value is None or value == "":
            raise SchemaViolation({path: ["is missing: it says what the event is"]})
        try:
            return str(self._wire_type.deserialize(value))
        except ValidationError as exc:
            raise SchemaViolation({path: [str(message) for message in exc.messages]}) from exc


def given(part: Body, *names: str) -> dict[str, Any]:
    """The named fields of `part` that have a value."""
    return {name: part[name] for name in names if part[name] is not None}


def parse(body: bytes) -> Any:
    """The JSON in `body`. Raises `Unparsable`, whose text quotes nothing of it."""
    text = body.removeprefix(BYTE_ORDER_MARK)
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise Unparsable(f"the body is not JSON, at character {exc.pos + 1}") from exc
    # Only where there are enough brackets at all is it worth a walk.
    if text.count(b"[") + text.count(b"{") > MAX_DEPTH and _deeper_than(MAX_DEPTH, document):
        raise Unparsable(f"the body is nested deeper than {MAX_DEPTH} levels")
    return document


def _deeper_than(levels: int, document: Any) -> bool:
    level = [document]
    for _ in range(levels + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return bool(level)


def _key(schema: EventSchema, body: Body, unknown: Mapping[str, Any]) -> str:
    identity = schema.identity(body)
    if None in identity:
        return key_of(("digest", sha256(_canonical(body, unknown)).hexdigest()))
    return key_of((schema.wire_type, *identity, *schema.values(body)))


def _subject(certifies: tuple[str, ...] | None, source: str) -> tuple[str, ...] | None:
    return None if certifies is None else (certifies[0], source, *certifies[1:])


def _canonical(body: Body, unknown: Mapping[str, Any]) -> bytes:
    return orjson.dumps([body, unknown] if unknown else [body], option=orjson.OPT_SORT_KEYS)


def _settled(value: Any) -> Any:
    """An unknown value with its integral floats as integers, so that 95 and 95.0 are the same."""
    if isinstance(value, dict):
        return {name: _settled(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_settled(inner) for inner in value]
    if type(value) is float and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value
