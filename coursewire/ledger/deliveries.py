"""Deliveries as a queue: claim, hold, finish, give back. Only the token of the last claim may finish one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    Uuid,
    any_,
    case,
    exists,
    func,
    literal,
    literal_column,
    or_,
    select,
    text,
    type_coerce,
    update,
)

from coursewire.event import Event, new_id
from coursewire.ledger.events import unpack
from coursewire.ledger.tables import (
    Instant,
    State,
    attempts,
    deliveries,
    events,
    handlers,
    is_claimable,
    is_running,
    is_suspect,
    utc_now,
)


@dataclass(frozen=True, slots=True)
class Claim:
    """What one claim took: its token and how many deliveries."""

    handler: str
    token: str
    event_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Held:
    """A delivery whose claim still holds, with what following it up needs."""

    event: Event
    receipt: str
    item: int
    depth: int
    attempts: int

    def key(self, handler: str) -> str:
        """Stable over repeats: what an outside effect is done under."""
        return f"{self.event.id}.{handler}"


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows an attempt that did not simply succeed: the delivery's next state.

    `attempts` counts failed ones, this one included; None leaves the count. `due_at` is for `retrying`.
    `outcome` is the attempt's: failed, not_now, crashed or unknown.
    """

    state: State
    code: str
    detail: str
    outcome: str = "failed"
    attempts: int | None = None
    due_at: datetime | None = None


def claim(db: Connection, handler: str, count: int, *, suspects: bool = False) -> Claim | None:
    """Take the oldest due deliveries, passing over those that another transaction is taking.

    `suspects`: those whose last claim ended without a verdict; they are to be claimed one at a time, so that
    what kills its worker takes no neighbour with it.
    """
    token = new_id()
    due = _due(db, handler, count, suspects)
    chosen: ColumnElement[bool]
    if db.dialect.name == "postgresql":
        # An array makes PostgreSQL run the subquery once; as IN it may run it again after waiting for a lock.
        chosen = deliveries.c.event_id == any_(
            func.array(due.scalar_subquery(), type_=ARRAY(Uuid(as_uuid=False)))
        )
    else:
        chosen = deliveries.c.event_id.in_(due)
    statement = (
        update(deliveries)
        .where(deliveries.c.handler == handler, chosen, is_claimable)
        .values(state=State.RUNNING.value, token=token, claimed_at=_now(db))
        .returning(deliveries.c.event_id)
    )
    taken = tuple(db.scalars(statement))
    return Claim(handler, token, taken) if taken else None


def hold(db: Connection, claim: Claim, event_ids: Collection[str] | None = None, *, lock: bool) -> list[Held]:
    """The claimed deliveries whose token still holds, locked until the transaction ends.

    One that was given to somebody else meanwhile is not among them.
    """
    statement = (
        select(
            events.c.document,
            events.c.receipt_id,
            events.c.item,
            events.c.depth,
            deliveries.c.attempts,
        )
        .join(events, events.c.id == deliveries.c.event_id)
        .where(deliveries.c.handler == claim.handler, deliveries.c.token == claim.token, is_running)
        .order_by(deliveries.c.event_id)
    )
    if event_ids is not None:
        statement = statement.where(deliveries.c.event_id.in_(event_ids))
    if lock:
        statement = statement.with_for_update(of=deliveries)
    return [
        Held(unpack(row.document), row.receipt_id, row.item, row.depth, row.attempts)
        for row in db.execute(statement)
    ]


def finish(
    db: Connection,
    claim: Claim,
    event_ids: Collection[str],
    state: State = State.DONE,
    code: str | None = None,
    detail: str | None = None,
) -> int:
    """End these deliveries where the token still holds; how many that were."""
    if not event_ids:
        return 0
    return _where_held(
        db, claim, event_ids, state=state.value, code=code, detail=detail, token=None, finished_at=_now(db)
    )


def fail(db: Connection, claim: Claim, decisions: Iterable[tuple[str, Decision]]) -> None:
    """Write attempts that failed, and what follows for their deliveries, where the token still holds.

    What differs in nothing but the time of the next attempt is written together.
    """
    alike: dict[Decision, dict[str, datetime | None]] = {}
    for event_id, decision in decisions:
        alike.setdefault(replace(decision, due_at=None), {})[event_id] = decision.due_at
    for decision, due_at in alike.items():
        values = _next(db, decision)
        if decision.attempts is not None:
            values["attempts"] = decision.attempts
        times = [
            (deliveries.c.event_id == event_id, literal(at, Instant))
            for event_id, at in due_at.items()
            if at is not None
        ]
        if times:
            values["due_at"] = case(*times, else_=deliveries.c.due_at)
        _attempted(db, claim.handler, claim.token, list(due_at), decision)
        _where_held(db, claim, list(due_at), **values)


def give_back(db: Connection, claim: Claim) -> None:
    """Return a claim without counting it: what failed was not the deliveries' fault."""
    db.execute(
        update(deliveries)
        .where(deliveries.c.handler == claim.handler, deliveries.c.token == claim.token, is_running)
        .values(state=State.RETRYING.value, token=None)
    )


def running(db: Connection) -> list[tuple[str, str]]:
    """Handler and token of every claim that is open."""
    statement = select(deliveries.c.handler, deliveries.c.token).where(is_running).distinct()
    return [(handler, token) for handler, token in db.execute(statement) if token is not None]


def abandoned(db: Connection, handler: str, token: str) -> list[tuple[str, int]]:
    """The deliveries of a claim whose worker is gone, locked: event id and crashes so far.

    Passes over those that the worker still holds locked: it was stopped within a transaction.
    """
    statement = (
        select(deliveries.c.event_id, deliveries.c.crashes)
        .where(deliveries.c.handler == handler, deliveries.c.token == token, is_running)
        .order_by(deliveries.c.event_id)
        .with_for_update(skip_locked=True)
    )
    return [(event_id, crashes) for event_id, crashes in db.execute(statement)]


def crash(db: Connection, handler: str, token: str, event_ids: Sequence[str], decision: Decision) -> None:
    """Write that a claim ended without a verdict, and what follows. Counted apart from failed attempts."""
    _attempted(db, handler, token, event_ids, decision)
    _where_held(
        db,
        Claim(handler, token, ()),
        event_ids,
        crashes=deliveries.c.crashes + 1,
        **_next(db, decision),
    )


def due_handlers(db: Connection) -> list[str]:
    """Every handler that has work which is due."""
    names = db.scalars(select(handlers.c.name).where(~handlers.c.paused, handlers.c.retired_at.is_(None)))
    return [name for name in names.all() if db.scalar(select(_due(db, name, 1, None).exists()))]


def _due(db: Connection, handler: str, count: int, suspects: bool | None) -> Select[Any]:
    """`suspects` None: whether or not."""
    statement = (
        select(deliveries.c.event_id)
        .where(
            deliveries.c.handler == handler,
            is_suspect if suspects else is_claimable,
            # What was never tried is due whatever the clocks say.
            or_(deliveries.c.state == literal_column("'pending'"), deliveries.c.due_at <= _now(db)),
            ~exists().where(
                handlers.c.name == handler, or_(handlers.c.paused, handlers.c.retired_at.is_not(None))
            ),
        )
        .order_by(deliveries.c.due_at, deliveries.c.event_id)
        .limit(count)
    )
    if suspects is False:
        statement = statement.where(deliveries.c.crashes == 0)
    return statement.with_for_update(skip_locked=True, of=deliveries) if suspects is not None else statement


def _now(db: Connection) -> ColumnElement[datetime]:
    """The ledger's clock: on PostgreSQL the server's, since hosts' clocks differ."""
    if db.dialect.name == "postgresql":
        micros = text("(extract(epoch from clock_timestamp()) * 1000000)::bigint")
        return type_coerce(literal_column(micros.text, BigInteger), Instant)
    return literal(utc_now(), Instant)


def _where_held(db: Connection, claim: Claim, event_ids: Collection[str], **values: Any) -> int:
    statement = (
        update(deliveries)
        .where(
            deliveries.c.handler == claim.handler,
            deliveries.c.event_id.in_(event_ids),
            deliveries.c.token == claim.token,
            is_running,
        )
        .values(**values)
    )
    return db.execute(statement).rowcount


def _next(db: Connection, decision: Decision) -> dict[str, Any]:
    return {
        "state": decision.state.value,
        "code": decision.code,
        "detail": decision.detail,
        "token": None,
        "due_at": deliveries.c.due_at if decision.due_at is None else decision.due_at,
        "finished_at": _now(db) if decision.state is State.DEAD else None,
    }


def _attempted(
    db: Connection, handler: str, token: str, event_ids: Sequence[str], decision: Decision
) -> None:
    """One row for each delivery that the token still holds, with the time of its claim."""
    ended = select(
        deliveries.c.event_id,
        deliveries.c.handler,
        deliveries.c.token,
        deliveries.c.claimed_at,
        _now(db),
        literal(decision.outcome),
        literal(decision.code),
        literal(decision.detail),
    ).where(
        deliveries.c.handler == handler,
        deliveries.c.event_id.in_(event_ids),
        deliveries.c.token == token,
        is_running,
    )
    columns = ["event_id", "handler", "token", "started_at", "ended_at", "outcome", "code", "detail"]
    db.execute(attempts.insert().from_select(columns, ended))
