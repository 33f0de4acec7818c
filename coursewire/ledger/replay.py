"""Running chosen work again, in bounded transactions.

Three kinds: callbacks that are read again (quarantined ones, and those that no schema knew), dead deliveries
that run again, and events that are offered to a handler that had no delivery of them. Whatever ended well
stays as it is, so a replay may be repeated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import Connection, Engine, Row, Select, update

from coursewire.ledger import audit, registry
from coursewire.ledger.engine import insert, reading
from coursewire.ledger.pages import PAGE_ROWS, pages
from coursewire.ledger.replay_plan import Readings
from coursewire.ledger.reread import Reader, reread
from coursewire.ledger.selection import Offers, Selection
from coursewire.ledger.tables import (
    Outcome,
    State,
    deliveries,
    events,
    is_dead,
    receipts,
    utc_now,
)


@dataclass(slots=True)
class Result:
    read_again: int = 0
    became: Readings = field(default_factory=Readings)
    run_again: int = 0
    offered: int = 0
    handlers: set[str] = field(default_factory=set)
    """Which have new work."""

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "handlers": sorted(self.handlers)}


def run(engine: Engine, chosen: Selection, read: Reader, secret: bytes) -> Result:
    """Do it. What was done stays done when it is interrupted: run it again for the rest."""
    result = Result()
    with reading(engine) as db:
        offers = chosen.offers(db)
    for receipt_id in pages(
        engine,
        chosen.callbacks(),
        (receipts.c.id,),
        lambda _, rows: [row.id for row in rows],
        newest_first=False,
    ):
        with engine.begin() as db:
            done = reread(db, receipt_id, read, secret, registry.wanted(db))
        result.read_again += 1
        result.became.add(done)
        result.handlers |= done.wanted
    for handlers in _run_again(engine, chosen.dead()):
        result.run_again += len(handlers)
        result.handlers |= set(handlers)
    for pairs in _offer(engine, offers):
        result.offered += len(pairs)
        result.handlers |= {handler for _, handler in pairs}
    return result


def _run_again(engine: Engine, dead: Select[Any]) -> Iterator[list[str]]:
    """Make dead deliveries pending, as if they had never been tried; yields the handlers of each batch."""
    batch = dead.order_by(deliveries.c.event_id, deliveries.c.handler).limit(PAGE_ROWS)
    while True:
        with engine.begin() as db:
            rows = db.execute(batch.with_for_update(of=deliveries)).all()
            _revive(db, rows)
        if not rows:
            return
        yield [row.handler for row in rows]


def _revive(db: Connection, rows: Sequence[Row[Any]]) -> None:
    """The attempts stay in their own table."""
    by_handler: dict[str, list[str]] = {}
    for row in rows:
        by_handler.setdefault(row.handler, []).append(row.event_id)
    anew: dict[str, Any] = dict.fromkeys(("token", "claimed_at", "finished_at", "code", "detail"))
    anew |= {"state": State.PENDING.value, "attempts": 0, "crashes": 0, "due_at": utc_now()}
    for handler, event_ids in by_handler.items():
        mine = (deliveries.c.handler == handler, deliveries.c.event_id.in_(event_ids), is_dead)
        db.execute(update(deliveries).where(*mine).values(**anew))
    audit.append(db, [_trail(row, row.event_id, "run_again", row.handler, died_of=row.code) for row in rows])


def _offer(engine: Engine, offers: Offers) -> Iterator[list[tuple[str, str]]]:
    """Make deliveries of events that had none; yields the events and handlers of each batch."""
    batch = offers.events.order_by(events.c.id).limit(PAGE_ROWS)
    page = batch
    while True:
        with engine.begin() as db:
            rows = db.execute(page).all()
            pairs = [(row, handler) for row in rows for handler in offers.takers(row.type)]
            if pairs:
                _owe(db, pairs)
        yield [(row.id, handler) for row, handler in pairs]
        if len(rows) < PAGE_ROWS:
            return
        page = batch.where(events.c.id > rows[-1].id)


def _owe(db: Connection, pairs: Sequence[tuple[Row[Any], str]]) -> None:
    now = utc_now()
    owed = [
        {"event_id": row.id, "handler": handler, "state": State.PENDING.value, "due_at": now}
        for row, handler in pairs
    ]
    db.execute(insert(db, deliveries).on_conflict_do_nothing(), owed)
    # Callbacks that nobody wanted anything of are wanted now.
    wanted = update(receipts).where(
        receipts.c.id.in_({row.receipt_id for row, _ in pairs}),
        receipts.c.outcome.in_([Outcome.IGNORED, Outcome.DUPLICATE]),
    )
    db.execute(wanted.values(outcome=Outcome.EVENTS.value))
    audit.append(db, [_trail(row, row.id, "offered", handler) for row, handler in pairs])


def _trail(row: Row[Any], event_id: str, outcome: str, handler: str, **detail: str | None) -> audit.Entry:
    detail["handler"] = handler
    return audit.Entry("replay", row.source, row.receipt_id, event_id, outcome, detail)
