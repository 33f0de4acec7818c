"""Looking at the ledger: whether it answers and fits, and what in it needs an operator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.exc import DBAPIError

from console.doctor.finding import Finding
from console.options import open_existing_ledger
from console.tables import counted
from coursewire.errors import Code, CoursewireError
from coursewire.installation import bind_key, read_key
from coursewire.ledger.engine import reading
from coursewire.ledger.reports import list_handlers
from coursewire.ledger.tables import inbox_generations, quarantine
from coursewire.settings import Settings


def look_at_ledger(settings: Settings) -> Iterator[Finding]:
    try:
        with open_existing_ledger(settings) as engine:
            yield Finding("ledger", "good", f"{engine.dialect.name} answers, at this program's revision")
            yield _key(settings, engine)
            with reading(engine) as db:
                yield from _handlers(settings, list_handlers(db))
                yield _quarantined(db)
    except CoursewireError as exc:
        hint = "; run `coursewire migrate`" if exc.code is Code.LEDGER_OUTDATED else ""
        yield Finding("ledger", "bad", exc.detail + hint)
    except DBAPIError as exc:
        yield Finding("ledger", "bad", f"failed: {type(exc.orig).__name__}")


def _key(settings: Settings, engine: Engine) -> Finding:
    try:
        key = read_key(settings)
        with engine.connect() as db, db.begin() as transaction:
            bind_key(db, key)
            transaction.rollback()
    except CoursewireError as exc:
        return Finding("installation key", "bad", exc.detail)
    return Finding("installation key", "good", "belongs to this ledger")


def belongs_to(settings: Settings, generation: str | None) -> Finding | None:
    """Whether the inbox with this generation is the one that the ledger was written from.

    Two installations that share a server need namespaces of their own. None where nothing can be said.
    """
    try:
        with open_existing_ledger(settings) as engine, reading(engine) as db:
            known = set(db.scalars(select(inbox_generations.c.generation)))
    except (CoursewireError, DBAPIError):
        return None
    if not known or generation is None:
        return None
    if generation in known:
        return Finding("namespace", "good", f"the inbox {settings.namespace!r} belongs to this ledger")
    detail = f"the inbox {settings.namespace!r} is not the one that this ledger was written from"
    return Finding("namespace", "bad", f"{detail}: does another installation use it?")


def _handlers(settings: Settings, known: list[dict[str, Any]]) -> Iterator[Finding]:
    names = {record["name"] for record in known}
    for name in sorted(names - set(settings.handlers)):
        detail = f"{name} is in the ledger but not configured here; if it is gone, retire it"
        yield Finding("handlers", "warning", detail)
    missing = sorted(set(settings.handlers) - names)
    if missing:
        detail = f"{', '.join(missing)} get no events until `coursewire migrate` registers them"
        yield Finding("handlers", "bad", detail)
    for record in known:
        if record["paused"]:
            detail = f"{record['name']} is paused; waiting deliveries: {record['waiting']:,}"
            yield Finding("handlers", "warning", detail)
    dead = sum(record["dead"] for record in known)
    if dead:
        yield Finding("dead letters", "warning", f"{dead:,}; see `coursewire dead-letters`")
    else:
        yield Finding("dead letters", "good", "none")


def _quarantined(db: Connection) -> Finding:
    count = db.scalar(select(func.count()).select_from(quarantine)) or 0
    if count:
        return Finding("quarantine", "warning", f"{counted(count, 'item')}; see `coursewire quarantine`")
    return Finding("quarantine", "good", "empty")
