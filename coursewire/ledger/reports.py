"""What an operator lists: events, quarantine, dead letters and handlers, as dictionaries ready for JSON."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Connection, Engine, Row, func, or_, select

from coursewire.hints import handler_queue
from coursewire.ledger.pages import PAGE_ROWS, pages
from coursewire.ledger.states import EventState, event_state, in_state
from coursewire.ledger.tables import (
    Outcome,
    deliveries,
    events,
    handlers,
    is_dead,
    is_open,
    quarantine,
    receipts,
)

Record = dict[str, Any]

# What is open or dead is looked up anew for each page, so pages are larger.
BY_INDEX_ROWS = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Which events; None is all. `type` is ours or the LMS's own. Times are of receiving."""

    source: str | None = None
    type: str | None = None
    state: EventState | None = None
    learner: str | None = None
    """The LMS's id, or an e-mail address."""
    since: datetime | None = None
    until: datetime | None = None

    @property
    def email(self) -> str | None:
        """Only documents have addresses: asking for one reads those of all events that else match."""
        return self.learner if self.learner and "@" in self.learner else None

    def conditions(self) -> list[ColumnElement[bool]]:
        found = []
        if self.source is not None:
            found.append(events.c.source == self.source)
        if self.type is not None:
            found.append(or_(events.c.type == self.type, events.c.wire_type == self.type))
        if self.state is not None:
            found.append(in_state(self.state))
        if self.learner is not None and self.email is None:
            found.append(events.c.learner_id == self.learner)
        if self.since is not None:
            found.append(events.c.received_at >= self.since)
        if self.until is not None:
            found.append(events.c.received_at < self.until)
        return found


EVENT_COLUMNS = (
    events.c.id,
    events.c.receipt_id,
    events.c.source,
    events.c.provider,
    events.c.type,
    events.c.wire_type,
    events.c.key,
    events.c.occurred_at,
    events.c.received_at,
)


def list_events(engine: Engine, wanted: EventFilter, limit: int | None = None) -> Iterator[Record]:
    """Newest first. Documents are read only where an e-mail address is asked for."""
    email = wanted.email.casefold() if wanted.email else None
    columns = EVENT_COLUMNS if email is None else (*EVENT_COLUMNS, events.c.learner_id, events.c.document)

    def make(db: Connection, rows: Sequence[Row[Any]]) -> list[Record]:
        if email is not None:
            rows = [row for row in rows if email in (_email(row.document), (row.learner_id or "").casefold())]
        return event_records(db, rows)

    statement = select(*columns).where(*wanted.conditions())
    by_index = wanted.state in (EventState.WAITING, EventState.DEAD)
    rows = BY_INDEX_ROWS if by_index else PAGE_ROWS
    if limit is not None and email is None:
        rows = min(limit, rows)
    return islice(pages(engine, statement, (events.c.id,), make, rows=rows), limit)


def event_records(db: Connection, rows: Sequence[Row[Any]]) -> list[Record]:
    """Rows of `EVENT_COLUMNS` as records, with the state of each delivery."""
    states = delivery_states(db, [row.id for row in rows])
    return [
        {
            "id": row.id,
            "receipt": row.receipt_id,
            "source": row.source,
            "provider": row.provider,
            "type": row.type,
            "wire_type": row.wire_type,
            "key": row.key.hex(),
            "occurred_at": row.occurred_at,
            "received_at": row.received_at,
            "state": event_state(states.get(row.id, {}).values()),
            "deliveries": states.get(row.id, {}),
        }
        for row in rows
    ]


def delivery_states(db: Connection, event_ids: Sequence[str]) -> dict[str, dict[str, str]]:
    """For each event that has deliveries: the state of each by handler."""
    statement = (
        select(deliveries.c.event_id, deliveries.c.handler, deliveries.c.state)
        .where(deliveries.c.event_id.in_(event_ids))
        .order_by(deliveries.c.event_id, deliveries.c.handler)
    )
    states: dict[str, dict[str, str]] = {}
    for event_id, handler, state in db.execute(statement):
        states.setdefault(event_id, {})[handler] = state
    return states


def list_quarantine(
    engine: Engine, *, source: str | None = None, reason: str | None = None, limit: int | None = None
) -> Iterator[Record]:
    """A record for each item that did not validate, those of the newest callbacks first."""
    statement = select(quarantine)
    if source is not None:
        statement = statement.where(quarantine.c.source == source)
    if reason is not None:
        statement = statement.where(quarantine.c.reason == reason)

    def make(db: Connection, rows: Sequence[Row[Any]]) -> Iterable[Record]:
        for row in rows:
            yield {
                "receipt": row.receipt_id,
                "source": row.source,
                "reason": row.reason,
                "errors": row.errors,
                "item": row.item,
                "wire_type": row.wire_type,
                "event": row.event_id,
                "quarantined_at": row.quarantined_at,
            }

    keys = (quarantine.c.receipt_id, quarantine.c.item)
    return islice(pages(engine, statement, keys, make), limit)


def list_dead_letters(
    engine: Engine,
    *,
    source: str | None = None,
    handler: str | None = None,
    reason: str | None = None,
    limit: int | None = None,
) -> Iterator[Record]:
    """A record for each dead delivery, those of the newest events first. `reason` is the code it died of."""
    statement = (
        select(deliveries, events.c.source, events.c.type, events.c.receipt_id)
        .join(events, events.c.id == deliveries.c.event_id)
        .where(is_dead)
    )
    if source is not None:
        statement = statement.where(events.c.source == source)
    if handler is not None:
        statement = statement.where(deliveries.c.handler == handler)
    if reason is not None:
        statement = statement.where(deliveries.c.code == reason)

    def make(db: Connection, rows: Sequence[Row[Any]]) -> Iterable[Record]:
        for row in rows:
            yield {
                "event": row.event_id,
                "handler": row.handler,
                "error": error_line(row.code, row.detail),
                "attempts": row.attempts + row.crashes,
                "died_at": row.finished_at,
                "source": row.source,
                "type": row.type,
                "receipt": row.receipt_id,
            }

    keys = (deliveries.c.event_id, deliveries.c.handler)
    return islice(pages(engine, statement, keys, make), limit)


def error_line(code: str | None, detail: str | None) -> str:
    """`code: detail`, as one line; a detail that only repeats the code is left out."""
    return ": ".join(" ".join(part.split()) for part in dict.fromkeys((code, detail)) if part)


def list_handlers(db: Connection, *, retired: bool = False) -> list[Record]:
    """The handlers that the ledger knows, by name; those that are retired only where asked for."""
    waiting = _by_handler(db, is_open)
    dead = _by_handler(db, is_dead)
    statement = select(handlers).order_by(handlers.c.name)
    if not retired:
        statement = statement.where(handlers.c.retired_at.is_(None))
    return [
        {
            "name": row.name,
            "kind": row.kind,
            "wants": sorted(row.wants),
            "queue": handler_queue(row.name),
            "waiting": waiting.get(row.name, 0),
            "dead": dead.get(row.name, 0),
            "paused": row.paused,
            "uses": row.uses,
            "retired_at": row.retired_at,
        }
        for row in db.execute(statement)
    ]


def knows_source(db: Connection, name: str) -> bool:
    """Whether anything was ever received from this source."""
    # Every outcome is named so that the index, which begins with it, is taken.
    statement = select(receipts.c.source).where(receipts.c.outcome.in_([*Outcome]), receipts.c.source == name)
    return db.scalar(statement.limit(1)) is not None


def _by_handler(db: Connection, condition: Any) -> dict[str, int]:
    statement = select(deliveries.c.handler, func.count()).where(condition).group_by(deliveries.c.handler)
    return dict(db.execute(statement).all())


def _email(document: bytes) -> str | None:
    learner = orjson.loads(zlib.decompress(document)).get("learner") or {}
    email = learner.get("email")
    return email.casefold() if isinstance(email, str) else None
