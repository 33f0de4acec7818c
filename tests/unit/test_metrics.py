"""What is counted, and that the counts of several processes become one."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from datetime import UTC, datetime, timedelta
from urllib.error import HTTPError

import pytest
from prometheus_client import CollectorRegistry, generate_latest, values

from coursewire.errors import InvalidConfiguration
from coursewire.event import Event, EventType, new_id
from coursewire.exposition import serving
from coursewire.ledger.backlog import Backlog, Line
from coursewire.ledger.events import Candidate, Entered
from coursewire.ledger.receipts import Written
from coursewire.ledger.tables import Outcome
from coursewire.metrics import BacklogMetrics, WorkMetrics


@pytest.fixture(autouse=True)
def _one_process(monkeypatch):
    monkeypatch.setattr(values, "ValueClass", values.MutexValue)


@pytest.fixture
def free_port() -> int:
    import servers

    return servers.free_port()


def lines(registry: CollectorRegistry) -> dict[str, float]:
    """Every sample but the times of creation and the buckets."""
    found = {}
    for line in generate_latest(registry).decode().splitlines():
        name, _, value = line.rpartition(" ")
        if not line.startswith("#") and "_created" not in name and "_bucket" not in name:
            found[name] = float(value)
    return found


def entered(source: str = "chalk", *, new: bool = True, conflict: bool = False, unknown: int = 0) -> Entered:
    now = datetime.now(UTC)
    event = Event(
        id=new_id(),
        source=source,
        provider="digitalchalk",
        type=EventType.COURSE_COMPLETED,
        wire_type="x",
        key="k",
        occurred_at=now,
        received_at=now,
    )
    return Entered(Candidate(event, b"", new_id(), 0, unknown), event.id, new, conflict, ())


def test_a_batch_is_counted_by_source_and_outcome():
    """A source that is not configured here has no label of its own."""
    metrics = WorkMetrics(["chalk", "toolzz"])
    metrics.ingested(
        Written(
            [
                entered(unknown=2),
                entered("toolzz", unknown=1),
                entered(new=False, unknown=5),
                entered(new=False),
                entered(new=False, conflict=True),
                entered("stranger", new=False),
            ],
            [
                ("chalk", Outcome.EVENTS),
                ("chalk", Outcome.EVENTS),
                ("toolzz", Outcome.QUARANTINED),
                ("stranger-1", Outcome.IGNORED),
                ("stranger-2", Outcome.IGNORED),
            ],
        )
    )
    assert lines(metrics.registry) == {
        'coursewire_receipts_total{outcome="events",source="chalk"}': 2.0,
        'coursewire_receipts_total{outcome="quarantined",source="toolzz"}': 1.0,
        'coursewire_receipts_total{outcome="ignored",source="unknown"}': 2.0,
        'coursewire_duplicates_total{source="chalk"}': 2.0,
        'coursewire_duplicates_total{source="unknown"}': 1.0,
        'coursewire_conflicts_total{source="chalk"}': 1.0,
        'coursewire_unknown_fields_total{source="chalk"}': 2.0,
        'coursewire_unknown_fields_total{source="toolzz"}': 1.0,
    }


def test_attempts_are_counted_by_handler_and_outcome_and_finished_ones_timed():
    """A receiver whose clock is ahead of ours makes no negative time."""
    metrics = WorkMetrics([])
    now = datetime.now(UTC)
    arrived = [now - timedelta(seconds=40), now + timedelta(seconds=9)]
    metrics.attempted("audit", ["done", "failed", "done"], arrived)
    found = lines(metrics.registry)
    assert found['coursewire_attempts_total{handler="audit",outcome="done"}'] == 2.0
    assert found['coursewire_attempts_total{handler="audit",outcome="failed"}'] == 1.0
    assert found['coursewire_end_to_end_seconds_count{handler="audit"}'] == 2.0
    assert 40 <= found['coursewire_end_to_end_seconds_sum{handler="audit"}'] < 50
    text = generate_latest(metrics.registry).decode()
    assert 'coursewire_end_to_end_seconds_bucket{handler="audit",le="30.0"} 1.0' in text
    assert 'coursewire_end_to_end_seconds_bucket{handler="audit",le="60.0"} 2.0' in text


def test_the_backlog_shows_its_last_look_and_none_where_that_failed():
    """Ages go on between two looks."""
    registry = CollectorRegistry()
    backlog = BacklogMetrics(["chalk", "toolzz"])
    registry.register(backlog)
    assert lines(registry) == {}
    since = datetime.now(UTC) - timedelta(seconds=100)
    backlog.show(
        Backlog(Line(3, since), {"audit": Line(0, None)}, {"audit": 7}, {"chalk": 4, "gone": 1, "lost": 1})
    )
    found = lines(registry)
    assert 100 <= found.pop('coursewire_oldest_waiting_seconds{queue="ingest"}') < 110
    assert found == {
        'coursewire_waiting{queue="ingest"}': 3.0,
        'coursewire_waiting{queue="handler.audit"}': 0.0,
        'coursewire_oldest_waiting_seconds{queue="handler.audit"}': 0.0,
        'coursewire_dead{handler="audit"}': 7.0,
        'coursewire_quarantined{source="chalk"}': 4.0,
        'coursewire_quarantined{source="toolzz"}': 0.0,
        'coursewire_quarantined{source="unknown"}': 2.0,
    }
    backlog.show(None)
    assert lines(registry) == {}


CHILDREN = """
import os, sys
from pathlib import Path
from coursewire import exposition
from coursewire.metrics import WorkMetrics
folder = Path(sys.argv[1])
exposition.share(folder)
def child(count):
    pid = os.fork()
    if pid == 0:
        metrics = WorkMetrics([])
        from datetime import UTC, datetime
        metrics.attempted("audit", ["done"] * count, [datetime.now(UTC)] * count)
        os._exit(0)
    os.waitpid(pid, 0)
for count in (3, 4):
    child(count)
print(exposition.shared_text().decode())
print("FILES", sorted(path.name for path in folder.iterdir()))
child(5)
WorkMetrics([]).attempted("audit", ["done"])
print(exposition.shared_text().decode())
print(exposition.shared_text().decode())
print("FILES", sorted(path.name.replace(str(os.getpid()), "us") for path in folder.iterdir()))
"""


def test_what_dead_processes_counted_stays_and_their_files_do_not_pile_up(tmp_path):
    """Also when several die one after another, and beside one that lives; each look gives the same."""
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "counter_1.db").write_bytes(b"of a process before")
    done = subprocess.run(
        [sys.executable, "-c", CHILDREN, str(tmp_path / "old")], capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    counts = [line for line in done.stdout.splitlines() if line.startswith("coursewire_attempts_total{")]
    assert counts == [
        f'coursewire_attempts_total{{handler="audit",outcome="done"}} {count}' for count in (7.0, 13.0, 13.0)
    ]
    timed = [
        line for line in done.stdout.splitlines() if line.startswith("coursewire_end_to_end_seconds_count{")
    ]
    assert timed == [
        f'coursewire_end_to_end_seconds_count{{handler="audit"}} {count}' for count in (7.0, 12.0, 12.0)
    ]
    first = 'coursewire_end_to_end_seconds_bucket{handler="audit",le="0.05"} '
    buckets = [line for line in done.stdout.splitlines() if line.startswith(first)]
    assert buckets == [f"{first}{count}" for count in (7.0, 12.0, 12.0)]
    assert [line for line in done.stdout.splitlines() if line.startswith("FILES")] == [
        "FILES ['counter_past.db', 'histogram_past.db', 'lock']",
        "FILES ['counter_past.db', 'counter_us.db', 'histogram_past.db', 'histogram_us.db', 'lock']",
    ]


def test_only_metrics_are_served(free_port):
    with serving("127.0.0.1", free_port, lambda: b"some 1\n"):
        with urllib.request.urlopen(f"http://127.0.0.1:{free_port}/metrics", timeout=10) as answer:
            assert answer.read() == b"some 1\n"
            assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        with pytest.raises(HTTPError, match="404") as refused:
            urllib.request.urlopen(f"http://127.0.0.1:{free_port}/", timeout=10)
        refused.value.close()


def test_a_taken_port_is_a_wrong_configuration_and_port_0_serves_nothing(free_port):
    with (
        serving("127.0.0.1", free_port, lambda: b""),
        pytest.raises(InvalidConfiguration, match="metrics-port: cannot listen"),
        serving("127.0.0.1", free_port, lambda: b""),
    ):
        pass
    with serving("127.0.0.1", 0, lambda: b""):
        pass
