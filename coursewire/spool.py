"""The spool: a local SQLite journal that keeps callbacks while the inbox cannot take them.

A row is the entry that the inbox would hold (`inbox.encode`), and leaves when the inbox has it. Several
processes may share the file.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import orjson

from coursewire.errors import NotDurable
from coursewire.inbox import BATCH_BYTES, Inbox, received_at

BUSY_SECONDS = 0.5
MOVE_COUNT = 500

# The totals are kept, not counted: a full spool holds a million rows.
_SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS entries (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    meta BLOB NOT NULL,
    body BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS totals (one INTEGER PRIMARY KEY CHECK (one = 1), waiting INTEGER, bytes INTEGER);
INSERT OR IGNORE INTO totals VALUES (1, 0, 0);
COMMIT;
"""

Entry = dict[bytes, bytes]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Size:
    waiting: int
    bytes: int


class Spool:
    """Every method raises `NotDurable` when the file cannot be used, and tries anew the next time.

    Making one touches nothing; the file comes with the first entry. Safe between threads.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._inode = 0

    def add(self, entries: Sequence[Entry]) -> None:
        """Keep all of them, in one synced transaction, or none."""
        size = sum(map(_bytes, entries))

        def insert(db: sqlite3.Connection) -> None:
            if self._size(db).bytes + size > self.max_bytes:
                raise NotDurable("the spool is full")
            db.executemany(
                "INSERT INTO entries (meta, body) VALUES (?, ?)",
                [(entry[b"m"], entry[b"b"]) for entry in entries],
            )
            db.execute("UPDATE totals SET waiting = waiting + ?, bytes = bytes + ?", (len(entries), size))

        if self.max_bytes == 0:
            raise NotDurable("the spool is switched off")
        self._transaction(insert)

    def take(self, count: int, size: int) -> list[tuple[int, Entry]]:
        """The oldest entries with their ids: at most `count`, and no more after `size` bytes. They stay."""

        def select(db: sqlite3.Connection) -> list[tuple[int, Entry]]:
            taken: list[tuple[int, Entry]] = []
            left = size
            rows = db.execute("SELECT id, meta, body FROM entries ORDER BY id LIMIT ?", (count,))
            while left > 0 and (row := rows.fetchone()) is not None:
                taken.append((row[0], {b"m": row[1], b"b": row[2]}))
                left -= _bytes(taken[-1][1])
            rows.close()
            return taken

        return self._transaction(select, write=False) if self.path.exists() else []

    def remove(self, ids: Sequence[int]) -> None:
        """Forget entries that the inbox has; their bytes are overwritten on disk."""

        def delete(db: sqlite3.Connection) -> bool:
            rows = db.execute(
                "DELETE FROM entries WHERE id IN (SELECT value FROM json_each(?))"
                " RETURNING length(meta) + length(body)",
                (orjson.dumps(list(ids)).decode(),),
            ).fetchall()
            sizes = [row[0] for row in rows]
            db.execute("UPDATE totals SET waiting = waiting - ?, bytes = bytes - ?", (len(sizes), sum(sizes)))
            return self._size(db).waiting == 0

        if self._transaction(delete):
            self._give_back_the_disk()

    def size(self) -> Size:
        """What waits. Nothing does where there is no file: so it may be asked while no receiver runs."""
        return self._transaction(self._size, write=False) if self.path.exists() else Size(0, 0)

    def oldest(self) -> datetime | None:
        """When the oldest that waits was received."""

        def select(db: sqlite3.Connection) -> datetime | None:
            row = db.execute("SELECT meta FROM entries ORDER BY id LIMIT 1").fetchone()
            return received_at(row[0]) if row else None

        return self._transaction(select, write=False) if self.path.exists() else None

    def check(self) -> None:
        """Really write and sync."""
        if self.max_bytes == 0:
            raise NotDurable("the spool is switched off")

        def write(db: sqlite3.Connection) -> None:
            if self._size(db).bytes >= self.max_bytes:
                raise NotDurable("the spool is full")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            db.execute(f"PRAGMA user_version = {(version + 1) % 1000}")

        self._transaction(write)

    def close(self) -> None:
        with self._lock:
            self._close()

    def _size(self, db: sqlite3.Connection) -> Size:
        return Size(*db.execute("SELECT waiting, bytes FROM totals").fetchone())

    def _transaction(self, work: Callable[[sqlite3.Connection], T], *, write: bool = True) -> T:
        with self._lock:
            try:
                if self._connection is not None and not self._is_on_disk():
                    self._close()
                db = self._connection = self._connection or self._open()
                db.execute("BEGIN IMMEDIATE" if write else "BEGIN")
                result = work(db)
                db.execute("COMMIT")
            except NotDurable:
                self._roll_back()
                raise
            except (sqlite3.Error, OSError) as exc:
                # A fresh connection the next time: the file may be replaced, or the disk freed, by then.
                self._close()
                raise NotDurable(f"the spool cannot be used: {type(exc).__name__}: {exc}") from exc
            return result

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.touch(mode=0o600)
        db = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA secure_delete = ON")
            if not db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'totals'").fetchall():
                db.executescript(_SCHEMA)
        except BaseException:
            db.close()
            raise
        self._inode = self.path.stat().st_ino
        return db

    def _is_on_disk(self) -> bool:
        """What is written into a file that somebody removed would be gone with this process."""
        try:
            return self.path.stat().st_ino == self._inode
        except FileNotFoundError:
            return False

    def _roll_back(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")

    def _close(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _give_back_the_disk(self) -> None:
        """The write-ahead log still holds what was deleted; best effort, since a reader may be in the way."""
        with self._lock, suppress(sqlite3.Error):
            if self._connection is not None:
                # As a script, since `execute` takes only the first of the vacuum's many steps.
                self._connection.executescript("PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE)")


def move(spool: Spool, inbox: Inbox) -> int:
    """Move what waits in the spool into the inbox; how many were moved.

    One process at a time: where another one is at it, nothing is done. An entry leaves the spool after its
    append has returned, so a crash in between appends it twice, which its receipt's id makes harmless. Raises
    what the inbox raises; what was moved until then stays moved.
    """
    moved = 0
    if not spool.path.exists():
        return moved
    with _only_one(spool.path.with_name(f"{spool.path.name}.lock")) as mine:
        while mine:
            batch = spool.take(MOVE_COUNT, BATCH_BYTES)
            if not batch:
                break
            errors = inbox.append([entry for _, entry in batch])
            kept = [row for (row, _), error in zip(batch, errors, strict=True) if error is None]
            spool.remove(kept)
            moved += len(kept)
            for error in errors:
                if error is not None:
                    raise error
    return moved


@contextmanager
def _only_one(path: Path) -> Iterator[bool]:
    try:
        lock = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w")
    except OSError as exc:
        raise NotDurable(f"the spool cannot be locked: {exc.strerror}") from exc
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _bytes(entry: Entry) -> int:
    return len(entry[b"m"]) + len(entry[b"b"])
