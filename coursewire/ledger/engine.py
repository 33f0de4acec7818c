"""Connections to the ledger: SQLite with full durability, or PostgreSQL with bounded waits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, Table, create_engine, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.pool import QueuePool

from coursewire.settings import Settings

BUSY_SECONDS = 20
# A process that was stopped within a transaction loses it before those who wait for its locks give up, so
# that they go on as if nothing had been. Both are shorter than a task's time limit.
OPTIONS = "-c idle_in_transaction_session_timeout=15s -c lock_timeout=20s"


def open_ledger(settings: Settings) -> Engine:
    """An engine for this process. Not to be used across a fork: each child opens its own."""
    url = make_url(settings.database_url)
    if url.get_backend_name() == "sqlite":
        return _sqlite(settings)
    engine = create_engine(
        url,
        hide_parameters=True,  # they are personal data, and would stand in tracebacks
        isolation_level="READ COMMITTED",
        pool_pre_ping=True,
        pool_size=4,
        connect_args={
            "connect_timeout": 5,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 20_000,  # milliseconds
            "application_name": "coursewire",
            "options": OPTIONS,
        },
    )
    # Also where nothing is returned: psycopg would send a statement for each row.
    engine.dialect.use_insertmanyvalues_wo_returning = True
    return engine


def _sqlite(settings: Settings) -> Engine:
    engine = create_engine(
        settings.database_url,
        hide_parameters=True,
        poolclass=QueuePool,
        pool_size=4,
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def configure(connection: Any, record: Any) -> None:
        # SQLAlchemy emits BEGIN itself, below; sqlite3 would begin later, and deferred.
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "cache_size=-16000"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A deferred transaction that turns writer fails at once when another wrote in between.
        write = not connection.get_execution_options().get("coursewire_read", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    path = make_url(settings.database_url).database
    if path and path != ":memory:":
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.path.exists(path):  # noqa: PTH110 - `path` is SQLAlchemy's string
            os.close(os.open(path, os.O_CREAT, 0o600))
    return engine


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A read-only view of one moment: on SQLite it takes no write lock."""
    options: dict[str, Any] = {"coursewire_read": True}
    if engine.dialect.name == "postgresql":
        # At READ COMMITTED each statement would see a moment of its own.
        options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    with engine.connect().execution_options(**options) as db, db.begin():
        yield db


def insert(db: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """An insert that knows `on_conflict_do_nothing` and `on_conflict_do_update` on either database."""
    return sqlite.insert(table) if db.dialect.name == "sqlite" else postgresql.insert(table)
