"""The handler table: what each handler wants, so that ingest runs no handler's code."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, select

from coursewire.handlers import Configured
from coursewire.ledger.engine import insert
from coursewire.ledger.tables import handlers, utc_now


def register(db: Connection, configured: Mapping[str, Configured]) -> list[str]:
    """Write what the configured handlers want. Returns the names that are in the ledger but not configured.

    Those still get deliveries, since another host may configure them: `handlers retire` ends that.
    """
    for handler in sorted(configured.values(), key=lambda each: each.name):
        values = {
            "uses": handler.uses,
            "kind": handler.plugin.kind,
            "wants": sorted(handler.wants),
        }
        statement = insert(db, handlers).values(
            name=handler.name, paused=False, registered_at=utc_now(), **values
        )
        db.execute(
            statement.on_conflict_do_update(
                index_elements=[handlers.c.name], set_={**values, "retired_at": None}
            )
        )
    open_names = db.scalars(select(handlers.c.name).where(handlers.c.retired_at.is_(None)))
    return sorted(set(open_names) - set(configured))


def wanted(db: Connection) -> dict[str, list[str]]:
    """Event types by handler, of every handler that is not retired. A paused one still wants."""
    rows = db.execute(select(handlers.c.name, handlers.c.wants).where(handlers.c.retired_at.is_(None)))
    return {row.name: row.wants for row in rows}
