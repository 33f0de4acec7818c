"""Deliver: claim a handler's due deliveries, run the handler, and finish them where the claim still holds."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from structlog.contextvars import bound_contextvars

from coursewire.errors import Code, Permanent, Skip, sanitized
from coursewire.event import Event
from coursewire.hints import handler_queue
from coursewire.ledger import deliveries, registry
from coursewire.ledger.deliveries import Claim, Decision, Held
from coursewire.ledger.events import MAX_DEPTH, Candidate, enter
from coursewire.ledger.tables import State, utc_now
from coursewire.plugins import Handler, Outcome
from workers.context import TIME_SLICE_SECONDS, Context
from workers.retry import judge

log = structlog.get_logger()

IDLE_IN_TRANSACTION = "25P03"
"""PostgreSQL's code for the end of a session that did nothing within a transaction for too long."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What a transaction settled, for after its commit."""

    outcomes: Sequence[str]
    """Of the attempts."""
    arrived: Sequence[datetime]
    """When the events of deliveries that are done or skipped were received."""
    queues: Sequence[str] = ()
    """Of the handlers that follow-up events wait for."""


class Deliverer:
    """Runs the deliveries of one handler in one process."""

    def __init__(self, ctx: Context, handler: Handler) -> None:
        self._ctx = ctx
        self._handler = handler
        self._queue = handler_queue(handler.name)
        self._threads = ThreadPoolExecutor(handler.concurrency) if handler.concurrency > 1 else None
        self._owed: list[Callable[[], None]] = []

    def deliver(self) -> None:
        """The task: work until nothing is due or the time slice is over."""
        end = time.monotonic() + TIME_SLICE_SECONDS
        self._ctx.hints.awake(self._queue)
        while self.run_once():
            if time.monotonic() > end:
                self._ctx.hints.send([self._queue])
                return

    def run_once(self) -> bool:
        """Claim and work one batch, and one suspect; whether there may be more."""
        self._catch_up()
        size = self._batch_size()
        claim = self._claim(size, suspects=False)
        if claim is not None:
            if len(claim.event_ids) >= size:
                self._ctx.hints.send([self._queue])  # more than we can take: others may join
            self._work(claim)
        suspect = self._claim(1, suspects=True)
        if suspect is not None:
            self._work(suspect)
        return claim is not None or suspect is not None

    def _batch_size(self) -> int:
        handler = self._handler
        return handler.batch if handler.kind == "record" or handler.sends_batches else handler.concurrency

    def _claim(self, count: int, *, suspects: bool) -> Claim | None:
        with self._ctx.engine.begin() as db:
            return deliveries.claim(db, self._handler.name, count, suspects=suspects)

    def _work(self, claim: Claim) -> None:
        try:
            if self._handler.kind == "record":
                self._record(claim, claim.event_ids)
                return
            with self._ctx.engine.begin() as db:
                held = deliveries.hold(db, claim, lock=False)
        except DBAPIError:
            # The database's fault, not the deliveries'.
            self._owe(partial(self._give_back, claim))
            raise
        # Effects outside, while no transaction is open; then the verdicts.
        self._owe(partial(self._write_verdicts, claim, held, self._send_all(held)))

    def _owe(self, write: Callable[[], None]) -> None:
        """Do this now, or as soon as the database is back; if it stays away, the lease ends the claim."""
        self._owed.append(write)
        self._catch_up()

    def _catch_up(self) -> None:
        while self._owed:
            write = self._owed.pop()
            try:
                write()
            except DBAPIError:
                self._owed.append(write)
                raise

    def _give_back(self, claim: Claim) -> None:
        with self._ctx.engine.begin() as db:
            deliveries.give_back(db, claim)

    def _record(self, claim: Claim, event_ids: Sequence[str]) -> None:
        """Effects and verdicts in one transaction; taken apart when one event spoils it."""
        try:
            with self._ctx.engine.begin() as db:
                held = deliveries.hold(db, claim, event_ids, lock=True)
                outcomes = self._handler.record_batch([each.event for each in held], db)
                settled = self._settle(db, claim, held, outcomes)
        except Exception as exc:
            if _is_connection_fault(exc):
                raise
            if len(event_ids) > 1:
                for event_id in event_ids:
                    self._record(claim, [event_id])
            else:
                self._fail_alone(claim, event_ids, exc)
            return
        self._committed(settled)

    def _fail_alone(self, claim: Claim, event_ids: Sequence[str], exc: Exception) -> None:
        with self._ctx.engine.begin() as db:
            held = deliveries.hold(db, claim, event_ids, lock=True)
            settled = self._settle(db, claim, held, [exc] * len(held))
        self._committed(settled)

    def _write_verdicts(self, claim: Claim, held: Sequence[Held], outcomes: Sequence[Outcome]) -> None:
        """Of what was sent, as far as the claim still holds."""
        with self._ctx.engine.begin() as db:
            still_held = deliveries.hold(db, claim, lock=True)
            mine = {each.event.id for each in still_held}
            kept = [
                (each, outcome) for each, outcome in zip(held, outcomes, strict=True) if each.event.id in mine
            ]
            settled = self._settle(db, claim, [each for each, _ in kept], [outcome for _, outcome in kept])
        self._committed(settled)

    def _committed(self, settled: Settled) -> None:
        self._ctx.metrics.attempted(self._handler.name, settled.outcomes, settled.arrived)
        self._ctx.hints.send(settled.queues)

    def _send_all(self, held: Sequence[Held]) -> Sequence[Outcome]:
        if self._handler.sends_batches:
            try:
                return self._handler.send_batch([(each.event, each.key(self._handler.name)) for each in held])
            except Exception as exc:  # noqa: BLE001 - any exception of a handler is an outcome
                return [exc] * len(held)
        if self._threads is None or len(held) == 1:
            return [self._send_one(each) for each in held]
        return list(self._threads.map(self._send_one, held))

    def _send_one(self, held: Held) -> Outcome:
        # What the handler itself logs can be followed to its callback.
        with bound_contextvars(receipt=held.receipt, event_id=held.event.id, handler=self._handler.name):
            try:
                return list(self._handler.send(held.event, held.key(self._handler.name)) or ())
            except Exception as exc:  # noqa: BLE001 - any exception of a handler is an outcome
                return exc

    def _settle(
        self, db: Connection, claim: Claim, held: Sequence[Held], outcomes: Sequence[Outcome]
    ) -> Settled:
        """Turn outcomes into states: the one place that does."""
        if len(outcomes) != len(held):
            raise TypeError(f"{len(outcomes)} outcomes for {len(held)} events")
        done: list[str] = []
        skipped: dict[str, list[str]] = {}
        failed = []
        follow_ups: list[Candidate] = []
        for each, outcome in zip(held, outcomes, strict=True):
            if isinstance(outcome, Skip):
                skipped.setdefault(outcome.reason, []).append(each.event.id)
            elif isinstance(outcome, BaseException):
                decision = judge(
                    outcome,
                    each.attempts,
                    type(self._handler),
                    utc_now(),
                    random.random(),  # noqa: S311 - jitter
                )
                failed.append((each.event.id, decision))
                self._log_failure(each, decision.state, decision.code, outcome)
            else:
                done.append(each.event.id)
                follow_ups += [_candidate(each, event) for event in outcome or ()]
        deliveries.finish(db, claim, done)
        for reason, event_ids in skipped.items():
            code = reason if reason in set(Code) else Code.SKIPPED.value
            deliveries.finish(db, claim, event_ids, State.SKIPPED, code, reason)
        deliveries.fail(db, claim, failed)
        unfinished = {event_id for event_id, _ in failed}
        return Settled(
            outcomes=[
                *[State.DONE.value] * len(done),
                *[State.SKIPPED.value] * sum(map(len, skipped.values())),
                *(_outcome(decision) for _, decision in failed),
            ],
            arrived=[each.event.received_at for each in held if each.event.id not in unfinished],
            queues=self._follow_up(db, follow_ups),
        )

    def _follow_up(self, db: Connection, follow_ups: Sequence[Candidate]) -> list[str]:
        """Enter follow-up events; the queues of the handlers that want them."""
        if not follow_ups:
            return []
        entered = enter(db, follow_ups, self._ctx.secret, registry.wanted(db))
        return sorted({handler_queue(name) for one in entered for name in one.wanted})

    def _log_failure(self, held: Held, state: State, code: str, error: BaseException) -> None:
        log.warning(
            "delivery failed",
            handler=self._handler.name,
            receipt=held.receipt,
            event_id=held.event.id,
            state=state.value,
            code=code,
            error=sanitized(error),
        )


def _outcome(decision: Decision) -> str:
    """Of an attempt, for the metric: `dead` is the last that failed."""
    return State.DEAD.value if decision.state is State.DEAD else decision.outcome


def _candidate(parent: Held, event: Event) -> Candidate:
    if parent.depth >= MAX_DEPTH:
        raise Permanent("too many follow-ups of follow-ups", code=Code.FOLLOW_UPS_TOO_DEEP)
    return Candidate(
        event=event,
        content=b"",  # its key says all: the parent, the type and what it is about
        receipt=parent.receipt,
        item=parent.item,
        parent=parent.event.id,
        depth=parent.depth + 1,
    )


def _is_connection_fault(exc: Any) -> bool:
    """Whether the database itself failed.

    A statement that it refuses is the handler's fault, and so is a transaction that idled until it was ended.
    """
    if not isinstance(exc, DBAPIError) or getattr(exc.orig, "sqlstate", None) == IDLE_IN_TRANSACTION:
        return False
    return exc.connection_invalidated or type(exc).__name__ == "OperationalError"
