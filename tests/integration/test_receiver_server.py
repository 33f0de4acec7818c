"""The receiver as a process, over real sockets and a real Valkey."""

from __future__ import annotations

import gzip
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.client import HTTPResponse
from pathlib import Path
from uuid import uuid4

import orjson
import pytest

from coursewire.errors import InvalidConfiguration
from coursewire.inbox import Inbox, connect
from coursewire.settings import build_settings
from receiver.server import serve

LIMIT = 100_000
# The same bytes in every process: they are part of tests' names.
packed = partial(gzip.compress, mtime=0)
URL = "/hooks/chalk/token-1"


def document(redis_url: str, namespace: str = "t", **top: object) -> str:
    keys = {"redis_url": redis_url, "namespace": namespace, "max_body_bytes": LIMIT, **top}
    lines = [f"{key} = {orjson.dumps(value).decode()}" for key, value in keys.items()]
    return "\n".join([*lines, "[sources.chalk]", 'provider = "digitalchalk"', 'token = "token-1"', ""])


@pytest.fixture
def inbox(valkey: str) -> Iterator[Inbox]:
    """Fresh for each test; a receiver of its own writes into it."""
    with connect(valkey, timeout_seconds=5) as redis:
        inbox = Inbox(redis, f"t{uuid4().hex}")
        inbox.ensure()
        yield inbox


@pytest.fixture
def receiver(run_receiver, valkey, inbox):
    """Of this test alone, which may do to it what it likes."""
    receiver = run_receiver(document(valkey, inbox.stream.removesuffix(":inbox")))
    yield receiver
    receiver.close()


@pytest.fixture(scope="module")
def shared(run_receiver, valkey):
    """One receiver for all tests that only post."""
    return run_receiver(document(valkey, "shared"))


@pytest.fixture
def shared_inbox(valkey: str) -> Iterator[Inbox]:
    """Where the shared receiver writes; empty."""
    with connect(valkey, timeout_seconds=5) as redis:
        inbox = Inbox(redis, "shared")
        inbox.ensure()
        while entries := inbox.read(500):
            inbox.finish([entry.id for entry in entries])
        yield inbox


def test_a_callback_is_in_the_inbox_when_it_is_answered(shared, shared_inbox):
    """From the socket to the stream, with the body as it was sent."""
    status, headers, body = shared.request("POST", URL, b'{"a": 1}', {"Content-Type": "application/json"})
    assert (status, headers["content-type"]) == (200, "application/json")
    (entry,) = shared_inbox.read(10)
    assert orjson.loads(body) == {"receipt": entry.callback.receipt}
    assert entry.callback.body == b'{"a": 1}'
    assert (entry.callback.remote_address, entry.callback.verified_by) == ("127.0.0.1", "path_token")
    assert b"token-1" not in repr(entry).encode()


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"x" * LIMIT, {}, 200),
        (b"x" * (LIMIT + 1), {}, 413),
        ([b"x" * LIMIT], {}, 200),
        ([b"x" * LIMIT, b"x"], {}, 413),
        (packed(b"x" * LIMIT), {"Content-Encoding": "gzip"}, 200),
        (packed(b"x" * (LIMIT + 1)), {"Content-Encoding": "gzip"}, 413),
        ([packed(b"x" * (LIMIT + 1))], {"Content-Encoding": "gzip"}, 413),
    ],
)
def test_the_limit_holds_with_a_length_in_chunks_and_after_decompression(
    shared, shared_inbox, body, headers, status
):
    """413 at one byte more; the limit itself is taken. A list is sent in chunks."""
    if isinstance(body, list):
        body, headers = iter(body), {**headers, "Transfer-Encoding": "chunked"}
    assert shared.post(URL, body, headers) == status
    assert [len(entry.callback.body) for entry in shared_inbox.read(10)] == ([LIMIT] if status == 200 else [])


def exchange(port: int, sent: bytes, *, hang_up: bool = False) -> tuple[int, bytes]:
    """Status and body of the answer to what is sent, byte for byte."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(sent)
        if hang_up:
            connection.shutdown(socket.SHUT_WR)
        return answer(connection)


def answer(connection: socket.socket) -> tuple[int, bytes]:
    response = HTTPResponse(connection)
    response.begin()
    return response.status, response.read()


def head(path: str, *lines: str) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", *lines, "", ""]).encode()


def test_a_body_cut_short_is_not_accepted(shared, shared_inbox):
    """The sender hung up before its Content-Length was through."""
    status, body = exchange(shared.port, head(URL, "Content-Length: 100") + b"half", hang_up=True)
    assert (status, orjson.loads(body)["code"]) == (400, "malformed_request")
    assert shared_inbox.read(10) == []


def test_a_stranger_is_refused_before_the_body_is_sent(shared):
    """The answer comes although the announced body never does, and nobody is asked to go on."""
    sent = head("/hooks/chalk/wrong", "Content-Length: 50000", "Expect: 100-continue")
    assert exchange(shared.port, sent)[0] == 401
    sent = head(URL, "Content-Length: 50000000", "Expect: 100-continue")
    assert exchange(shared.port, sent)[0] == 413


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (head("/hooks/chalk/%ff%00", "Content-Length: 2") + b"{}", 401),
        (head("/hooks/chalk%2ftoken-1", "Content-Length: 2") + b"{}", 200),
        (head(f"{URL}?a=%ff&b", "Content-Length: 2") + b"{}", 200),
        (head(f"/{URL}", "Content-Length: 2") + b"{}", 404),
        (head("/hooks//chalk/token-1", "Content-Length: 2") + b"{}", 404),
        (head("/hooks/../hooks/chalk/token-1", "Content-Length: 2") + b"{}", 404),
        (head(f"http://elsewhere{URL}", "Content-Length: 2") + b"{}", 200),
        (head(URL, "Content-Length: 2", "X-Odd: \u00e9") + b"{}", 200),
        (head(URL, "Content-Length: x") + b"{}", 400),
        (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"nonsense\r\n\r\n", 400),
    ],
)
def test_odd_requests_are_answered_and_never_redirected(shared, sent, status):
    """On the wire, where no client tidies them up."""
    assert exchange(shared.port, sent)[0] == status


def test_a_connection_is_kept_alive(shared):
    """A sender with many callbacks opens one."""
    request = head(URL, "Content-Length: 2") + b"{}"
    with socket.create_connection(("127.0.0.1", shared.port), timeout=10) as connection:
        for _ in range(3):
            connection.sendall(request)
            assert answer(connection)[0] == 200


def test_many_at_once_share_their_disk_syncs(shared, shared_inbox, valkey):
    """Each is answered with a receipt of its own; far fewer appends than requests were sent to the server."""
    with connect(valkey, timeout_seconds=5) as redis:
        before = redis.info("stats")["total_reads_processed"]
        with ThreadPoolExecutor(32) as pool:
            answers = list(pool.map(lambda n: shared.request("POST", URL, b"%d" % n), range(400)))
        reads = redis.info("stats")["total_reads_processed"] - before
    assert {status for status, _, _ in answers} == {200}
    given = {orjson.loads(body)["receipt"] for _, _, body in answers}
    entries = shared_inbox.read(1000)
    assert len(given) == 400
    assert {entry.callback.receipt for entry in entries} == given
    assert sorted(int(entry.callback.body) for entry in entries) == list(range(400))
    assert reads < 300


def test_a_callback_is_hinted_at(receiver, inbox, until):
    """The wake token is set and one message lies in ingest's queue, however many came."""
    for _ in range(5):
        assert receiver.post(URL, b"{}") == 200
    namespace = inbox.stream.removesuffix(":inbox")
    until(lambda: inbox.redis.llen(f"{namespace}:{namespace}.ingest") == 1, what="the hint")
    (message,) = inbox.redis.lrange(f"{namespace}:{namespace}.ingest", 0, -1)
    assert orjson.loads(message)["headers"]["task"] == "coursewire.ingest"
    assert b"token-1" not in message


PLUGIN = """
from coursewire import Provider
class Sample(Provider):
    name = "sample"
    wire_types = frozenset()
    headers = frozenset({"x-event", "x-secret", "authorization"})
    def split(self, callback): return []
    def read(self, item, callback, zone): raise NotImplementedError
"""


def test_a_provider_gets_the_headers_it_asks_for_and_no_credential(
    run_receiver, valkey, inbox, tmp_path: Path
):
    """A foreign provider, found by its entry point; a header that bears a secret goes to nobody."""
    (tmp_path / "sample.py").write_text(PLUGIN)
    info = tmp_path / "sample-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sample\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[coursewire.providers]\nsample = sample:Sample\n")
    namespace = inbox.stream.removesuffix(":inbox")
    source = '[sources.school]\nprovider = "sample"\nheader = "X-Secret"\nsecret = "s3cret"\n'
    receiver = run_receiver(document(valkey, namespace) + source, PYTHONPATH=str(tmp_path))
    sent = {"X-Secret": "s3cret", "X-Event": "done", "X-Other": "1", "Authorization": "Basic eDp5"}
    assert receiver.post("/hooks/school", b"{}", sent) == 200
    (entry,) = inbox.read(10)
    assert entry.provider == "sample"
    assert entry.callback.headers == {"x-event": "done"}


def test_the_logs_are_json_and_hold_no_secret(receiver):
    """Every line of every process, from the server's own as well."""
    receiver.post(URL, b"personal data")
    receiver.post("/hooks/chalk/guessed", b"personal data")
    receiver.post("/hooks/guessed/token-1", b"personal data")
    receiver.request("DELETE", URL)
    receiver.close()
    lines = receiver.lines()
    assert [line["code"] for line in lines if line["event"] == "refused"] == [
        "not_authenticated",
        "unknown_source",
        "method_not_allowed",
    ]
    assert all({"event", "level", "timestamp"} <= set(line) for line in lines)
    assert not any(word in repr(lines) for word in ("token-1", "guessed", "personal", "/hooks"))


def test_metrics_are_summed_over_workers(run_receiver, valkey, inbox):
    """Whichever process answers."""
    receiver = run_receiver(document(valkey, inbox.stream.removesuffix(":inbox"), receiver_workers=2))
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: receiver.post(URL, b"{}"), range(60))) == {200}
    for _ in range(5):
        text = receiver.request("GET", "/metrics")[2].decode()
        assert 'coursewire_callbacks_total{outcome="accepted",source="chalk"} 60.0' in text
        assert "coursewire_answer_seconds_count 60.0" in text


def test_a_second_receiver_does_not_take_the_same_port(shared):
    """It would get half of the callbacks without anyone noticing."""
    given = build_settings({}, data_dir=Path())
    with pytest.raises(OSError, match="in use"):
        serve(given, "127.0.0.1", shared.port)


def test_sigterm_answers_what_is_in_flight(run_receiver, own_valkey, until):
    """Requests that wait for the disk get their 200 first; then the process ends with 0, within seconds."""
    receiver = run_receiver(document(own_valkey.url, inbox_timeout_seconds=1.5))
    assert receiver.post(URL, b"warm") == 200
    own_valkey.process.send_signal(signal.SIGSTOP)
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(receiver.post, URL, b"%d" % n) for n in range(4)]
        until(lambda: established(receiver.port) >= 4, what="the requests")
        assert receiver.request("GET", "/livez")[0] == 200
        started = time.monotonic()
        receiver.process.terminate()
        threading.Timer(0.3, own_valkey.process.send_signal, [signal.SIGCONT]).start()
        assert [each.result() for each in waiting] == [200] * 4
    assert receiver.process.wait(10) == 0
    assert time.monotonic() - started < 8
    with connect(own_valkey.url, timeout_seconds=5) as redis:
        assert redis.xlen("t:inbox") == 5


def established(port: int) -> int:
    """How many connections the port has, and their bytes were taken out of the socket."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    mine = [row for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "01"]
    return sum(row[4].endswith(":00000000") for row in mine)


def test_sighup_reads_the_configuration_while_callbacks_come(receiver, until):
    """A new source is known after it; no callback is refused or lost meanwhile."""
    done = threading.Event()

    def go_on() -> set[int]:
        statuses = set()
        while not done.is_set():
            statuses.add(receiver.post(URL, b"{}"))
        return statuses

    config = receiver.log_path.with_name("coursewire.toml")
    with ThreadPoolExecutor(4) as pool:
        loads = [pool.submit(go_on) for _ in range(4)]
        try:
            config.write_text(config.read_text() + '[sources.more]\nprovider = "toolzz"\ntoken = "token-2"\n')
            receiver.process.send_signal(signal.SIGHUP)
            until(lambda: receiver.post("/hooks/more/token-2", b"{}") == 200, what="the new source")
        finally:
            done.set()
        assert [load.result(20) for load in loads] == [{200}] * 4
    assert receiver.post("/hooks/more/token-2", b"{}") == 200


def test_sighup_with_a_wrong_configuration_changes_nothing(receiver, until):
    """It is logged by the name of the key; the old one stays."""
    config = receiver.log_path.with_name("coursewire.toml")
    config.write_text(config.read_text() + '[sources.more]\nprovider = "nope"\ntoken = "token-2"\n')
    receiver.process.send_signal(signal.SIGHUP)
    until(lambda: any(line["level"] == "error" for line in receiver.lines()), what="the log line")
    assert "sources.more.provider" in str(receiver.lines())
    assert receiver.post(URL, b"{}") == 200


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def only_worker(receiver, until) -> int:
    until(lambda: children(receiver.process.pid), what="the worker")
    (worker,) = children(receiver.process.pid)
    return worker


def test_a_worker_that_dies_is_replaced(receiver, until):
    """The socket stays open, so that callers wait and are not refused."""
    worker = only_worker(receiver, until)
    os.kill(worker, signal.SIGKILL)
    until(lambda: children(receiver.process.pid) not in ([], [worker]), what="a new worker")
    assert receiver.post(URL, b"{}") == 200


def test_no_worker_outlives_a_killed_server(receiver, until):
    """It would hold the port."""
    worker = only_worker(receiver, until)
    assert receiver.post(URL, b"{}") == 200
    receiver.process.kill()
    until(lambda: not Path(f"/proc/{worker}").exists() or is_zombie(worker), what="the worker's end")


def is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_wrong_provider_stops_the_boot(tmp_path):
    """Before anything listens, by the name of the key."""
    given = build_settings({"sources": {"chalk": {"provider": "nope", "token": "t"}}}, data_dir=tmp_path)
    with pytest.raises(InvalidConfiguration) as error:
        serve(given, "127.0.0.1", 0, ready=lambda port: pytest.fail("it listens"))
    assert error.value.key == "sources.chalk.provider"
