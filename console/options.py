"""Options that several commands take, and what every reading command begins with."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from coursewire.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])

_AGO = re.compile(r"(\d+)([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class Moment(click.ParamType[datetime]):
    """An ISO 8601 date or time (without an offset it is UTC), or how long ago: `90m`, `12h`, `7d`."""

    name = "time"

    def convert(
        self, value: str | datetime, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        if isinstance(value, datetime):
            return value
        ago = _AGO.fullmatch(value)
        try:
            if ago:
                return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
            moment = datetime.fromisoformat(value)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no ISO 8601 time, and not like 90m, 12h or 7d", param, ctx)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def json_option(function: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(function)


def limit_option(function: F) -> F:
    return click.option(
        "--limit", type=click.IntRange(min=1), metavar="N", help="At most so many. [default: all]"
    )(function)


def source_option(function: F) -> F:
    return click.option("--source", metavar="NAME", help="Only of this source.")(function)


def since_option(function: F) -> F:
    return click.option(
        "--since", type=Moment(), help="Received then or later: an ISO 8601 time (UTC), or 90m, 12h, 7d ago."
    )(function)


def until_option(function: F) -> F:
    return click.option("--until", type=Moment(), help="Received before.")(function)


def hand_down(ctx: click.Context, **values: Any) -> None:
    """What stands before a subcommand counts for it too: `sources --data-dir D add ...`."""
    if isinstance(ctx.command, click.Group):
        ctx.default_map = {name: dict(values) for name in ctx.command.commands}


@contextmanager
def open_for_reading(data_dir: Path, *, source: str | None = None) -> Iterator[tuple[Settings, Engine]]:
    """Configuration and ledger, with the stack running or stopped.

    Raises `NotFound` where there is no ledger yet, and for a `source` that is neither configured nor in it.
    """
    from console.cli import process_settings

    settings = process_settings(data_dir)
    with open_existing_ledger(settings) as engine:
        if source is not None:
            require_source(settings, engine, source)
        yield settings, engine


@contextmanager
def open_existing_ledger(settings: Settings) -> Iterator[Engine]:
    from sqlalchemy import make_url

    from coursewire.errors import NotFound
    from coursewire.ledger.engine import open_ledger
    from coursewire.ledger.migrate import check

    url = make_url(settings.database_url)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
        raise NotFound(
            f"there is no ledger {url.database} yet: `coursewire up` or `coursewire migrate` makes it"
        )
    check(settings)
    engine = open_ledger(settings)
    try:
        yield engine
    finally:
        engine.dispose()


def require_source(settings: Settings, engine: Engine, name: str) -> None:
    from coursewire.errors import NotFound
    from coursewire.ledger.engine import reading
    from coursewire.ledger.reports import knows_source

    if name in settings.sources:
        return
    with reading(engine) as db:
        if not knows_source(db, name):
            raise NotFound(
                f"there is no source {name}; configured: {', '.join(sorted(settings.sources)) or 'none'}"
            )


def require_handler(engine: Engine, name: str) -> None:
    from coursewire.errors import NotFound
    from coursewire.ledger.engine import reading
    from coursewire.ledger.reports import list_handlers

    with reading(engine) as db:
        known = [record["name"] for record in list_handlers(db, retired=True)]
    if name not in known:
        raise NotFound(f"the ledger has no handler {name}; it has {', '.join(known) or 'none'}")
