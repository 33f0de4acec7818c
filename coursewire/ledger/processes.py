"""Who works on the ledger: each worker and each sweep says every few seconds that it is there.

An operator learns from it which queues nobody works on, whatever the broker and however many the hosts.
Nothing else rests on it: a process that is not listed works all the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, select, text

from coursewire.ledger.engine import insert
from coursewire.ledger.tables import EPOCH, processes, utc_now

BEAT_SECONDS = 10.0
# Three beats, and a moment for a database that is slow just now.
ALIVE = timedelta(seconds=35)
# What was killed could not take its row along.
FORGOTTEN = timedelta(hours=1)

WORKER = "worker"
SWEEP = "sweep"


@dataclass(frozen=True, slots=True)
class Working:
    """A process that was there a moment ago. `ahead`: its clock less the database's."""

    id: str
    kind: str
    host: str
    queues: tuple[str, ...]
    ahead: timedelta


def database_now(db: Connection) -> datetime:
    """The clock of the database's host; a file has that of this host."""
    if db.dialect.name != "postgresql":
        return utc_now()
    microseconds = db.scalar(text("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"))
    return EPOCH + timedelta(microseconds=int(microseconds or 0))


def beat(
    db: Connection, process_id: str, kind: str, host: str, queues: list[str], started_at: datetime
) -> None:
    """Say that a process is there, and forget those that long are not."""
    now = database_now(db)
    seen = {"seen_at": now, "clock_at": utc_now()}
    row = {"id": process_id, "kind": kind, "host": host, "queues": queues, "started_at": started_at, **seen}
    statement = insert(db, processes).values(row)
    db.execute(statement.on_conflict_do_update(index_elements=[processes.c.id], set_=seen))
    db.execute(delete(processes).where(processes.c.seen_at < now - FORGOTTEN))


def leave(db: Connection, process_id: str) -> None:
    db.execute(delete(processes).where(processes.c.id == process_id))


def working(db: Connection) -> list[Working]:
    """Who was there a moment ago, in the order of their starts."""
    newest = database_now(db) - ALIVE
    rows = db.execute(
        select(processes).where(processes.c.seen_at > newest).order_by(processes.c.started_at, processes.c.id)
    )
    return [
        Working(row.id, row.kind, row.host, tuple(row.queues), row.clock_at - row.seen_at) for row in rows
    ]
