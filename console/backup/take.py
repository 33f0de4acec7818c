"""Taking a backup while everything runs.

The order is that of a callback's way: the spool, the inbox, the ledger. What moves on meanwhile is in two of
them, and its receipt's id makes it one again; what was acknowledged before the first look is in at least one.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import tomllib
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import cast

from sqlalchemy import Connection, Engine, func, make_url, select, text

from console import secret_files
from console.backup import archive, postgresql
from console.backup.archive import Manifest
from console.embedded import running_redis
from console.options import open_existing_ledger
from coursewire.errors import BackupFailed
from coursewire.inbox import LOOK, Inbox
from coursewire.installation import KEY_NAME, fingerprint, read_key
from coursewire.ledger.engine import open_ledger, reading
from coursewire.ledger.migrate import revision
from coursewire.ledger.tables import deliveries, events, receipts
from coursewire.settings import Settings
from coursewire.spool import Spool

# The copy of a spool holds whatever there is.
NO_LIMIT = 1 << 62
COUNTED = {"receipts": receipts, "events": events, "deliveries": deliveries}


def take(settings: Settings, to: Path, *, force: bool) -> Manifest:
    """Raises `BackupFailed`, or what the inbox and the ledger raise when they do not answer."""
    if to.exists() and not force:
        raise BackupFailed(f"{to} exists already")
    if not to.parent.is_dir():
        raise BackupFailed(f"there is no folder {to.parent}")
    with tempfile.TemporaryDirectory(prefix=f".{to.name}.", dir=to.parent) as name:
        folder = Path(name)
        spool = Spool(folder / archive.SPOOL, NO_LIMIT)
        with closing(spool):
            _copy_spool(settings, folder / archive.SPOOL)
            with running_redis(settings) as redis:
                _copy_inbox(Inbox(redis, settings.namespace), spool)
            waiting = spool.size().waiting
        with open_existing_ledger(settings) as engine:
            counts, at_revision = _copy_ledger(settings, engine, folder)
        keep = _copy_configuration(settings, folder)
        manifest = Manifest(
            coursewire=version("coursewire"),
            revision=at_revision,
            taken_at=datetime.now(UTC).isoformat(timespec="seconds"),
            ledger=engine.dialect.name,
            key_fingerprint=fingerprint(read_key(settings)),
            counts={**counts, "callbacks": waiting},
            keep=keep,
        )
        return archive.pack(folder, manifest, to)


def count(db: Connection) -> dict[str, int]:
    return {name: db.scalar(select(func.count()).select_from(table)) or 0 for name, table in COUNTED.items()}


def _copy_spool(settings: Settings, to: Path) -> None:
    if settings.spool_path.exists():
        _copy_sqlite(settings.spool_path, to)


def _copy_inbox(inbox: Inbox, spool: Spool) -> None:
    """What is in hand is copied as well: it leaves the stream when the ledger has it."""
    start = "-"
    while page := cast(
        "list[tuple[bytes, dict[bytes, bytes]]]", inbox.redis.xrange(inbox.stream, start, "+", LOOK)
    ):
        spool.add([fields for _, fields in page])
        start = f"({page[-1][0].decode()}"


def _copy_ledger(settings: Settings, engine: Engine, folder: Path) -> tuple[dict[str, int], str]:
    """Its counts and its revision, of the very moment that was copied."""
    to = folder / archive.LEDGERS[engine.dialect.name]
    if engine.dialect.name == "postgresql":
        with reading(engine) as db:
            # Nothing is done here while the program works, however long it does.
            db.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            snapshot = str(db.scalar(text("SELECT pg_export_snapshot()")))
            postgresql.dump(settings.database_url, snapshot, to)
            return count(db), revision(db) or ""
    _copy_sqlite(Path(make_url(settings.database_url).database or ""), to)
    copy = _open_sqlite(settings, to)
    try:
        with reading(copy) as db:
            return count(db), revision(db) or ""
    finally:
        copy.dispose()


def _open_sqlite(settings: Settings, path: Path) -> Engine:
    return open_ledger(replace(settings, database_url=f"sqlite:///{path}"))


def _copy_sqlite(path: Path, to: Path) -> None:
    """A consistent copy of a database that others write meanwhile."""
    to.touch(mode=0o600)
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(to)) as target:
        source.backup(target)


def _copy_configuration(settings: Settings, folder: Path) -> list[str]:
    """Configuration and key; what of the secrets is elsewhere, by name."""
    content = settings.config_path.read_bytes() if settings.config_path is not None else b""
    if settings.config_path is not None:
        (folder / archive.CONFIGURATION).write_bytes(content)
    keep = secret_files.references(content)
    if settings.installation_key is None:
        shutil.copyfile(settings.data_dir / KEY_NAME, folder / archive.KEY)
    elif "installation_key" not in tomllib.loads(content.decode()):
        keep.append("COURSEWIRE_INSTALLATION_KEY")
    return keep
