"""What each stage counts on a real ledger, and what is served of it by real processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import orjson
import pytest
import servers
from prometheus_client import generate_latest, values
from sqlalchemy import event, insert, select
from sqlalchemy.exc import OperationalError

from coursewire import Handler, NotNow, Permanent, Skip, Temporary
from coursewire.event import new_id
from coursewire.handlers import Configured
from coursewire.ledger import deliveries as queue
from coursewire.ledger import registry
from coursewire.ledger.backlog import take_backlog
from coursewire.ledger.tables import EPOCH, deliveries
from coursewire.metrics import BacklogMetrics
from workers import sweep as module
from workers.deliver import Deliverer
from workers.ingest import run_once
from workers.sweep import Sweep

SAMPLES = Path(__file__).parents[2] / "schemas" / "samples"
PROGRAM = [sys.executable, str(Path(sysconfig.get_path("scripts"), "coursewire"))]


@pytest.fixture(autouse=True)
def _one_process(monkeypatch):
    monkeypatch.setattr(values, "ValueClass", values.MutexValue)


def completion(registration: str = "r0", **changes: object) -> bytes:
    body = json.loads((SAMPLES / "digitalchalk" / "offering_completed.json").read_bytes())
    body["registration"]["id"] = registration
    return json.dumps({**body, **changes}).encode()


def samples(text: str) -> dict[str, float]:
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines if not re.search("_created|_bucket|_sum", name)}


def counted(pipeline) -> dict[str, float]:
    return samples(generate_latest(pipeline.ctx.metrics.registry).decode())


def probe(pipeline, handler: Handler) -> Deliverer:
    with pipeline.ctx.engine.begin() as db:
        registry.register(db, {"probe": Configured("probe", "probe", type(handler), frozenset({"*"}), {})})
    return Deliverer(pipeline.ctx, handler)


def test_ingest_counts_each_callback_once_by_its_outcome(make_pipeline):
    """Read again after a crash it is not new, and not counted; what its events repeat or contradict is."""
    pipeline = make_pipeline()
    same = completion("r1", odd="field")
    receipts = pipeline.append(
        same,
        same,
        completion("r1", odd="another"),
        completion("r2"),
        b"no json",
        completion("r3", event="of tomorrow"),
    )
    pipeline.ingest()
    expected = {
        'coursewire_receipts_total{outcome="events",source="chalk"}': 2.0,
        'coursewire_receipts_total{outcome="duplicate",source="chalk"}': 1.0,
        'coursewire_receipts_total{outcome="quarantined",source="chalk"}': 2.0,
        'coursewire_receipts_total{outcome="ignored",source="chalk"}': 1.0,
        'coursewire_duplicates_total{source="chalk"}': 1.0,
        'coursewire_conflicts_total{source="chalk"}': 1.0,
        'coursewire_unknown_fields_total{source="chalk"}': 1.0,
    }
    assert counted(pipeline) == expected
    pipeline.append(same, receipts=receipts[:1])
    pipeline.ingest()
    assert counted(pipeline) == expected


def test_what_is_rolled_back_is_not_counted(make_pipeline):
    """Here the ledger fails at the very commit, first of ingest and then of a handler."""
    pipeline = make_pipeline()
    pipeline.append(completion())
    with failing_commits(pipeline.ctx.engine, after="receipts"), pytest.raises(OperationalError):
        run_once(pipeline.ctx)
    assert counted(pipeline) == {}
    pipeline.ingest()
    assert counted(pipeline)['coursewire_receipts_total{outcome="events",source="chalk"}'] == 1.0
    with failing_commits(pipeline.ctx.engine, after="audit"), pytest.raises(OperationalError):
        pipeline.deliver("audit")
    assert 'coursewire_attempts_total{handler="audit",outcome="done"}' not in counted(pipeline)
    pipeline.deliver("audit")
    assert counted(pipeline)['coursewire_attempts_total{handler="audit",outcome="done"}'] == 1.0
    assert counted(pipeline)['coursewire_end_to_end_seconds_count{handler="audit"}'] == 1.0


@contextmanager
def failing_commits(engine, *, after: str):
    """The next commit of a transaction that inserted into a table fails."""
    armed = []

    def watch(connection, cursor, statement, parameters, context, many):
        if statement.startswith(f"INSERT INTO {after} "):
            armed.append(True)

    def fail(connection):
        if armed:
            armed.clear()
            raise OperationalError("COMMIT", {}, Exception("the disk is full"))

    event.listen(engine, "before_cursor_execute", watch)
    event.listen(engine, "commit", fail)
    yield
    event.remove(engine, "before_cursor_execute", watch)
    event.remove(engine, "commit", fail)


class Probe(Handler):
    """Ends in what the registration's id says."""

    wants = frozenset({"*"})
    backoff_seconds = (3600.0, 3600.0)
    max_attempts = 2

    def send(self, event, key):
        match event.registration.id:
            case "skip":
                raise Skip("no_course")
            case "later":
                raise NotNow(event.received_at.replace(year=2999))
            case "dead":
                raise Permanent("never")
            case "fail":
                raise Temporary("not yet")


def test_attempts_are_counted_by_their_outcome(make_pipeline):
    """Only what is done or skipped is timed."""
    pipeline = make_pipeline({})
    deliverer = probe(pipeline, Probe("probe", {}))
    pipeline.append(*map(completion, ("a", "b", "skip", "later", "dead", "fail")))
    pipeline.ingest()
    while deliverer.run_once():
        pass
    found = counted(pipeline)
    assert {name: count for name, count in found.items() if "probe" in name} == {
        'coursewire_attempts_total{handler="probe",outcome="done"}': 2.0,
        'coursewire_attempts_total{handler="probe",outcome="skipped"}': 1.0,
        'coursewire_attempts_total{handler="probe",outcome="not_now"}': 1.0,
        'coursewire_attempts_total{handler="probe",outcome="dead"}': 1.0,
        'coursewire_attempts_total{handler="probe",outcome="failed"}': 1.0,
        'coursewire_end_to_end_seconds_count{handler="probe"}': 3.0,
    }


def test_the_sweep_counts_claims_that_ended_without_a_verdict(make_pipeline, monkeypatch):
    pipeline = make_pipeline({"audit": {}, "notifications": {}})
    pipeline.append(completion("r1"), completion("r2"))
    pipeline.ingest()
    with pipeline.ctx.engine.begin() as db:
        assert queue.claim(db, "audit", 2) is not None  # and the worker dies
        assert queue.claim(db, "notifications", 1) is not None
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])  # the clock is what the rule is about
    sweep = Sweep(pipeline.ctx)
    sweep.look()
    now[0] += 100
    sweep.look()
    found = counted(pipeline)
    assert found['coursewire_attempts_total{handler="audit",outcome="crashed"}'] == 2.0
    assert found['coursewire_attempts_total{handler="notifications",outcome="unknown"}'] == 1.0


def test_the_sweep_shows_what_waits_is_dead_or_in_quarantine_at_most_every_five_seconds(
    make_pipeline, monkeypatch
):
    pipeline = make_pipeline({"audit": {}})
    backlog = BacklogMetrics(pipeline.settings.sources)
    pipeline.ctx.metrics.registry.register(backlog)
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])  # the clock is what the rule is about
    sweep = Sweep(pipeline.ctx, backlog)
    pipeline.append(completion("r1"), completion("r2"), b"no json")
    pipeline.ingest()
    pipeline.append(completion("r3"))
    with pipeline.ctx.engine.begin() as db:
        first = db.scalar(select(deliveries.c.event_id).order_by(deliveries.c.event_id).limit(1))
        db.execute(deliveries.update().where(deliveries.c.event_id == first).values(state="dead"))
    sweep.look()
    found = counted(pipeline)
    assert found.pop('coursewire_oldest_waiting_seconds{queue="ingest"}') < 60
    assert 0 < found.pop('coursewire_oldest_waiting_seconds{queue="handler.audit"}') < 60
    expected = {
        'coursewire_waiting{queue="ingest"}': 1.0,
        'coursewire_waiting{queue="handler.audit"}': 1.0,
        'coursewire_dead{handler="audit"}': 1.0,
        'coursewire_quarantined{source="chalk"}': 1.0,
        'coursewire_quarantined{source="toolzz"}': 0.0,
    }
    assert found.items() >= expected.items()
    pipeline.ingest()
    pipeline.deliver("audit")
    now[0] += 4.9
    sweep.look()
    assert counted(pipeline).items() >= expected.items()
    now[0] += 0.2
    sweep.look()
    assert counted(pipeline)['coursewire_waiting{queue="ingest"}'] == 0.0
    assert counted(pipeline)['coursewire_waiting{queue="handler.audit"}'] == 0.0
    assert counted(pipeline)['coursewire_oldest_waiting_seconds{queue="handler.audit"}'] == 0.0
    pipeline.ctx.inbox.redis.delete(pipeline.ctx.inbox.stream)
    pipeline.ctx.inbox.redis.set(pipeline.ctx.inbox.stream, "no stream")
    now[0] += 5.1
    sweep.look()
    assert "coursewire_waiting" not in generate_latest(pipeline.ctx.metrics.registry).decode().replace(
        "# HELP coursewire_waiting", ""
    ).replace("# TYPE coursewire_waiting", ""), "better no figure than an old one"


def test_the_backlog_of_a_long_ledger_is_read_from_indexes_alone(make_pipeline):
    """50,000 finished deliveries cost nothing; the plan names no table scan."""
    pipeline = make_pipeline({"audit": {}})
    done = {"handler": "audit", "state": "done", "due_at": EPOCH}
    with pipeline.ctx.engine.begin() as db:
        db.execute(insert(deliveries), [{**done, "event_id": new_id()} for _ in range(50_000)])
    pipeline.append(completion())
    pipeline.ingest()
    asked = []

    def keep(connection, cursor, statement, parameters, context, many):
        if statement.startswith("SELECT"):
            asked.append((statement, parameters))

    engine = pipeline.ctx.engine
    sqlite = engine.dialect.name == "sqlite"
    if not sqlite:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as db:
            db.exec_driver_sql("ANALYZE")
    event.listen(engine, "before_cursor_execute", keep)
    backlog = take_backlog(engine, pipeline.ctx.inbox)
    event.remove(engine, "before_cursor_execute", keep)
    assert backlog.handlers["audit"].count == 1
    plans = []
    with engine.connect() as db:
        for statement, parameters in asked:
            explain = "EXPLAIN QUERY PLAN" if sqlite else "EXPLAIN"
            rows = db.exec_driver_sql(f"{explain} {statement}", parameters)
            plans.append("\n".join(str(row) for row in rows))
    large = [plan for plan in plans if re.search("deliveries", plan)]
    assert len(large) == 3, plans
    assert all("deliveries_open" in plan or "deliveries_dead" in plan for plan in large), large
    assert any("receipts_by_outcome" in plan for plan in plans) or not sqlite, plans


def scraped(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return samples(answer.read().decode())


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def process(tmp_path):
    """Starts a command of an installation in `tmp_path / data0` that `make_operator` made; ends it."""
    started = []

    def start(*words: str) -> subprocess.Popen[bytes]:
        log = (tmp_path / f"{len(started)}.log").open("wb")
        with log:
            started.append(
                subprocess.Popen(
                    [*PROGRAM, *words, "--data-dir", str(tmp_path / "data0")], stdout=log, stderr=log
                )
            )
        return started[-1]

    yield start
    for each in started:
        each.send_signal(signal.SIGTERM)
    for each in started:
        assert each.wait(30) == 0
    left = [path.name for path in (tmp_path / "data0").iterdir() if path.name.startswith("metrics-")]
    assert left == [], "the folders of the metrics are gone"


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
def test_a_worker_serves_what_its_children_counted_also_those_that_were_killed(make_operator, process, until):
    """And the sweep serves the gauges. No process that outlives its parent holds the port."""
    pipeline = make_operator({"audit": {}}).pipeline
    one, other = servers.free_port(), servers.free_port()
    worker = process(
        "worker", "--queues", "ingest,handlers", "--concurrency", "2", "--metrics-port", str(one)
    )
    process("sweep", "--metrics-port", str(other))
    pipeline.append(*(completion(f"a{number}") for number in range(20)))
    until(lambda: pipeline.states() == {"audit": ["done"] * 20}, seconds=60)
    done = 'coursewire_attempts_total{handler="audit",outcome="done"}'
    until(lambda: scraped(one).get(done, 0) == 20.0, what="counted")
    for child in children_of(worker.pid):
        os.kill(child, signal.SIGKILL)
    assert scraped(one)[done] == 20.0
    pipeline.append(*(completion(f"b{number}") for number in range(20)))
    until(lambda: scraped(one)[done] == 40.0, seconds=60)
    assert scraped(one)['coursewire_receipts_total{outcome="events",source="chalk"}'] == 40.0
    until(lambda: scraped(other).get('coursewire_waiting{queue="handler.audit"}') == 0.0)
    held = [socket_of(pid) for pid in children_of(worker.pid)]
    assert all(f":{one:04X} " not in table for table in held)


def socket_of(pid: int) -> str:
    """The listening sockets that a process has open, as in /proc/net/tcp."""
    mine = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            mine.add(str(link.readlink()).removeprefix("socket:[").removesuffix("]"))
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return "\n".join(line for line in lines if line.split()[3] == "0A" and line.split()[9] in mine)


def test_the_receiver_shows_its_spool(run_receiver, until):
    """While no inbox answers: how many wait, since when, and how many bytes."""
    document = {"redis_url": "redis://127.0.0.1:1/0", "inbox_timeout_seconds": 0.1, "receiver_workers": 2}
    keys = [f"{key} = {orjson.dumps(value).decode()}" for key, value in document.items()]
    source = ["[sources.chalk]", 'provider = "digitalchalk"', 'token = "token-1"']
    receiver = run_receiver("\n".join([*keys, *source]))

    def shown() -> dict[str, float]:
        return samples(receiver.request("GET", "/metrics")[2].decode())

    until(lambda: shown().get("coursewire_spool_bytes") == 0.0)
    assert [receiver.post("/hooks/chalk/token-1", b"x" * 1000) for _ in range(3)] == [200] * 3
    until(lambda: shown()["coursewire_spool_bytes"] > 3000)
    until(lambda: shown()['coursewire_oldest_waiting_seconds{queue="spool"}'] > 1.0)
    assert shown()['coursewire_waiting{queue="spool"}'] == 3.0
    assert shown()['coursewire_oldest_waiting_seconds{queue="spool"}'] < 60.0
    receiver.close()
