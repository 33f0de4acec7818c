"""The command lines of the processes that `coursewire up` starts."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

RECEIVER, INGEST, RECORD, SEND, SWEEP = "receiver", "ingest", "record", "send", "sweep"
WORKERS = (INGEST, RECORD, SEND, SWEEP)
# A slow handler must not hold up another one; each process costs memory.
MOST_SENDING = 4


class Commands:
    """The parts but the receiver serve their metrics from `metrics_port` on, in the order of `WORKERS`."""

    def __init__(self, data_dir: Path, metrics_port: int = 0) -> None:
        self._data_dir = data_dir
        self._metrics_port = metrics_port
        self.run = data_dir / "run"

    def environment(self, configuration: Path) -> dict[str, str]:
        """Ours, with the configuration that the process shall read."""
        return {
            **os.environ,
            "COURSEWIRE_DATA_DIR": str(self._data_dir),
            "COURSEWIRE_CONFIG": str(configuration),
        }

    def migrate(self) -> list[str]:
        return [*program(), "migrate", "--json", "--data-dir", str(self._data_dir)]

    def receiver(self, host: str, port: int) -> list[str]:
        return self._process(RECEIVER, "receiver", "--host", host, "--port", str(port))

    def workers(self, kinds: Mapping[str, str]) -> dict[str, list[str]]:
        """By part, in the order in which they start. `kinds`: record or send, by handler."""
        commands = {INGEST: self._worker(INGEST, [INGEST], 1)}
        for kind in (RECORD, SEND):
            queues = [f"handler.{name}" for name in sorted(kinds) if kinds[name] == kind]
            if queues:
                concurrency = min(len(queues), MOST_SENDING) if kind == SEND else 1
                commands[kind] = self._worker(kind, queues, concurrency)
        commands[SWEEP] = self._process(SWEEP, "sweep")
        return commands

    def beat(self, part: str) -> Path:
        return self.run / f"{part}.beat"

    def _worker(self, part: str, queues: Sequence[str], concurrency: int) -> list[str]:
        return self._process(part, "worker", "--queues", ",".join(queues), "--concurrency", str(concurrency))

    def _process(self, part: str, *words: str) -> list[str]:
        where = ["--data-dir", str(self._data_dir), "--heartbeat-file", str(self.beat(part))]
        if self._metrics_port and part in WORKERS:
            where += ["--metrics-port", str(self._metrics_port + WORKERS.index(part))]
        return [*program(), *words, *where]


def program() -> list[str]:
    """How this program is called: as its users do, or as a module where no script is installed."""
    script = Path(sysconfig.get_path("scripts"), "coursewire")
    # -P: a folder `schemas` in the working directory must not be taken for ours.
    return [sys.executable, str(script)] if script.is_file() else [sys.executable, "-P", "-m", "console"]
