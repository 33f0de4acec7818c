"""The receiver as a server: Granian, with one listening socket that all worker processes share.

Signals: SIGTERM and SIGINT stop taking connections, answer what is in flight and end. SIGHUP has every worker
read the configuration again while it serves; a wrong one is logged, and the old one stays. Only the number of
workers takes a restart.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog
from granian.constants import Interfaces, RuntimeModes
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.net import SocketHolder  # type: ignore[attr-defined]
from granian.server.mp import MPServer

from coursewire import logs
from coursewire.exposition import share
from coursewire.settings import Settings
from receiver.configuration import kept_headers
from receiver.worker import STOP_SECONDS, Worker

# Each waits for its group's disk sync, so they are many and mostly idle (docs/decisions/0001-granian.md).
THREADS = 64
BACKLOG = 2048
KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
HEADER_BYTES = 64 << 10
HEADER_MILLISECONDS = 10_000

log = structlog.get_logger()


def main(settings: Settings, host: str, port: int) -> None:
    """The command `coursewire receiver`."""
    logs.configure(settings.log_level)
    serve(settings, host, port)


def serve(settings: Settings, host: str, port: int, *, ready: Callable[[int], object] | None = None) -> None:
    """Serve until a signal says stop; port 0 takes a free one.

    `ready` gets the port once connections are taken: those that come before a worker is up wait in the
    backlog. Raises `InvalidConfiguration` or `InvalidPlugin` before anything listens, `OSError` when the
    address is taken, and `SystemExit` when the workers do not stay alive. Must run in the main thread.
    """
    kept_headers(settings)
    listening = _listen(host, port)
    port = listening.getsockname()[1]
    # Ours alone, like the port; a receiver that was killed left its files.
    metrics = settings.data_dir / f"metrics-{port}"
    share(metrics)
    server = Server(Worker(settings), listening, settings)
    if ready is not None:
        server.on_startup(lambda: ready(port))
    log.info("the receiver listens", host=host, port=port)
    try:
        server.run()
    finally:
        shutil.rmtree(metrics, ignore_errors=True)


class Server(MPServer):
    """Granian on a socket of ours.

    By itself it opens one socket a worker with SO_REUSEPORT: then a second program may take the same port
    without an error, and connections that wait for a worker are reset when it is replaced.
    """

    def __init__(self, worker: Worker, listening: socket.socket, settings: Settings) -> None:
        self._listening = listening
        self._worker = worker
        host, port = listening.getsockname()[:2]
        super().__init__(
            "receiver.wsgi",
            address=host,
            port=port,
            interface=Interfaces.WSGI,
            workers=settings.receiver_workers,
            runtime_mode=RuntimeModes.mt,
            blocking_threads=THREADS,
            backlog=BACKLOG,
            http1_settings=HTTP1Settings(
                header_read_timeout=HEADER_MILLISECONDS, max_buffer_size=HEADER_BYTES
            ),
            websockets=False,
            log_level=LogLevels.warning,
            log_dictconfig=_GRANIANS_LOGS,
            log_access=False,
            respawn_failed_workers=True,
            workers_kill_timeout=STOP_SECONDS,
        )

    def run(self) -> None:
        self.serve(target_loader=self._worker, wrap_loader=False)

    def _reload(self, *args: object) -> None:
        """Granian would replace the workers, and reset connections that the old ones have just taken."""
        self.main_loop_interrupt.clear()
        self.reload_signal = False
        if self._worker.read_again():
            for each in self.wrks:
                with suppress(ProcessLookupError):
                    os.kill(each.inner.pid, signal.SIGHUP)
        if self.interrupt_signal:
            self.main_loop_interrupt.set()

    def _init_shared_socket(self) -> None:
        """What Granian itself does where there is no SO_REUSEPORT; its stubs do not say so."""
        self._listening.set_inheritable(True)
        self._sso = self._listening
        self._sfd = self._listening.fileno()  # type: ignore[assignment]
        self._shd = SocketHolder(self._sfd, False, BACKLOG)  # type: ignore[assignment, call-arg]


class NotAboutThreads(logging.Filter):
    """Granian warns of many threads, which are intended here."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "Python threads" not in record.getMessage()


# Its lines go to our handler, in our form.
_GRANIANS_LOGS: dict[str, Any] = {
    "formatters": {},
    "handlers": {},
    "filters": {"threads": {"()": NotAboutThreads}},
    "loggers": {"_granian": {"handlers": [], "filters": ["threads"], "propagate": True}},
}


def _listen(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    both = address[0] == "::" and socket.has_dualstack_ipv6()
    listening = socket.create_server(address[:2], family=family, backlog=BACKLOG, dualstack_ipv6=both)
    # Accepted connections inherit it. A peer that vanished within a body would hold a thread for ever.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE:
        if hasattr(socket, name):
            listening.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return listening
