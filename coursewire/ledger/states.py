"""States that are derived and never stored: of an event, and of a callback by the worst that came of it."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum

from sqlalchemy import ColumnElement, and_, exists, not_, select

from coursewire.ledger.tables import OPEN, Outcome, State, deliveries, events, is_dead, is_open


class EventState(StrEnum):
    WAITING = "waiting"
    DONE = "done"
    DEAD = "dead"
    IGNORED = "ignored"


class CallbackState(StrEnum):
    """From the worst to the best."""

    WAITING = "waiting"
    DEAD = "dead"
    QUARANTINED = "quarantined"
    DONE = "done"
    DUPLICATE = "duplicate"
    IGNORED = "ignored"


SETTLED = {
    Outcome.QUARANTINED: CallbackState.QUARANTINED,
    Outcome.EVENTS: CallbackState.DONE,
    Outcome.DUPLICATE: CallbackState.DUPLICATE,
    Outcome.IGNORED: CallbackState.IGNORED,
}
"""The state of a callback of which no delivery is open or dead."""


def event_state(states: Collection[str]) -> EventState:
    """Of an event whose deliveries are in these states; skipped counts as done."""
    if not states:
        return EventState.IGNORED
    if any(state in OPEN for state in states):
        return EventState.WAITING
    return EventState.DEAD if State.DEAD in states else EventState.DONE


def callback_state(outcome: str, states: Collection[str]) -> CallbackState:
    """Of a callback with this outcome, all of whose deliveries, follow-ups' included, are in these states."""
    if any(state in OPEN for state in states):
        return CallbackState.WAITING
    return CallbackState.DEAD if State.DEAD in states else SETTLED[Outcome(outcome)]


def in_state(state: EventState) -> ColumnElement[bool]:
    """The condition on `events`. What is open or dead is found by its index, the rest event by event."""
    mine = deliveries.c.event_id == events.c.id
    is_waiting = exists().where(mine, deliveries.c.state.in_(OPEN))
    if state is EventState.WAITING:
        return events.c.id.in_(select(deliveries.c.event_id).where(is_open))
    if state is EventState.DEAD:
        return and_(events.c.id.in_(select(deliveries.c.event_id).where(is_dead)), not_(is_waiting))
    if state is EventState.IGNORED:
        return not_(exists().where(mine))
    unfinished = exists().where(mine, deliveries.c.state.in_([*OPEN, State.DEAD]))
    return and_(exists().where(mine), not_(unfinished))
