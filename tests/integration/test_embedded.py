"""Our own Valkey under its lock, and the guard that ends what a killed supervisor left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis

from console import valkey as own
from console.embedded import lock_file, running_redis, serving
from console.guard import Guard
from console.locks import lock
from coursewire.errors import AlreadyRunning, InvalidConfiguration, NotFound, ServerUnreachable
from coursewire.settings import Settings, build_settings, load_settings

Until = Callable[..., None]


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """Short, so that the socket's path fits."""
    folder = Path(tempfile.mkdtemp(prefix="cw-"))
    yield folder / "data"
    shutil.rmtree(folder, ignore_errors=True)


def gone(pid: int) -> Callable[[], bool]:
    def look() -> bool:
        try:
            # A process that nobody has waited for yet is gone as well.
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    return look


def test_it_keeps_what_it_acknowledged(data_dir: Path) -> None:
    """Each write is synced before its reply, so it is there after kill -9."""
    with serving(data_dir) as url, Redis.from_url(url) as redis:
        redis.set("key", "value")
        os.kill(int((own.folder(data_dir) / own.PID_NAME).read_text()), signal.SIGKILL)
    with running_redis(load_settings(data_dir)) as redis:
        assert redis.get("key") == b"value"


def test_one_server_a_data_directory(data_dir: Path) -> None:
    """A second one would overwrite what the first acknowledged."""
    with (
        serving(data_dir, holder="the first"),
        pytest.raises(AlreadyRunning, match=rf"the first \(pid {os.getpid()}\)"),
        serving(data_dir),
    ):
        pass
    with serving(data_dir):
        pass


def test_an_orphaned_server_still_holds_the_lock(data_dir: Path, until: Until) -> None:
    """The lock lives as long as the server, not as long as who started it."""
    own.folder(data_dir).mkdir(parents=True)
    own.prepare(data_dir)
    with lock(lock_file(data_dir), holder="its supervisor") as descriptor:
        server = subprocess.Popen(own.arguments(data_dir), stdout=subprocess.DEVNULL, pass_fds=(descriptor,))
    try:
        with pytest.raises(AlreadyRunning, match="its supervisor"), serving(data_dir):
            pass
    finally:
        server.kill()
        server.wait()
    with serving(data_dir):
        pass


def test_whoever_waits_gets_the_lock(data_dir: Path) -> None:
    """`wait_seconds` is for an orphan that is about to end."""
    entered = threading.Event()

    def wait_for_it() -> None:
        with serving(data_dir, wait_seconds=20):
            entered.set()

    waiting = threading.Thread(target=wait_for_it)
    with serving(data_dir):
        waiting.start()
        assert not entered.wait(0.3)
    waiting.join(20)
    assert entered.is_set()


def test_a_running_server_is_used(data_dir: Path) -> None:
    """Nothing is started beside it."""
    with serving(data_dir) as url, Redis.from_url(url) as redis:
        redis.set("key", "value")
        with running_redis(load_settings(data_dir)) as same:
            assert same.get("key") == b"value"
        assert redis.ping()


def test_two_short_commands_at_once(data_dir: Path) -> None:
    """The second one waits for the first one's server to end, and starts its own."""
    with serving(data_dir):
        pass
    settings = load_settings(data_dir)
    answers: list[object] = []

    def ask() -> None:
        with running_redis(settings) as redis:
            answers.append(redis.ping())

    asking = threading.Thread(target=ask)
    with running_redis(settings) as redis:
        asking.start()
        asking.join(0.5)
        assert answers == []
        assert redis.ping()
    asking.join(20)
    assert answers == [True]


def test_reading_makes_no_data_directory(data_dir: Path) -> None:
    """A mistyped one is said."""
    with pytest.raises(NotFound, match="there is no data directory"), running_redis(load_settings(data_dir)):
        pass
    assert not data_dir.exists()


def test_another_server_that_is_away(data_dir: Path) -> None:
    """Nothing is started in its place."""
    settings: Settings = build_settings({"redis_url": f"unix://{data_dir}/none"}, data_dir=data_dir)
    with pytest.raises(ServerUnreachable), running_redis(settings):
        pass


def test_a_long_path_takes_a_port(tmp_path: Path) -> None:
    """The port and its password stay the same over restarts, for whoever knows the URL."""
    data_dir = tmp_path / ("x" * 100)
    with serving(data_dir) as first:
        assert first.startswith("redis://:")
        assert load_settings(data_dir).redis_url == first
        assert load_settings(data_dir).embedded_redis
    with serving(data_dir) as second:
        assert second == first


def program(folder: Path, version: str) -> Path:
    """A server's program of that version under the name `redis-server`; it is our own one behind."""
    folder.mkdir()
    path = folder / "redis-server"
    path.write_text(
        f"#!/bin/sh\n"
        f'[ "$1" = --version ] && {{ echo "Redis server v={version} sha=0"; exit; }}\n'
        f'exec "{own.program()}" "$@"\n'
    )
    path.chmod(0o700)
    return folder


def test_without_the_wheel_the_path_is_searched(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first server that is new enough; under the name valkey-server."""
    new = program(tmp_path / "new", "7.0.15")
    old = program(tmp_path / "old", "6.2.14")
    monkeypatch.setattr(own, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", f"{old}")
    with pytest.raises(InvalidConfiguration, match=r"^redis_url: "):
        own.program()
    monkeypatch.setenv("PATH", f"{new}:{os.defpath}")
    own.prepare(data_dir)
    named = Path(own.arguments(data_dir)[0])
    assert named.name == "valkey-server"
    assert named.resolve() == new / "redis-server"


def test_the_guard_ends_what_is_left(until: Until) -> None:
    """When its owner is killed: also stopped processes, those that ignore SIGTERM, and grandchildren."""
    owner = subprocess.Popen(
        [sys.executable, "-c", _OWNER], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert owner.stdout is not None
    with owner, owner.stdout as said:
        pids = [int(word) for word in said.readline().split()]
        assert len(pids) == 4
        os.kill(pids[0], signal.SIGSTOP)
        os.killpg(owner.pid, signal.SIGKILL)
        for pid in pids:
            until(gone(pid), seconds=15, what=f"the end of {pids.index(pid)}")


# Two groups, each a leader that ignores SIGTERM and its child; prints their process ids.
_OWNER = """
import signal, subprocess
from console.guard import Guard
guard = Guard()
script = "trap '' TERM; sleep 600 & echo $$ $!; wait; sleep 600"
pids = []
for turn in (0, 1):
    shell = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True)
    guard.watch(shell.pid, turn=turn)
    pids += shell.stdout.readline().split()
print(*pids, flush=True)
signal.pause()
"""


def test_the_guard_leaves_alone_what_it_was_told_to_forget(until: Until) -> None:
    """A group that ended, and whose number another one may bear by now."""
    guard = Guard()
    forgotten, watched = (subprocess.Popen(["sleep", "600"], start_new_session=True) for _ in range(2))
    try:
        for process in (forgotten, watched):
            guard.watch(process.pid)
        guard.forget(forgotten.pid)
        guard.close()
        assert watched.wait(10) == -signal.SIGTERM
        assert forgotten.poll() is None
    finally:
        for process in (forgotten, watched):
            process.kill()
            process.wait()


def test_a_killed_guard_comes_back(until: Until) -> None:
    """And knows what the first one knew."""
    guard = Guard()
    watched = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        guard.watch(watched.pid)
        assert not guard.revive()
        guard._process.kill()
        until(guard.revive, what="the new guard")
        guard.close()
        assert watched.wait(10) == -signal.SIGTERM
    finally:
        watched.kill()
        watched.wait()
