"""What the receiver answers while the inbox is away, and that nothing it acknowledged is lost."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import orjson
import pytest
from redis import Redis
from redis.exceptions import RedisError

from coursewire.inbox import connect, decode

URL = "/hooks/chalk/token-1"


@pytest.fixture
def run(run_receiver, own_valkey):
    """A receiver over the Valkey of this test, closed with it; `top` are top-level settings."""
    running = []

    def start(**top: object):
        keys = {"redis_url": own_valkey.url, "namespace": "t", "inbox_timeout_seconds": 0.5, **top}
        lines = [f"{key} = {orjson.dumps(value).decode()}" for key, value in keys.items()]
        source = ["[sources.chalk]", 'provider = "digitalchalk"', 'token = "token-1"']
        running.append(run_receiver("\n".join([*lines, *source])))
        until_answer(running[-1])
        return running[-1]

    yield start
    for receiver in running:
        receiver.close()


def until_answer(receiver) -> None:
    """A worker needs half a second to come up: its time is not what these tests measure."""
    assert receiver.request("GET", "/livez")[0] == 200


@pytest.fixture
def redis(own_valkey):
    with connect(own_valkey.url, timeout_seconds=5) as redis:
        yield redis


def post(receiver, body: bytes) -> tuple[int, str, float]:
    """Status, receipt or code, and seconds until the answer."""
    started = time.monotonic()
    status, _, answer = receiver.request("POST", URL, body)
    document = orjson.loads(answer)
    return status, document.get("receipt") or document["code"], time.monotonic() - started


def kept(redis: Redis) -> dict[str, bytes]:
    """Receipts and bodies in the inbox; nothing while it does not answer."""
    try:
        entries = redis.xrange("t:inbox")
    except RedisError:
        return {}
    callbacks = [decode(entry, fields).callback for entry, fields in entries]
    return {callback.receipt: callback.body for callback in callbacks}


def readiness(receiver) -> str | int:
    """The word of /readyz, or the status of its problem."""
    return orjson.loads(receiver.request("GET", "/readyz")[2])["status"]


def events(receiver) -> list[str]:
    return [line["event"] for line in receiver.lines() if line["event"] != "refused"]


def test_a_killed_inbox_is_not_noticed_by_any_sender(run, own_valkey, redis, until):
    """Under load: every answer is 200 and in time; all of them are in the inbox when it is back."""
    receiver = run()
    done = threading.Event()
    answers: list[tuple[int, str, float]] = []
    sent: dict[str, bytes] = {}

    def go_on(sender: int) -> None:
        n = 0
        while not done.is_set():
            body = b"%d/%d" % (sender, n)
            answers.append(post(receiver, body))
            sent[answers[-1][1]] = body
            n += 1

    with ThreadPoolExecutor(8) as pool:
        senders = [pool.submit(go_on, sender) for sender in range(8)]
        try:
            for phase in (own_valkey.kill, own_valkey.start, done.set):
                before = len(answers)
                until(lambda before=before: len(answers) > before + 200, what="the load")
                phase()
        finally:
            done.set()
        for sender in senders:
            sender.result(20)
    assert {status for status, _, _ in answers} == {200}
    assert max(seconds for _, _, seconds in answers) < 2
    assert len(sent) == len(answers)
    until(lambda: kept(redis).keys() >= sent.keys(), what="the move of the spool")
    assert {receipt: kept(redis)[receipt] for receipt in sent} == sent
    assert events(receiver).count("the inbox is away") == 1
    until(lambda: readiness(receiver) == "ready", what="readiness")


def freeze(own_valkey, redis: Redis) -> Callable[[], None]:
    own_valkey.process.send_signal(signal.SIGSTOP)
    return lambda: own_valkey.process.send_signal(signal.SIGCONT)


def kill(own_valkey, redis: Redis) -> Callable[[], None]:
    own_valkey.kill()
    return own_valkey.start


def fill(own_valkey, redis: Redis) -> Callable[[], None]:
    redis.config_set("maxmemory", "1mb")
    return lambda: redis.config_set("maxmemory", 0)


def demote(own_valkey, redis: Redis) -> Callable[[], None]:
    redis.replicaof("127.0.0.1", 1)
    return lambda: redis.replicaof("NO", "ONE")


def lock_out(own_valkey, redis: Redis) -> Callable[[], None]:
    redis.config_set("requirepass", "changed")
    redis.client_kill_filter(_type="normal")
    return lambda: redis.config_set("requirepass", "")


FAULTS = [freeze, kill, fill, demote, lock_out]


@pytest.mark.parametrize("fault", FAULTS)
def test_the_spool_takes_what_the_inbox_does_not(run, own_valkey, redis, until, fault):
    """Whatever is wrong with the server: 200 in time, also for many at once, and later it is in the inbox."""
    receiver = run()
    first = post(receiver, b"before")
    mend = fault(own_valkey, redis)
    with ThreadPoolExecutor(40) as pool:
        alive = pool.submit(receiver.request, "GET", "/livez")
        answers = list(pool.map(lambda n: post(receiver, b"%d" % n), range(40)))
        assert alive.result(5)[0] == 200
    answers.append(post(receiver, b"after"))
    assert {status for status, _, _ in answers} == {200}
    assert max(seconds for _, _, seconds in answers) < 2
    # Nobody waits for a server that is known to be away.
    assert answers[-1][2] < 0.4
    assert readiness(receiver) == "degraded"
    mend()
    until(
        lambda: kept(redis).keys() >= {receipt for _, receipt, _ in [first, *answers]},
        what="the move of the spool",
    )
    until(lambda: readiness(receiver) == "ready", what="readiness")
    story = ["the inbox is away", "the inbox is back", "moved the spool into the inbox"]
    until(lambda: events(receiver)[1:] == story, what="the end of the story in the log")


@pytest.mark.parametrize("fault", FAULTS)
def test_without_a_spool_the_sender_is_told_to_come_back(run, own_valkey, redis, until, fault):
    """503 with Retry-After within two seconds, at once while the fault lasts; and 200 again by itself."""
    receiver = run(spool_max_bytes=0)
    assert post(receiver, b"before")[0] == 200
    mend = fault(own_valkey, redis)
    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda n: post(receiver, b"%d" % n), range(40)))
    assert {(status, code) for status, code, _ in answers} == {(503, "not_durable")}
    assert max(seconds for _, _, seconds in answers) < 2
    status, headers, _ = receiver.request("POST", URL, b"again")
    assert (status, headers["retry-after"]) == (503, "5")
    assert readiness(receiver) == 503
    mend()
    until(lambda: post(receiver, b"after")[0] == 200, what="an answer of 200")


def test_a_full_spool_is_not_durable(run, own_valkey):
    """What fits is kept; for the rest the sender is told to come back."""
    receiver = run(spool_max_bytes=5000)
    own_valkey.kill()
    assert post(receiver, b"x" * 3000)[0] == 200
    assert post(receiver, b"y" * 3000)[:2] == (503, "not_durable")
    assert post(receiver, b"z" * 100)[0] == 200


def test_a_broken_spool_does_not_hinder_the_inbox(run, own_valkey, tmp_path):
    """The receiver works without it, and says so."""
    receiver = run()
    receiver.log_path.with_name("spool.sqlite3").write_bytes(b"no database" * 1000)
    assert post(receiver, b"{}")[0] == 200
    assert readiness(receiver) == "degraded"
    own_valkey.kill()
    assert post(receiver, b"{}")[:2] == (503, "not_durable")


def test_what_a_killed_receiver_left_is_moved_by_the_next(run, own_valkey, redis, until):
    """Acknowledged is acknowledged: the spool outlives its process."""
    receiver = run()
    own_valkey.kill()
    receipts = {post(receiver, b"%d" % n)[1] for n in range(20)}
    receiver.process.kill()
    receiver.process.wait(10)
    own_valkey.start()
    folder = receiver.log_path.parent
    successor = type(receiver)(folder, {})
    try:
        until(lambda: kept(redis).keys() == receipts, what="the move of the spool")
    finally:
        successor.close()


def test_a_receiver_starts_without_its_inbox(run, own_valkey, redis, until):
    """And keeps what comes."""
    own_valkey.kill()
    receiver = run()
    status, receipt, seconds = post(receiver, b"early")
    assert status == 200
    assert seconds < 2
    own_valkey.start()
    until(lambda: receipt in kept(redis), what="the move of the spool")


def test_two_workers_move_the_spool_once(run, own_valkey, redis, until):
    """Each entry is appended by one of them."""
    receiver = run(receiver_workers=2)
    own_valkey.kill()
    with ThreadPoolExecutor(8) as pool:
        receipts = {receipt for _, receipt, _ in pool.map(lambda n: post(receiver, b"%d" % n), range(100))}
    assert len(receipts) == 100
    own_valkey.start()
    until(lambda: kept(redis).keys() == receipts, what="the move of the spool")
    assert redis.xlen("t:inbox") == 100
