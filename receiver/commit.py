"""Group commit: many requests hand in an entry each, one thread writes all that is waiting at once.

So a disk sync is paid once for all requests that came while the one before was running. Nothing waits for a
group to fill.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue

from coursewire.errors import NotDurable
from coursewire.inbox import BATCH_BYTES

GROUP_COUNT = 500
# What may wait in memory, in bytes of bodies: a server that answers slowly must not fill it.
WAITING_BYTES = 64 << 20

Entry = dict[bytes, bytes]
Write = Callable[[Sequence[Entry]], Sequence[Exception | None]]
"""Writes a group. An outcome for each entry, None if it is durable; what it raises is the outcome of all."""


class Ticket:
    """One entry on its way, and the request that waits for it."""

    __slots__ = ("abandoned", "done", "entry", "error", "size")

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.size = len(entry[b"b"])
        self.error: Exception | None = None
        self.abandoned = False
        # A bare lock is the cheapest thing that one thread can wait for and another can release.
        self.done = threading.Lock()
        self.done.acquire()


class GroupCommit:
    def __init__(self, name: str, write: Write) -> None:
        self.name = name
        self._write = write
        self._queue: SimpleQueue[Ticket | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._waiting_bytes = 0
        self._thread = threading.Thread(target=self._run, name=f"{name}-writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Write what is waiting, then stop."""
        self._queue.put(None)
        self._thread.join()

    def commit(self, entry: Entry, *, timeout_seconds: float) -> None:
        """Return when the entry is durable; raise `NotDurable` when that is not so, or not known, in time."""
        ticket = Ticket(entry)
        with self._lock:
            # One entry always finds room, however large bodies may be.
            if self._waiting_bytes and self._waiting_bytes + ticket.size > WAITING_BYTES:
                raise NotDurable(f"too much is waiting for the {self.name}")
            self._waiting_bytes += ticket.size
        self._queue.put(ticket)
        if not ticket.done.acquire(timeout=max(0.0, timeout_seconds)):
            # Not written if its turn has not come yet; written for nobody if it has, which is harmless.
            ticket.abandoned = True
            raise NotDurable(f"the {self.name} did not answer in time")
        if ticket.error is not None:
            raise NotDurable(f"the {self.name} refused") from ticket.error

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            group, more = self._group(first)
            self._commit([ticket for ticket in group if not ticket.abandoned])
            with self._lock:
                self._waiting_bytes -= sum(ticket.size for ticket in group)
            if not more:
                return

    def _group(self, first: Ticket) -> tuple[list[Ticket], bool]:
        """All that is waiting, within bounds; False when nothing comes after it."""
        group, size = [first], first.size
        try:
            while len(group) < GROUP_COUNT and size < BATCH_BYTES:
                ticket = self._queue.get_nowait()
                if ticket is None:
                    return group, False
                group.append(ticket)
                size += ticket.size
        except Empty:
            pass
        return group, True

    def _commit(self, group: list[Ticket]) -> None:
        if not group:
            return
        errors: Sequence[Exception | None]
        try:
            errors = self._write([ticket.entry for ticket in group])
        except Exception as exc:  # noqa: BLE001 - whatever it was, none of these entries is known to be durable
            errors = [exc] * len(group)
        for ticket, error in zip(group, errors, strict=True):
            ticket.error = error
            ticket.done.release()
