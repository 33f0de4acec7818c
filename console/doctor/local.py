"""Looking at this host: configuration, who may read the files, and what kind of disk holds them."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy import make_url

from console import secret_files
from console.doctor.finding import Finding
from coursewire.errors import CoursewireError
from coursewire.installation import KEY_NAME
from coursewire.settings import Settings

IN_MEMORY = {"tmpfs", "ramfs"}
# A container's own layer, or a live system's.
ON_A_LAYER = {"overlay", "aufs"}
# SQLite's write-ahead log needs memory that all processes share, and locks that hold.
ON_A_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "9p", "fuse.sshfs"}
LITTLE_BYTES = 1 << 30


def look_at_configuration(settings: Settings) -> Iterator[Finding]:
    from coursewire.handlers import configured
    from workers.read import load_providers

    if settings.config_path is None:
        yield Finding("configuration", "warning", "there is no coursewire.toml: only defaults count")
    else:
        yield Finding("configuration", "good", str(settings.config_path))
    try:
        load_providers(settings)
        handlers = configured(settings)
    except CoursewireError as exc:
        yield Finding("plug-ins", "bad", f"{exc.code}: {exc.detail}")
    else:
        yield _named("sources", sorted(settings.sources), "none is configured: every callback is refused")
        yield _named("handlers", sorted(handlers), "none is configured: every event is ignored")
    for source in settings.sources.values():
        if len(source.tokens or source.secrets or source.passwords) > 1:
            yield Finding(
                "secrets", "warning", f"{source.name} has two: `sources rotate {source.name} --finish`"
            )
    yield _public_url(settings.public_url)


def look_at_files(settings: Settings) -> Iterator[Finding]:
    data_dir = settings.data_dir
    if not data_dir.is_dir():
        yield Finding("data directory", "warning", f"{data_dir} is not there yet: `coursewire up` makes it")
        return
    open_to_others = [_mode(path) for path in _private(settings) if _is_open(path)]
    if open_to_others:
        yield Finding("file modes", "bad", f"others may read {', '.join(open_to_others)}")
    else:
        yield Finding("file modes", "good", "nobody else reads the data directory, or a secret")
    yield _disk(settings)


def _named(about: str, names: list[str], none: str) -> Finding:
    return Finding(about, "good" if names else "warning", ", ".join(names) or none)


def _public_url(url: str) -> Finding:
    parts = urlsplit(url)
    if parts.scheme == "https" or _is_loopback(parts.hostname or ""):
        return Finding("public_url", "good", url)
    return Finding("public_url", "warning", f"{url} is not https: secrets and learners' data travel in clear")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _private(settings: Settings) -> Iterator[Path]:
    yield settings.data_dir
    if settings.config_path is not None:
        yield settings.config_path
        # In a container nobody else is there to read what the runtime mounts.
        named = secret_files.files(settings.config_path)
        yield from (path for path in named if not path.is_relative_to("/run/secrets"))
    for name in (KEY_NAME, "ledger.sqlite3", settings.spool_path.name):
        yield settings.data_dir / name


def _is_open(path: Path) -> bool:
    """Files inside a directory that others cannot enter are safe whatever their own mode."""
    try:
        status = path.stat()
        if not stat.S_IMODE(status.st_mode) & _others(status):
            return False
        return path.is_dir() or bool(stat.S_IMODE(path.parent.stat().st_mode) & 0o011)
    except OSError:
        return False


def _others(status: os.stat_result) -> int:
    """The bits of a mode that concern others. A file of root's that our group may read was so made for us."""
    ours = {os.getegid(), *os.getgroups()}
    return 0o007 if status.st_uid != os.geteuid() and status.st_gid in ours else 0o077


def _mode(path: Path) -> str:
    return f"{path} ({stat.S_IMODE(path.stat().st_mode):o})"


def _disk(settings: Settings) -> Finding:
    data_dir = settings.data_dir
    kind = filesystem(data_dir)
    if kind in IN_MEMORY and not _keeps(settings):
        detail = f"{data_dir} is on {kind}: well enough, but for the spool of a receiver"
        return Finding("disk", "warning", detail)
    free = shutil.disk_usage(data_dir).free
    if kind in IN_MEMORY:
        return Finding("disk", "bad", f"{data_dir} is on {kind}: it is empty after a restart of the host")
    if kind in ON_A_NETWORK:
        return Finding("disk", "bad", f"{data_dir} is on {kind}: SQLite and Valkey need a local disk")
    if kind in ON_A_LAYER:
        detail = f"{data_dir} is on {kind}: it is gone when the container is made anew; give it a volume"
        return Finding("disk", "warning", detail)
    gibibytes = f"{free / (1 << 30):.1f} GiB are free"
    if free < LITTLE_BYTES:
        return Finding("disk", "warning", f"only {gibibytes}")
    return Finding("disk", "good", gibibytes)


def _keeps(settings: Settings) -> bool:
    """Whether the ledger, the inbox or what waits for it is in the data directory."""
    ledger = make_url(settings.database_url)
    return ledger.get_backend_name() == "sqlite" or settings.embedded_redis or settings.spool_path.exists()


def filesystem(path: Path) -> str | None:
    """The kind of file system that holds `path`; None where the system does not tell."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found: tuple[int, str | None] = (-1, None)
    real = os.path.realpath(path)
    for mount in mounts:
        before, _, after = mount.partition(" - ")
        point = before.split()[4].encode().decode("unicode_escape")
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= found[0]:
            found = (len(point), after.split()[0])
    return found[1]
