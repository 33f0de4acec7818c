"""The file of a backup: a tar of its members, and a manifest that says what they are.

ledger.sqlite3 or ledger.pgdump    the ledger: an SQLite file, or pg_dump's custom format
spool.sqlite3                      what was acknowledged but not yet ingested, as a spool
coursewire.toml                    the configuration, where there is one
installation.key                   the key, where it is a file of the data directory
manifest.json                      the last one
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from coursewire.errors import BackupFailed

FORMAT = 1
MANIFEST = "manifest.json"
LEDGERS = {"sqlite": "ledger.sqlite3", "postgresql": "ledger.pgdump"}
SPOOL = "spool.sqlite3"
CONFIGURATION = "coursewire.toml"
KEY = "installation.key"
MEMBERS = {*LEDGERS.values(), SPOOL, CONFIGURATION, KEY}
MANIFEST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Manifest:
    """`ledger`: sqlite or postgresql. `counts`: rows of the ledger by table, and `callbacks` not yet in it.

    `keep`: secrets that the configuration names and the archive does not hold.
    """

    coursewire: str
    revision: str
    taken_at: str
    ledger: str
    key_fingerprint: str
    counts: Mapping[str, int]
    keep: list[str]
    sha256: Mapping[str, str] = field(default_factory=dict)
    format: int = FORMAT


def pack(folder: Path, manifest: Manifest, to: Path) -> Manifest:
    """Write the members that are in `folder` as one file, 0600, in one step. Returns the whole manifest."""
    members = sorted(path.name for path in folder.iterdir() if path.name in MEMBERS)
    digests = {name: digest(folder / name) for name in members}
    manifest = Manifest(**{**asdict(manifest), "sha256": digests})
    new = folder / "new.tar"
    with os.fdopen(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            for name in members:
                tar.add(folder / name, name, filter=_ours)
            content = orjson.dumps(asdict(manifest), option=orjson.OPT_INDENT_2)
            entry = tarfile.TarInfo(MANIFEST)
            entry.size, entry.mode = len(content), 0o600
            tar.addfile(entry, io.BytesIO(content))
        file.flush()
        os.fsync(file.fileno())
    new.replace(to)
    sync_folder(to.parent)
    return manifest


def unpack(file: Path, folder: Path) -> Manifest:
    """Take the members of a backup out, each compared with its digest. Raises `BackupFailed`."""
    try:
        with tarfile.open(file, mode="r:") as tar:
            found = tar.getmembers()
            names = [entry.name for entry in found]
            if len(set(names)) != len(names) or not all(entry.isfile() for entry in found):
                raise BackupFailed(f"{file} is no backup of ours")
            manifest = _manifest(file, tar, names)
            if set(names) != {MANIFEST, *manifest.sha256} or not set(manifest.sha256) <= MEMBERS:
                raise BackupFailed(f"{file} does not hold what its manifest says")
            for name in manifest.sha256:
                _extract(tar, name, folder / name)
    except FileNotFoundError as exc:
        raise BackupFailed(f"there is no file {file}") from exc
    except (tarfile.TarError, OSError, EOFError) as exc:
        raise BackupFailed(f"{file} cannot be read as a backup: {type(exc).__name__}") from exc
    for name, expected in manifest.sha256.items():
        if digest(folder / name) != expected:
            raise BackupFailed(f"{file} is damaged: {name} is not what was written")
    return manifest


def _extract(tar: tarfile.TarFile, name: str, to: Path) -> None:
    member = tar.extractfile(name)
    with os.fdopen(os.open(to, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        if member is not None:
            shutil.copyfileobj(member, file, 1 << 20)


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """So that a rename outlives a crash of the host."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _manifest(file: Path, tar: tarfile.TarFile, names: list[str]) -> Manifest:
    if MANIFEST not in names:
        raise BackupFailed(f"{file} has no manifest: it is no backup, or was cut off")
    member = tar.extractfile(MANIFEST)
    content = member.read(MANIFEST_BYTES) if member is not None else b""
    try:
        document: dict[str, Any] = orjson.loads(content)
        if document["format"] != FORMAT:
            raise BackupFailed(f"{file} has format {document['format']}; this program knows {FORMAT}")
        return Manifest(**document)
    except (orjson.JSONDecodeError, TypeError, KeyError) as exc:
        raise BackupFailed(f"the manifest of {file} cannot be read") from exc


def _ours(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Names and numbers of this host's users are nobody's business."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o600
    return entry
