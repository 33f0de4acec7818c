"""What docs/operations.md says under "Several hosts", done on one machine, and either half of it lost."""

from __future__ import annotations

import http.client
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
import servers
from sqlalchemy import func, select

from coursewire.ledger.engine import open_ledger, reading
from coursewire.ledger.tables import OPEN, deliveries, events, receipts
from coursewire.settings import load_settings
from workers.handlers.certificates import awarded

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
SECTION = PAGE.split("\n## Several hosts\n", 1)[1].split("\n## ", 1)[0]
SAMPLE = (ROOT / "schemas" / "samples" / "digitalchalk" / "offering_completed.json").read_bytes()
PROGRAM = [sys.executable, str(Path(sysconfig.get_path("scripts"), "coursewire"))]
# A dead worker's claims are respected for 1 + 5 + 0.5 seconds.
CONFIG = """
ingest_time_limit_seconds = 1
lease_margin_seconds = 0.5
[sources.chalk]
provider = "digitalchalk"
token = "chalk-token"
[handlers.audit]
time_limit_seconds = 1
[handlers.certificates]
time_limit_seconds = 1
"""
NGINX = """
pid {home}/nginx.pid;
error_log {home}/main.log;
events {{ }}
http {{
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    access_log off;
    include {home}/coursewire.conf;
}}
"""


def block(language: str, holding: str) -> list[str]:
    """The lines of the section's only code block in this language with these words in it."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", SECTION, re.DOTALL | re.MULTILINE)
    (found,) = [text for kind, text in blocks if kind == language and holding in text]
    return [line for line in found.splitlines() if line]


def replaced(text: str, words: dict[str, str]) -> str:
    """The page's addresses as this machine's; each must be there."""
    for theirs, ours in words.items():
        assert theirs in text, theirs
        text = text.replace(theirs, ours)
    return text


class Host:
    """What the page makes run on one host."""

    def __init__(self, home: Path, words: dict[str, str], namespace: str) -> None:
        self.home = home
        self.port = servers.free_port()
        home.mkdir()
        (home / "coursewire.toml").write_text(CONFIG)
        (home / "coursewire.toml").chmod(0o600)
        text = replaced("\n".join(block("ini", "COURSEWIRE_CONFIG")), words)
        config = "/etc/coursewire/coursewire.toml"
        text = replaced(text, {"/var/lib/coursewire": f"{home}/data", config: f"{home}/coursewire.toml"})
        given = dict(line.split("=", 1) for line in text.splitlines())
        self.environment = {**os.environ, **given, "COURSEWIRE_NAMESPACE": namespace}
        self.log = (home / "log").open("wb")
        self.parts: list[subprocess.Popen[bytes]] = []

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*PROGRAM, *words], env=self.environment, capture_output=True, text=True)

    def start(self) -> None:
        """The page's commands, in its order: what does not end by itself goes on."""
        for line in block("sh", "coursewire migrate"):
            program, *words = shlex.split(line)
            assert program == "coursewire"
            if words == ["migrate"]:
                ended = self.run(*words)
                assert ended.returncode == 0, ended.stderr
                continue
            words = [{"8000": str(self.port), "0.0.0.0": "127.0.0.1"}.get(word, word) for word in words]
            command = [*PROGRAM, *words]
            self.parts.append(
                subprocess.Popen(
                    command, env=self.environment, stdout=self.log, stderr=self.log, start_new_session=True
                )
            )

    def takes(self) -> bool:
        assert [part.poll() for part in self.parts] == [None] * len(self.parts), self.home
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def lose(self) -> None:
        """kill -9 to every process of the host."""
        for part in self.parts:
            with suppress(ProcessLookupError):
                os.killpg(part.pid, signal.SIGKILL)
        for part in self.parts:
            part.wait()
        self.parts.clear()

    def stop(self) -> None:
        for part in self.parts:
            part.terminate()
        with suppress(subprocess.TimeoutExpired):
            for part in self.parts:
                part.wait(20)
        self.lose()
        self.log.close()


@dataclass
class Load:
    """Posts through the proxy until it is told to stop, as an LMS would: what is not acknowledged, again."""

    port: int
    acknowledged: dict[int, str] = field(default_factory=dict)
    refused: list[tuple[float, int]] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        self._pool = ThreadPoolExecutor(6)
        self._posters = [self._pool.submit(self._post, poster * 1_000_000) for poster in range(6)]

    def stop(self) -> None:
        self._stop.set()
        self._pool.shutdown()
        for poster in self._posters:
            poster.result()

    def _post(self, number: int) -> None:
        while not self._stop.is_set():
            status, answer = self.once(completion(number))
            if status == 200:
                self.acknowledged[number] = json.loads(answer)["receipt"]
                number += 1
            else:
                self.refused.append((time.monotonic(), status))

    def once(self, body: bytes) -> tuple[int, bytes]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)) as connection:
            connection.request("POST", "/hooks/chalk/chalk-token", body)
            answer = connection.getresponse()
            return answer.status, answer.read()


def completion(number: int) -> bytes:
    """A completion that earns a certificate."""
    body = orjson.loads(SAMPLE)
    body["registration"] |= {"id": f"r{number}", "passed": True, "grade": 91.0}
    return orjson.dumps(body)


@pytest.fixture
def two_hosts(
    tmp_path: Path, valkey: str, postgresql: str, until: Callable[..., None]
) -> Iterator[tuple[Host, Host, int]]:
    """Both hosts as the page brings them up, and the port of nginx in front of them."""
    for program in ("nginx", "openssl"):
        if shutil.which(program) is None:
            servers.missing(program)
    public = servers.free_port()
    (key_command,) = block("sh", "openssl rand")
    key = tmp_path / "installation_key"
    key_command = replaced(key_command, {"/etc/coursewire/installation_key": str(key)})
    subprocess.run(["sh", "-c", key_command], check=True)
    key.chmod(0o600)
    words = {
        "postgresql://coursewire:PASSWORD@ledger.internal:5432/coursewire": postgresql,
        "redis://:PASSWORD@inbox.internal:6379/0": valkey,
        "/etc/coursewire/installation_key": str(key),
        "https://hooks.example.org": f"http://127.0.0.1:{public}",
        "10.0.0.10/32": "127.0.0.1/32",
    }
    namespace = f"t{uuid4().hex[:12]}"
    with ExitStack() as stack:
        hosts = [Host(tmp_path / name, words, namespace) for name in ("a", "b")]
        for host in hosts:
            stack.callback(host.stop)
            host.start()
        for host in hosts:
            until(host.takes, seconds=60, what="a receiver")
        write_nginx(tmp_path / "nginx", public, [host.port for host in hosts])
        home = tmp_path / "nginx"
        command = [
            "nginx",
            "-p",
            home,
            "-c",
            home / "nginx.conf",
            "-e",
            home / "main.log",
            "-g",
            "daemon off;",
        ]
        stack.enter_context(servers.running(command, stderr=subprocess.DEVNULL))
        load = Load(public)

        def answers() -> bool:
            with suppress(OSError):
                return load.once(b"")[0] == 400
            return False

        until(answers, seconds=30, what="an answer through nginx")
        yield hosts[0], hosts[1], public


def write_nginx(home: Path, public: int, ports: list[int]) -> None:
    """deploy/nginx.conf, with the page's receivers."""
    (home / "tls").mkdir(parents=True)
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
        "/CN=localhost",
    ]
    files = ["-keyout", home / "tls/key.pem", "-out", home / "tls/certificate.pem"]
    subprocess.run([*request, *files], check=True, capture_output=True)
    receivers = "\n".join(block("", "max_fails"))
    addresses = {"10.0.0.11:8000": f"127.0.0.1:{ports[0]}", "10.0.0.12:8000": f"127.0.0.1:{ports[1]}"}
    (home / "receivers.conf").write_text(replaced(receivers, addresses))
    places = {
        "/etc/nginx/coursewire/receivers.conf": f"{home}/receivers.conf",
        "/etc/coursewire/tls/": f"{home}/tls/",
        "/var/log/nginx/": f"{home}/",
        "listen 80 ": f"listen 127.0.0.1:{public} ",
        "listen 443 ": f"listen 127.0.0.1:{servers.free_port()} ",
    }
    (home / "coursewire.conf").write_text(replaced((ROOT / "deploy/nginx.conf").read_text(), places))
    # As root it would work as another user, who cannot reach pytest's folders.
    user = "user root;\n" if os.geteuid() == 0 else ""
    (home / "nginx.conf").write_text(user + NGINX.format(home=home))


@pytest.mark.timeout(300)
def test_either_half_may_be_lost(two_hosts: tuple[Host, Host, int], until: Callable[..., None]) -> None:
    """Everything that was acknowledged ends; senders hardly notice."""
    first, second, public = two_hosts
    settings = load_settings(
        first.home,
        database_url=first.environment["COURSEWIRE_DATABASE_URL"],
        redis_url=first.environment["COURSEWIRE_REDIS_URL"],
    )
    engine = open_ledger(settings)

    def count(table: Any, *conditions: Any) -> int:
        with reading(engine) as db:
            return db.scalar(select(func.count()).select_from(table).where(*conditions)) or 0

    for host in (first, second):
        looked = host.run("doctor", "--public", "--json")
        found = {
            row["about"]: (row["status"], row["detail"]) for row in json.loads(looked.stdout)["findings"]
        }
        assert found["workers"] == ("good", f"4 workers on {socket.gethostname()}")
        assert found["sweep"] == ("good", f"2 sweeps on {socket.gethostname()}")
        assert found["public"] == ("good", f"chalk: reached at http://127.0.0.1:{public}")

    load = Load(public)
    load.start()
    kills = []
    for lost, goal in ((first, 300), (second, 900)):
        until(lambda goal=goal: len(load.acknowledged) >= goal, seconds=60, what="load")
        kills.append(time.monotonic())
        lost.lose()
        until(lambda goal=goal: len(load.acknowledged) >= goal + 300, seconds=60, what="load on one half")
        if lost is first:
            first.start()
            until(first.takes, seconds=60, what="the host that came back")
    load.stop()

    # nginx repeated at the other receiver what was in flight.
    late = [status for when, status in load.refused if all(not 0 <= when - kill <= 2 for kill in kills)]
    assert late == []
    assert {status for _, status in load.refused} <= {503}
    until(
        lambda: (
            count(receipts) >= len(load.acknowledged) and count(deliveries, deliveries.c.state.in_(OPEN)) == 0
        ),
        seconds=90,
        what="the end of everything",
    )
    with reading(engine) as db:
        known = set(db.scalars(select(receipts.c.id)))
    assert set(load.acknowledged.values()) <= known
    assert count(deliveries, deliveries.c.state == "dead") == 0
    completions = count(events, events.c.type == "course.completed")
    assert completions >= len(load.acknowledged)
    assert count(awarded) == completions
    stats = first.run("stats")
    assert stats.returncode == 0, stats.stdout + stats.stderr
    engine.dispose()
