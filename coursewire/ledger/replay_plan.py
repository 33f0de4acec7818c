"""The plan of a replay: how much there is to do, and what it would come to, without writing anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import Connection, Engine, Select, func, select

from coursewire.ledger.engine import reading
from coursewire.ledger.reports import error_line
from coursewire.ledger.reread import Reader, Reread, forecast
from coursewire.ledger.selection import Offers, Selection
from coursewire.ledger.tables import deliveries, events, receipts

SAMPLE_ROWS = 10
# Reading is quick, but not so quick that a plan may read every body there is.
FORECAST_CALLBACKS = 1000


@dataclass(slots=True)
class Readings:
    """What reading callbacks again comes to. In items; `conflicts` are unchanged ones too.

    `obstacles`: why callbacks cannot be read at all, and how many.
    """

    events: int = 0
    duplicates: int = 0
    quarantined: int = 0
    unchanged: int = 0
    conflicts: int = 0
    obstacles: dict[str, int] = field(default_factory=dict)

    def add(self, done: Reread) -> None:
        self.events += done.events
        self.duplicates += done.duplicates
        self.quarantined += done.quarantined
        self.unchanged += done.unchanged
        self.conflicts += done.conflicts
        if done.obstacle is not None:
            self.obstacles[done.obstacle] = self.obstacles.get(done.obstacle, 0) + 1


@dataclass(frozen=True, slots=True)
class Row:
    """One piece of work. `kind` is read_again, run_again or offer; `now` is what is known of it today.

    Of an offer `handler` may name several, parted by commas.
    """

    kind: str
    receipt: str
    event: str | None
    handler: str | None
    now: str


@dataclass(frozen=True, slots=True)
class Plan:
    """How much there is of each kind, and the first rows.

    `would_be` looks at the first `looked_at` callbacks. `finished` and `waiting` count chosen deliveries that
    stay as they are, `retired` dead ones whose handler is retired.
    """

    read_again: int
    run_again: int
    offer: int
    finished: int
    waiting: int
    retired: int
    looked_at: int
    would_be: Readings
    rows: Sequence[Row]

    @property
    def more(self) -> int:
        """How many rows there are beyond the first."""
        return self.read_again + self.run_again + self.offer - len(self.rows)

    @property
    def empty(self) -> bool:
        return not (self.read_again or self.run_again or self.offer)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def make_plan(engine: Engine, chosen: Selection, read: Reader, secret: bytes) -> Plan:
    """What `run` would do now. Raises `NotFound` where the ledger has no such handler."""
    with reading(engine) as db:
        offers = chosen.offers(db)
        callbacks, dead = chosen.callbacks(), chosen.dead()
        looked_at = [
            forecast(db, receipt_id, read, secret)
            for receipt_id in db.scalars(callbacks.order_by(receipts.c.id).limit(FORECAST_CALLBACKS)).all()
        ]
        would_be = Readings()
        for each in looked_at:
            would_be.add(each)
        rows = [Row("read_again", each.receipt, None, None, _now(each)) for each in looked_at]
        rows += _dead_rows(db, dead)
        rows += _offered_rows(db, offers)
        finished, waiting = chosen.unchanged(db)
        return Plan(
            read_again=_count(db, callbacks),
            run_again=_count(db, dead),
            offer=_count(db, offers.events),
            finished=finished,
            waiting=waiting,
            retired=_count(db, chosen.dead(retired=True)),
            looked_at=len(looked_at),
            would_be=would_be,
            rows=rows[:SAMPLE_ROWS],
        )


def _count(db: Connection, statement: Select[Any]) -> int:
    return db.scalar(select(func.count()).select_from(statement.subquery())) or 0


def _dead_rows(db: Connection, dead: Select[Any]) -> Iterator[Row]:
    ordered = dead.order_by(deliveries.c.event_id, deliveries.c.handler).limit(SAMPLE_ROWS)
    for row in db.execute(ordered):
        now = error_line(row.code, row.detail)
        yield Row("run_again", row.receipt_id, row.event_id, row.handler, now)


def _offered_rows(db: Connection, offers: Offers) -> Iterator[Row]:
    for row in db.execute(offers.events.order_by(events.c.id).limit(SAMPLE_ROWS)):
        yield Row("offer", row.receipt_id, row.id, ", ".join(offers.takers(row.type)), "has no delivery")


def _now(each: Reread) -> str:
    if each.obstacle is not None:
        return each.obstacle
    counts = {
        "new": each.events,
        "duplicate": each.duplicates,
        "with other errors": each.quarantined,
        "in conflict": each.conflicts,
        "unchanged": each.unchanged - each.conflicts,
    }
    return ", ".join(f"{count} {word}" for word, count in counts.items() if count) or "nothing"
