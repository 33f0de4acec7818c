"""Entering events: the key makes each one unique, and every handler that wants it gets a delivery."""

from __future__ import annotations

import hmac
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection, select

from coursewire.event import Event
from coursewire.handlers import takers
from coursewire.ledger.engine import insert
from coursewire.ledger.tables import State, deliveries, events, keys, utc_now

MAX_DEPTH = 8
"""Of follow-ups of follow-ups."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An event that wants to enter. `event.key` is still in plain parts."""

    event: Event
    content: bytes
    receipt: str
    item: int
    unknown_fields: int = 0
    parent: str | None = None
    depth: int = 0


@dataclass(frozen=True, slots=True)
class Entered:
    """What became of a candidate: the event `event_id`, or that event's duplicate, or in conflict with it."""

    candidate: Candidate
    event_id: str
    new: bool
    conflict: bool
    wanted: tuple[str, ...]
    """Handlers that got a delivery."""


@dataclass(frozen=True, slots=True)
class _Keyed:
    candidate: Candidate
    key: bytes
    content: bytes


def enter(
    db: Connection, candidates: Sequence[Candidate], secret: bytes, wants: Mapping[str, Iterable[str]]
) -> list[Entered]:
    """Write the candidates that are new, with their deliveries. In the order of the candidates."""
    keyed = [_keyed(candidate, secret) for candidate in candidates]
    holders = _take_keys(db, keyed)
    types = {candidate.event.type for candidate in candidates}
    takers_of = {event_type: tuple(takers(wants, event_type)) for event_type in types}
    entered = [_entered(each, *holders[each.key], takers_of) for each in keyed]
    fresh = [_event_row(each) for each in keyed if holders[each.key][0] == each.candidate.event.id]
    if fresh:
        db.execute(events.insert(), fresh)
    now = utc_now()
    owed = [
        {"event_id": each.event_id, "handler": handler, "state": State.PENDING.value, "due_at": now}
        for each in entered
        if each.new
        for handler in each.wanted
    ]
    if owed:
        db.execute(deliveries.insert(), owed)
    return entered


def pack(event: Event) -> bytes:
    return zlib.compress(event.to_json(), 3)


def unpack(document: bytes) -> Event:
    return Event.from_json(zlib.decompress(document))


def hashed_key(event: Event, secret: bytes) -> bytes:
    """The key as the ledger keeps it. Keys of two sources never meet."""
    return hmac.digest(secret, f"key\0{event.source}\0{event.key}".encode(), "sha256")


def _keyed(candidate: Candidate, secret: bytes) -> _Keyed:
    key = hashed_key(candidate.event, secret)
    content = hmac.digest(secret, b"content\0" + candidate.content, "sha256")
    event = replace(candidate.event, key=key.hex())
    return _Keyed(replace(candidate, event=event), key, content)


def _entered(
    each: _Keyed, event_id: str, content: bytes, takers_of: Mapping[str, tuple[str, ...]]
) -> Entered:
    new = event_id == each.candidate.event.id
    return Entered(
        candidate=each.candidate,
        event_id=event_id,
        new=new,
        conflict=not new and content != each.content,
        wanted=takers_of[each.candidate.event.type] if new else (),
    )


def _take_keys(db: Connection, keyed: Sequence[_Keyed]) -> dict[bytes, tuple[str, bytes]]:
    """For each key, the event that has it and that event's content."""
    holders: dict[bytes, tuple[str, bytes]] = {}
    for each in keyed:  # the first of a batch wins
        holders.setdefault(each.key, (each.candidate.event.id, each.content))
    if not holders:
        return holders
    # In key order: two transactions that take the same keys in opposite orders would deadlock.
    rows = [{"key": key, "event_id": holders[key][0], "content": holders[key][1]} for key in sorted(holders)]
    statement = insert(db, keys).on_conflict_do_nothing().returning(keys.c.key)
    taken = set(db.scalars(statement, rows))
    lost = [key for key in holders if key not in taken]
    if lost:
        found = db.execute(select(keys).where(keys.c.key.in_(lost)))
        holders |= {row.key: (row.event_id, row.content) for row in found}
    return holders


def _event_row(each: _Keyed) -> dict[str, object]:
    candidate, event = each.candidate, each.candidate.event
    return {
        "id": event.id,
        "receipt_id": candidate.receipt,
        "item": candidate.item,
        "parent_id": candidate.parent,
        "depth": candidate.depth,
        "source": event.source,
        "provider": event.provider,
        "type": event.type,
        "wire_type": event.wire_type,
        "key": each.key,
        "occurred_at": event.occurred_at,
        "received_at": event.received_at,
        "learner_id": event.learner.id if event.learner else None,
        "unknown_fields": min(candidate.unknown_fields, 32767),
        "document": pack(event),
    }
