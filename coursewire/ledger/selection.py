"""What a replay is about: chosen callbacks, dead deliveries, and events that a handler had no delivery of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Select,
    exists,
    false,
    func,
    not_,
    or_,
    select,
    union,
)

from coursewire.errors import Code, NotFound
from coursewire.event import EventType
from coursewire.handlers import EVERY_TYPE, takers
from coursewire.ledger.states import CallbackState, EventState, in_state
from coursewire.ledger.tables import (
    OPEN,
    deliveries,
    duplicates,
    events,
    handlers,
    is_dead,
    quarantine,
    receipts,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What to replay; what is empty or None does not narrow it.

    `type` is ours or the LMS's own, `reason` the code of a quarantined item or of a dead delivery. Times are
    of receiving. Ids are whole ones. With a `handler`, callbacks are not read again; with a handler and ids
    or `since`, it is offered the events of which it has no delivery.
    """

    receipts: Sequence[str] = ()
    events: Sequence[str] = ()
    source: str | None = None
    type: str | None = None
    state: CallbackState | None = None
    since: datetime | None = None
    until: datetime | None = None
    handler: str | None = None
    reason: str | None = None

    @property
    def by_id(self) -> bool:
        return bool(self.receipts or self.events)

    def callbacks(self) -> Select[Any]:
        """Ids of the receipts that are read again."""
        chosen: list[Select[Any]] = []
        if self.handler is None and self._includes(CallbackState.QUARANTINED):
            chosen.append(self._quarantined())
        if self.handler is None and self._includes(CallbackState.IGNORED) and self._reason_is_unknown_event:
            chosen += self._unknown()
        if not chosen:
            return select(receipts.c.id).where(false())
        statement = select(receipts.c.id).where(receipts.c.id.in_(union(*chosen)))
        statement = statement.where(*self._of(receipts))
        if self.by_id:
            unknown = select(events.c.receipt_id).where(
                events.c.id.in_(self.events), events.c.type == EventType.UNKNOWN
            )
            statement = statement.where(or_(receipts.c.id.in_(self.receipts), receipts.c.id.in_(unknown)))
        return statement

    def dead(self, *, retired: bool = False) -> Select[Any]:
        """The dead deliveries that run again; those of `retired` handlers cannot."""
        statement = (
            select(
                deliveries.c.event_id,
                deliveries.c.handler,
                deliveries.c.code,
                deliveries.c.detail,
                events.c.receipt_id,
                events.c.source,
            )
            .join(events, events.c.id == deliveries.c.event_id)
            .join(handlers, handlers.c.name == deliveries.c.handler)
            .where(is_dead, *self._of_events())
        )
        gone = handlers.c.retired_at.is_not(None)
        statement = statement.where(gone if retired else not_(gone))
        if self.handler is not None:
            statement = statement.where(deliveries.c.handler == self.handler)
        if self.reason is not None:
            statement = statement.where(deliveries.c.code == self.reason)
        return statement if self._includes(CallbackState.DEAD) else statement.where(false())

    def offers(self, db: Connection) -> Offers:
        """The events that handlers are offered. Raises `NotFound` where there is no such handler."""
        rows = db.execute(select(handlers).order_by(handlers.c.name)).all()
        active = {row.name: row.wants for row in rows if row.retired_at is None}
        if self.handler is not None:
            if self.handler not in active:
                raise NotFound(_no_handler(self.handler, any(row.name == self.handler for row in rows)))
            active = {self.handler: active[self.handler]}
        asked = self.handler is None or self.by_id or self.since is not None
        if not asked or self.reason is not None or not self._includes(CallbackState.IGNORED):
            return Offers({}, _EVENTS.where(false()))
        statement = _EVENTS.where(_of_types(active.values()), *self._of_events())
        if self.handler is None or self.state is not None:
            # Without a handler's name only what nobody wanted: else every handler would get what it was not
            # configured for at the time.
            return Offers(active, statement.where(in_state(EventState.IGNORED)))
        has_it = exists().where(deliveries.c.event_id == events.c.id, deliveries.c.handler == self.handler)
        return Offers(active, statement.where(not_(has_it)))

    def unchanged(self, db: Connection) -> tuple[int, int]:
        """How many chosen deliveries have ended well, and how many are under way: they stay as they are."""
        if self.reason is not None or self.state not in (None, CallbackState.DONE, CallbackState.WAITING):
            return 0, 0
        statement = (
            select(deliveries.c.state, func.count())
            .join(events, events.c.id == deliveries.c.event_id)
            .where(*self._of_events())
            .group_by(deliveries.c.state)
        )
        if self.handler is not None:
            statement = statement.where(deliveries.c.handler == self.handler)
        counts: dict[str, int] = dict(db.execute(statement).all())
        waiting = sum(counts.get(state, 0) for state in OPEN)
        finished = counts.get("done", 0) + counts.get("skipped", 0)
        if self.state is not None:
            return (finished, 0) if self.state is CallbackState.DONE else (0, waiting)
        return finished, waiting

    @property
    def _reason_is_unknown_event(self) -> bool:
        return self.reason is None or self.reason == Code.UNKNOWN_EVENT

    def _includes(self, state: CallbackState) -> bool:
        return self.state is None or self.state is state

    def _quarantined(self) -> Select[Any]:
        statement = select(quarantine.c.receipt_id)
        if self.reason is not None:
            statement = statement.where(quarantine.c.reason == self.reason)
        if self.type is not None:
            statement = statement.where(quarantine.c.wire_type == self.type)
        return statement

    def _unknown(self) -> list[Select[Any]]:
        """Callbacks with an event that no schema knew, and those that repeat one."""
        conditions = [events.c.type == EventType.UNKNOWN]
        if self.type not in (None, EventType.UNKNOWN):
            conditions.append(events.c.wire_type == self.type)
        repeats = select(duplicates.c.receipt_id).join(events, events.c.id == duplicates.c.event_id)
        return [select(events.c.receipt_id).where(*conditions), repeats.where(*conditions)]

    def _of(self, table: FromClause) -> list[ColumnElement[bool]]:
        """The conditions that receipts and events have in common."""
        found = []
        if self.source is not None:
            found.append(table.c.source == self.source)
        if self.since is not None:
            found.append(table.c.received_at >= self.since)
        if self.until is not None:
            found.append(table.c.received_at < self.until)
        return found

    def _of_events(self) -> list[ColumnElement[bool]]:
        found = self._of(events)
        if self.type is not None:
            found.append(or_(events.c.type == self.type, events.c.wire_type == self.type))
        if self.by_id:
            found.append(or_(events.c.id.in_(self.events), events.c.receipt_id.in_(self.receipts)))
        return found


_EVENTS = select(events.c.id, events.c.receipt_id, events.c.source, events.c.type)


@dataclass(frozen=True, slots=True)
class Offers:
    """Events, and what the handlers want that may get them."""

    wants: Mapping[str, Sequence[str]]
    events: Select[Any]

    def takers(self, event_type: str) -> list[str]:
        return takers(self.wants, event_type)


def _of_types(wants: Iterable[Sequence[str]]) -> ColumnElement[bool]:
    types = {each for wanted in wants for each in wanted}
    return events.c.type != EventType.UNKNOWN if EVERY_TYPE in types else events.c.type.in_(sorted(types))


def _no_handler(name: str, retired: bool) -> str:
    if retired:
        return f"the handler {name} is retired; configure it again and run `coursewire migrate`"
    return f"the ledger has no handler {name}; configure it and run `coursewire migrate`"
