"""What runs in each worker process of the receiver."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import structlog

from coursewire.settings import Settings
from receiver.configuration import read_again

if TYPE_CHECKING:
    from receiver.wsgi import Application

# Longer than any answer takes, and shorter than a supervisor's patience.
STOP_SECONDS = 5

log = structlog.get_logger()


class Worker:
    """Called once in a worker process, with the settings of the moment in which it is started."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._version = 0
        # Shared with the workers: one that is just coming up misses the signal, and looks here.
        self._newest = multiprocessing.RawValue("L", 0)

    def __call__(self) -> Any:
        # A fork inherits the server's handlers. Until Granian sets the worker's own, SIGTERM just ends it.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        threading.Thread(target=_follow_the_parent, name="parent-watch", daemon=True).start()
        # Not before the environment says where the metrics are.
        from receiver.wsgi import Application

        application = Application(self.settings)
        # In a thread and one by one: a signal may come while the one before is being served.
        changes: SimpleQueue[None] = SimpleQueue()
        signal.signal(signal.SIGHUP, lambda *_: changes.put(None))
        if self._newest.value != self._version:
            changes.put(None)
        threading.Thread(target=_follow, args=(changes, application), name="reader", daemon=True).start()
        return application

    def read_again(self) -> bool:
        """In the server: whether there is a new configuration for the workers."""
        settings = read_again(self.settings)
        if settings is None:
            return False
        self.settings = settings
        self._newest.value += 1
        self._version = self._newest.value
        log.info("the configuration was read again", sources=len(settings.sources))
        return True


def _follow(changes: SimpleQueue[None], application: Application) -> None:
    while True:
        changes.get()
        application.read_again()


def _follow_the_parent() -> None:
    """A worker whose server was killed would hold the port for ever."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_SECONDS)
    os._exit(1)
