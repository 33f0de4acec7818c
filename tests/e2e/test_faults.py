"""Real processes, each started alone as in production, killed in mid-flight: nothing lost, nothing doubled.

The same on every set of servers that production may use.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest
from servers import Server, postgresql_server, redis_server
from sqlalchemy import func, select

from coursewire.hints import broker_queue, make_celery
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


# Ledger, inbox, and the broker where that is not the inbox's server: names of fixtures.
SERVERS = {
    "sqlite+valkey": (None, "valkey", None),
    "postgresql+valkey": ("postgresql", "valkey", None),
    "postgresql+valkey+rabbitmq": ("postgresql", "valkey", "rabbitmq"),
    "postgresql+redis7": ("postgresql", "redis_7", None),
}


class Installation:
    """Parts of one installation. `servers`: the environment that names them."""

    def __init__(self, data_dir: Path, servers: Mapping[str, str]) -> None:
        data_dir.mkdir(mode=0o700)
        (data_dir / "coursewire.toml").write_text(CONFIG)
        (data_dir / "coursewire.toml").chmod(0o600)
        self.data_dir = data_dir
        self.environment = {
            **os.environ,
            "COURSEWIRE_DATA_DIR": str(data_dir),
            **servers,
            "COURSEWIRE_NAMESPACE": f"t{uuid4().hex[:12]}",
        }
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.parts: list[subprocess.Popen[bytes]] = []
        self.log_path = data_dir / "log"
        self.log = self.log_path.open("wb")
        subprocess.run([COURSEWIRE, "migrate"], env=self.environment, check=True, capture_output=True)
        given = {name: value for name, value in self.environment.items() if name not in os.environ}
        keys = {name.removeprefix("COURSEWIRE_").lower(): value for name, value in given.items()}
        del keys["data_dir"]
        self.settings: Settings = load_settings(data_dir, **keys)
        self.engine = open_ledger(self.settings)

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
        self.parts = []
        self.engine.dispose()
        self.log.close()
        assert late == []


@pytest.fixture
def make_installation(tmp_path: Path, until) -> Iterator[Callable[..., Installation]]:
    made: list[Installation] = []

    def make(ledger: str | None, inbox: str, broker: str | None = None) -> Installation:
        urls = {"DATABASE_URL": ledger, "REDIS_URL": inbox, "BROKER_URL": broker}
        servers = {f"COURSEWIRE_{name}": url for name, url in urls.items() if url is not None}
        made.append(Installation(tmp_path / "data", servers))
        made[0].start("receiver", "--port", str(made[0].port))
        made[0].start("sweep")
        until(made[0].ready, seconds=30, what="the receiver")
        return made[0]

    yield make
    for each in made:
        if each.parts:
            each.stop()


@pytest.fixture(params=SERVERS)
def installation(request: pytest.FixtureRequest, make_installation) -> Installation:
    """One on each set of servers in turn, with a receiver and a sweep."""
    found = [name and request.getfixturevalue(name) for name in SERVERS[request.param]]
    return make_installation(*(getattr(each, "url", each) for each in found))


@pytest.fixture(params=["valkey", "rabbitmq"])
def broker(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A broker apart from the inbox, so that it can be stopped."""
    if request.param == "rabbitmq":
        server = request.getfixturevalue("rabbitmq")
        yield server
        server.start()
    else:
        with redis_server() as server:
            yield server


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
    ingest = installation.start("worker", "--queues", "ingest")
    handlers = installation.start("worker", "--queues", "handlers")
    installation.post(completion(1))
    until(lambda: installation.at_rest(1), seconds=30, what="the first")
    with make_celery(installation.settings) as app:
        queue = broker_queue(installation.settings, "ingest")
        for task in ("coursewire.ingest", "coursewire.nothing"):
            app.send_task(task, args=[1, {"x": None}], kwargs={"y": 2}, queue=queue)
        send_what_is_no_message(app, queue)
        installation.post_all([completion(number) for number in range(2, 12)] + [b"\x00\xff", b"[" * 5000])
        until(lambda: installation.at_rest(13), seconds=30, what="the rest")
        until(lambda: waiting(app, queue) == 0, seconds=30, what="the end of what is no message")
    assert (ingest.poll(), handlers.poll()) == (None, None)
    assert installation.count(receipts, receipts.c.outcome == "quarantined") == 2


def send_what_is_no_message(app, queue: str) -> None:
    known = {"task": "coursewire.ingest", "id": str(uuid4())}
    bodies = [
        "[]",
        "[1, 2]",
        "{}",
        "7",
        "null",
        "{",
        "",
        '"x"',
        "[[], {}, {}]",
        "[1, 2, 3]",
        "[[], {}, null]",
    ]
    sent = [({**known}, body, "application/json") for body in bodies]
    sent += [({}, body, "application/json") for body in bodies]
    sent += [(known, b"\x80\x04.", "application/x-python-serialize"), (known, "x", "no/type")]
    sent += [({**known, "eta": "never"}, "[[], {}, {}]", "application/json")]
    sent += [({**known, "expires": 7}, "[[], {}, {}]", "application/json")]
    sent += [({**known, "timelimit": "x"}, "[[], {}, {}]", "application/json")]
    sent += [
        ({"task": ["x"]}, "[[], {}, {}]", "application/json"),
        ({"task": None}, "[]", "application/json"),
    ]
    with app.connection_for_write() as connection, connection.channel() as channel:
        producer = connection.Producer(channel)
        for headers, body, content_type in sent:
            producer.publish(
                body,
                routing_key=queue,
                exchange="" if connection.transport.driver_type == "amqp" else queue,
                headers=headers,
                content_type=content_type,
                content_encoding="utf-8" if isinstance(body, str) else "binary",
            )


def waiting(app, queue: str) -> int:
    with app.connection_for_write() as connection, connection.channel() as channel:
        return channel.queue_declare(queue=queue, durable=True, auto_delete=False).message_count


def test_a_broker_that_was_emptied_or_away_loses_nothing(
    make_installation, postgresql, valkey, broker, until
):
    """Away at the start, for a while, and emptied: the sweep does the work meanwhile, then the workers do."""
    broker.stop()
    installation = make_installation(postgresql, valkey, broker.url)
    workers = [installation.start("worker", "--queues", queues) for queues in ("ingest", "handlers")]
    installation.post_all([completion(number) for number in range(10)])
    until(lambda: installation.at_rest(10), seconds=60, what="the work of the sweep")

    broker.start()
    app = make_celery(installation.settings)
    queues = [broker_queue(installation.settings, name) for name in ("ingest", "handler.audit")]
    until(lambda: consumed(app, queues), seconds=60, what="workers that are back")
    installation.post_all([completion(number) for number in range(10, 40)])
    until(lambda: installation.at_rest(40), seconds=30, what="the work of the workers")

    broker.stop()
    installation.post_all([completion(number) for number in range(40, 60)])
    until(lambda: installation.count(receipts) == 60, seconds=60, what="ingest by the sweep")
    broker.start()
    until(lambda: consumed(app, queues), seconds=60, what="workers that are back again")

    for number in range(60, 180, 20):
        installation.post_all([completion(each) for each in range(number, number + 20)])
        each_queue(app, queues, "queue_purge")
    each_queue(app, queues, "queue_delete")
    installation.post_all([completion(number) for number in range(180, 200)])
    until(lambda: installation.at_rest(200), seconds=60, what="the end of every delivery")
    assert [worker.poll() for worker in workers] == [None, None]
    assert installation.count(awarded) == 200
    assert installation.count(audit, audit.c.kind == "event") == 400
    assert installation.count(attempts) == 0
    app.close()


def each_queue(app, queues: list[str], command: str) -> None:
    with app.connection_for_write() as connection, connection.channel() as channel:
        for queue in queues:
            getattr(channel, command)(queue)


def consumed(app, queues: list[str]) -> bool:
    """Whether a task for each queue, which does no harm, is taken."""
    with suppress(Exception):
        if all(waiting(app, queue) == 0 for queue in queues):
            for queue in queues:
                app.send_task("coursewire.nothing", queue=queue, retry=False)
            until_taken = time.monotonic() + 3
            while time.monotonic() < until_taken:
                if all(waiting(app, queue) == 0 for queue in queues):
                    return True
    return False


def test_a_database_stopped_and_started_under_load_costs_no_attempt(make_installation, valkey, until):
    """What is acknowledged meanwhile waits in the inbox; workers and sweep live on and resume."""
    with postgresql_server() as server:
        installation = make_installation(server.url, valkey)
        parts = [installation.start("worker", "--queues", queues) for queues in ("ingest", "handlers")]
        installation.post_all([completion(number) for number in range(200)])
        until(lambda: installation.count(awarded) >= 5, seconds=40, what="the first certificates")
        for first in (200, 300):
            installation.post_all([completion(number) for number in range(first, first + 50)])
            server.stop()
            installation.post_all([completion(number) for number in range(first + 50, first + 100)])
            server.start()
        until(lambda: installation.at_rest(400), seconds=60, what="the end of every delivery")
        assert [part.poll() for part in parts] == [None, None]
        assert installation.count(awarded) == 400
        assert installation.count(audit, audit.c.kind == "event") == 800
        assert installation.count(attempts) == 0
        installation.stop()
