"""Writing what ingest read: receipts, events, deliveries, duplicates and quarantine, in one transaction."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, select

from coursewire.errors import Code, CoursewireError
from coursewire.inbox import Entry
from coursewire.ledger import audit
from coursewire.ledger.engine import insert
from coursewire.ledger.events import Candidate, Entered, enter
from coursewire.ledger.tables import (
    Outcome,
    duplicates,
    quarantine,
    reappends,
    receipts,
    utc_now,
)
from coursewire.plugins import Reading


@dataclass(frozen=True, slots=True)
class Problem:
    """Why an item did not become an event. `errors`: rules by field path, never values."""

    code: Code
    errors: Mapping[str, list[str]] = field(default_factory=dict)
    wire_type: str | None = None


@dataclass(frozen=True, slots=True)
class Read:
    """A callback as ingest read it: its redacted body, and each item as a reading or a problem."""

    entry: Entry
    body: bytes
    items: Sequence[Reading | Problem]

    @property
    def receipt(self) -> str:
        return self.entry.callback.receipt


@dataclass(frozen=True, slots=True)
class Written:
    """What a batch added to the ledger: its items; source and outcome of each callback that is new there."""

    entered: Sequence[Entered] = ()
    outcomes: Sequence[tuple[str, Outcome]] = ()


_WORST = (Outcome.QUARANTINED, Outcome.EVENTS, Outcome.DUPLICATE, Outcome.IGNORED)


class Raced(CoursewireError):
    """Another worker wrote the same receipt at the same moment; read again, it will be found there."""


def write(
    db: Connection, batch: Sequence[Read], secret: bytes, wants: Mapping[str, Iterable[str]]
) -> Written:
    """Write a batch. A receipt that is there already is passed over: its entry was read a second time."""
    fresh = _without_known(db, batch)
    if not fresh:
        return Written()
    entered = enter(db, candidates_of(fresh), secret, wants)
    outcomes = settle(db, fresh, entered)
    rows = [_receipt_row(read, outcomes[read.receipt]) for read in fresh]
    written = db.execute(insert(db, receipts).on_conflict_do_nothing().returning(receipts.c.id), rows)
    if len(written.all()) < len(rows):
        raise Raced
    audit.append(
        db,
        [
            audit.Entry(
                kind="receipt",
                source=read.entry.callback.source,
                receipt_id=read.receipt,
                outcome=outcomes[read.receipt],
            )
            for read in fresh
        ],
    )
    return Written(entered, [(read.entry.callback.source, outcomes[read.receipt]) for read in fresh])


def candidates_of(batch: Sequence[Read]) -> list[Candidate]:
    return [
        Candidate(
            event=item.event,
            content=item.content,
            receipt=read.receipt,
            item=index,
            unknown_fields=len(item.unknown_fields),
        )
        for read in batch
        for index, item in enumerate(read.items)
        if isinstance(item, Reading)
    ]


def settle(db: Connection, batch: Sequence[Read], entered: Sequence[Entered]) -> dict[str, Outcome]:
    """Write duplicates and quarantine; the outcome of each receipt."""
    outcomes: dict[str, set[Outcome]] = {read.receipt: set() for read in batch}
    sources = {read.receipt: read.entry.callback.source for read in batch}
    quarantined = []
    repeated = []
    for read in batch:
        for index, item in enumerate(read.items):
            if isinstance(item, Problem):
                outcomes[read.receipt].add(Outcome.QUARANTINED)
                quarantined.append(_quarantine_row(read.receipt, index, sources[read.receipt], item))
    for each in entered:
        receipt, item_index = each.candidate.receipt, each.candidate.item
        if each.conflict:
            outcomes[receipt].add(Outcome.QUARANTINED)
            problem = Problem(Code.CONFLICT, CONFLICT_ERRORS, each.candidate.event.wire_type)
            quarantined.append(_quarantine_row(receipt, item_index, sources[receipt], problem, each.event_id))
        elif each.new:
            outcomes[receipt].add(Outcome.EVENTS if each.wanted else Outcome.IGNORED)
        else:
            outcomes[receipt].add(Outcome.DUPLICATE)
            repeated.append({"receipt_id": receipt, "item": item_index, "event_id": each.event_id})
    if quarantined:
        db.execute(quarantine.insert(), quarantined)
    if repeated:
        db.execute(duplicates.insert(), repeated)
    return {
        receipt: next(outcome for outcome in _WORST if outcome in found)
        for receipt, found in outcomes.items()
    }


CONFLICT_ERRORS = {"key": ["an event with this key but other content is there already"]}


def _without_known(db: Connection, batch: Sequence[Read]) -> list[Read]:
    ids = [read.receipt for read in batch]
    rows = db.execute(select(receipts.c.id, receipts.c.entry).where(receipts.c.id.in_(ids)))
    known = {row.id: row.entry for row in rows}
    fresh: dict[str, Read] = {}
    again = []
    for read in batch:
        first = known.get(read.receipt) or (fresh[read.receipt].entry.id if read.receipt in fresh else None)
        if first is None:
            fresh[read.receipt] = read
        elif first != read.entry.id:
            again.append({"entry": read.entry.id, "receipt_id": read.receipt})
    if again:
        db.execute(insert(db, reappends).on_conflict_do_nothing(), again)
    return list(fresh.values())


def _receipt_row(read: Read, outcome: Outcome) -> dict[str, object]:
    callback = read.entry.callback
    return {
        "id": callback.receipt,
        "source": callback.source,
        "provider": read.entry.provider,
        "received_at": callback.received_at,
        "method": callback.method,
        "content_type": callback.content_type,
        "headers": dict(callback.headers) or None,
        "remote_address": callback.remote_address,
        "verified_by": callback.verified_by,
        "size": len(callback.body),
        "body": zlib.compress(read.body, 3),
        "entry": read.entry.id,
        "outcome": outcome.value,
    }


def _quarantine_row(
    receipt: str, item: int, source: str, problem: Problem, event_id: str | None = None
) -> dict[str, object]:
    return {
        "receipt_id": receipt,
        "item": item,
        "source": source,
        "wire_type": problem.wire_type,
        "reason": problem.code.value,
        "errors": dict(problem.errors),
        "event_id": event_id,
        "quarantined_at": utc_now(),
    }
