"""Every process logs one JSON object a line, and never what a callback holds or what proves its sender."""

from __future__ import annotations

import gzip
import io
import json
import logging
import os
import signal
import subprocess
import sys
import sysconfig
import warnings
from base64 import b64encode
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import pytest
import servers
import structlog
from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import Column, MetaData, String, Table
from sqlalchemy.exc import OperationalError

from coursewire import Handler, Permanent, Temporary, logs
from coursewire.event import new_id
from coursewire.handlers import Configured
from coursewire.hints import INGEST, broker_queue, task_name
from coursewire.ledger import registry
from coursewire.settings import build_settings
from workers import ingest as ingest_module
from workers.deliver import Deliverer
from workers.sweep import Sweep

SAMPLES = Path(__file__).parents[2] / "schemas" / "samples"
PROGRAM = [sys.executable, str(Path(sysconfig.get_path("scripts"), "coursewire"))]
# What must be in no line, whatever goes wrong.
PRIVATE = (
    "Zephyrine",
    "Quillfeather",
    "zq-mail",
    "zq-login",
    "zq-password",
    "zq-token",
    "zq-secret",
    "zq-guess",
    "zq-course",
    "zq-server",
    "zq-hint",
)


def body(registration: str = "r0", **changes: object) -> bytes:
    """A completion by somebody whom we would recognise in a log."""
    document = json.loads((SAMPLES / "digitalchalk" / "offering_completed.json").read_bytes())
    document["user"] |= {
        "firstName": "Zephyrine",
        "lastName": "Quillfeather",
        "email": "zq-mail@example.org",
        "username": "zq-login",
        "password": "zq-password",
    }
    document["registration"]["id"] = registration
    document["offering"]["title"] = "zq-course"
    return json.dumps({**document, **changes}).encode()


def assert_private(text: str) -> list[dict[str, object]]:
    """The lines; each is a JSON object, and none holds what must not be there."""
    lines = [json.loads(line) for line in text.splitlines()]
    assert all(isinstance(line, dict) and line["event"] and line["timestamp"] for line in lines)
    for word in PRIVATE:
        assert word.lower() not in text.lower(), [line for line in lines if word.lower() in str(line).lower()]
    return lines


@pytest.fixture
def stream(restored_logs, monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(logging, "lastResort", logging.lastResort)
    monkeypatch.setattr(logging, "raiseExceptions", logging.raiseExceptions)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        stream = io.StringIO()
        logs.configure("debug", stream=stream)
        yield stream


people = Table("people", MetaData(), Column("name", String, primary_key=True))


class Clumsy(Handler):
    """Fails as the registration's id says, with the learner in its words; and logs lines of its own."""

    wants = frozenset({"*"})
    max_attempts = 2
    backoff_seconds = (0.0, 0.0)

    def record(self, event, db):
        structlog.get_logger().info("at it")
        match event.registration.id:
            case "foreign":
                raise ValueError(event.learner)
            case "ours":
                raise Temporary("the other side is away") from ValueError(event.learner.email)
            case "never":
                raise Permanent("it says no")
            case "integrity":
                db.execute(people.insert().values(name=event.learner.name))
                db.execute(people.insert().values(name=event.learner.name))
            case "warning":
                warnings.warn("this will change", DeprecationWarning, stacklevel=1)
            case "odd":
                logging.getLogger("foreign").warning("%d", event.learner.name)
        return


class ClumsySender(Clumsy):
    record = Handler.record
    kind = "send"

    def send(self, event, key):
        return Clumsy.record(self, event, None)


@pytest.mark.parametrize("plugin", [Clumsy, ClumsySender])
def test_whatever_fails_in_the_stages_no_line_says_of_whom(make_pipeline, stream, monkeypatch, plugin):
    """Bodies that do not validate, a provider's bug, a handler's faults, a database that is away."""
    pipeline = make_pipeline({}, broker_url="redis://:zq-password@127.0.0.1:1/0")
    with pipeline.ctx.engine.begin() as db:
        people.create(db)
        wants = frozenset({"*"})
        registry.register(db, {"clumsy": Configured("clumsy", "clumsy", plugin, wants, {})})
    cases = ["foreign", "ours", "never", "integrity", "warning", "odd"]
    if plugin is ClumsySender:
        cases.remove("integrity")
    good = pipeline.append(*map(body, cases))
    pipeline.append(
        body("r1", event="Zephyrine"),
        body("r2", user="zq-login"),
        body("r3", date="Quillfeather"),
        body("foreign", odd="zq-mail@example.org"),
        b'{"user": "Zephyrine',
        b"\xff Zephyrine",
    )
    pipeline.append(body("r4"), source="toolzz")
    with monkeypatch.context() as patch:
        provider = pipeline.ctx.reader._providers["toolzz"]

        def bug(callback):
            raise RuntimeError(callback.body)

        patch.setattr(provider, "split", bug)
        pipeline.ingest()
    with monkeypatch.context() as patch:
        # The ledger refuses what one callback holds, and then is away altogether.
        def refuse(*args):
            raise ValueError("Zephyrine")

        patch.setattr(ingest_module.receipts, "write", refuse)
        pipeline.append(body("r5"))
        ingest_module.run_once(pipeline.ctx)
        pipeline.ingest()

        def away(*args):
            raise OperationalError("INSERT", {"name": "Zephyrine"}, Exception("Zephyrine"))

        patch.setattr(ingest_module.receipts, "write", away)
        pipeline.append(body("r6"))
        Sweep(pipeline.ctx).look()
        with pytest.raises(OperationalError):
            ingest_module.run_once(pipeline.ctx)
    deliverer = Deliverer(pipeline.ctx, plugin("clumsy", {}))
    while deliverer.run_once():
        pass
    lines = assert_private(stream.getvalue())
    said = {line["event"] for line in lines}
    assert said >= {
        "provider failed",
        "callback could not be ingested",
        "hint could not be sent; doing one batch here",
        "sweep failed",
        "delivery failed",
        "at it",
    }
    failures = [line for line in lines if line["event"] == "delivery failed"]
    assert {line["receipt"] for line in failures} <= {*good}
    assert all(line["event_id"] and line["handler"] == "clumsy" for line in failures)
    assert all(line["event_id"] for line in lines if line["event"] == "at it"), (
        "its own lines can be followed"
    )
    assert any("DeprecationWarning: this will change" in str(line["event"]) for line in lines)
    assert all(
        line["receipt"]
        for line in lines
        if line["event"] in ("provider failed", "callback could not be ingested")
    )


_UNCAUGHT = """
import logging, sys, threading, warnings
from coursewire import logs
logs.configure("info")
def fail():
    raise ValueError("Zephyrine")
thread = threading.Thread(target=fail, name="mover")
thread.start()
thread.join()
warnings.warn("careful", RuntimeWarning)
logging.getLogger("silent").propagate = False
logging.getLogger("silent").error("it died")
logging.getLogger("odd").error("%d", "Zephyrine")
fail()
"""


def test_what_python_itself_would_print_is_json_as_well():
    """An exception that nobody caught, in any thread; a warning; a logger without a handler."""
    done = subprocess.run([sys.executable, "-c", _UNCAUGHT], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    lines = assert_private(done.stderr)
    assert [(line["event"], line["level"]) for line in lines] == [
        ("a thread failed", "error"),
        ("RuntimeWarning: careful (<string>:10)", "warning"),
        ("it died", "error"),
        ("the process failed", "critical"),
    ]
    assert [line.get("error", "").split(" at ")[0] for line in lines] == ["ValueError", "", "", "ValueError"]


CONFIGURATION = """
redis_url = "redis://:zq-server@127.0.0.1:{port}/0"
inbox_timeout_seconds = 0.3
max_body_bytes = 20000
sweep_interval_seconds = 0.2
log_level = "debug"
[sources.chalk]
provider = "digitalchalk"
token = "zq-token"
[sources.header]
provider = "digitalchalk"
header = "X-Secret"
secret = "zq-secret"
[sources.basic]
provider = "digitalchalk"
username = "lms"
password = "zq-secret"
[handlers.audit]
[handlers.progress]
[handlers.certificates]
[handlers.mail]
uses = "notifications"
to_learner = true
mail_url = "mailto://zq-login:zq-password@127.0.0.1:1?from=lms@example.org"
[handlers.hook]
uses = "notifications"
urls = ["json://zq-login:zq-password@127.0.0.1:1/zq-token"]
"""


@pytest.fixture
def parts(tmp_path, until):
    """Valkey with a password, and receiver, worker and sweep as processes: by name. Their logs are files."""
    port = servers.free_port()
    (tmp_path / "coursewire.toml").write_text(CONFIGURATION.format(port=port))
    running: dict[str, subprocess.Popen[bytes]] = {}

    def start(name: str, *command: object) -> None:
        with (tmp_path / f"{name}.log").open("ab") as log:
            running[name] = subprocess.Popen(
                [str(word) for word in command], stdout=log, stderr=log, cwd=tmp_path
            )

    def valkey() -> None:
        durable = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")
        address = ("--port", port, "--bind", "127.0.0.1", "--requirepass", "zq-server")
        start("valkey", servers.redis_program("valkey"), *address, *durable)
        until(lambda: answers(port), what="Valkey")

    valkey()
    subprocess.run(
        [*PROGRAM, "migrate", "--data-dir", str(tmp_path)], check=True, timeout=60, stdout=subprocess.DEVNULL
    )
    receiver_port = servers.free_port()
    for name, *words in (
        ("receiver", "receiver", "--port", receiver_port),
        ("worker", "worker", "--queues", "ingest,handlers", "--concurrency", 2),
        ("sweep", "sweep"),
    ):
        start(name, *PROGRAM, *words, "--data-dir", tmp_path)
    yield running, valkey, port, receiver_port
    for process in running.values():
        process.terminate()
    for process in running.values():
        process.wait(20)


def by_hand(task: str) -> bytes:
    """A message as Celery's, with what no hint of ours carries."""
    properties = {
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": "ingest"},
        "delivery_tag": new_id(),
        "body_encoding": "base64",
    }
    message = {
        "body": b64encode(json.dumps([["zq-hint"], {"who": "Zephyrine"}, {}]).encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"task": task, "id": new_id(), "argsrepr": "zq-hint"},
        "properties": properties,
    }
    return json.dumps(message).encode()


def answers(port: int) -> bool:
    try:
        with Redis(port=port, password="zq-server") as redis:
            return bool(redis.ping())
    except RedisError:
        return False


def test_no_process_logs_anything_private_whatever_is_sent_and_whatever_dies(parts, tmp_path, until):
    """Refusals and failures of every kind, a server and workers that are killed, hints made by hand."""
    running, start_valkey, port, receiver_port = parts

    def send(path: str, body: bytes = b"", method: str = "POST", **headers: str) -> int:
        connection = HTTPConnection("127.0.0.1", receiver_port, timeout=20)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        with closing(connection):
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            answer.read()
            return answer.status

    def logged(name: str) -> str:
        return (tmp_path / f"{name}.log").read_text()

    until(lambda: logged("receiver"), seconds=60, what="the receiver")
    hook = "/hooks/chalk/zq-token"
    guess, login = (b64encode(f"lms:{word}".encode()).decode() for word in ("zq-guess", "zq-secret"))
    assert send(hook, body("r0")) == 200
    assert send(hook, body("r1", user="Zephyrine")) == 200
    assert send(hook, b"Zephyrine") == 200
    assert send(hook, body(), Content_Encoding="gzip") == 200
    assert send(hook, gzip.compress(b"Zephyrine" * 9999), Content_Encoding="gzip") == 413
    assert send(hook, b"Zephyrine" * 9999) == 413
    assert send(hook) == 400
    assert send(hook, method="DELETE") == 405
    assert send("/hooks/chalk/zq-guess", body()) == 401
    assert send("/hooks/zq-guess/zq-token", body()) == 404
    assert send("/zq-token?email=zq-mail@example.org", body()) == 404
    assert send("/hooks/header", body(), X_Secret="zq-guess") == 401
    assert send("/hooks/basic", body(), Authorization=f"Basic {guess}") == 401
    assert send("/hooks/basic", body("r2"), Authorization=f"Basic {login}") == 200
    until(lambda: logged("worker").count('"handler": "mail"') >= 1, seconds=60, what="a mail that failed")
    until(lambda: logged("worker").count('"handler": "hook"') >= 1, seconds=60, what="a hook that failed")
    settings = build_settings(
        {"redis_url": f"redis://:zq-server@127.0.0.1:{port}/0"}, data_dir=tmp_path / "nobody"
    )
    with Redis(port=port, password="zq-server") as redis:
        key = f"{settings.namespace}:{broker_queue(settings, INGEST)}"
        for task in ("zq-hint", task_name(INGEST)):
            redis.lpush(key, by_hand(task))
    until(lambda: "message refused" in logged("worker"))
    worker = running["worker"].pid
    for pid in Path(f"/proc/{worker}/task/{worker}/children").read_text().split():
        os.kill(int(pid), signal.SIGKILL)
    until(lambda: "exited with 'signal 9 (SIGKILL)'" in logged("worker"))
    running["valkey"].kill()
    running["valkey"].wait(10)
    assert send(hook, body("r3")) == 200
    until(lambda: "the inbox is away" in logged("receiver"))
    until(lambda: "sweep failed" in logged("sweep"))
    start_valkey()
    until(lambda: "moved the spool into the inbox" in logged("receiver"), seconds=60)
    for name in ("receiver", "worker", "sweep"):
        running[name].terminate()
    for name in ("receiver", "worker", "sweep"):
        running[name].wait(30)
    assert len(assert_private(logged("receiver"))) >= 10
    assert len(assert_private(logged("worker"))) >= 4
    assert len(assert_private(logged("sweep"))) >= 1
