"""Locks on a data directory: files that say who holds them, and that a dead holder no longer holds."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coursewire.errors import AlreadyRunning


@contextmanager
def lock(path: Path, *, holder: str, wait_seconds: float = 0.0) -> Iterator[int]:
    """Hold a lock file; yields its descriptor. `holder` is written into it, for whoever is refused.

    A process that inherits the descriptor holds the lock as well, until its own end.
    Raises `AlreadyRunning`.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline = time.monotonic() + wait_seconds
        while not _taken(descriptor):
            if time.monotonic() >= deadline:
                raise AlreadyRunning(f"{holder_of(path) or 'another process'} holds {path}")
            time.sleep(0.05)
        note(descriptor, holder)
        yield descriptor
    finally:
        os.close(descriptor)


def note(descriptor: int, holder: str) -> None:
    """Say in a lock file that we hold who does."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, holder.encode(), 0)


def holder_of(path: Path) -> str:
    """Who held the lock last, in words."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
