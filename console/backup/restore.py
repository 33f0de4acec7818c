"""Restoring a backup into a data directory and a ledger that are empty.

The ledger comes first: when it cannot be restored, nothing else was touched. What was not yet ingested goes
into the spool, from which the receiver moves it into the inbox: so no server of the inbox is needed here.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Engine, MetaData, delete, inspect, make_url

from console.backup import archive, postgresql
from console.backup.archive import Manifest
from console.backup.take import count
from console.locks import lock
from coursewire.errors import AlreadyRunning, BackupFailed, Code, InvalidConfiguration
from coursewire.installation import KEY_NAME, fingerprint
from coursewire.ledger.engine import open_ledger, reading
from coursewire.ledger.processes import working
from coursewire.ledger.tables import processes
from coursewire.settings import CONFIG_NAME, Settings, build_settings, find_config

LOCK_NAME = "lock"
ASIDE = "before-restore-"


@dataclass(frozen=True, slots=True)
class Restored:
    """`config_path`: the configuration that counts from now on. `aside`: where what was there before lies."""

    manifest: Manifest
    data_dir: Path
    config_path: Path | None
    aside: Path | None


def restore(file: Path, data_dir: Path, *, force: bool) -> Restored:
    """Raises `BackupFailed`, `AlreadyRunning` or `InvalidConfiguration`."""
    with ExitStack() as stack:
        if not file.is_file():
            raise BackupFailed(f"there is no file {file}")
        if not force and _content(data_dir):
            raise BackupFailed(f"{data_dir} is not empty; with --force its content is moved aside")
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        data_dir.chmod(0o700)
        me = f"coursewire restore (pid {os.getpid()})"
        stack.enter_context(lock(data_dir / LOCK_NAME, holder=me))
        staging = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".restore-", dir=data_dir)))
        manifest = archive.unpack(file, staging)
        settings = _settings(staging, data_dir)
        _check_key(settings, manifest, staging)
        backend = make_url(settings.database_url).get_backend_name()
        if backend != manifest.ledger:
            raise BackupFailed(f"the backup is of a ledger on {manifest.ledger}, database_url of {backend}")
        _check_ledger(settings, force=force)
        # From here something is changed.
        aside = _move_aside(data_dir, staging) if force else None
        _restore_ledger(settings, manifest, staging)
        own = staging / CONFIG_NAME
        if settings.installation_key is None:
            _place(staging / archive.KEY, data_dir / KEY_NAME)
        if settings.config_path == own:
            _place(own, data_dir / CONFIG_NAME)
        _place(staging / archive.SPOOL, settings.spool_path)
        path = data_dir / CONFIG_NAME if settings.config_path == own else settings.config_path
        return Restored(manifest, data_dir, path, aside)


def _content(data_dir: Path) -> list[Path]:
    ignored = {LOCK_NAME, "lost+found"}
    if not data_dir.is_dir():
        return []
    return [path for path in data_dir.iterdir() if path.name not in ignored]


def _settings(staging: Path, data_dir: Path) -> Settings:
    """By COURSEWIRE_CONFIG where it is set, else by the archive's own configuration."""
    path = find_config(staging)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8")) if path is not None else {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise InvalidConfiguration(str(path), f"is no TOML: {exc}") from exc
    return build_settings(document, data_dir=data_dir, config_path=path)


def _check_key(settings: Settings, manifest: Manifest, staging: Path) -> None:
    """Under another key every event that is sent again would be a new one."""
    if settings.installation_key is not None:
        key = settings.installation_key.reveal().encode()
    elif (staging / archive.KEY).exists():
        key = bytes.fromhex((staging / archive.KEY).read_text(encoding="ascii").strip())
    else:
        raise BackupFailed("the backup holds no installation key: give installation_key, as it was before")
    if fingerprint(key) != manifest.key_fingerprint:
        raise BackupFailed("installation_key is not the one of the backup", code=Code.WRONG_INSTALLATION_KEY)


def _move_aside(data_dir: Path, staging: Path) -> Path | None:
    content = [path for path in _content(data_dir) if path != staging and not path.name.startswith(ASIDE)]
    if not content:
        return None
    aside = data_dir / f"{ASIDE}{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    aside.mkdir(mode=0o700)
    for path in content:
        path.rename(aside / path.name)
    return aside


def _check_ledger(settings: Settings, *, force: bool) -> None:
    """Raise unless the ledger is empty; with `force`, unless nobody works on it."""
    path = make_url(settings.database_url).database or ""
    if _is_file(settings) and not Path(path).exists():
        return
    with _engine(settings) as engine:
        with engine.connect() as db:
            there = inspect(db).get_table_names()
        if there and not force:
            raise BackupFailed("there is a ledger already; --force drops all the tables of its database")
        if processes.name not in there:
            return
        with reading(engine) as db:
            alive = working(db)
    if alive:
        names = ", ".join(sorted({f"{each.kind} on {each.host}" for each in alive}))
        raise AlreadyRunning(f"these work on the ledger: {names}; stop them, and wait for half a minute")


def _restore_ledger(settings: Settings, manifest: Manifest, staging: Path) -> None:
    source = staging / archive.LEDGERS[manifest.ledger]
    if _is_file(settings):
        path = Path(make_url(settings.database_url).database or "")
        for old in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))):
            old.unlink(missing_ok=True)
        _place(source, path)
    else:
        with _engine(settings) as engine:
            old_tables = MetaData()
            old_tables.reflect(engine)
            old_tables.drop_all(engine)
        postgresql.load(settings.database_url, source)
    with _engine(settings) as engine:
        with reading(engine) as db:
            found = count(db)
        expected = {name: number for name, number in manifest.counts.items() if name in found}
        if found != expected:
            raise BackupFailed(f"the restored ledger has {found}, not {expected}")
        with engine.begin() as db:
            db.execute(delete(processes))  # none of them works on this one


def _is_file(settings: Settings) -> bool:
    return make_url(settings.database_url).get_backend_name() == "sqlite"


@contextmanager
def _engine(settings: Settings) -> Iterator[Engine]:
    engine = open_ledger(settings)
    try:
        yield engine
    finally:
        engine.dispose()


def _place(source: Path, target: Path) -> None:
    """Put a file where it belongs, whole or not at all, for its owner only."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = target.with_name(f".{target.name}.new")
    with suppress(FileNotFoundError):
        new.unlink()
    shutil.move(source, new)
    new.chmod(0o600)
    with new.open("rb") as file:
        os.fsync(file.fileno())
    new.replace(target)
    archive.sync_folder(target.parent)
