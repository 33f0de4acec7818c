"""Bringing the ledger to this program's revision, and refusing one that is older."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DBAPIError

from coursewire.errors import LedgerOutdated, ServerUnreachable
from coursewire.handlers import configured
from coursewire.installation import bind_key, ensure_key
from coursewire.ledger import registry
from coursewire.ledger.engine import open_ledger, reading
from coursewire.plugins import HANDLERS, Handler, load_all
from coursewire.settings import Settings

# Any number, the same in every process: two migrations at once would make the same table twice.
_ADVISORY_LOCK = 7046029254386353
_MIGRATIONS = Path(__file__).parent / "migrations"


def migrate(settings: Settings) -> list[str]:
    """Make or upgrade the ledger, make plug-ins' tables, and register the configured handlers.

    Returns the names of handlers that the ledger knows but the configuration does not.
    """
    handlers = configured(settings)
    key = ensure_key(settings)
    engine = open_ledger(settings)
    try:
        with engine.begin() as db:
            if db.dialect.name == "postgresql":
                db.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
            _upgrade(db)
            bind_key(db, key)
            for plugin in load_all(HANDLERS, Handler).values():
                if plugin.metadata is not None:
                    plugin.metadata.create_all(db)
            return registry.register(db, handlers)
    except DBAPIError as exc:
        raise ServerUnreachable(f"the ledger failed: {type(exc.orig).__name__}") from exc
    finally:
        engine.dispose()


def check(settings: Settings) -> None:
    """Raise `LedgerOutdated` unless the ledger is at this program's revision or at a newer one."""
    engine = open_ledger(settings)
    try:
        with reading(engine) as db:
            current = revision(db)
    except DBAPIError as exc:
        raise ServerUnreachable(f"the ledger does not answer: {type(exc.orig).__name__}") from exc
    finally:
        engine.dispose()
    if current is None or current < known_revisions()[-1]:
        raise LedgerOutdated


def known_revisions() -> list[str]:
    """This program's migrations, the oldest first: a file's name begins with its revision, a number."""
    return sorted(file.name.partition("_")[0] for file in (_MIGRATIONS / "versions").glob("[0-9]*_*.py"))


def revision(db: Connection) -> str | None:
    """That of the ledger; None before it was ever migrated. A higher one than ours is a newer program's."""
    # Not by Alembic: its import would cost each worker a third of a second at its start.
    if not inspect(db).has_table("alembic_version"):
        return None
    found: str | None = db.scalar(text("SELECT version_num FROM alembic_version"))
    return found


def _upgrade(db: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    if (revision(db) or "") > known_revisions()[-1]:
        return  # the program was rolled back; migrations are additive, so it works on what the newer one left
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = db
    command.upgrade(config, "head")
