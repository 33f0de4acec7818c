"""Real processes, each started alone as in production, and killed in mid-flight: nothing lost, nothing doubled."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import func, select

from coursewire.ledger.engine import open_ledger, reading
from coursewire.ledger.tables import OPEN, attempts, audit, deliveries, duplicates, events, receipts
from coursewire.settings import Settings, load_settings
from workers.handlers.certificates import awarded

SAMPLES = Path(__file__).parents[2] / "schemas" / "samples"
COURSEWIRE = Path(sys.executable).with_name("coursewire")

# A dead worker's claims are respected for 1 + 5 + 0.5 seconds.
CONFIG = """
ingest_time_limit_seconds = 1
lease_margin_seconds = 0.5
sweep_interval_seconds = 0.2
ingest_batch = 20

[sources.chalk]
provider = "digitalchalk"
token = "chalk-token"

[handlers.audit]
time_limit_seconds = 1
batch = 5

[handlers.certificates]
time_limit_seconds = 1
batch = 5
"""


class Installation:
    """Parts of one installation, on the test's own Valkey."""

    def __init__(self, data_dir: Path, valkey: str) -> None:
        data_dir.mkdir(mode=0o700)
        (data_dir / "coursewire.toml").write_text(CONFIG)
        (data_dir / "coursewire.toml").chmod(0o600)
        self.data_dir = data_dir
        self.environment = {
            **os.environ,
            "COURSEWIRE_DATA_DIR": str(data_dir),
            "COURSEWIRE_REDIS_URL": valkey,
            "COURSEWIRE_NAMESPACE": f"t{uuid4().hex[:12]}",
        }
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.parts: list[subprocess.Popen[bytes]] = []
        self.log = (data_dir / "log").open("wb")
        subprocess.run([COURSEWIRE, "migrate"], env=self.environment, check=True, capture_output=True)
        self.engine = open_ledger(self.settings)

    @property
    def settings(self) -> Settings:
        return load_settings(self.data_dir)

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        part = subprocess.Popen(
            [COURSEWIRE, *command],
            env=self.environment,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )
        self.parts.append(part)
        return part

    def kill(self, part: subprocess.Popen[bytes]) -> None:
        """SIGKILL to the part and to its pool's children, which are in its session."""
        os.killpg(part.pid, signal.SIGKILL)
        part.wait()
        self.parts.remove(part)

    def post(self, body: bytes) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("POST", "/hooks/chalk/chalk-token", body)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def post_all(self, bodies: list[bytes], concurrency: int = 16) -> list[str]:
        with ThreadPoolExecutor(concurrency) as pool:
            answers = list(pool.map(self.post, bodies))
        assert {status for status, _ in answers} == {200}
        return [json.loads(document)["receipt"] for _, document in answers]

    def ready(self) -> bool:
        try:
            return self.post(b"")[0] == 400
        except OSError:
            return False

    def count(self, table, *conditions) -> int:
        with reading(self.engine) as db:
            return db.scalar(select(func.count()).select_from(table).where(*conditions)) or 0

    def at_rest(self, accepted: int) -> bool:
        return self.count(receipts) == accepted and self.count(deliveries, deliveries.c.state.in_(OPEN)) == 0

    def stop(self) -> None:
        for part in self.parts:
            part.send_signal(signal.SIGTERM)
        late = []
        for part in self.parts:
            try:
                part.wait(15)
            except subprocess.TimeoutExpired:
                late.append(part.args)
                os.killpg(part.pid, signal.SIGKILL)
                part.wait()
        self.engine.dispose()
        self.log.close()
        assert late == []


@pytest.fixture
def installation(tmp_path: Path, valkey: str, monkeypatch, until) -> Iterator[Installation]:
    made = Installation(tmp_path / "data", valkey)
    for name in ("REDIS_URL", "NAMESPACE"):
        monkeypatch.setenv(f"COURSEWIRE_{name}", made.environment[f"COURSEWIRE_{name}"])
    made.engine.dispose()
    made.engine = open_ledger(made.settings)
    made.start("receiver", "--port", str(made.port))
    made.start("sweep")
    until(made.ready, seconds=30, what="the receiver")
    try:
        yield made
    finally:
        made.stop()


def completion(number: int, *, passed: bool = True, grade: float = 91.0) -> bytes:
    body = json.loads((SAMPLES / "digitalchalk" / "offering_completed.json").read_bytes())
    body["registration"] |= {"id": f"r{number}", "passed": passed, "grade": grade}
    return json.dumps(body).encode()


def test_an_ingest_worker_killed_in_mid_flight_loses_and_doubles_nothing(installation, until):
    receipts_given = installation.post_all([completion(number) for number in range(300)])
    victim = installation.start("worker", "--queues", "ingest")
    until(lambda: installation.count(receipts) >= 20, seconds=30, what="the first batch")
    installation.kill(victim)
    installation.start("worker", "--queues", "ingest")
    installation.start("worker", "--queues", "handlers")
    until(lambda: installation.at_rest(300), seconds=60, what="the end of every delivery")
    with reading(installation.engine) as db:
        assert sorted(db.scalars(select(receipts.c.id))) == sorted(receipts_given)
    assert installation.count(events, events.c.type == "course.completed") == 300
    assert installation.count(awarded) == 300
    assert installation.count(audit, audit.c.kind == "event") == 600, "each completion, each certificate"


def test_a_handler_worker_killed_in_mid_flight_loses_and_doubles_nothing(installation, until):
    installation.start("worker", "--queues", "ingest")
    installation.post_all([completion(number) for number in range(300)])
    until(lambda: installation.count(receipts) == 300, seconds=30, what="ingest")
    victim = installation.start("worker", "--queues", "handlers")
    until(lambda: installation.count(awarded) >= 5, seconds=30, what="the first certificates")
    installation.kill(victim)
    installation.start("worker", "--queues", "handlers", "--concurrency", "2")
    until(lambda: installation.at_rest(300), seconds=60, what="the end of every delivery")
    assert installation.count(awarded) == 300
    assert installation.count(audit, audit.c.kind == "event") == 600
    assert installation.count(deliveries, deliveries.c.state == "dead") == 0
    assert installation.count(attempts, attempts.c.outcome == "failed") == 0


def test_the_same_body_a_hundred_times_at_once_is_one_event_and_one_certificate(installation, until):
    installation.start("worker", "--queues", "ingest", "--concurrency", "2")
    installation.start("worker", "--queues", "handlers", "--concurrency", "2")
    given = installation.post_all([completion(1)] * 100, concurrency=32)
    assert len(set(given)) == 100
    until(lambda: installation.at_rest(100), seconds=40, what="the end of every delivery")
    assert installation.count(events, events.c.type == "course.completed") == 1
    assert installation.count(duplicates) == 99
    assert installation.count(awarded) == 1


def test_a_regrade_from_failed_to_passed_is_a_new_event_and_a_certificate(installation, until):
    installation.start("worker", "--queues", "ingest")
    installation.start("worker", "--queues", "handlers")
    installation.post(completion(1, passed=False, grade=40.0))
    until(lambda: installation.at_rest(1), seconds=30, what="the failed completion's end")
    assert installation.count(awarded) == 0
    installation.post(completion(1))
    until(lambda: installation.at_rest(2), seconds=30, what="the passed completion's end")
    assert installation.count(events, events.c.type == "course.completed") == 2
    assert installation.count(awarded) == 1


def test_hints_made_by_hand_and_bodies_that_are_garbage_kill_no_worker(installation, until):
    """A hint with arguments, an unknown task, and messages that are no messages."""
    from redis import Redis

    ingest = installation.start("worker", "--queues", "ingest")
    handlers = installation.start("worker", "--queues", "handlers")
    namespace = installation.settings.namespace
    redis = Redis.from_url(installation.settings.redis_url)
    installation.post(completion(1))
    until(lambda: installation.at_rest(1), seconds=30, what="the first")
    from coursewire.hints import make_celery

    app = make_celery(installation.settings)
    for task in ("coursewire.ingest", "coursewire.nothing"):
        app.send_task(task, args=[1, {"x": None}], kwargs={"y": 2}, queue=f"{namespace}.ingest")
    app.close()
    installation.post_all([completion(number) for number in range(2, 12)] + [b"\x00\xff", b"[" * 5000])
    until(lambda: installation.at_rest(13), seconds=30, what="the rest")
    assert (ingest.poll(), handlers.poll()) == (None, None)
    assert installation.count(receipts, receipts.c.outcome == "quarantined") == 2
    redis.close()
