"""The account of callbacks: what was accepted, and what came of it. Nothing may be missing.

A callback counts once, by the worst state of all that came of it. `accepted` does not come from the ledger:
the inbox counts its own appends, and the spool what it keeps.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, Row, func, literal_column, select, union_all

from coursewire.inbox import Depth, Inbox
from coursewire.ledger.engine import reading
from coursewire.ledger.inbox_generations import appended_before
from coursewire.ledger.states import SETTLED, CallbackState
from coursewire.ledger.tables import Outcome, deliveries, events, is_dead, is_open, receipts, utc_now
from coursewire.spool import Spool

Counts = dict[CallbackState, int]

# While callbacks flow, inbox and ledger are not seen at one moment: a few looks usually find a quiet one.
LOOKS = 5
PAUSE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Stats:
    """In callbacks, but for `events`. `sources` has what the ledger has: what still lies in inbox and spool
    is in `waiting` only. `oldest_waiting_seconds` is since the callback was received, 0 where nothing waits.
    """

    accepted: int
    done: int
    ignored: int
    duplicate: int
    quarantined: int
    dead: int
    waiting: int
    unexplained: int
    events: int
    oldest_waiting_seconds: float
    sources: dict[str, dict[str, int]]


@dataclass(frozen=True, slots=True)
class _Ledger:
    sources: dict[str, Counts]
    receipts: int
    events: int
    before: int
    oldest: datetime | None

    def total(self, state: CallbackState) -> int:
        return sum(counts[state] for counts in self.sources.values())


@dataclass(frozen=True, slots=True)
class _Waiting:
    """What lies before the ledger."""

    spooled: int
    depth: Depth
    generation: str | None
    oldest: datetime | None


def take_stats(engine: Engine, inbox: Inbox, spool: Spool) -> Stats:
    """Raises redis-py's errors, and `NotDurable` where the spool cannot be read."""
    for _ in range(LOOKS):
        # In the direction in which callbacks move, so that none is missed: one that moves meanwhile is seen
        # twice at most.
        waiting = _before_the_ledger(inbox, spool)
        with reading(engine) as db:
            ledger = _in_the_ledger(db)
        after = inbox.depth()
        if (after.appended, after.waiting) == (waiting.depth.appended, waiting.depth.waiting):
            break
        time.sleep(PAUSE_SECONDS)
    return _balance(waiting, ledger, after.appended - waiting.depth.appended)


def _balance(before: _Waiting, ledger: _Ledger, appended_since: int) -> Stats:
    # A server without a generation has lost its data, or never had any: what the ledger has came before.
    earlier = ledger.before if before.generation is not None else ledger.receipts
    accepted = earlier + before.depth.appended + before.spooled
    in_inbox = before.depth.waiting
    totals = {state: ledger.total(state) for state in CallbackState}
    unexplained = accepted - (sum(totals.values()) + in_inbox + before.spooled)
    # What the ledger took meanwhile, or what a crash left in the inbox after it, is counted by the ledger.
    twice = min(max(-unexplained, 0), in_inbox)
    new = min(max(-unexplained - twice, 0), max(appended_since, 0))
    oldest = [at for at in (ledger.oldest, before.oldest) if at is not None]
    waiting = totals[CallbackState.WAITING] + in_inbox - twice + before.spooled
    return Stats(
        accepted=accepted + new,
        done=totals[CallbackState.DONE],
        ignored=totals[CallbackState.IGNORED],
        duplicate=totals[CallbackState.DUPLICATE],
        quarantined=totals[CallbackState.QUARANTINED],
        dead=totals[CallbackState.DEAD],
        waiting=waiting,
        unexplained=unexplained + twice + new,
        events=ledger.events,
        oldest_waiting_seconds=_age(min(oldest)) if waiting and oldest else 0.0,
        sources={
            name: {state.value: counts[state] for state in REPORTED}
            for name, counts in sorted(ledger.sources.items())
        },
    )


REPORTED = (
    CallbackState.DONE,
    CallbackState.IGNORED,
    CallbackState.DUPLICATE,
    CallbackState.QUARANTINED,
    CallbackState.DEAD,
    CallbackState.WAITING,
)


def _before_the_ledger(inbox: Inbox, spool: Spool) -> _Waiting:
    spooled = spool.size().waiting
    first = spool.oldest() if spooled else None
    depth = inbox.depth()
    oldest = [moment for moment in (first, depth.oldest) if moment is not None]
    return _Waiting(spooled, depth, inbox.generation(), min(oldest, default=None))


def _in_the_ledger(db: Connection) -> _Ledger:
    sources: dict[str, Counts] = {}
    total = 0
    by_outcome = select(receipts.c.outcome, receipts.c.source, func.count()).group_by(
        receipts.c.outcome, receipts.c.source
    )
    for outcome, source, count in db.execute(by_outcome):
        sources.setdefault(source, dict.fromkeys(CallbackState, 0))[SETTLED[Outcome(outcome)]] += count
        total += count
    oldest = None
    for row in _unfinished(db):
        counts = sources[row.source]
        counts[SETTLED[Outcome(row.outcome)]] -= row.callbacks
        counts[CallbackState.WAITING if row.waits else CallbackState.DEAD] += row.callbacks
        if row.waits and (oldest is None or row.received_at < oldest):
            oldest = row.received_at
    return _Ledger(
        sources=sources,
        receipts=total,
        events=db.scalar(select(func.count()).select_from(events)) or 0,
        before=appended_before(db),
        oldest=oldest,
    )


def _unfinished(db: Connection) -> Sequence[Row[Any]]:
    """How many callbacks have deliveries that are open, or else dead; found by their partial indexes."""
    open_or_dead = union_all(
        select(deliveries.c.event_id, literal_column("1").label("waits")).where(is_open),
        select(deliveries.c.event_id, literal_column("0").label("waits")).where(is_dead),
    ).subquery()
    callbacks = (
        select(events.c.receipt_id, func.max(open_or_dead.c.waits).label("waits"))
        .join(events, events.c.id == open_or_dead.c.event_id)
        .group_by(events.c.receipt_id)
        .subquery()
    )
    statement = (
        select(
            receipts.c.outcome,
            receipts.c.source,
            callbacks.c.waits,
            func.count().label("callbacks"),
            func.min(receipts.c.received_at).label("received_at"),
        )
        .join(receipts, receipts.c.id == callbacks.c.receipt_id)
        .group_by(receipts.c.outcome, receipts.c.source, callbacks.c.waits)
    )
    return db.execute(statement).all()


def _age(moment: datetime) -> float:
    return max((utc_now() - moment) / timedelta(seconds=1), 0.0)
