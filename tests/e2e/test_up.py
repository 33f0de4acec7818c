"""`coursewire up`, in real processes."""

from __future__ import annotations

import http.client
import os
import shlex
import signal
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
import pytest

from console.config_file import read, save
from console.embedded import running_redis
from coursewire.settings import load_settings
from schemas.samples import fresh

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")

PARTS = ("valkey", "receiver", "ingest", "record", "send", "sweep", "guard")
Until = Callable[..., None]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def passed(salt: str) -> bytes:
    """A completion that earns a certificate."""
    document = fresh("digitalchalk", "offering_completed", datetime.now(UTC), salt)
    document["registration"] |= {"grade": 91.0, "passed": True}
    return orjson.dumps(document)


def parts(up: Any) -> dict[str, int]:
    return {name: up.part(name) for name in PARTS}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_samples_once(data_dir: Path, coursewire: Run) -> None:
    """`--samples --once` shows every sample's effects, ends with 0, and leaves no process."""
    ended = coursewire("up", "--port", "0", "--samples", "--once", data_dir=data_dir)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "came out as expected" in ended.stdout
    assert ended.stdout.count("certificate.awarded") == 2
    assert "schema_violation" in ended.stdout
    assert ended.stderr == ""
    assert [mode(data_dir), mode(data_dir / "valkey")] == [0o700, 0o700]
    assert mode(data_dir / "coursewire.toml") == 0o600
    # A second run is no heap of duplicates.
    again = coursewire("up", "--port", "0", "--samples", "--once", data_dir=data_dir)
    assert again.returncode == 0, again.stdout + again.stderr


def test_the_curl_line_works(stack: Any, until: Until) -> None:
    """Pasted into a shell, it posts a callback that ends in effects."""
    line = next(line for line in stack.lines if line.startswith("curl "))
    words = shlex.split(line)
    url, body = words[-1], words[words.index("--data-binary") + 1]
    assert url == stack.url("digitalchalk")
    receipt = stack.post("digitalchalk", body.encode())
    until(lambda: stack.states([receipt]) == ["done"], what="the effects")


def test_a_second_one_refuses(stack: Any, coursewire: Run) -> None:
    """One stack a data directory: the second says who has it."""
    ended = coursewire("up", "--port", "0", data_dir=stack.data_dir)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: already_running: ")
    assert f"(pid {stack.process.pid})" in ended.stderr


def test_its_server_is_our_own(stack: Any) -> None:
    """Valkey runs under its name, in the data directory, and syncs each write."""
    pid = stack.part("valkey")
    assert Path(f"/proc/{pid}/comm").read_text().strip() == "valkey-server"
    assert Path(f"/proc/{pid}/cwd").readlink() == stack.data_dir / "valkey"
    with running_redis(stack.settings) as redis:
        for key, value in (
            ("appendonly", "yes"),
            ("appendfsync", "always"),
            ("maxmemory-policy", "noeviction"),
        ):
            assert redis.config_get(key) == {key: value}
    assert mode(stack.data_dir / "valkey" / "valkey.sock") == 0o700


def test_what_is_killed_is_started_again(stack: Any, until: Until) -> None:
    """kill -9 of every part: each comes back, it is said, and the stack works on."""
    before = parts(stack)
    assert all(before.values()), before
    receipts = [stack.post("digitalchalk", passed(f"before {number}")) for number in range(5)]
    # What is killed in the middle of its work is given back only after its lease.
    until(lambda: set(stack.states(receipts)) == {"done"}, what="the effects")
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    until(
        lambda: all(pid and pid != before[name] for name, pid in parts(stack).items()),
        seconds=60,
        what="every part",
    )
    for name in ("valkey", "receiver", "ingest", "record", "send", "sweep"):
        assert f"coursewire: {name} was killed by SIGKILL; it is started again" in stack.trouble

    def posted() -> bool:
        try:
            receipts.append(stack.post("digitalchalk", passed("after")))
        except OSError:
            return False
        return True

    until(posted, seconds=60, what="the receiver")
    until(lambda: set(stack.states(receipts)) == {"done"}, seconds=120, what="the effects")


def test_what_hangs_is_started_again(stack: Any, until: Until) -> None:
    """A stopped process does not answer: it is killed and started again, with what it had started."""
    until(lambda: all(parts(stack).values()), seconds=60, what="every part")
    hung = {name: stack.part(name) for name in ("ingest", "valkey")}
    for pid in hung.values():
        os.kill(pid, signal.SIGSTOP)
    until(
        lambda: all(stack.part(name) not in (0, pid) for name, pid in hung.items()), seconds=90, what="both"
    )
    for name in hung:
        assert f"coursewire: {name} does not answer; it is started again" in stack.trouble
    until(lambda: not any(Path(f"/proc/{pid}/cwd").exists() for pid in hung.values()), what="their end")


def command_line(stack: Any, part: str) -> str:
    """Empty while it is started again."""
    try:
        return Path(f"/proc/{stack.part(part)}/cmdline").read_text()
    except (OSError, AssertionError, IndexError, KeyError):
        return ""


def test_a_changed_configuration_is_followed(stack: Any, until: Until) -> None:
    """A new source and a new handler work without a refused connection; what is invalid is not used."""
    path = stack.data_dir / "coursewire.toml"
    answers: list[str] = []
    ended = threading.Event()
    address = urlsplit(stack.url("digitalchalk"))

    def knock() -> None:
        while not ended.wait(0.01):
            try:
                connection = http.client.HTTPConnection(address.netloc, timeout=10)
                connection.request("GET", address.path)
                answers.append(str(connection.getresponse().status))
                connection.close()
            except OSError as exc:
                answers.append(type(exc).__name__)

    until(lambda: all(parts(stack).values()), seconds=60, what="every part")
    knocking = threading.Thread(target=knock)
    knocking.start()
    try:
        document: Any = read(path)
        document["sources"]["campus"] = {"provider": "digitalchalk", "token": "campus-token"}
        document["handlers"]["second-audit"] = {"uses": "audit"}
        save(path, document)
        until(lambda: "the changed configuration is in use" in stack.trouble, seconds=90, what="the change")
        receipt = stack.post("campus", passed("campus"))
        until(lambda: stack.states([receipt]) == ["done"], seconds=60, what="the effects")
    finally:
        ended.set()
        knocking.join()
    assert set(answers) == {"200"}
    until(
        lambda: "handler.second-audit" in command_line(stack, "record"), seconds=60, what="the record worker"
    )

    good = path.read_text()
    save(path, read(path) | {"sources": {"campus": {"provider": "digitalchalk"}}})  # type: ignore[arg-type]
    until(
        lambda: "not used: invalid_configuration: sources.campus: needs exactly one of" in stack.trouble,
        what="the complaint",
    )
    assert stack.post("campus", passed("campus again"))
    path.write_text(good)


def test_it_stops_in_good_order(start_up: Callable[..., Any], data_dir: Path, until: Until) -> None:
    """SIGTERM ends everything within 10 s, and what was acknowledged is there in the next run."""
    up = start_up(data_dir)
    receipts = [up.post("digitalchalk", passed(f"{number}")) for number in range(3)]
    guard = up.part("guard")
    began = time.monotonic()
    assert up.stop() == 0
    assert time.monotonic() - began < 10
    assert up.processes() == {}
    assert not Path(f"/proc/{guard}").exists()
    assert up.trouble == ""
    again = start_up(data_dir)
    until(lambda: "waiting" not in again.states(receipts), what="the effects")


def test_a_killed_supervisor_takes_its_children_along(
    start_up: Callable[..., Any], data_dir: Path, until: Until
) -> None:
    """Also a stopped child and grandchildren; a new stack right after waits for the old one's server."""
    killed = start_up(data_dir)
    receipts = [killed.post("digitalchalk", passed(f"{number}")) for number in range(3)]
    remaining = set(killed.processes()) | {killed.part("guard")}
    assert len(remaining) >= 12  # Celery's and Granian's own children are among them
    os.kill(killed.part("record"), signal.SIGSTOP)
    killed.stop(signal.SIGKILL)
    again = start_up(data_dir)
    until(lambda: not remaining & set(again.processes()), seconds=10, what="the end of the old processes")
    until(lambda: "waiting" not in again.states(receipts), seconds=90, what="the effects")
    assert again.stop() == 0
    assert again.processes() == {}


def test_a_long_path_takes_a_port(data_dir: Path, start_up: Callable[..., Any], until: Until) -> None:
    """A UNIX socket's path is limited; the loopback port instead is guarded by a password."""
    long = data_dir / ("x" * 100)
    up = start_up(long)
    receipt = up.post("digitalchalk", passed("long"))
    until(lambda: up.states([receipt]) == ["done"], what="the effects")
    assert mode(long / "valkey" / "port") == 0o600
    port = int((long / "valkey" / "port").read_text().split()[0])
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"PING\r\n")
        assert connection.recv(100).startswith(b"-NOAUTH")
    before = up.part("valkey")
    os.kill(before, signal.SIGKILL)
    until(lambda: up.part("valkey") not in (0, before), what="the server")
    receipt = up.post("digitalchalk", passed("long, again"))
    until(lambda: up.states([receipt]) == ["done"], seconds=60, what="the effects")
    # Ctrl-C is the ordinary way to stop, and no error either.
    assert up.stop(signal.SIGINT) == 0
    assert up.processes() == {}


def test_another_server_is_used(valkey: str, data_dir: Path, coursewire: Run) -> None:
    """With COURSEWIRE_REDIS_URL it starts none of its own."""
    ended = coursewire(
        *("up", "--port", "0", "--samples", "--once"),
        data_dir=data_dir,
        COURSEWIRE_REDIS_URL=valkey,
        COURSEWIRE_NAMESPACE="elsewhere",
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert not (data_dir / "valkey").exists()


def test_a_server_that_does_not_answer(data_dir: Path, coursewire: Run) -> None:
    """Exit code 4."""
    ended = coursewire("up", "--port", "0", data_dir=data_dir, COURSEWIRE_REDIS_URL=f"unix://{data_dir}/none")
    assert (ended.returncode, ended.stderr.split(": ")[1]) == (4, "server_unreachable")
    assert "Traceback" not in ended.stderr


def test_a_wrong_configuration_stops_it(data_dir: Path, coursewire: Run) -> None:
    """Also one that only the plug-ins can judge: exit code 2, with the key, and no process."""
    data_dir.mkdir()
    (data_dir / "coursewire.toml").write_text("[handlers.notifications]\ncolour = 'red'\n")
    ended = coursewire("up", "--port", "0", data_dir=data_dir)
    assert ended.returncode == 2
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("error: invalid_configuration: handlers.notifications.colour: ")


def test_a_taken_port_is_said(data_dir: Path, coursewire: Run) -> None:
    """Nobody's port is shared by accident: exit code 2."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = coursewire("up", "--port", str(port), data_dir=data_dir)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: invalid_configuration: --port: ")


def test_each_part_starts_alone(data_dir: Path, coursewire: Run) -> None:
    """An unknown queue is a usage error that names the known ones; a ledger must be there before."""
    data_dir.mkdir()
    (data_dir / "coursewire.toml").write_text("[handlers.audit]\n")
    assert coursewire("sweep", data_dir=data_dir).returncode == 1
    assert coursewire("migrate", data_dir=data_dir).returncode == 0
    ended = coursewire("worker", "--queues", "ingest,nonsense", data_dir=data_dir)
    assert ended.returncode == 2
    assert "handler.audit" in ended.stderr
    assert load_settings(data_dir).handlers.keys() == {"audit"}
