"""Reading a stored callback again with today's schemas, so that what did not validate may become events."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, delete, exists, select, update

from coursewire.errors import Code
from coursewire.event import EventType
from coursewire.inbox import Entry
from coursewire.ledger import audit
from coursewire.ledger.bodies import stored_entries
from coursewire.ledger.engine import insert
from coursewire.ledger.events import Candidate, Entered, enter, hashed_key
from coursewire.ledger.receipts import CONFLICT_ERRORS, Problem, Read
from coursewire.ledger.tables import (
    Outcome,
    deliveries,
    duplicates,
    events,
    keys,
    quarantine,
    receipts,
    utc_now,
)
from coursewire.plugins import Reading

Reader = Callable[[Entry], Read]

BODY_NOT_KEPT = "its body was not kept: the provider was not configured when it came"
SOURCE_UNKNOWN = "its source is not configured"


@dataclass(frozen=True, slots=True)
class Reread:
    """What came of one callback; in items. `obstacle` says why it could not be read at all."""

    receipt: str
    events: int = 0
    duplicates: int = 0
    quarantined: int = 0
    unchanged: int = 0
    conflicts: int = 0
    """Of the unchanged: an event has their key, and which of the two is right only a person can tell."""
    obstacle: str | None = None
    wanted: frozenset[str] = frozenset()
    """Handlers that got deliveries."""

    @property
    def changed(self) -> bool:
        return bool(self.events or self.duplicates or self.quarantined)


@dataclass(frozen=True, slots=True)
class _Known:
    """What the ledger has of a callback's items; `unknown` and `repeats` by item: the unknown event's id."""

    quarantined: Mapping[int, Row[Any]]
    unknown: Mapping[int, str]
    repeats: Mapping[int, str]
    """Items that repeat an unknown event: without a schema, alike bodies could not be told apart."""
    settled: frozenset[int]

    def stays(self, index: int, item: Reading | Problem) -> bool:
        """Whether reading the item again changes nothing."""
        if index in self.settled:
            return True
        if index in self.unknown or index in self.repeats:
            return isinstance(item, Reading) and item.event.type == EventType.UNKNOWN
        return isinstance(item, Problem) and index in self.quarantined and not self.differs(index, item)

    def differs(self, index: int, problem: Problem) -> bool:
        row = self.quarantined[index]
        return (row.reason, row.errors, row.wire_type) != (
            problem.code.value,
            dict(problem.errors),
            problem.wire_type,
        )


@dataclass(slots=True)
class _Work:
    candidates: list[Candidate] = field(default_factory=list)
    problems: dict[int, Problem] = field(default_factory=dict)
    unchanged: int = 0


def forecast(db: Connection, receipt_id: str, read: Reader, secret: bytes) -> Reread:
    """What `reread` would come to, without writing."""
    entry, obstacle = _entry(db, receipt_id)
    if entry is None:
        return Reread(receipt_id, obstacle=obstacle)
    again = read(entry)
    if _source_is_unknown(again):
        return Reread(receipt_id, obstacle=SOURCE_UNKNOWN)
    work = _sort(again, known := _known(db, receipt_id))
    hashed = {hashed_key(candidate.event, secret) for candidate in work.candidates}
    own = set(known.unknown.values())
    held = sum(
        holder not in own for holder in db.scalars(select(keys.c.event_id).where(keys.c.key.in_(hashed)))
    )
    conflicts = sum(row.reason == Code.CONFLICT for row in known.quarantined.values())
    stays = min(held, conflicts)
    return Reread(
        receipt_id,
        events=len(work.candidates) - held,
        duplicates=held - stays,
        quarantined=len(work.problems),
        unchanged=work.unchanged + stays,
        conflicts=stays,
    )


def reread(
    db: Connection, receipt_id: str, read: Reader, secret: bytes, wants: Mapping[str, Iterable[str]]
) -> Reread:
    """Read one callback again, in the caller's transaction.

    Items that have become events, or duplicates of events, stay what they are. The others become events,
    duplicates or conflicts as if they came today; what still does not validate gets today's errors.
    """
    # Two replays at once must not take the same callback; SQLite has one writer anyway.
    db.execute(select(receipts.c.id).where(receipts.c.id == receipt_id).with_for_update())
    entry, obstacle = _entry(db, receipt_id)
    if entry is None:
        return Reread(receipt_id, obstacle=obstacle)
    again = read(entry)
    if _source_is_unknown(again):
        return Reread(receipt_id, obstacle=SOURCE_UNKNOWN)
    known = _known(db, receipt_id)
    work = _sort(again, known)
    entered = enter(db, work.candidates, secret, wants)
    fresh = sum(each.new for each in entered)
    repeated = [each for each in entered if not each.new and not each.conflict]
    for each in entered:
        if each.conflict:
            work.problems[each.candidate.item] = Problem(
                Code.CONFLICT, CONFLICT_ERRORS, each.candidate.event.wire_type
            )
    _resolve(db, receipt_id, known, entered)
    _repeat(db, receipt_id, repeated)
    holders = {each.candidate.item: each.event_id for each in entered if each.conflict}
    changed = _quarantine(db, entry, known, work.problems, holders)
    unchanged = work.unchanged + len(work.problems) - changed
    done = Reread(
        receipt_id,
        fresh,
        len(repeated),
        changed,
        unchanged,
        conflicts=sum(each.conflict for each in entered),
        wanted=frozenset(handler for each in entered for handler in each.wanted),
    )
    if done.changed:
        outcome = settle_outcome(db, receipt_id)
        counts = {"events": fresh, "duplicates": len(repeated), "quarantined": changed}
        trail = audit.Entry("replay", entry.callback.source, receipt_id, outcome=outcome, detail=counts)
        audit.append(db, [trail])
    return done


def settle_outcome(db: Connection, receipt_id: str) -> Outcome:
    """Write anew what a receipt's items come to."""
    mine = events.c.receipt_id == receipt_id
    delivered = exists().where(deliveries.c.event_id == events.c.id)
    if db.scalar(select(exists().where(quarantine.c.receipt_id == receipt_id))):
        outcome = Outcome.QUARANTINED
    elif db.scalar(select(exists().where(mine, events.c.parent_id.is_(None), delivered))):
        outcome = Outcome.EVENTS
    elif db.scalar(select(exists().where(duplicates.c.receipt_id == receipt_id))):
        outcome = Outcome.DUPLICATE
    else:
        outcome = Outcome.IGNORED
    db.execute(update(receipts).where(receipts.c.id == receipt_id).values(outcome=outcome.value))
    return outcome


def _entry(db: Connection, receipt_id: str) -> tuple[Entry | None, str | None]:
    entry = stored_entries(db, [receipt_id]).get(receipt_id)
    if entry is None:
        return None, "there is no such receipt"
    return (entry, None) if entry.callback.body else (None, BODY_NOT_KEPT)


def _source_is_unknown(again: Read) -> bool:
    """Its errors would take the place of better ones."""
    return any(isinstance(item, Problem) and item.code is Code.UNKNOWN_SOURCE for item in again.items)


def _known(db: Connection, receipt_id: str) -> _Known:
    roots = db.execute(
        select(events.c.item, events.c.id, events.c.type).where(
            events.c.receipt_id == receipt_id, events.c.parent_id.is_(None)
        )
    ).all()
    repeated = db.execute(
        select(duplicates.c.item, events.c.id, events.c.type)
        .outerjoin(events, events.c.id == duplicates.c.event_id)
        .where(duplicates.c.receipt_id == receipt_id)
    ).all()
    rows = db.execute(select(quarantine).where(quarantine.c.receipt_id == receipt_id))
    settled = {row.item for row in (*roots, *repeated) if row.type != EventType.UNKNOWN}
    return _Known(
        quarantined={row.item: row for row in rows},
        unknown={row.item: row.id for row in roots if row.type == EventType.UNKNOWN},
        repeats={row.item: row.id for row in repeated if row.type == EventType.UNKNOWN},
        settled=frozenset(settled),
    )


def _sort(again: Read, known: _Known) -> _Work:
    work = _Work()
    for index, item in enumerate(again.items):
        if known.stays(index, item):
            work.unchanged += 1
        elif isinstance(item, Problem):
            work.problems[index] = item
        else:
            work.candidates.append(
                Candidate(
                    event=item.event,
                    content=item.content,
                    receipt=again.receipt,
                    item=index,
                    unknown_fields=len(item.unknown_fields),
                )
            )
    return work


def _resolve(db: Connection, receipt_id: str, known: _Known, entered: Sequence[Entered]) -> None:
    """Take away what stood for items that are events or duplicates now."""
    resolved = {each.candidate.item: each.event_id for each in entered if not each.conflict}
    if not resolved:
        return
    db.execute(
        delete(quarantine).where(quarantine.c.receipt_id == receipt_id, quarantine.c.item.in_(resolved))
    )
    db.execute(
        delete(duplicates).where(duplicates.c.receipt_id == receipt_id, duplicates.c.item.in_(resolved))
    )
    for item, was in known.unknown.items():
        if item in resolved:
            # Other callbacks with this body repeat what has become of it.
            repoint = update(duplicates).where(duplicates.c.event_id == was)
            db.execute(repoint.values(event_id=resolved[item]))
            db.execute(delete(keys).where(keys.c.event_id == was))
            db.execute(delete(events).where(events.c.id == was))


def _repeat(db: Connection, receipt_id: str, repeated: Sequence[Entered]) -> None:
    if repeated:
        rows = [
            {"receipt_id": receipt_id, "item": each.candidate.item, "event_id": each.event_id}
            for each in repeated
        ]
        db.execute(duplicates.insert(), rows)


def _quarantine(
    db: Connection,
    entry: Entry,
    known: _Known,
    problems: Mapping[int, Problem],
    holders: Mapping[int, str],
) -> int:
    """Write today's problems; how many differ from what was there."""
    changed = 0
    for item, problem in sorted(problems.items()):
        if item in known.quarantined and not known.differs(item, problem):
            continue
        values = {
            "wire_type": problem.wire_type,
            "reason": problem.code.value,
            "errors": dict(problem.errors),
            "event_id": holders.get(item),
            "quarantined_at": utc_now(),
        }
        row = {"receipt_id": entry.callback.receipt, "item": item, "source": entry.callback.source}
        statement = insert(db, quarantine).values(**row, **values)
        db.execute(statement.on_conflict_do_update(index_elements=["receipt_id", "item"], set_=values))
        if item in known.repeats:
            mine = (duplicates.c.receipt_id == entry.callback.receipt, duplicates.c.item == item)
            db.execute(delete(duplicates).where(*mine))
        changed += 1
    return changed
