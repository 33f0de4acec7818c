"""Pausing, resuming and retiring a handler."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Engine, literal, select, update

from coursewire.errors import Code, NotFound
from coursewire.ledger import audit
from coursewire.ledger.pages import PAGE_ROWS
from coursewire.ledger.tables import State, attempts, deliveries, handlers, is_open, is_running, utc_now

_RETIRED = "the handler is retired"


def set_paused(db: Connection, name: str, paused: bool) -> bool:
    """Pause or resume; whether that changed anything. Raises `NotFound`.

    What a worker has in hand is finished all the same.
    """
    was = _row(db, name).paused
    db.execute(update(handlers).where(handlers.c.name == name).values(paused=paused))
    if was != paused:
        outcome = "paused" if paused else "resumed"
        audit.append(db, [audit.Entry("handler", outcome=outcome, detail={"handler": name})])
    return bool(was != paused)


def retire(engine: Engine, name: str) -> Iterator[int]:
    """Take a handler out of service; yields how many open deliveries were ended, batch by batch.

    It gets no more deliveries. May be repeated. Raises `NotFound`.
    """
    with engine.begin() as db:
        if _row(db, name).retired_at is None:
            db.execute(update(handlers).where(handlers.c.name == name).values(retired_at=utc_now()))
            audit.append(db, [audit.Entry("handler", outcome="retired", detail={"handler": name})])
    while True:
        with engine.begin() as db:
            ended = _end_open(db, name)
        if not ended:
            return
        yield ended


def _row(db: Connection, name: str) -> Any:
    row = db.execute(select(handlers).where(handlers.c.name == name)).one_or_none()
    if row is None:
        raise NotFound(f"the ledger has no handler {name}")
    return row


def _end_open(db: Connection, name: str) -> int:
    batch = (
        select(deliveries.c.event_id)
        .where(deliveries.c.handler == name, is_open)
        .order_by(deliveries.c.event_id)
        .limit(PAGE_ROWS)
        .with_for_update()
    )
    event_ids = db.scalars(batch).all()
    mine = (deliveries.c.handler == name, deliveries.c.event_id.in_(event_ids))
    # What a worker has in hand it can no longer finish: what came of it is unknown.
    in_hand = select(
        deliveries.c.event_id,
        deliveries.c.handler,
        deliveries.c.token,
        deliveries.c.claimed_at,
        literal(utc_now(), attempts.c.ended_at.type),
        literal("unknown"),
        literal(Code.RETIRED.value),
        literal(_RETIRED),
    ).where(*mine, is_running)
    columns = ["event_id", "handler", "token", "started_at", "ended_at", "outcome", "code", "detail"]
    db.execute(attempts.insert().from_select(columns, in_hand))
    ended = {"state": State.SKIPPED.value, "code": Code.RETIRED.value, "detail": _RETIRED}
    db.execute(update(deliveries).where(*mine, is_open).values(**ended, token=None, finished_at=utc_now()))
    return len(event_ids)
