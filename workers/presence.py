"""Saying in the ledger that this process works, from a thread of its own."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from coursewire.event import new_id
from coursewire.ledger import processes
from coursewire.ledger.engine import open_ledger
from coursewire.ledger.tables import utc_now
from coursewire.settings import Settings

# A pool's child must not inherit an open connection: SQLite's locks would be in disorder in the child. So
# each beat opens one of its own, and nobody forks meanwhile.
_FORK = threading.Lock()
os.register_at_fork(before=_FORK.acquire, after_in_parent=_FORK.release, after_in_child=_FORK.release)


@contextmanager
def present(settings: Settings, kind: str, queues: list[str]) -> Iterator[None]:
    """Be listed in the ledger for as long as the block runs."""
    process_id, started_at, host = new_id(), utc_now(), socket.gethostname()[:255]
    stop = threading.Event()

    def beat(db: Connection) -> None:
        processes.beat(db, process_id, kind, host, queues, started_at)

    def keep_saying() -> None:
        while True:
            _say(settings, beat)
            if stop.wait(processes.BEAT_SECONDS):
                return

    thread = threading.Thread(target=keep_saying, name="presence", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        _say(settings, lambda db: processes.leave(db, process_id))


def _say(settings: Settings, work: Callable[[Connection], None]) -> None:
    """A ledger that is away is no reason to stop: it will be told at the next beat."""
    with _FORK, suppress(SQLAlchemyError, OSError):
        engine = open_ledger(settings)
        try:
            with engine.begin() as db:
                work(db)
        finally:
            engine.dispose()
