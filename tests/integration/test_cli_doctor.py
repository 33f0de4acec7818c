from __future__ import annotations

import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
from click.testing import CliRunner

from console.cli import main
from console.doctor import local
from console.doctor.capacity import Traffic, lasting
from console.doctor.clocks import judged
from console.doctor.finding import EXIT_CODES
from console.doctor.local import filesystem
from coursewire.event import new_id
from coursewire.inbox import encode
from coursewire.ledger import processes
from coursewire.ledger.inbox_generations import note_generation
from coursewire.ledger.tables import EPOCH, utc_now
from coursewire.ledger.tables import processes as processes_table
from coursewire.plugins import Callback
from coursewire.spool import Spool
from workers.presence import present


def findings(operator: Any, *words: str, code: int = 2) -> list[dict[str, str]]:
    result = CliRunner().invoke(main, ["doctor", *words, "--json", "--data-dir", str(operator.data_dir)])
    assert result.exit_code == code, result.output
    document = orjson.loads(result.stdout)
    assert EXIT_CODES[document["status"]] == code
    found: list[dict[str, str]] = document["findings"]
    return found


def verdicts(operator: Any, *words: str, code: int = 2) -> dict[str, tuple[str, str]]:
    """By what it is about; of several the last. Unless told otherwise something is bad: no receiver runs."""
    return {row["about"]: (row["status"], row["detail"]) for row in findings(operator, *words, code=code)}


def say_there(operator: Any, kind: str, *queues: str, host: str = "one") -> str:
    """As a process does by itself."""
    process_id = new_id()
    with operator.pipeline.ctx.engine.begin() as db:
        processes.beat(db, process_id, kind, host, list(queues), utc_now())
    return process_id


def test_a_stopped_installation_lacks_its_processes_only(make_operator: Callable[..., Any]) -> None:
    """Everything else is good; exit code 2 since nothing takes callbacks."""
    found = verdicts(make_operator(public_url="http://127.0.0.1:1"))
    bad = {about for about, (status, _) in found.items() if status == "bad"}
    assert bad - {"disk"} == {"receiver", "workers", "sweep"}
    assert {about for about, (status, _) in found.items() if status == "good"} >= {
        "configuration", "sources", "handlers", "public_url", "file modes", "inbox", "durability", "eviction",
        "backlog", "spool", "broker", "ledger", "installation key", "dead letters", "quarantine", "clocks",
        "capacity",
    }  # fmt: skip


def test_a_running_installation_is_good(
    make_operator: Callable[..., Any], run_receiver: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 0, in a table for people."""
    monkeypatch.setattr(local, "IN_MEMORY", set())  # wherever the tests' directory lies
    operator = make_operator()
    running = run_receiver(operator.config.read_text())
    operator.config.write_text(
        f"public_url = 'http://127.0.0.1:{running.port}'\n{operator.config.read_text()}"
    )
    say_there(operator, "worker", "ingest", "handler.audit")
    say_there(operator, "sweep")
    printed = operator.table("doctor")
    assert "receiver          good     is ready at http://127.0.0.1:" in printed


def test_what_others_may_read_is_bad(make_operator: Callable[..., Any]) -> None:
    """The configuration holds secrets. In a directory that nobody else enters a file's mode is harmless."""
    operator = make_operator()
    operator.config.chmod(0o644)
    assert verdicts(operator)["file modes"][0] == "good"
    operator.data_dir.chmod(0o755)
    status, detail = verdicts(operator)["file modes"]
    assert status == "bad"
    assert "coursewire.toml (644)" in detail
    assert "(755)" in detail


def test_a_server_that_may_lose_callbacks_is_bad(make_operator: Callable[..., Any]) -> None:
    """Durability less than always, and eviction."""
    operator = make_operator()
    redis = operator.pipeline.ctx.inbox.redis
    redis.config_set("appendfsync", "everysec")
    redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        found = verdicts(operator)
    finally:
        redis.config_set("appendfsync", "always")
        redis.config_set("maxmemory-policy", "noeviction")
    assert found["durability"] == ("bad", "everysec: a crash loses acknowledged callbacks")
    assert found["eviction"] == ("bad", "allkeys-lru: a full server would drop the inbox")


def test_servers_that_do_not_answer_are_bad(make_operator: Callable[..., Any], tmp_path: Path) -> None:
    """All that can be looked at is looked at all the same."""
    operator = make_operator()
    text = operator.config.read_text()
    away = f"unix://{tmp_path}/nobody.sock"
    text = text.replace(operator.pipeline.settings.redis_url, away)
    operator.config.write_text(f"broker_url = 'redis://127.0.0.1:1/0'\n{text}")
    found = verdicts(operator)
    assert found["inbox"] == ("bad", "the server of the inbox does not answer")
    assert found["broker"][0] == "bad"
    assert found["ledger"][0] == "good"


def test_what_waits_for_a_person_is_a_warning(make_operator: Callable[..., Any]) -> None:
    """Quarantine, paused handlers, a spool that is not empty, a rotation that is not finished."""
    operator = make_operator()
    operator.pipeline.append(b"{")
    operator.pipeline.ingest()
    operator.run("handlers", "pause", "audit")
    operator.run("sources", "rotate", "chalk")
    spool = Spool(operator.pipeline.settings.spool_path, 1 << 20)
    spool.add([encode(Callback("r", "chalk", b"{}", utc_now()), "digitalchalk")])
    spool.close()
    found = verdicts(operator)
    assert found["quarantine"] == ("warning", "1 item; see `coursewire quarantine`")
    assert found["handlers"] == ("warning", "audit is paused; waiting deliveries: 0")
    assert found["spool"][0] == found["secrets"][0] == "warning"


def test_handlers_and_configuration_are_compared(make_operator: Callable[..., Any]) -> None:
    """One that is only configured gets nothing; one that is only in the ledger is perhaps gone."""
    operator = make_operator()
    text = operator.config.read_text()
    operator.config.write_text(text.replace("[handlers.audit]", "[handlers.progress]"))
    rows = [row for row in findings(operator) if row["about"] == "handlers"]
    assert [(row["status"], row["detail"].split()[0]) for row in rows] == [
        ("good", "progress"),
        ("warning", "audit"),
        ("bad", "progress"),
    ]


def test_another_installations_inbox_is_bad(make_operator: Callable[..., Any]) -> None:
    """Two installations that share a server and a namespace would take each other's callbacks."""
    operator = make_operator()
    pipeline = operator.pipeline
    with pipeline.ctx.engine.begin() as db:
        note_generation(db, pipeline.ctx.inbox.ensure())
    assert verdicts(operator)["namespace"][0] == "good"
    other = uuid4().hex
    pipeline.ctx.inbox.redis.set(f"{pipeline.settings.namespace}:inbox:generation", other)
    assert verdicts(operator)["namespace"][0] == "bad"


def test_a_ledger_of_another_key_is_bad(make_operator: Callable[..., Any]) -> None:
    """Every callback that is sent again would be a new event."""
    operator = make_operator()
    operator.config.write_text(f"installation_key = 'another'\n{operator.config.read_text()}")
    assert verdicts(operator)["installation key"][0] == "bad"


def test_a_plug_in_that_cannot_load_is_bad(make_operator: Callable[..., Any]) -> None:
    """Named as the stack would at its start."""
    operator = make_operator()
    operator.config.write_text(f"{operator.config.read_text()}\n[handlers.x]\nuses = 'nothing'\n")
    status, detail = verdicts(operator)["plug-ins"]
    assert (status, detail.partition(":")[0]) == ("bad", "invalid_configuration")


def test_an_installation_that_is_not_there_yet(tmp_path: Path) -> None:
    """Nothing is made by looking; a plain http address on a network is a warning."""
    folder = tmp_path / "none"
    environment = {"COURSEWIRE_PUBLIC_URL": "http://hooks.example.org"}
    result = CliRunner(env=environment).invoke(main, ["doctor", "--json", "--data-dir", str(folder)])
    assert result.exit_code == 2
    found = {row["about"]: row["status"] for row in orjson.loads(result.stdout)["findings"]}
    assert found["configuration"] == found["data directory"] == found["public_url"] == "warning"
    assert found["inbox"] == found["ledger"] == "bad"
    assert not folder.exists()


def test_the_kind_of_file_system_is_told() -> None:
    """That of the innermost mount."""
    assert filesystem(Path("/proc/self")) == "proc"


def test_a_warning_alone_is_exit_code_1(
    make_operator: Callable[..., Any], run_receiver: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nagios: 0 OK, 1 WARNING, 2 CRITICAL."""
    monkeypatch.setattr(local, "IN_MEMORY", set())
    operator = make_operator()
    running = run_receiver(operator.config.read_text())
    operator.config.write_text(
        f"public_url = 'http://127.0.0.1:{running.port}'\n{operator.config.read_text()}"
    )
    say_there(operator, "worker", "ingest", "handler.audit")
    say_there(operator, "sweep")
    operator.run("handlers", "pause", "audit")
    assert verdicts(operator, code=1)["handlers"][0] == "warning"


def test_a_queue_without_a_worker_is_bad(make_operator: Callable[..., Any]) -> None:
    """On whichever host a worker runs; one that long said nothing, or said goodbye, does not count."""
    operator = make_operator({"audit": {}, "progress": {}})
    say_there(operator, "worker", "ingest")
    silent = say_there(operator, "worker", "handler.audit", "handler.progress")
    other = say_there(operator, "worker", "handler.audit", host="two")
    swept = say_there(operator, "sweep", host="two")
    with operator.pipeline.ctx.engine.begin() as db:
        db.execute(
            processes_table.update()
            .where(processes_table.c.id == silent)
            .values(seen_at=utc_now() - timedelta(minutes=2))
        )
    found = verdicts(operator)
    assert found["workers"] == ("bad", "nobody works on handler.progress: see `coursewire worker`")
    assert found["sweep"] == ("good", "1 sweep on two")
    with operator.pipeline.ctx.engine.begin() as db:
        processes.leave(db, other)
        processes.leave(db, swept)
    found = verdicts(operator)
    assert found["workers"][1].startswith("nobody works on handler.audit, handler.progress")
    assert found["sweep"][0] == "bad"
    say_there(operator, "worker", "handler.audit", "handler.progress", host="two")
    assert verdicts(operator)["workers"] == ("good", "2 workers on one, two")


def test_what_was_killed_is_forgotten(make_operator: Callable[..., Any]) -> None:
    """It could not take its row along: the next beat of anybody does after an hour."""
    operator = make_operator()
    killed = say_there(operator, "worker", "ingest")
    with operator.pipeline.ctx.engine.begin() as db:
        long_ago = utc_now() - timedelta(hours=2)
        db.execute(processes_table.update().where(processes_table.c.id == killed).values(seen_at=long_ago))
    stays = say_there(operator, "sweep")
    assert [row.id for row in operator.pipeline.rows(processes_table.select())] == [stays]


def test_a_process_is_listed_while_it_works(
    make_operator: Callable[..., Any], until: Callable[..., None]
) -> None:
    """And no longer: a clean end takes its row along. A ledger that is away keeps nobody from working."""
    pipeline = make_operator().pipeline
    listed = processes_table.select().with_only_columns(processes_table.c.kind, processes_table.c.queues)
    with present(pipeline.settings, "worker", ["ingest"]):
        until(lambda: pipeline.rows(listed) == [("worker", ["ingest"])], what="the first beat")
    assert pipeline.rows(listed) == []
    away = replace(pipeline.settings, database_url="postgresql+psycopg://nobody@127.0.0.1:1/none")
    with present(away, "sweep", []):
        pass
    assert pipeline.rows(listed) == []


def test_clocks_that_disagree_are_told(make_operator: Callable[..., Any]) -> None:
    """From 2 s on somebody should look, beyond 30 s it is bad: by what each process saw at the ledger."""
    operator = make_operator()
    ahead = say_there(operator, "worker", "ingest", host="fast")
    with operator.pipeline.ctx.engine.begin() as db:
        row = processes_table.c.id == ahead
        seen_at = db.scalar(processes_table.select().where(row).with_only_columns(processes_table.c.seen_at))
        db.execute(
            processes_table.update().where(row).values(clock_at=(seen_at or EPOCH) + timedelta(seconds=5))
        )
    assert verdicts(operator)["clocks"] == ("warning", "fast (worker) is 5.0 s ahead: see to NTP")
    assert judged({"x": timedelta(seconds=-31)}).status == "bad"
    assert judged({"x": timedelta(seconds=-1.9)}).status == "good"


def test_capacity_is_told_in_hours(make_operator: Callable[..., Any]) -> None:
    """At the rate of the last day; less than one hour is a warning."""
    operator = make_operator(spool_max_bytes=1 << 20)
    operator.pipeline.append(*(f'{{"n": {number}}}'.encode() for number in range(48)))
    operator.pipeline.ingest()
    found = verdicts(operator)
    status, detail = found["spool capacity"]
    assert (status, detail.rpartition(" at today's rate of ")[2].split(",")[0]) == ("good", "2.0 an hour")
    assert found["inbox capacity"][0] == "good"
    traffic = Traffic(hourly=100.0, mean_bytes=2000.0)
    assert lasting("x", 100_000, traffic).status == "warning"
    assert lasting("x", 2_000_000, traffic).detail == (
        "1,000 callbacks more: 10.0 hours at today's rate of 100.0 an hour, 2,000 bytes each"
    )


def test_a_secret_that_others_may_read_is_bad(make_operator: Callable[..., Any], tmp_path: Path) -> None:
    """Also one in a file of its own."""
    operator = make_operator()
    folder = tmp_path / "secrets"
    folder.mkdir(mode=0o755)
    tmp_path.chmod(0o755)
    secret = folder / "chalk"
    secret.write_text("chalk-token")
    secret.chmod(0o600)
    text = operator.config.read_text().replace('"chalk-token"', f'"file:{secret}"')
    operator.config.write_text(text)
    assert verdicts(operator)["file modes"][0] == "good"
    secret.chmod(0o644)
    assert verdicts(operator)["file modes"] == ("bad", f"others may read {secret} (644)")


@pytest.mark.parametrize(
    ("kind", "status"), [("tmpfs", "bad"), ("ramfs", "bad"), ("nfs4", "bad"), ("overlay", "warning")]
)
def test_a_disk_that_does_not_keep_is_told(
    make_operator: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, kind: str, status: str
) -> None:
    """The ledger may be there, and the spool. Where neither is, memory is well enough."""
    monkeypatch.setattr(local, "filesystem", lambda path: kind)
    operator = make_operator()
    operator.pipeline.settings.spool_path.touch(mode=0o600)
    assert verdicts(operator)["disk"][0] == status
    operator.pipeline.settings.spool_path.unlink()
    for path in operator.data_dir.glob("spool.sqlite3*"):
        path.unlink()
    if operator.pipeline.ctx.engine.dialect.name == "postgresql" and status == "bad":
        assert verdicts(operator)["disk"][0] == ("bad" if kind == "nfs4" else "warning")


class Elsewhere(BaseHTTPRequestHandler):
    """A web server that is not ours: `/hooks/chalk/...` redirects, everything else is found."""

    def do_GET(self) -> None:
        self.send_response(301 if self.path.startswith("/hooks/chalk/") else 200)
        self.send_header("Location", "https://example.org/")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def elsewhere(certificate: Path | None = None) -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def seen_from_outside(operator: Any, url: str) -> dict[str, tuple[str, str]]:
    text = operator.config.read_text()
    operator.config.write_text(f"public_url = '{url}'\n{text}")
    rows = findings(operator, "--public")
    operator.config.write_text(text)
    found = [row for row in rows if row["about"] == "public"]
    assert "chalk-token" not in str(rows)
    return {
        row["detail"].partition(":")[0]: (row["status"], row["detail"].partition(": ")[2]) for row in found
    }


def test_each_public_url_is_asked(
    make_operator: Callable[..., Any], run_receiver: Callable[..., Any], tmp_path: Path
) -> None:
    """As its LMS would: 200 from us, a certificate that is valid, no redirect; its token is not shown."""
    operator = make_operator()
    running = run_receiver(operator.config.read_text())
    found = seen_from_outside(operator, f"http://127.0.0.1:{running.port}")
    assert [status for status, _ in found.values()] == ["good", "good"]
    with elsewhere() as port:
        found = seen_from_outside(operator, f"http://127.0.0.1:{port}")
    assert found["chalk"] == ("bad", "redirects (301): few senders follow with their body")
    assert found["toolzz"] == ("bad", "something else than Coursewire answers there")
    certificate = tmp_path / "certificate.pem"
    request = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "1",
        "-subj",
        "/CN=127.0.0.1",
    ]
    request += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(certificate)]
    subprocess.run([*request, "-out", f"{certificate}.crt"], check=True, capture_output=True)
    certificate.write_text(certificate.read_text() + Path(f"{certificate}.crt").read_text())
    with elsewhere(certificate) as port:
        found = seen_from_outside(operator, f"https://127.0.0.1:{port}")
    assert found["chalk"] == ("bad", "the certificate is not valid: self-signed certificate")
    found = seen_from_outside(operator, "https://127.0.0.1:1")
    assert found["chalk"][1] == "https://127.0.0.1:1 does not answer: ConnectionRefusedError"
