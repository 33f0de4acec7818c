"""The doors for plug-ins: what a provider and a handler are, and how they are found.

A distribution offers them as entry points in the groups `coursewire.providers` and `coursewire.handlers`.
Our own are listed in our own pyproject.toml, and come in by the same door.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar
from zoneinfo import ZoneInfo

from marshmallow import Schema
from structlog.contextvars import bound_contextvars

from coursewire.errors import InvalidPlugin, NotFound, Verdict
from coursewire.event import Event

if TYPE_CHECKING:
    # Half a second of every process start, also of the receiver, which has no database.
    from sqlalchemy import Connection, MetaData

PROVIDERS = "coursewire.providers"
HANDLERS = "coursewire.handlers"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Callback:
    """One HTTP request of an LMS, as it was received; credentials and path tokens are already gone.

    `headers` holds only what the provider asks for in `Provider.headers`, names in lower case.
    """

    receipt: str
    source: str
    body: bytes
    received_at: datetime
    method: str = "POST"
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    remote_address: str | None = None
    verified_by: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """One item of a callback, read and validated.

    `event.key` is the key in plain parts (see `key_of`); the ledger keeps only its HMAC. `content` is what
    must be equal when the same key comes again (everything but the times of sending); `unknown_fields` are
    the paths of fields that the schema does not know, which are kept.
    """

    event: Event
    content: bytes
    unknown_fields: tuple[str, ...] = ()


class Provider(ABC):
    """What we know of one LMS product: how a callback splits into items, and what each item means.

    It does no I/O. Made once a process.
    """

    name: ClassVar[str]
    wire_types: ClassVar[frozenset[str]]
    """Every event type it has a schema for, in the LMS's own words."""
    headers: ClassVar[frozenset[str]] = frozenset()
    """Request headers that belong to the meaning of a callback (lower case), e.g. the event's type."""
    default_timezone: ClassVar[str] = "UTC"
    """For times that the LMS sends without a zone, where the source sets none."""

    @abstractmethod
    def split(self, callback: Callback) -> Sequence[Any]:
        """The items of a callback, parsed. Raises `Unparsable`."""

    @abstractmethod
    def read(self, item: Any, callback: Callback, zone: ZoneInfo) -> Reading:
        """One item as an event. Raises `SchemaViolation` or `UnknownEvent`."""

    def redact(self, body: bytes) -> bytes:
        """The body without the secrets that this LMS puts into it. Must take any bytes."""
        return body


Kind = Literal["record", "send"]
Outcome = Sequence[Event] | Verdict | Exception | None
"""What came of one item of a batch: None, follow-up events, or what `record` or `send` would have raised."""


class Handler:
    """Turns events into effects. Made once a process, with its validated options.

    A subclass has either `record` (effects in our database, inside the transaction that finishes the
    delivery, so exactly once: short, no I/O elsewhere) or `send` (effects outside, at least once, always
    under the same `key`). Each returns None or follow-up events, or raises `Skip`, `NotNow`, `Temporary` or
    `Permanent`; any other exception is temporary.
    """

    wants: ClassVar[frozenset[str]] = frozenset()
    """Event types it gets unless `[handlers.<name>] events` says others; `frozenset({"*"})` is every type."""
    emits: ClassVar[frozenset[str]] = frozenset()
    """Types of follow-up events that are not in `EventType`."""
    Options: ClassVar[type[Schema]] = Schema
    """Validates the handler's own keys in `[handlers.<name>]`; without fields it takes none."""
    metadata: ClassVar[MetaData | None] = None
    """Tables of its own, made by `coursewire migrate`; their names begin with the plug-in's name."""

    kind: ClassVar[Kind]

    batch: ClassVar[int] = 200
    """The most deliveries claimed at once."""
    concurrency: ClassVar[int] = 1
    """For `send`: how many deliveries one worker process works at once, in threads."""
    time_limit_seconds: ClassVar[float] = 30.0
    """A task that runs longer is killed, and its attempt counted as a crash."""
    max_attempts: ClassVar[int] = 8
    """Failed attempts until the delivery is dead."""
    max_crashes: ClassVar[int] = 3
    """Attempts that ended without a verdict until the delivery is dead."""
    backoff_seconds: ClassVar[tuple[float, float]] = (2.0, 3600.0)
    """Base and cap of the exponential back-off; full jitter."""
    may_repeat: ClassVar[bool] = True
    """False: an attempt of unknown outcome is not repeated but ends in `dead`, `unknown_outcome`."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        records = cls.record is not Handler.record or cls.record_batch is not Handler.record_batch
        sends = cls.send is not Handler.send or cls.send_batch is not Handler.send_batch
        if records and sends:
            raise InvalidPlugin(
                f"{cls.__module__}.{cls.__qualname__} has both record and send: it must choose"
            )
        if records or sends:
            cls.kind = "record" if records else "send"

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        self.name = name
        self.options = options

    def record(self, event: Event, db: Connection) -> Iterable[Event] | None:
        """Write the effects of `event` on `db`. Must neither commit nor roll back.

        A class that has only `record_batch` gets this one: a batch of one.
        """
        if type(self).record_batch is Handler.record_batch:
            raise TypeError(f"{type(self).__qualname__} has no record")
        (outcome,) = self.record_batch([event], db)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def record_batch(self, events: Sequence[Event], db: Connection) -> Sequence[Outcome]:
        """The same for many events; an outcome for each. An exception that escapes takes the batch apart.

        A class that has its own must leave no effect of an event whose outcome is an exception.
        """
        outcomes: list[Outcome] = []
        for event in events:
            try:
                with bound_contextvars(event_id=event.id), db.begin_nested():
                    outcomes.append(list(self.record(event, db) or ()))
            except Verdict as verdict:
                outcomes.append(verdict)
        return outcomes

    def send(self, event: Event, key: str) -> Iterable[Event] | None:
        """Have the effect outside, under `key`, which is the same whenever this delivery is tried again."""
        raise TypeError(f"{type(self).__qualname__} has no send")

    def send_batch(self, items: Sequence[tuple[Event, str]]) -> Sequence[Outcome]:
        """The same for many events; an outcome for each."""
        raise TypeError(f"{type(self).__qualname__} has no send_batch")

    @property
    def sends_batches(self) -> bool:
        return type(self).send_batch is not Handler.send_batch


def load(group: str, name: str, base: type[T]) -> type[T]:
    """The plug-in class of that name. Raises `NotFound`, or `InvalidPlugin`, which says all that is known."""
    found = [point for point in _points(group) if point.name == name]
    if not found:
        known = ", ".join(sorted({point.name for point in _points(group)}))
        raise NotFound(f"no plug-in {name!r} in {group}; installed: {known}")
    if len(found) > 1:
        raise InvalidPlugin(f"{name!r} in {group} is offered twice: {', '.join(map(_origin, found))}")
    return _load(found[0], base)


def load_all(group: str, base: type[T]) -> dict[str, type[T]]:
    """Every installed plug-in of a group, by name."""
    return {name: load(group, name, base) for name in sorted({point.name for point in _points(group)})}


@cache
def _points(group: str) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=group))


def _load(point: EntryPoint, base: type[T]) -> type[T]:
    try:
        loaded = point.load()
    except Exception as exc:
        raise InvalidPlugin(f"{_origin(point)} cannot be loaded: {type(exc).__name__}: {exc}") from exc
    if not (isinstance(loaded, type) and issubclass(loaded, base)):
        raise InvalidPlugin(f"{_origin(point)} is no {base.__name__}")
    if base is Handler and not hasattr(loaded, "kind"):
        raise InvalidPlugin(f"{_origin(point)} has neither record nor send")
    return loaded


def _origin(point: EntryPoint) -> str:
    distribution = f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown distribution"
    return f"{point.group} {point.name} = {point.value} of {distribution}"
