"""The sweep: a small process that makes sure that whatever is waiting gets looked at. Two do no harm.

It trusts its own monotonic clock only, so that jumps of wall clocks neither re-run nor stop anything.
"""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Generic, TypeVar

import structlog

from coursewire.exposition import serving, text
from coursewire.hints import INGEST, handler_of, handler_queue, make_celery
from coursewire.ledger import deliveries
from coursewire.ledger.backlog import take_backlog
from coursewire.ledger.migrate import check
from coursewire.ledger.processes import SWEEP
from coursewire.ledger.tables import utc_now
from coursewire.metrics import BacklogMetrics
from coursewire.plugins import Handler
from coursewire.settings import Settings
from workers import ingest
from workers.context import Context, lease_seconds
from workers.deliver import Deliverer
from workers.presence import present
from workers.retry import judge_crash

log = structlog.get_logger()

T = TypeVar("T")

# A queue that holds so many hints needs no more of them; its workers are busy or away.
HINTS_ENOUGH = 4
# The pause between two measures of the backlog, and how many times a measure's own time it is at least.
MEASURE_SECONDS = 5.0
MEASURE_SHARE = 20


class Watch(Generic[T]):
    """Notices what has stayed the same for its whole lease, by a monotonic clock."""

    def __init__(self) -> None:
        self._seen: dict[T, float] = {}

    def expired(self, present: Iterable[tuple[T, float]], now: float) -> list[T]:
        """Which of what is present (thing, lease in seconds) was first seen longer than its lease ago."""
        leases = dict(present)
        self._seen = {thing: self._seen.get(thing, now) for thing in leases}
        return [thing for thing, first in self._seen.items() if now - first >= leases[thing]]


class Sweep:
    """`backlog` is shown what waits, every few seconds; None where nobody looks."""

    def __init__(self, ctx: Context, backlog: BacklogMetrics | None = None) -> None:
        self._ctx = ctx
        self._backlog = backlog
        self._measure_at = 0.0
        self._claims: Watch[tuple[str, str]] = Watch()
        self._entries: Watch[tuple[str, int]] = Watch()
        self._deliverers: dict[str, Deliverer] = {}

    def look(self) -> None:
        """One look at everything. A part that fails is logged and does not keep the others."""
        for part in (self._inbox, self._abandoned_claims, self._due, self._measure):
            try:
                part()
            except Exception as exc:  # noqa: BLE001 - servers come back; the next look tries again
                log.warning("sweep failed", part=part.__name__.strip("_"), error=type(exc).__name__)

    def _inbox(self) -> None:
        depth = self._ctx.inbox.depth()
        if not depth.waiting:
            return
        if depth.in_hand:
            lease = lease_seconds(self._ctx.settings, None)
            expired = self._entries.expired(
                ((entry, lease) for entry in self._ctx.inbox.in_hand()), time.monotonic()
            )
            if expired:
                ids = [entry_id for entry_id, _ in expired]
                self._ctx.inbox.abandon(ids)
                log.warning("callbacks given back to ingest", count=len(ids))
        self._wake(INGEST)

    def _abandoned_claims(self) -> None:
        with self._ctx.engine.begin() as db:
            running = deliveries.running(db)
        leases = (
            ((handler, token), lease_seconds(self._ctx.settings, self._limits(handler)))
            for handler, token in running
        )
        for claim in self._claims.expired(leases, time.monotonic()):
            self._abandon(*claim)

    def _abandon(self, handler: str, token: str) -> None:
        with self._ctx.engine.begin() as db:
            lost = deliveries.abandoned(db, handler, token)
            alike: dict[int, list[str]] = {}
            crashed: list[str] = []
            for event_id, crashes in lost:
                alike.setdefault(crashes + 1, []).append(event_id)
            for crashes, event_ids in alike.items():
                decision = judge_crash(
                    crashes,
                    self._limits(handler),
                    utc_now(),
                    random.random(),  # noqa: S311 - jitter
                )
                deliveries.crash(db, handler, token, event_ids, decision)
                crashed += [decision.outcome] * len(event_ids)
                log.warning(
                    "deliveries given back",
                    handler=handler,
                    count=len(event_ids),
                    crashes=crashes,
                    state=decision.state.value,
                )
        self._ctx.metrics.attempted(handler, crashed)

    def _due(self) -> None:
        with self._ctx.engine.begin() as db:
            due = deliveries.due_handlers(db)
        for handler in due:
            self._wake(handler_queue(handler))

    def _measure(self) -> None:
        began = time.monotonic()
        if self._backlog is None or began < self._measure_at:
            return
        try:
            self._backlog.show(take_backlog(self._ctx.engine, self._ctx.inbox))
        except Exception:
            self._backlog.show(None)
            raise
        finally:
            took = time.monotonic() - began
            self._measure_at = began + max(MEASURE_SECONDS, took * MEASURE_SHARE)

    def _wake(self, queue: str) -> None:
        """Hint a queue; where no hint can be sent, do one batch of its work here."""
        try:
            if self._ctx.hints.waiting(queue) >= HINTS_ENOUGH:
                return
            sent = not self._ctx.hints.send([queue])
        except Exception:  # noqa: BLE001 - redis, kombu and amqp errors have no common root
            sent = False
        if not sent:
            log.warning("hint could not be sent; doing one batch here", queue=queue)
            self._work_here(queue)

    def _work_here(self, queue: str) -> None:
        if queue == INGEST:
            ingest.run_once(self._ctx)
            return
        name = handler_of(queue)
        if name not in self._ctx.handlers:
            return
        if name not in self._deliverers:
            self._deliverers[name] = Deliverer(self._ctx, self._ctx.handlers[name].make())
        self._deliverers[name].run_once()

    def _limits(self, handler: str) -> type[Handler]:
        configured = self._ctx.handlers.get(handler)
        return configured.plugin if configured else Handler


def main(
    settings: Settings,
    *,
    on_ready: Callable[[], None] | None = None,
    metrics_host: str = "127.0.0.1",
    metrics_port: int = 0,
) -> None:
    """Sweep until SIGTERM or SIGINT. At port 0 no metrics are served."""
    check(settings)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    ctx = Context.open(settings, make_celery(settings))
    backlog = BacklogMetrics(settings.sources) if metrics_port else None
    if backlog is not None:
        ctx.metrics.registry.register(backlog)
    sweep = Sweep(ctx, backlog)
    if on_ready is not None:
        on_ready()
    metrics = serving(metrics_host, metrics_port, partial(text, ctx.metrics.registry))
    with metrics, present(settings, SWEEP, []):
        while not stop.is_set():
            sweep.look()
            stop.wait(settings.sweep_interval_seconds)
