"""Our own Valkey as the inbox of a data directory, under a lock.

One server at a time may write a data directory: a second one rewrites the append-only file under the first,
and acknowledged callbacks are lost. So the server itself holds the lock `valkey/lock` for as long as it
lives, through a descriptor that it inherits; whoever starts it has taken the lock before.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from console import valkey
from console.guard import Guard, end_groups
from console.locks import holder_of, lock
from coursewire.errors import AlreadyRunning, NotFound, ServerUnreachable
from coursewire.settings import Settings, embedded_redis_url

if TYPE_CHECKING:
    from redis import Redis

# A large append-only file takes long to load; a server that dies is noticed at once.
LOADING_SECONDS = 120.0
# By then the server of a supervisor that was killed is gone.
ORPHAN_SECONDS = 12.0
_BRIEFLY = "a short command"


@contextmanager
def server_lock(data_dir: Path, *, holder: str, wait_seconds: float = 0.0) -> Iterator[int]:
    """What whoever starts the server must hold, and the server inherit. Raises `AlreadyRunning`."""
    valkey.folder(data_dir).mkdir(parents=True, exist_ok=True)
    with lock(lock_file(data_dir), holder=holder, wait_seconds=wait_seconds) as descriptor:
        valkey.prepare(data_dir)
        yield descriptor


def lock_file(data_dir: Path) -> Path:
    return valkey.folder(data_dir) / "lock"


@contextmanager
def serving(data_dir: Path, *, holder: str = "a program", wait_seconds: float = 0.0) -> Iterator[str]:
    """A server on this data directory for as long as the block runs; yields its URL.

    It ends with us, also when we are killed. Raises `AlreadyRunning` or `ServerUnreachable`.
    """
    words = f"{holder} (pid {os.getpid()})"
    with ExitStack() as stack:
        descriptor = stack.enter_context(server_lock(data_dir, holder=words, wait_seconds=wait_seconds))
        guard = Guard()
        stack.callback(guard.close)
        log = stack.enter_context((valkey.folder(data_dir) / "server.log").open("wb"))
        process = subprocess.Popen(
            valkey.arguments(data_dir),
            cwd=valkey.folder(data_dir),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(descriptor,),
            start_new_session=True,
        )
        guard.watch(process.pid)
        stack.callback(_stop, process, guard)
        url = embedded_redis_url(data_dir)
        _until_it_answers(process, url)
        yield url


@contextmanager
def running_redis(settings: Settings) -> Iterator[Redis]:
    """A client of the configured server. Our own is started for the moment when nobody runs it.

    Raises `ServerUnreachable`, or `NotFound` where there is no data directory.
    """
    from redis.exceptions import RedisError

    from coursewire.inbox import connect

    with ExitStack() as stack:
        url = _reached(settings.data_dir, stack) if settings.embedded_redis else settings.redis_url
        client = connect(url, timeout_seconds=5.0)
        stack.callback(client.close)
        try:
            client.ping()
        except RedisError as exc:
            raise ServerUnreachable("the server of the inbox does not answer") from exc
        yield client


def _reached(data_dir: Path, stack: ExitStack) -> str:
    """The URL of our own server, which somebody runs or which `stack` stops."""
    if not data_dir.is_dir():
        raise NotFound(f"there is no data directory {data_dir}: `coursewire up` makes it")
    deadline = time.monotonic() + ORPHAN_SECONDS
    while True:
        url = embedded_redis_url(data_dir)
        # The server of another short command would stop under our feet: wait until it is gone.
        if _answers(url) and not holder_of(lock_file(data_dir)).startswith(_BRIEFLY):
            return url
        try:
            return stack.enter_context(serving(data_dir, holder=_BRIEFLY))
        except AlreadyRunning as exc:
            if time.monotonic() >= deadline:
                raise ServerUnreachable(f"our own server does not answer, and {exc.detail}") from exc
            time.sleep(0.1)


def _until_it_answers(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + LOADING_SECONDS
    while not _answers(url):
        if process.poll() is not None:
            raise ServerUnreachable(f"our own server ended with status {process.returncode}")
        if time.monotonic() >= deadline:
            raise ServerUnreachable(f"our own server did not answer within {LOADING_SECONDS:.0f} s")
        time.sleep(0.02)


def _answers(url: str) -> bool:
    from redis.exceptions import RedisError

    from coursewire.inbox import connect

    client = connect(url, timeout_seconds=2.0)
    try:
        client.ping()
    except RedisError:
        return False
    finally:
        client.close()
    return True


def _stop(process: subprocess.Popen[bytes], guard: Guard) -> None:
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(10)
    end_groups([process.pid], 0)
    process.wait()
    guard.forget(process.pid)
