"""What came of the samples that a demonstration posted, and whether that is what each sample says."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from sqlalchemy import Connection, select
from sqlalchemy.exc import DBAPIError

from coursewire.ledger.engine import open_ledger, reading
from coursewire.ledger.states import CallbackState, callback_state
from coursewire.ledger.tables import deliveries, events, quarantine, receipts
from coursewire.settings import Settings
from schemas.samples import DemoCallback

DEADLINE_SECONDS = 60.0
LOOK_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Effect:
    """An event that came of a callback; `handlers` holds the state and the code of each delivery."""

    type: str
    depth: int
    handlers: dict[str, tuple[str, str | None]]


@dataclass(slots=True)
class Posted:
    """A sample, and what came of it. `complaints` is why it was quarantined."""

    sample: DemoCallback
    source: str
    receipt: str
    state: CallbackState = CallbackState.WAITING
    effects: list[Effect] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


def wait(settings: Settings, posted: Sequence[Posted], ended: threading.Event) -> None:
    """Until every delivery has ended, `ended` is set, or the time is over."""
    engine = open_ledger(settings)
    deadline = time.monotonic() + DEADLINE_SECONDS
    try:
        while any(each.state is CallbackState.WAITING for each in posted) and time.monotonic() < deadline:
            if ended.wait(LOOK_SECONDS):
                return
            # The next look may succeed; if none does, they are all still waiting in the end.
            with suppress(DBAPIError), reading(engine) as db:
                _look(db, posted)
    finally:
        engine.dispose()


def problems(posted: Sequence[Posted], certificates: Sequence[str]) -> list[str]:
    """What did not come out as its sample says. `certificates`: the handlers that award them."""
    wrong = []
    for each in posted:
        expected = each.sample.expected["state"]
        # Ignored is done where no handler is configured that wants it.
        if each.state != expected and (each.state, expected) != (CallbackState.IGNORED, CallbackState.DONE):
            wrong.append(f"{each.sample.title}: {each.state}, not {expected}")
    for handler in certificates:
        once = []
        for each in posted:
            wanted = each.sample.expected["certificates"]
            found = [effect.handlers[handler][0] for effect in each.effects if handler in effect.handlers]
            state = found[0] if found else "not asked"
            if wanted == "once":
                once.append(state)
            elif wanted is not None and state != wanted:
                wrong.append(f"{each.sample.title}: {handler} {state}, not {wanted}")
        if once and sorted(once) != ["done", *["skipped"] * (len(once) - 1)]:
            wrong.append(f"several events of one completion: {handler} {', '.join(once)}, not done once")
    return wrong


def _look(db: Connection, posted: Sequence[Posted]) -> None:
    ids = [each.receipt for each in posted]
    outcomes = {
        row.id: row.outcome
        for row in db.execute(select(receipts.c.id, receipts.c.outcome).where(receipts.c.id.in_(ids)))
    }
    handlers: dict[str, dict[str, tuple[str, str | None]]] = {}
    for row in db.execute(
        select(deliveries.c.event_id, deliveries.c.handler, deliveries.c.state, deliveries.c.code)
        .join(events, events.c.id == deliveries.c.event_id)
        .where(events.c.receipt_id.in_(ids))
    ):
        handlers.setdefault(row.event_id, {})[row.handler] = (row.state, row.code)
    effects: dict[str, list[Effect]] = {}
    for row in db.execute(
        select(events.c.id, events.c.receipt_id, events.c.type, events.c.depth)
        .where(events.c.receipt_id.in_(ids))
        .order_by(events.c.item, events.c.depth, events.c.id)
    ):
        effect = Effect(row.type, row.depth, handlers.get(row.id, {}))
        effects.setdefault(row.receipt_id, []).append(effect)
    complaints: dict[str, list[str]] = {}
    for row in db.execute(select(quarantine).where(quarantine.c.receipt_id.in_(ids))):
        errors = [f"{path}: {' '.join(messages)}" for path, messages in sorted(row.errors.items())]
        complaints[row.receipt_id] = [row.reason, *errors]
    for each in posted:
        each.effects = effects.get(each.receipt, [])
        each.complaints = complaints.get(each.receipt, [])
        if each.receipt in outcomes:
            states = [state for effect in each.effects for state, _ in effect.handlers.values()]
            each.state = callback_state(outcomes[each.receipt], states)
