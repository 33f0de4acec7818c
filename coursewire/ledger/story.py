"""The whole story of one callback or of one event, as the ledger has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Table, or_, select

from coursewire.errors import Code, NotFound
from coursewire.event import EventType
from coursewire.handlers import takers
from coursewire.ledger.events import unpack
from coursewire.ledger.ids import Found
from coursewire.ledger.reports import EVENT_COLUMNS, delivery_states, event_records
from coursewire.ledger.states import callback_state
from coursewire.ledger.tables import (
    State,
    attempts,
    audit,
    deliveries,
    duplicates,
    events,
    handlers,
    quarantine,
    receipts,
)

Record = dict[str, Any]


def tell(db: Connection, found: Found) -> Record:
    """`{receipt, events, deliveries, attempts}`. Of an event: itself, what it follows and what follows it."""
    if found.kind == "event":
        receipt_id = db.scalar(select(events.c.receipt_id).where(events.c.id == found.id))
    else:
        receipt_id = found.id
    columns = [column for column in receipts.c if column is not receipts.c.body]
    receipt = db.execute(select(*columns).where(receipts.c.id == receipt_id)).one_or_none()
    if receipt is None:
        raise NotFound(f"there is no receipt {receipt_id}")
    all_rows = db.execute(_events_of(receipt.id)).all()
    rows = all_rows if found.kind == "receipt" else _family(all_rows, found.id)
    ids = [row.id for row in rows]
    items = None if found.kind == "receipt" else {row.item for row in rows}
    states = delivery_states(db, [row.id for row in all_rows])
    flat = [state for by_handler in states.values() for state in by_handler.values()]
    owed = db.execute(_of(deliveries, ids)).all()
    return {
        "receipt": {
            **_receipt(receipt),
            "state": callback_state(receipt.outcome, flat),
            "quarantine": _quarantine(db, receipt.id, items),
            "duplicates": _duplicates(db, receipt.id, items),
            "audit": _audit(db, receipt.id, ids),
        },
        "events": _events(db, rows),
        "deliveries": [_delivery(row) for row in owed],
        "attempts": _attempts(db, ids, owed),
    }


def _events_of(receipt_id: str) -> Any:
    columns = (
        *EVENT_COLUMNS,
        events.c.item,
        events.c.parent_id,
        events.c.depth,
        events.c.document,
    )
    return select(*columns).where(events.c.receipt_id == receipt_id).order_by(events.c.item, events.c.id)


def _family(rows: Sequence[Row[Any]], event_id: str) -> list[Row[Any]]:
    """The event, those it follows, and those that follow it."""
    by_id = {row.id: row for row in rows}
    wanted = {event_id}
    parent = by_id[event_id].parent_id
    while parent in by_id:
        wanted.add(parent)
        parent = by_id[parent].parent_id
    below = {event_id}
    while below:
        below = {row.id for row in rows if row.parent_id in below}
        wanted |= below
    return [row for row in rows if row.id in wanted]


def _receipt(row: Row[Any]) -> Record:
    names = ("id", "source", "provider", "received_at", "method", "content_type", "headers")
    more = ("remote_address", "verified_by", "size", "entry", "outcome")
    return {name: getattr(row, name) for name in (*names, *more)}


def _quarantine(db: Connection, receipt_id: str, items: set[int] | None) -> list[Record]:
    statement = select(quarantine).where(quarantine.c.receipt_id == receipt_id).order_by(quarantine.c.item)
    return [
        {
            "item": row.item,
            "wire_type": row.wire_type,
            "reason": row.reason,
            "errors": row.errors,
            "event": row.event_id,
            "quarantined_at": row.quarantined_at,
        }
        for row in db.execute(statement)
        if items is None or row.item in items
    ]


def _duplicates(db: Connection, receipt_id: str, items: set[int] | None) -> list[Record]:
    statement = (
        select(duplicates.c.item, duplicates.c.event_id, events.c.receipt_id, events.c.received_at)
        .outerjoin(events, events.c.id == duplicates.c.event_id)
        .where(duplicates.c.receipt_id == receipt_id)
        .order_by(duplicates.c.item)
    )
    return [
        {
            "item": row.item,
            "event": row.event_id,
            "receipt": row.receipt_id,
            "received_at": row.received_at,
        }
        for row in db.execute(statement)
        if items is None or row.item in items
    ]


def _audit(db: Connection, receipt_id: str, event_ids: Sequence[str]) -> list[Record]:
    statement = (
        select(audit)
        .where(or_(audit.c.receipt_id == receipt_id, audit.c.event_id.in_(event_ids)))
        .order_by(audit.c.id)
    )
    return [
        {
            "at": row.at,
            "kind": row.kind,
            "event": row.event_id,
            "outcome": row.outcome,
            "detail": row.detail,
        }
        for row in db.execute(statement)
    ]


def _events(db: Connection, rows: Sequence[Row[Any]]) -> list[Record]:
    known = db.execute(select(handlers).order_by(handlers.c.name)).all()
    repeats: dict[str, list[Record]] = {}
    statement = select(duplicates).where(duplicates.c.event_id.in_([row.id for row in rows]))
    for row in db.execute(statement.order_by(duplicates.c.receipt_id, duplicates.c.item)):
        repeats.setdefault(row.event_id, []).append({"receipt": row.receipt_id, "item": row.item})
    told = []
    for row, record in zip(rows, event_records(db, rows), strict=True):
        document = unpack(row.document).as_dict()
        told.append(
            {
                **record,
                "item": row.item,
                "parent": row.parent_id,
                "depth": row.depth,
                **{name: document[name] for name in _FROM_THE_DOCUMENT},
                "unknown_fields": sorted(document["data"].get("unknown", {})),
                "repeated_by": repeats.get(row.id, []),
                "passed_over": passed_over(known, record["type"], record["deliveries"]),
            }
        )
    return told


_FROM_THE_DOCUMENT = (
    "zone_assumed",
    "learner",
    "course",
    "activity",
    "registration",
    "result",
    "triggered_by",
    "certificate_subject",
    "data",
)


def passed_over(known: Sequence[Row[Any]], event_type: str, taken: Mapping[str, str]) -> dict[str, str]:
    """For each handler that has no delivery of an event of this type: why not."""
    wanting = takers({row.name: row.wants for row in known}, event_type)
    reasons = {}
    for row in known:
        if row.name in taken:
            continue
        if event_type == EventType.UNKNOWN:
            reasons[row.name] = "no schema knows this event"
        elif row.name not in wanting:
            reasons[row.name] = f"does not want {event_type}"
        elif row.retired_at is not None:
            reasons[row.name] = "is retired"
        else:
            reasons[row.name] = "did not want it when it came; `replay --handler` offers it"
    return reasons


def _of(table: Table, event_ids: Sequence[str]) -> Any:
    return select(table).where(table.c.event_id.in_(event_ids)).order_by(table.c.event_id, table.c.handler)


def _delivery(row: Row[Any]) -> Record:
    return {
        "event": row.event_id,
        "handler": row.handler,
        "state": row.state,
        "code": row.code,
        "detail": row.detail,
        "attempts": row.attempts,
        "crashes": row.crashes,
        "due_at": row.due_at,
        "claimed_at": row.claimed_at,
        "finished_at": row.finished_at,
    }


def _attempts(db: Connection, event_ids: Sequence[str], owed: Sequence[Row[Any]]) -> list[Record]:
    """Those that have a row of their own, and the one that ended its delivery or is under way."""
    found = [
        _attempt(row.event_id, row.handler, row.started_at, row.ended_at, row.outcome, row.code, row.detail)
        for row in db.execute(_of(attempts, event_ids))
    ]
    for row in owed:
        ended = row.state in (State.DONE, State.SKIPPED) and row.code != Code.RETIRED
        if row.claimed_at is not None and (ended or row.state == State.RUNNING):
            at = row.finished_at if ended else None
            code, detail = (row.code, row.detail) if ended else (None, None)
            found.append(_attempt(row.event_id, row.handler, row.claimed_at, at, row.state, code, detail))
    return sorted(found, key=lambda each: each["started_at"] or each["ended_at"])


def _attempt(
    event_id: str,
    handler: str,
    started_at: datetime | None,
    ended_at: datetime | None,
    outcome: str,
    code: str | None,
    detail: str | None,
) -> Record:
    return {
        "event": event_id,
        "handler": handler,
        "started_at": started_at,
        "ended_at": ended_at,
        "outcome": outcome,
        "code": code,
        "detail": detail,
    }
