"""What waits, is dead or in quarantine right now, cheaply enough to be asked every few seconds.

Every count is taken from an index, and stops at `MOST`; see `stats` for the exact account.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Engine, TextClause, func, literal_column, select

from coursewire.inbox import Inbox
from coursewire.ledger.engine import reading
from coursewire.ledger.tables import deliveries, events, handlers, is_dead, is_open, receipts

MOST = 1_000_000
"""Of one queue. This many index entries are read in a tenth of a second."""


@dataclass(frozen=True, slots=True)
class Line:
    """How many wait, and when the first of them was received."""

    count: int
    oldest: datetime | None


@dataclass(frozen=True, slots=True)
class Backlog:
    """`inbox` and `quarantined` (by source) are callbacks; `handlers` and `dead` (by handler) deliveries."""

    inbox: Line
    handlers: Mapping[str, Line]
    dead: Mapping[str, int]
    quarantined: Mapping[str, int]


def take_backlog(engine: Engine, inbox: Inbox) -> Backlog:
    """Raises the errors of redis-py and of SQLAlchemy."""
    depth = inbox.depth()
    with reading(engine) as db:
        names = db.scalars(select(handlers.c.name).order_by(handlers.c.name)).all()
        return Backlog(
            inbox=Line(depth.waiting, depth.oldest),
            handlers={name: Line(_count(db, name, is_open), _oldest(db, name)) for name in names},
            dead={name: _count(db, name, is_dead) for name in names},
            quarantined=_quarantined(db),
        )


def _count(db: Connection, handler: str, condition: TextClause) -> int:
    found = (
        select(literal_column("1"))
        .select_from(deliveries)
        .where(deliveries.c.handler == handler, condition)
        .limit(MOST)
        .subquery()
    )
    return db.scalar(select(func.count()).select_from(found)) or 0


def _oldest(db: Connection, handler: str) -> datetime | None:
    """Event ids sort by time, so the first in the index is the oldest."""
    first = (
        select(deliveries.c.event_id)
        .where(deliveries.c.handler == handler, is_open)
        .order_by(deliveries.c.event_id)
        .limit(1)
        .scalar_subquery()
    )
    return db.scalar(select(events.c.received_at).where(events.c.id == first))


def _quarantined(db: Connection) -> dict[str, int]:
    found = (
        select(receipts.c.source)
        .where(receipts.c.outcome == literal_column("'quarantined'"))
        .limit(MOST)
        .subquery()
    )
    counted = db.execute(select(found.c.source, func.count()).group_by(found.c.source))
    return {row[0]: row[1] for row in counted}
