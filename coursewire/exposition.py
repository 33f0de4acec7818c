"""Metrics over HTTP, for processes that serve nothing else, and summed over those that share them.

Processes share metrics through files of prometheus_client: some for each process, in one folder.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest, values
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import MultiProcessCollector

from coursewire.errors import InvalidConfiguration

# Deliberately not structlog's: its locks do not survive a fork, and a worker forks while this serves.
log = logging.getLogger(__name__)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STALLED_SECONDS = 10.0


def share(folder: Path) -> None:
    """Have the metrics that this process and its children make from now on written into `folder`.

    It is emptied, so it must be of this process alone.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700)
    # The library asks the environment, once when it is imported and then for each file.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    values.ValueClass = values.get_value_class()  # type: ignore[no-untyped-call]


def text(registry: CollectorRegistry) -> bytes:
    """This process's metrics, or the sum over all that share them, in Prometheus's text format."""
    return shared_text() if values.ValueClass._multiprocess else generate_latest(registry)


def shared_text() -> bytes:
    folder = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(folder))  # type: ignore[no-untyped-call]
    # Any of the receiver's processes may be asked, also at the same moment.
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            _forget_the_dead(folder)
            return generate_latest(registry)
        finally:
            # Not by closing the file: a child forked meanwhile has it open as well, and would keep the lock.
            fcntl.flock(lock, fcntl.LOCK_UN)


@contextmanager
def serving(host: str, port: int, text: Callable[[], bytes]) -> Iterator[None]:
    """Answer GET /metrics with `text()` while the block runs; port 0 serves nothing.

    Raises `InvalidConfiguration` where the address cannot be had.
    """
    with _serving(_listen(host, port, text) if port else None):
        yield


@contextmanager
def serving_children(host: str, port: int, data_dir: Path) -> Iterator[None]:
    """The same for what this process and its children count together: see `share`."""
    server = _listen(host, port, shared_text) if port else None
    # Whoever has the address has the folder.
    folder = data_dir / f"metrics-{host}-{port}"
    if server is not None:
        share(folder)
    try:
        with _serving(server):
            yield
    finally:
        if server is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _listen(host: str, port: int, text: Callable[[], bytes]) -> _Server:
    try:
        return _Server(host, port, text)
    except OSError as exc:
        raise InvalidConfiguration("metrics-port", f"cannot listen on {host} {port}: {exc.strerror}") from exc


@contextmanager
def _serving(server: _Server | None) -> Iterator[None]:
    if server is None:
        yield
        return
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, host: str, port: int, text: Callable[[], bytes]) -> None:
        self.address_family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        super().__init__((host, port), _Answer)
        self.text = text
        # A child that outlives us must not hold the address.
        os.register_at_fork(after_in_child=self.socket.close)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):
            log.warning("metrics cannot be served", exc_info=True)


class _Answer(BaseHTTPRequestHandler):
    server: _Server
    timeout = STALLED_SECONDS

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        text = self.server.text()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        """No line for each scrape."""


def _forget_the_dead(folder: Path) -> None:
    """Fold what processes that are gone have counted into one file: a counter must not fall when one dies.

    Without that each child that was killed would leave its files to every scrape for ever. A gauge of a
    process that is gone says nothing any more.
    """
    dead = [file for file in folder.glob("*_*.db") if not _lives(file.stem.rpartition("_")[2])]
    for kind in ("counter", "histogram"):
        files = [file for file in dead if file.name.startswith(f"{kind}_")]
        if not files:
            continue
        past, fresh = folder / f"{kind}_{_PAST}.db", folder / f"{kind}_{_PAST}.new"
        fresh.unlink(missing_ok=True)
        sums = MmapedDict(str(fresh))  # type: ignore[no-untyped-call]
        given = [str(file) for file in (past, *files) if file.exists()]
        for metric in MultiProcessCollector.merge(given, accumulate=False):  # type: ignore[no-untyped-call]
            for sample in metric.samples:
                labels = list(sample.labels)
                key = mmap_key(
                    metric.name,
                    sample.name,
                    labels,
                    [sample.labels[name] for name in labels],
                    metric.documentation,
                )
                sums.write_value(key, sample.value, 0.0)  # type: ignore[no-untyped-call]
        sums.close()  # type: ignore[no-untyped-call]
        fresh.replace(past)
    for file in dead:
        file.unlink()


_PAST = "past"


def _lives(pid: str) -> bool:
    if pid == _PAST:
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
