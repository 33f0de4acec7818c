from __future__ import annotations

from pathlib import Path

import click

from console.cli import data_dir_option
from console.options import json_option, limit_option, open_for_reading, source_option


@click.command()
@source_option
@click.option("--handler", metavar="NAME", help="Only of this handler.")
@click.option("--reason", metavar="CODE", help="Only with this code, e.g. temporary or permanent.")
@limit_option
@json_option
@data_dir_option
def command(
    source: str | None,
    handler: str | None,
    reason: str | None,
    limit: int | None,
    as_json: bool,
    data_dir: Path,
) -> None:
    """Deliveries that were given up, newest events first."""
    from console.options import require_handler
    from console.tables import Column, show, when
    from coursewire.ledger.reports import list_dead_letters

    with open_for_reading(data_dir, source=source) as (_, engine):
        if handler is not None:
            require_handler(engine, handler)
        show(
            list_dead_letters(engine, source=source, handler=handler, reason=reason, limit=limit),
            as_json=as_json,
            shape=("event", "handler", "error", "attempts", "died_at"),
            columns=[
                Column("Event", 36, lambda row: f"{row['event']}\n{when(row['died_at'])}"),
                Column("Handler", 16, lambda row: f"{row['handler']}\n{row['attempts']} attempts"),
                Column("Error", None, lambda row: row["error"]),
            ],
            nothing="No dead letters.",
        )
