"""The sign of life of a supervised process: a file that a thread touches every second.

A process that is stopped, frozen or starved touches nothing, and is started again. The file's text says
whether the process does its work yet.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

INTERVAL_SECONDS = 1.0
STARTING = "starting"
READY = "ready"


def start(path: Path | None) -> None:
    """Touch the file from now on; without a file, nobody supervises this process."""
    if path is None:
        return
    _write(path, STARTING)
    threading.Thread(target=_beat, args=(path, os.getppid()), name="heartbeat", daemon=True).start()


def ready(path: Path | None) -> None:
    """Say that the process does its work from now on."""
    if path is not None:
        _write(path, READY)


def _beat(path: Path, parent: int) -> None:
    while True:
        with suppress(OSError):
            os.utime(path)
        if os.getppid() != parent:
            # Nobody would start it again or stop it: it ends in good order.
            os.kill(os.getpid(), signal.SIGTERM)
            return
        time.sleep(INTERVAL_SECONDS)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_text(text, encoding="ascii")
