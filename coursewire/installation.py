"""The installation key, under which event keys are hashed, so that no plain hash of personal data is kept."""

from __future__ import annotations

import hmac
import os
import secrets

from sqlalchemy import Connection, select

from coursewire.errors import Code, CoursewireError, InvalidConfiguration
from coursewire.ledger.engine import insert
from coursewire.ledger.tables import installation
from coursewire.settings import Settings

KEY_NAME = "installation.key"
_FINGERPRINT = "key_fingerprint"


def read_key(settings: Settings) -> bytes:
    """The key from the configuration, else from the data directory. Raises where there is none."""
    if settings.installation_key is not None:
        return settings.installation_key.reveal().encode()
    try:
        return bytes.fromhex((settings.data_dir / KEY_NAME).read_text(encoding="ascii").strip())
    except FileNotFoundError as exc:
        raise InvalidConfiguration("installation_key", "there is none yet: run `coursewire migrate`") from exc


def ensure_key(settings: Settings) -> bytes:
    """The key; made in the data directory where there is none.

    Losing it makes every event that is sent again a new one.
    """
    path = settings.data_dir / KEY_NAME
    if settings.installation_key is None and not path.exists():
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except FileExistsError:
            pass  # another process was quicker: its key counts
        else:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(secrets.token_hex(32))
                file.flush()
                os.fsync(file.fileno())
    return read_key(settings)


def fingerprint(key: bytes) -> str:
    """What the ledger keeps of the key, and a backup: enough to know it again."""
    return hmac.digest(key, b"coursewire", "sha256").hex()


def bind_key(db: Connection, key: bytes) -> None:
    """Refuse a ledger that was written under another key: it would take every resent event for a new one."""
    own = fingerprint(key)
    db.execute(insert(db, installation).values(name=_FINGERPRINT, value=own).on_conflict_do_nothing())
    kept = db.scalar(select(installation.c.value).where(installation.c.name == _FINGERPRINT))
    if kept != own:
        raise CoursewireError(
            "the ledger was written under another installation key", code=Code.WRONG_INSTALLATION_KEY
        )
