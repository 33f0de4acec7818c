"""The tables of the ledger. Both SQLite and PostgreSQL take them.

Instants are integers, microseconds since 1970 UTC: they sort and compare alike on both databases.
The state of an event or of a callback is never stored where it can be derived: see `ledger.states`.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    TextClause,
    TypeDecorator,
    Uuid,
    text,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


class Instant(TypeDecorator[datetime]):
    """An aware datetime, kept as microseconds since 1970 UTC."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        return None if value is None else (value - EPOCH) // MICROSECOND

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        return None if value is None else EPOCH + timedelta(microseconds=value)


def utc_now() -> datetime:
    return EPOCH + timedelta(microseconds=time.time_ns() // 1000)


class Outcome(StrEnum):
    """What ingest made of a callback as a whole: the worst of its items."""

    EVENTS = "events"
    DUPLICATE = "duplicate"
    IGNORED = "ignored"
    QUARANTINED = "quarantined"


class State(StrEnum):
    """Of a delivery."""

    PENDING = "pending"
    RUNNING = "running"
    RETRYING = "retrying"
    DONE = "done"
    SKIPPED = "skipped"
    DEAD = "dead"


OPEN = (State.PENDING, State.RUNNING, State.RETRYING)
CLAIMABLE = (State.PENDING, State.RETRYING)

metadata = MetaData()

# SQLite numbers only INTEGER primary keys by itself.
_serial = BigInteger().with_variant(Integer, "sqlite")
_id = Uuid(as_uuid=False)

installation = Table(
    "installation",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)

receipts = Table(
    "receipts",
    metadata,
    Column("id", _id, primary_key=True),
    Column("source", String(64), nullable=False),
    Column("provider", String(64), nullable=False),
    Column("received_at", Instant, nullable=False),
    Column("method", String(8), nullable=False),
    Column("content_type", Text, nullable=False),
    Column("headers", JSON(none_as_null=True)),
    Column("remote_address", String(64)),
    Column("verified_by", String(32), nullable=False),
    Column("size", Integer, nullable=False),
    Column("body", LargeBinary, nullable=False),  # zlib, redacted
    Column("entry", String(48), nullable=False),  # which stream entry it was read from
    Column("outcome", String(16), nullable=False),
)
Index("receipts_by_outcome", receipts.c.outcome, receipts.c.source)

# A receipt that was appended to the inbox a second time (a lost reply, a spool that was moved twice).
reappends = Table(
    "reappends",
    metadata,
    Column("entry", String(48), primary_key=True),
    Column("receipt_id", _id, nullable=False),
)

# What was appended to an inbox whose data is gone; see docs/reliability.md.
inbox_generations = Table(
    "inbox_generations",
    metadata,
    Column("generation", String(36), primary_key=True),
    Column("began_at", Instant, nullable=False),
    Column("receipts_before", BigInteger, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("id", _id, primary_key=True),
    Column("receipt_id", _id, nullable=False),
    Column("item", Integer, nullable=False),
    Column("parent_id", _id),
    Column("depth", SmallInteger, nullable=False, default=0),
    Column("source", String(64), nullable=False),
    Column("provider", String(64), nullable=False),
    Column("type", String(64), nullable=False),
    Column("wire_type", String(128), nullable=False),
    Column("key", LargeBinary(32), nullable=False),
    Column("occurred_at", Instant, nullable=False),
    Column("received_at", Instant, nullable=False),
    Column("learner_id", Text),
    Column("unknown_fields", SmallInteger, nullable=False, default=0),
    Column("document", LargeBinary, nullable=False),  # zlib of Event.to_json()
)
Index("events_by_receipt", events.c.receipt_id)
Index("events_by_learner", events.c.learner_id)

# Narrow, outlives events, never partitioned by time. `key` and `content` are HMACs: a plain hash of
# personal data can be guessed back.
keys = Table(
    "keys",
    metadata,
    Column("key", LargeBinary(32), primary_key=True),
    Column("event_id", _id, nullable=False),
    Column("content", LargeBinary(32), nullable=False),
    sqlite_with_rowid=False,
)

duplicates = Table(
    "duplicates",
    metadata,
    Column("receipt_id", _id, primary_key=True),
    Column("item", Integer, primary_key=True),
    Column("event_id", _id, nullable=False),
    sqlite_with_rowid=False,
)
Index("duplicates_by_event", duplicates.c.event_id)

quarantine = Table(
    "quarantine",
    metadata,
    Column("receipt_id", _id, primary_key=True),
    Column("item", Integer, primary_key=True),
    Column("source", String(64), nullable=False),
    Column("wire_type", String(128)),
    Column("reason", String(32), nullable=False),
    Column("errors", JSON, nullable=False),
    Column("event_id", _id),  # of a conflict: the event that has the key
    Column("quarantined_at", Instant, nullable=False),
    sqlite_with_rowid=False,
)

handlers = Table(
    "handlers",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("uses", String(64), nullable=False),
    Column("kind", String(8), nullable=False),
    Column("wants", JSON, nullable=False),  # sorted event types; ["*"] is every type
    Column("paused", Boolean, nullable=False, default=False),
    Column("registered_at", Instant, nullable=False),
    Column("retired_at", Instant),
)

# Who works on this ledger, by their own word; see `ledger.processes`.
processes = Table(
    "processes",
    metadata,
    Column("id", _id, primary_key=True),
    Column("kind", String(16), nullable=False),  # worker, sweep
    Column("host", String(255), nullable=False),
    Column("queues", JSON, nullable=False),
    Column("started_at", Instant, nullable=False),
    Column("seen_at", Instant, nullable=False),  # by the database's clock
    Column("clock_at", Instant, nullable=False),  # at the same moment, by the process's own
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("event_id", _id, primary_key=True),
    Column("handler", String(64), primary_key=True),
    Column("state", String(8), nullable=False),
    Column("due_at", Instant, nullable=False),
    Column("attempts", SmallInteger, nullable=False, default=0),  # failed ones
    Column("crashes", SmallInteger, nullable=False, default=0),  # claims that ended without a verdict
    Column("token", String(36)),  # of the claim that may finish it
    Column("claimed_at", Instant),
    Column("finished_at", Instant),
    Column("code", String(32)),  # of the last failure, or why it was skipped or is dead
    Column("detail", Text),
    sqlite_with_rowid=False,
)
# A database takes a partial index only for a query that says its condition in literals, so the queries
# take these conditions from here.
is_claimable = text("deliveries.state IN ('pending', 'retrying')")
is_suspect = text("deliveries.state IN ('pending', 'retrying') AND deliveries.crashes > 0")
is_running = text("deliveries.state = 'running'")
is_open = text("deliveries.state IN ('pending', 'retrying', 'running')")
is_dead = text("deliveries.state = 'dead'")


def _partial(name: str, condition: TextClause, *columns: str) -> None:
    unqualified = text(condition.text.replace("deliveries.", ""))
    Index(
        name,
        *(deliveries.c[column] for column in columns),
        sqlite_where=unqualified,
        postgresql_where=unqualified,
    )


_partial("deliveries_due", is_claimable, "handler", "due_at", "event_id")
_partial("deliveries_suspect", is_suspect, "handler", "due_at")
_partial("deliveries_running", is_running, "handler", "token")
_partial("deliveries_open", is_open, "handler", "event_id")
_partial("deliveries_dead", is_dead, "handler", "event_id")

# Attempts that did not finish their delivery; the one that did is told by the delivery itself.
attempts = Table(
    "attempts",
    metadata,
    Column("event_id", _id, primary_key=True),
    Column("handler", String(64), primary_key=True),
    Column("token", String(36), primary_key=True),
    Column("started_at", Instant),
    Column("ended_at", Instant, nullable=False),
    Column("outcome", String(16), nullable=False),  # failed, not_now, crashed, unknown
    Column("code", String(32), nullable=False),
    Column("detail", Text),
    sqlite_with_rowid=False,
)

audit = Table(
    "audit",
    metadata,
    Column("id", _serial, primary_key=True, autoincrement=True),
    Column("at", Instant, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("source", String(64)),
    Column("receipt_id", _id),
    Column("event_id", _id),
    Column("outcome", String(32)),
    Column("detail", JSON(none_as_null=True)),
)
Index("audit_by_receipt", audit.c.receipt_id)
Index("audit_by_event", audit.c.event_id)
