from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import click

from console.cli import data_dir_option
from console.options import (
    json_option,
    limit_option,
    open_for_reading,
    since_option,
    source_option,
    until_option,
)


@click.command()
@source_option
@click.option("--type", "type_", metavar="TYPE", help="Our type, or the LMS's own.")
@click.option("--state", type=click.Choice(["waiting", "done", "dead", "ignored"]))
@click.option("--learner", metavar="WHO", help="The LMS's id of the learner, or an e-mail address.")
@since_option
@until_option
@limit_option
@json_option
@data_dir_option
def command(
    source: str | None,
    type_: str | None,
    state: str | None,
    learner: str | None,
    since: datetime | None,
    until: datetime | None,
    limit: int | None,
    as_json: bool,
    data_dir: Path,
) -> None:
    """Events and what became of them, newest first."""
    from console.tables import Column, show, when
    from coursewire.ledger.reports import EventFilter, list_events
    from coursewire.ledger.states import EventState

    wanted = EventFilter(
        source=source,
        type=type_,
        state=EventState(state) if state else None,
        learner=learner,
        since=since,
        until=until,
    )
    with open_for_reading(data_dir, source=source) as (_, engine):
        show(
            list_events(engine, wanted, limit),
            as_json=as_json,
            shape=(
                "id",
                "receipt",
                "source",
                "provider",
                "type",
                "wire_type",
                "key",
                "occurred_at",
                "received_at",
                "state",
                "deliveries",
            ),
            columns=[
                Column("Event", 36, lambda row: f"{row['id']}\n{when(row['received_at'])}"),
                Column("Type", 23, lambda row: f"{row['type']}\n{row['source']}"),
                Column("State", None, _state),
            ],
            nothing="No events.",
        )


def _state(row: Any) -> str:
    """Only the handlers that are not simply done say more."""
    more = {name: state for name, state in row["deliveries"].items() if state not in ("done", "skipped")}
    return "\n".join([row["state"], *(f"{name} {state}" for name, state in more.items())])
