"""deploy/nginx.conf and deploy/Caddyfile, but for paths and ports as they are, before two real receivers.

nginx and Caddy are Debian's.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import servers

from coursewire.inbox import Inbox, connect

DEPLOY = Path(__file__).parents[2] / "deploy"
PROGRAM = [sys.executable, str(Path(sysconfig.get_path("scripts"), "coursewire"))]
TOKEN = "Secret-Path-Token"
URL = f"/hooks/chalk/{TOKEN}"
# As deploy/make-secrets.sh makes them; in the place of a source's name.
MISTAKEN = "0123456789abcdef" * 4
LIMIT = 1 << 20
CONFIG = f"""
namespace = "{{namespace}}"
redis_url = "{{redis_url}}"
trusted_proxies = {{trusted}}
[sources.chalk]
provider = "digitalchalk"
token = "{TOKEN}"
"""
# What stands around a site on Debian, and in nginx's own image.
AROUND = """
pid {home}/nginx.pid;
error_log {home}/main.log;
events {{ worker_connections 768; }}
http {{
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    access_log {home}/other.log;
    include {home}/coursewire.conf;
}}
"""


class Proxy:
    """A private nginx or Caddy, and what two receivers behind it put into the inbox."""

    def __init__(self, kind: str, home: Path, inbox: Inbox) -> None:
        self.kind = kind
        self.home = home
        self.inbox = inbox
        self.http = self.https = 0
        self.receivers: list[int] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self.tls = ssl.create_default_context(cafile=str(home / "tls" / "certificate.pem"))

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        secure: bool = False,
        peer: str = "127.0.0.1",
    ) -> tuple[int, Mapping[str, str]]:
        """Status and headers of the answer to a request that comes from the address `peer`."""
        where: dict[str, Any] = {"timeout": 20, "source_address": (peer, 0)}
        connection = (
            HTTPSConnection("localhost", self.https, context=self.tls, **where)
            if secure
            else HTTPConnection("127.0.0.1", self.http, **where)
        )
        with closing(connection):
            connection.request(
                method, path, body, dict(headers or {}), encode_chunked=isinstance(body, Iterator)
            )
            answer = connection.getresponse()
            answer.read()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}

    def post(self, body: Any = b"{}", **more: Any) -> int:
        return self.request("POST", URL, body, **more)[0]

    def remote_addresses(self) -> list[str | None]:
        """Of the callbacks that came since it was asked last."""
        entries = self.inbox.read(1000)
        self.inbox.finish([entry.id for entry in entries])
        return [entry.callback.remote_address for entry in entries]

    def logged(self) -> list[tuple[str, int]]:
        """Of each request in the access log: the source, or a dash, and the status."""
        found = []
        for line in (self.home / "access.log").read_text().splitlines():
            if self.kind == "nginx":
                words = line.split()
                found.append((words[4], int(words[5])))
            elif (told := json.loads(line)).get("logger", "").startswith("http.log.access"):
                found.append((told["request"]["uri"].removeprefix("/hooks/") or "-", told["status"]))
        return found


def certificate(folder: Path) -> None:
    folder.mkdir()
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", folder / "key.pem", "-out", folder / "certificate.pem"),
        ],
        check=True,
        capture_output=True,
    )


@contextmanager
def proxy(kind: str, valkey: str, home: Path, trusted: list[str]) -> Iterator[Proxy]:
    """nginx or Caddy and two receivers that trust these networks, all ended afterwards."""
    for program in (kind, "openssl"):
        if shutil.which(program) is None:
            servers.missing(program)
    certificate(home / "tls")
    namespace = f"t{uuid4().hex}"
    with ExitStack() as stack:
        redis = stack.enter_context(connect(valkey, timeout_seconds=5))
        inbox = Inbox(redis, namespace)
        inbox.ensure()
        made = Proxy(kind, home, inbox)
        config = CONFIG.format(namespace=namespace, redis_url=valkey, trusted=json.dumps(trusted))
        for number in range(2):
            folder = home / f"receiver{number}"
            folder.mkdir()
            (folder / "coursewire.toml").write_text(config)
            port = servers.free_port()
            command = [*PROGRAM, "receiver", "--port", port, "--data-dir", folder]
            log = stack.enter_context((folder / "log").open("wb"))
            made.processes.append(stack.enter_context(servers.running(command, stderr=log)))
            made.receivers.append(port)
        for port in made.receivers:
            servers.until(lambda port=port: listens(port), what="a receiver")
        made.http, made.https = servers.free_port(), servers.free_port()
        stack.enter_context({"nginx": nginx, "caddy": caddy}[kind](made))
        for port in (made.http, made.https):
            servers.until(lambda port=port: listens(port), what=kind)
        yield made


@contextmanager
def nginx(made: Proxy) -> Iterator[None]:
    home = made.home
    receivers = (DEPLOY / "receivers.conf").read_text()
    (line,) = [line for line in receivers.splitlines() if line.startswith("server ")]
    lines = [line.replace("127.0.0.1:8000", f"127.0.0.1:{port}") for port in made.receivers]
    (home / "receivers.conf").write_text("\n".join(lines) + "\n")
    site = (DEPLOY / "nginx.conf").read_text()
    for theirs, ours in (
        ("/etc/nginx/coursewire/receivers.conf", f"{home}/receivers.conf"),
        ("/etc/coursewire/tls/", f"{home}/tls/"),
        ("/var/log/nginx/", f"{home}/"),
        ("listen 80 ", f"listen 127.0.0.1:{made.http} "),
        ("listen 443 ", f"listen 127.0.0.1:{made.https} "),
    ):
        assert theirs in site
        site = site.replace(theirs, ours)
    (home / "coursewire.conf").write_text(site)
    # As root it would work as another user, who cannot reach pytest's folders.
    user = "user root;\n" if os.geteuid() == 0 else ""
    (home / "nginx.conf").write_text(user + AROUND.format(home=home))
    command = ["nginx", "-p", home, "-c", home / "nginx.conf", "-e", home / "main.log", "-g", "daemon off;"]
    with servers.running(command, stderr=subprocess.DEVNULL):
        yield


@contextmanager
def caddy(made: Proxy) -> Iterator[None]:
    home = made.home
    tls = home / "tls"
    site = (DEPLOY / "Caddyfile").read_text()
    for theirs, ours in (
        (
            "https://{$COURSEWIRE_HOST:localhost} {",
            f"https://localhost {{\ntls {tls}/certificate.pem {tls}/key.pem",
        ),
        ("\tadmin off\n", f"\tadmin off\n\thttp_port {made.http}\n\thttps_port {made.https}\n"),
    ):
        assert theirs in site
        site = site.replace(theirs, ours)
    (home / "Caddyfile").write_text(site)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "COURSEWIRE_RECEIVERS": " ".join(f"127.0.0.1:{port}" for port in made.receivers),
    }
    command = ["caddy", "run", "--adapter", "caddyfile", "--config", home / "Caddyfile"]
    with (
        (home / "access.log").open("wb") as log,
        servers.running(command, stderr=log, env=environment) as process,
    ):
        servers.until(lambda: process.poll() or listens(made.https), what="Caddy")
        assert process.poll() is None, (home / "access.log").read_text()
        yield


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module", params=["nginx", "caddy"])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "caddy" and shutil.which("caddy") is None:
        servers.missing("caddy")
    return str(request.param)


@pytest.fixture(scope="module")
def front(kind: str, valkey: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """Receivers that trust the proxy, for the tests that leave them as they are."""
    with proxy(kind, valkey, tmp_path_factory.mktemp(kind), ["127.0.0.1"]) as made:
        yield made


@pytest.fixture
def start_proxy(kind: str, valkey: str, tmp_path: Path) -> Iterator[Callable[..., Proxy]]:
    with ExitStack() as stack:
        yield lambda trusted: stack.enter_context(proxy(kind, valkey, tmp_path, trusted))


@pytest.mark.parametrize("secure", [False, True])
def test_callbacks_are_taken_over_http_and_https(front, secure):
    """No redirect from one to the other: a sender may take it for success, and the callback is lost."""
    assert front.post(secure=secure) == 200
    assert front.request("PUT", f"{URL}/", b"{}", secure=secure)[0] == 200
    assert front.request("GET", "/hooks/chalk", secure=secure)[0] == 200
    assert front.request("DELETE", "/hooks/chalk", secure=secure)[0] == 405
    assert front.request("POST", "/hooks/chalk/wrong", b"{}", secure=secure)[0] == 401


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/metrics", "/readyz", "/livez", "/hooks", "/hooks/", "/hooks/nobody", "/hooksx/chalk"),
        *("/hooks/../metrics", "/hooks/%2e%2e/metrics", "/hooks/..%2fmetrics", "/metrics?/hooks/chalk"),
        *(f"/x/..{URL}", f"/{URL}", "/hooks//chalk"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_nothing_but_hooks_is_public_and_nothing_redirects(front, method, path):
    assert front.request(method, path, b"{}" if method == "POST" else None)[0] == 404


@pytest.mark.parametrize("chunked", [False, True])
def test_the_limit_is_the_receivers(front, chunked):
    """Exactly as large as a body may be is taken; one byte more is refused."""

    def body(size: int) -> Any:
        return iter([b"x" * size]) if chunked else b"x" * size

    headers = {"Transfer-Encoding": "chunked"} if chunked else {}
    assert front.post(body(LIMIT), headers=headers) == 200
    assert front.post(body(LIMIT + 1), headers=headers) == 413


def test_the_senders_address_is_the_peers_and_not_what_it_says(front):
    """The receivers believe the proxy, and the proxy believes nobody."""
    front.remote_addresses()
    for forged in ({}, {"X-Forwarded-For": "203.0.113.9"}, {"X-Forwarded-For": "203.0.113.9, 127.0.0.1"}):
        assert front.post(peer="127.0.0.7", headers=forged) == 200
    assert front.remote_addresses() == ["127.0.0.7"] * 3


def test_without_trusted_proxies_nothing_forwarded_is_believed(start_proxy):
    """Through the proxy the address is the proxy's; past it, that of whoever forged the header."""
    front = start_proxy([])
    forged = {"X-Forwarded-For": "203.0.113.9"}
    assert front.post(peer="127.0.0.7", headers=forged) == 200
    assert front.remote_addresses() == ["127.0.0.1"]
    front.http = front.receivers[0]
    assert front.post(peer="127.0.0.7", headers=forged) == 200
    assert front.remote_addresses() == ["127.0.0.7"]


def test_a_stranger_beside_the_proxy_is_not_believed(front):
    front.remote_addresses()
    past = Proxy(front.kind, front.home, front.inbox)
    past.http = front.receivers[1]
    assert past.post(peer="127.0.0.7", headers={"X-Forwarded-For": "203.0.113.9"}) == 200
    assert front.remote_addresses() == ["127.0.0.7"]


def test_slow_and_stalled_senders_do_no_harm(front):
    """50 send a byte now and then, and 50 stopped within their head: others are answered in time."""
    head = f"POST {URL} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n".encode()
    with ExitStack() as stack:
        slow, stalled = (
            [stack.enter_context(socket.create_connection(("127.0.0.1", front.http))) for _ in range(50)]
            for _ in range(2)
        )
        for connection in stalled:
            connection.sendall(head[:40])
        for connection in slow:
            connection.sendall(head)
        seconds = []
        for turn in range(40):
            for connection in slow:
                connection.sendall(b" ")
            started = time.monotonic()
            assert front.post(secure=turn % 2 == 0) == 200
            seconds.append(time.monotonic() - started)
        with ThreadPoolExecutor(16) as pool:
            started = time.monotonic()
            assert set(pool.map(lambda _: front.post(), range(200))) == {200}
            assert time.monotonic() - started < 10
    assert max(seconds) < 1


def test_the_receivers_get_only_what_is_complete(front):
    """A sender that hangs up within its body leaves no trace in a receiver."""
    before = [(front.home / f"receiver{number}" / "log").read_bytes() for number in range(2)]
    with socket.create_connection(("127.0.0.1", front.http), timeout=10) as connection:
        connection.sendall(f"POST {URL} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf".encode())
        connection.shutdown(socket.SHUT_WR)
        connection.recv(100)
    assert front.post() == 200
    after = [(front.home / f"receiver{number}" / "log").read_bytes() for number in range(2)]
    assert after == before


def test_no_token_is_in_a_log(front):
    """Nor in what nginx says of its own refusals; the source is named where a receiver knows it."""
    assert front.post() == 200
    assert front.post(b"x" * (LIMIT + 1)) == 413
    assert front.request("POST", f"/hooks/nobody/{TOKEN}", b"{}")[0] == 404
    assert front.request("POST", f"/hooks/{MISTAKEN}", b"{}")[0] == 404
    assert front.request("POST", f"/{TOKEN}", b"{}")[0] == 404
    assert front.request("POST", f"/hooks/chalk?token={TOKEN}", b"{}", {"Referer": TOKEN})[0] == 401
    with socket.create_connection(("127.0.0.1", front.http), timeout=10) as connection:
        connection.sendall(f"POST /hooks/chalk/{TOKEN} and more HTTP/1.1\r\nBad header\r\n\r\n".encode())
        connection.recv(100)
    servers.until(lambda: ("-", 404) in front.logged(), what="the log")
    assert {("chalk", 200), ("chalk", 413), ("chalk", 401)} <= set(front.logged())
    for file in front.home.glob("*.log"):
        assert TOKEN not in file.read_text()
        assert MISTAKEN not in file.read_text()


def kill(receiver: subprocess.Popen[bytes]) -> None:
    """It and its workers, as when the power fails."""
    workers = Path(f"/proc/{receiver.pid}/task/{receiver.pid}/children").read_text().split()
    for pid in (receiver.pid, *map(int, workers)):
        os.kill(pid, signal.SIGKILL)


# The receiver ended while it wrote its answer: the callback is safe, and its sender does not know it.
TORN = 0


def status_or_torn(front: Proxy, body: bytes) -> int:
    try:
        return front.post(body)
    except HTTPException:
        return TORN


def test_a_receiver_that_is_killed_takes_nothing_with_it(start_proxy):
    """nginx hands even what that one had in hand to the other; Caddy, which cannot, says 503 for a moment.

    What is answered with 200 is kept. Both away is a 503 with Retry-After.
    """
    front = start_proxy(["127.0.0.1"])
    with ThreadPoolExecutor(8) as pool:
        posted = [pool.submit(status_or_torn, front, b"%d" % number) for number in range(400)]
        servers.until(lambda: sum(each.done() for each in posted) > 100, what="the first callbacks")
        kill(front.processes[0])
        statuses = [each.result() for each in posted]
    assert set(statuses) <= ({200, TORN} if front.kind == "nginx" else {200, 503, TORN})
    if front.kind == "nginx":
        assert statuses.count(TORN) <= 8  # no more than were in hand
    assert len(front.remote_addresses()) >= statuses.count(200)
    kill(front.processes[1])
    servers.until(lambda: not listens(front.receivers[1]), what="the end of the second receiver")
    status, headers = front.request("POST", URL, b"{}")
    assert (status, headers["retry-after"]) == (503, "5")
    for file in front.home.glob("*.log"):
        assert TOKEN not in file.read_text()
