"""The intake: takes a callback to where it is durable. That is the inbox; while it is away, the spool."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import structlog
from redis.exceptions import RedisError, ResponseError

from coursewire.errors import Code, NotDurable, sanitized
from coursewire.hints import INGEST, Hints
from coursewire.inbox import Inbox
from coursewire.spool import Spool, move
from receiver.commit import Entry, GroupCommit

log = structlog.get_logger()

# What is left for the spool, after the inbox was waited for.
SPOOL_SECONDS = 0.4
# How often the inbox is tried while it is away, and the spool is looked at.
LOOK_SECONDS = 1.0
# Between two hints: a busy receiver hints often enough with a hundred a second.
HINT_SECONDS = 0.01
# After a hint that could not be sent. The sweep hints as well.
HINT_FAILED_SECONDS = 1.0


class Intake:
    """One a process. Its threads start with `start`, which must not come before a fork.

    `on_look` gets the spool about every second.
    """

    def __init__(
        self,
        inbox: Inbox,
        spool: Spool,
        hints: Hints,
        *,
        inbox_timeout_seconds: float,
        on_look: Callable[[Spool], object] = lambda spool: None,
    ) -> None:
        self.inbox = inbox
        self.spool = spool
        self._hints = hints
        self._inbox_seconds = inbox_timeout_seconds
        self._on_look = on_look
        self._to_inbox = GroupCommit("inbox", inbox.append)
        self._to_spool = GroupCommit("spool", self._add)
        self._away = threading.Event()
        self._appended = threading.Event()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._hint, name="hinter", daemon=True),
            threading.Thread(target=self._look_after_the_spool, name="mover", daemon=True),
        ]

    def start(self) -> None:
        self._to_inbox.start()
        self._to_spool.start()
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Write what is waiting, then stop; nothing may be handed in any more."""
        self._stop.set()
        self._appended.set()
        for thread in self._threads:
            thread.join()
        self._to_inbox.close()
        self._to_spool.close()
        self.spool.close()
        self.inbox.close()

    def accept(self, entry: Entry) -> None:
        """Return when the entry is durable. Raises `NotDurable`, after 1.9 s at the latest."""
        started = time.monotonic()
        if not self._away.is_set():
            try:
                self._to_inbox.commit(entry, timeout_seconds=self._inbox_seconds)
            except NotDurable as exc:
                self._went_away(exc)
            else:
                self._appended.set()
                return
        left = started + self._inbox_seconds + SPOOL_SECONDS - time.monotonic()
        self._to_spool.commit(entry, timeout_seconds=left)

    def _add(self, entries: Sequence[Entry]) -> list[None]:
        self.spool.add(entries)
        return [None] * len(entries)

    def _went_away(self, error: Exception) -> None:
        """From here on callbacks go straight to the spool: no answer waits for a server that is away."""
        if not self._away.is_set():
            self._away.set()
            log.warning("the inbox is away", code=Code.SERVER_UNREACHABLE, error=_reason(error))

    def _is_back(self) -> bool:
        try:
            self.inbox.check()
        except RedisError:
            return False
        self._away.clear()
        log.info("the inbox is back")
        return True

    def _look_after_the_spool(self) -> None:
        """Also moves what a receiver left that was killed."""
        fault = None
        while not self._stop.is_set():
            try:
                self._on_look(self.spool)
                if not self._away.is_set() or self._is_back():
                    self._move()
                fault = None
            except RedisError as exc:
                self._went_away(exc)
            except Exception as exc:  # noqa: BLE001 - this thread must outlive every fault of the disk
                if sanitized(exc) != fault:
                    fault = sanitized(exc)
                    log.warning("the spool cannot be moved", code=Code.NOT_DURABLE, error=fault)
            self._stop.wait(LOOK_SECONDS)

    def _move(self) -> None:
        if moved := move(self.spool, self.inbox):
            self._appended.set()
            log.info("moved the spool into the inbox", callbacks=moved)

    def _hint(self) -> None:
        """Hints from here, since a broker that is away takes seconds to say so."""
        while True:
            self._appended.wait()
            if self._stop.is_set():
                return
            self._appended.clear()
            failed = self._hints.send([INGEST])
            self._stop.wait(HINT_FAILED_SECONDS if failed else HINT_SECONDS)


def _reason(error: Exception) -> str:
    """What an operator can act on: Redis's own word (OOM, READONLY, NOAUTH) or the kind of error."""
    cause = error.__cause__ or error
    if isinstance(cause, NotDurable):
        return cause.detail
    word = str(cause).partition(" ")[0]
    return word if isinstance(cause, ResponseError) and word.isupper() else type(cause).__name__
