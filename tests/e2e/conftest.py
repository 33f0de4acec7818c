"""Real stacks: `coursewire up` in a process, on a private data directory, on a free port."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from coursewire.ledger.engine import open_ledger, reading
from coursewire.ledger.states import callback_state
from coursewire.ledger.tables import deliveries, events, receipts
from coursewire.settings import Settings, load_settings

PROGRAM = [sys.executable, str(Path(sysconfig.get_path("scripts"), "coursewire"))]
# Ours take 10 s; the machine of a test run does other things as well.
PATIENCE_SECONDS = 60.0


def run(*words: str, data_dir: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*PROGRAM, *words, "--data-dir", str(data_dir)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_SECONDS,
    )


def processes_of(data_dir: Path) -> dict[int, str]:
    """Every living process whose command line or working directory names the data directory."""
    found = {}
    for folder in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            pid = int(folder.name)
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            place = str((folder / "cwd").readlink())
            zombie = (folder / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
            if pid != os.getpid() and not zombie and str(data_dir) in f"{command} {place}":
                found[pid] = command
    return found


def children_of(pid: int) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        with suppress(OSError, ValueError, IndexError):
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid and state != "Z":
                found.append(int(folder.name))
    return found


class Up:
    """A running `coursewire up`."""

    def __init__(self, data_dir: Path, *words: str, **environment: str) -> None:
        self.data_dir = data_dir
        self.process = subprocess.Popen(
            [*PROGRAM, "up", "--data-dir", str(data_dir), "--port", "0", *words],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self.complaints: list[str] = []
        self._readers = [
            threading.Thread(target=_collect, args=(stream, lines), daemon=True)
            for stream, lines in ((self.process.stdout, self.lines), (self.process.stderr, self.complaints))
        ]
        for reader in self._readers:
            reader.start()

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    @property
    def trouble(self) -> str:
        return "\n".join(self.complaints)

    @property
    def settings(self) -> Settings:
        return load_settings(self.data_dir)

    def is_ready(self) -> bool:
        assert self.process.poll() is None, f"up ended: {self.output} {self.trouble}"
        return "Ctrl-C stops it." in self.lines

    def url(self, source: str) -> str:
        found = re.search(rf"^  {source} +(http\S+)$", self.output, re.MULTILINE)
        assert found, self.output
        return found[1]

    def part(self, name: str) -> int:
        """The process id of a part: a child of `up`."""
        words = {
            "valkey": "valkey-server",
            "receiver": "coursewire receiver ",
            "ingest": "--queues ingest ",
            "record": "handler.progress",
            "send": "handler.notifications",
            "sweep": "coursewire sweep ",
            "guard": "guard.py",
        }[name]
        for pid in children_of(self.process.pid):
            with suppress(OSError):
                if words in Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode():
                    return pid
        return 0

    def post(self, source: str, body: bytes) -> str:
        """Post a callback to a source's printed URL; its receipt."""
        request = urllib.request.Request(self.url(source), body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return str(json.load(answer)["receipt"])

    def states(self, ids: Sequence[str]) -> list[str]:
        """The state of each callback; one that the ledger does not have yet is waiting."""
        engine = open_ledger(self.settings)
        found = {}
        try:
            with reading(engine) as db:
                for receipt in db.execute(select(receipts).where(receipts.c.id.in_(ids))):
                    mine = select(deliveries.c.state).join(events, events.c.id == deliveries.c.event_id)
                    of_receipt = db.scalars(mine.where(events.c.receipt_id == receipt.id)).all()
                    found[receipt.id] = str(callback_state(receipt.outcome, of_receipt))
        finally:
            engine.dispose()
        return [found.get(receipt, "waiting") for receipt in ids]

    def processes(self) -> dict[int, str]:
        """What lives because of it: see `processes_of`."""
        return processes_of(self.data_dir)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it; the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE_SECONDS)
        for reader in self._readers:
            reader.join(5)
        return code


def _collect(stream: Any, lines: list[str]) -> None:
    with stream:
        for line in stream:
            lines.append(line.rstrip("\n"))


@contextmanager
def scratch() -> Iterator[Path]:
    """A short path, so that it is not the test's that is too long for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="cw-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def coursewire() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a command of the command line to its end: `coursewire("stats", "--json", data_dir=...)`."""
    return run


@pytest.fixture
def data_dir() -> Iterator[Path]:
    with scratch() as folder:
        yield folder / "data"


@pytest.fixture
def start_up(until: Callable[..., None]) -> Iterator[Callable[..., Up]]:
    """Starts `coursewire up`, and waits until it is ready unless told otherwise; ends it after the test."""
    started: list[Up] = []

    def start(data_dir: Path, *words: str, wait: bool = True, **environment: str) -> Up:
        up = Up(data_dir, *words, **environment)
        started.append(up)
        if wait:
            until(up.is_ready, seconds=PATIENCE_SECONDS, what="ready")
        return up

    yield start
    for up in started:
        if up.process.poll() is None:
            up.stop()


@pytest.fixture(scope="module")
def stack(until: Callable[..., None]) -> Iterator[Up]:
    """One running stack for the tests of a module that leave it running as they found it."""
    with scratch() as folder:
        up = Up(folder / "data")
        try:
            until(up.is_ready, seconds=PATIENCE_SECONDS, what="ready")
            yield up
        finally:
            if up.process.poll() is None:
                up.stop()
