"""Ingest: from the inbox to the ledger, in batches."""

from __future__ import annotations

import time
from collections.abc import Sequence

import structlog
from redis.exceptions import ResponseError
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from structlog.contextvars import bound_contextvars

from coursewire.errors import sanitized
from coursewire.hints import INGEST, handler_queue
from coursewire.inbox import Entry
from coursewire.ledger import receipts, registry
from coursewire.ledger.inbox_generations import note_generation
from coursewire.ledger.receipts import Raced, Read, Written
from workers.context import TIME_SLICE_SECONDS, Context

log = structlog.get_logger()

MAX_READS = 5
"""An entry that was read so often without an end is quarantined unparsed."""


def ingest(ctx: Context) -> None:
    """The task: ingest what waits, until nothing does or the time slice is over."""
    end = time.monotonic() + TIME_SLICE_SECONDS
    ctx.hints.awake(INGEST)
    while run_once(ctx):
        if time.monotonic() > end:
            ctx.hints.send([INGEST])
            return


def run_once(ctx: Context) -> bool:
    """Ingest one batch; whether there may be more."""
    try:
        suspects = ctx.inbox.read_returned(1)
        entries = suspects or ctx.inbox.read(ctx.settings.ingest_batch)
    except ResponseError as exc:
        if not str(exc).startswith("NOGROUP"):
            raise
        with ctx.engine.begin() as db:
            note_generation(db, ctx.inbox.ensure())
        return True
    if not entries:
        return False
    if not suspects and len(entries) >= ctx.settings.ingest_batch:
        ctx.hints.send([INGEST])  # more than one worker's batch waits: others may join
    ingest_batch(ctx, entries)
    return True


def ingest_batch(ctx: Context, entries: Sequence[Entry]) -> None:
    """Take these entries to the ledger, together or else one by one. Raises faults of the database."""
    try:
        written = _write(ctx, [_read(ctx, entry) for entry in entries])
    except Exception as exc:
        if _is_database_fault(exc):
            ctx.inbox.give_back(entries)
            raise
        if len(entries) > 1:
            for entry in entries:
                ingest_batch(ctx, [entry])
        else:
            # Its read stays counted, so that it ends in quarantine if it fails each time. If not even that
            # can be written it stays in hand: the sweep gives it back after a lease, so this is no hot loop.
            if entries[0].reads <= MAX_READS:
                ctx.inbox.abandon([entries[0].id])
            log.error(
                "callback could not be ingested",
                receipt=entries[0].callback.receipt,
                error=sanitized(exc),
            )
        return
    # From here the ledger has them: forgetting them, and hinting, may fail without harm.
    ctx.metrics.ingested(written)
    ctx.inbox.finish([entry.id for entry in entries])
    ctx.hints.send(sorted({handler_queue(handler) for each in written.entered for handler in each.wanted}))


def _read(ctx: Context, entry: Entry) -> Read:
    with bound_contextvars(receipt=entry.callback.receipt):
        return ctx.reader.set_aside(entry) if entry.reads > MAX_READS else ctx.reader.read(entry)


def _write(ctx: Context, batch: Sequence[Read]) -> Written:
    with ctx.engine.begin() as db:
        return receipts.write(db, batch, ctx.secret, registry.wanted(db))


def _is_database_fault(exc: Exception) -> bool:
    """Whether the database failed, rather than refused what an entry holds."""
    if isinstance(exc, DataError | IntegrityError):
        return False
    return isinstance(exc, DBAPIError | PoolTimeout | Raced)
