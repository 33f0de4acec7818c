"""`coursewire up`: takes the data directory, starts the stack, follows its configuration, and stops it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
from contextlib import ExitStack, suppress
from pathlib import Path

import click

from console import private, valkey
from console.config_file import write_first
from console.embedded import ORPHAN_SECONDS, server_lock
from console.locks import lock
from console.stack import Stack, reachable
from console.welcome import source_lines, welcome
from coursewire.errors import CoursewireError, InvalidConfiguration
from coursewire.settings import CONFIG_NAME, find_config, load_settings, receiver_url_file

LOOK_SECONDS = 0.5


def up(data_dir: Path, host: str, port: int, *, samples: bool, once: bool, metrics_port: int = 0) -> int:
    """Run the stack until it is told to stop; its exit code. Raises `CoursewireError` if it cannot start."""
    with ExitStack() as held:
        data_dir.mkdir(parents=True, exist_ok=True)
        data_dir.chmod(0o700)
        me = f"coursewire up (pid {os.getpid()})"
        # A moment, for the successor of one that just ends.
        held.enter_context(lock(data_dir / "lock", holder=me, wait_seconds=1.0))
        if find_config(data_dir) is None:
            write_first(data_dir / CONFIG_NAME)
        port = _reserve(host, port, held)
        listening = _url(host, port)
        (data_dir / "run").mkdir(mode=0o700, exist_ok=True)
        private.write(receiver_url_file(data_dir), f"{listening}\n".encode())
        settings = load_settings(data_dir)
        inherited = None
        if settings.embedded_redis:
            pid_file = valkey.folder(data_dir) / valkey.PID_NAME
            inherited = held.enter_context(
                server_lock(
                    data_dir,
                    holder=f"the valkey-server of {me}, whose pid is in {pid_file},",
                    wait_seconds=ORPHAN_SECONDS,
                )
            )
            settings = load_settings(data_dir)  # with the address that is now known
        stack = Stack(settings, host, port, server_lock=inherited, say=complain, metrics_port=metrics_port)
        return asyncio.run(_run(stack, listening, samples=samples, once=once))


async def _run(
    stack: Stack,
    listening: str,
    *,
    samples: bool,
    once: bool,
) -> int:
    told = asyncio.Event()
    ended = threading.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # nohup says that a closed terminal is no reason to stop.
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, told.set)
    stopping = asyncio.create_task(told.wait())
    working = asyncio.create_task(_work(stack, listening, ended, samples=samples, once=once))
    try:
        await asyncio.wait({stopping, working}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else 0
    finally:
        ended.set()
        working.cancel()
        stopping.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)
        await stack.stop()


async def _work(stack: Stack, listening: str, ended: threading.Event, *, samples: bool, once: bool) -> int:
    stamp = _stamp(find_config(stack.settings.data_dir))
    await stack.start()
    following = asyncio.create_task(_follow(stack, stamp))
    try:
        for line in welcome(stack.settings, listening):
            tell(line)
        good = True
        if samples:
            from console.demo import demonstrate

            good = await asyncio.to_thread(demonstrate, stack.settings, listening, ended)
        if once:
            return 0 if good else 1
        await following
    finally:
        following.cancel()
    return 0


async def _follow(stack: Stack, used: tuple[int, ...] | None) -> None:
    """Apply each change of the configuration; what is not valid is said, and not used."""
    data_dir = stack.settings.data_dir
    seen = used
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        if stack.guard.revive():
            complain("the guard died; it was started again")
        before, seen = seen, _stamp(find_config(data_dir))
        # Two equal looks: an editor may still be writing.
        if seen is None or seen == used or seen != before:
            continue
        used = seen
        known = set(stack.settings.sources)
        try:
            await stack.apply(load_settings(data_dir))
        except CoursewireError as exc:
            complain(f"the changed configuration is not used: {exc.code}: {exc.detail}")
        except OSError as exc:
            complain(f"the changed configuration is not used: {exc.strerror}")
        else:
            complain("the changed configuration is in use")
            new = set(stack.settings.sources) - known
            for line in source_lines(stack.settings):
                if line.split()[0] in new:
                    tell(line)


def tell(line: str) -> None:
    """Print for the operator; that nobody reads any more is no reason to stop."""
    with suppress(OSError, ValueError):
        click.echo(line)


def complain(line: str) -> None:
    with suppress(OSError, ValueError):
        click.echo(f"coursewire: {line}", err=True)


def _stamp(path: Path | None) -> tuple[int, ...] | None:
    with suppress(OSError):
        if path is not None:
            status = path.stat()
            return status.st_ino, status.st_mtime_ns, status.st_size
    return None


def _reserve(host: str, port: int, held: ExitStack) -> int:
    """The port, or a free one for 0; nobody else listens there. Raises `InvalidConfiguration`."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        probe = held.enter_context(socket.socket(family))
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
        chosen = int(probe.getsockname()[1])
        if sys.platform != "linux":
            # On Linux a socket that is bound but does not listen keeps a port for the receiver; elsewhere it
            # would keep it from the receiver.
            probe.close()
    except OSError as exc:
        raise InvalidConfiguration("--port" if port else "--host", f"{host}:{port}: {exc.strerror}") from exc
    return chosen


def _url(host: str, port: int) -> str:
    name = reachable(host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"
