from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from console.cli import data_dir_option
from console.options import json_option, limit_option, open_for_reading, source_option


@click.command()
@source_option
@click.option("--reason", metavar="CODE", help="Only with this code, e.g. schema_violation.")
@limit_option
@json_option
@data_dir_option
def command(source: str | None, reason: str | None, limit: int | None, as_json: bool, data_dir: Path) -> None:
    """What did not validate, and which rules it breaks, newest first."""
    from console.event_text import errors_text
    from console.tables import Column, show
    from coursewire.ledger.reports import list_quarantine

    with open_for_reading(data_dir, source=source) as (_, engine):
        show(
            list_quarantine(engine, source=source, reason=reason, limit=limit),
            as_json=as_json,
            shape=("receipt", "source", "reason", "errors"),
            columns=[
                Column("Receipt", 36, _receipt),
                Column("Reason", None, lambda row: f"{row['reason']}\n{errors_text(row['errors'])}"),
            ],
            nothing="Nothing is in quarantine.",
        )


def _receipt(row: Any) -> str:
    return "\n".join(part for part in (row["receipt"], row["source"], row["wire_type"]) if part)
