"""Bringing the ledger to this program's revision, and refusing one that is older."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
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
            current = MigrationContext.configure(db).get_current_revision()
    except DBAPIError as exc:
        raise ServerUnreachable(f"the ledger does not answer: {type(exc.orig).__name__}") from exc
    finally:
        engine.dispose()
    scripts = ScriptDirectory.from_config(_config())
    known = {script.revision for script in scripts.walk_revisions()}
    # A revision that this program does not know is a newer program's: migrations are additive.
    if current is None or (current in known and current != scripts.get_current_head()):
        raise LedgerOutdated


def _upgrade(db: Connection) -> None:
    config = _config()
    config.attributes["connection"] = db
    command.upgrade(config, "head")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config
