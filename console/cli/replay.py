from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import click

from console.cli import data_dir_option
from console.options import json_option, open_for_reading, since_option, source_option, until_option


@click.command()
@click.argument("ids", nargs=-1, metavar="[RECEIPT|EVENT]...")
@source_option
@click.option("--type", "type_", metavar="TYPE", help="Our type, or the LMS's own.")
@click.option(
    "--state",
    type=click.Choice(["quarantined", "ignored", "dead", "done", "waiting"]),
    help="Only what is in this state; what is done or waiting stays as it is.",
)
@since_option
@until_option
@click.option(
    "--handler",
    metavar="NAME",
    help="Only this handler's dead deliveries; with --since or ids also events that it never got.",
)
@click.option("--reason", metavar="CODE", help="Only what was quarantined or died with this code.")
@click.option("--yes", is_flag=True, help="Do it. Without, only the plan is printed.")
@json_option
@data_dir_option
def command(
    ids: tuple[str, ...],
    source: str | None,
    type_: str | None,
    state: str | None,
    since: datetime | None,
    until: datetime | None,
    handler: str | None,
    reason: str | None,
    yes: bool,
    as_json: bool,
    data_dir: Path,
) -> None:
    """Run chosen work again: prints a plan, and with --yes runs it.

    Quarantined and ignored callbacks are read again with today's schemas, dead deliveries run again, and a
    handler that came later gets older events. What is finished stays as it is.
    """
    if not (ids or source or type_ or state or since or until or handler or reason):
        raise click.UsageError("Say what to replay: ids, or at least one filter, e.g. --state quarantined.")
    from console.reading import reader_of
    from console.replay_text import plan_text, result_text
    from console.tables import print_json
    from coursewire.installation import read_key
    from coursewire.ledger.engine import reading
    from coursewire.ledger.ids import find
    from coursewire.ledger.replay import run
    from coursewire.ledger.replay_plan import make_plan
    from coursewire.ledger.selection import Selection
    from coursewire.ledger.states import CallbackState

    with open_for_reading(data_dir, source=source) as (settings, engine):
        with reading(engine) as db:
            found = [find(db, each) for each in ids]
        chosen = Selection(
            receipts=[each.id for each in found if each.kind == "receipt"],
            events=[each.id for each in found if each.kind == "event"],
            source=source,
            type=type_,
            state=CallbackState(state) if state else None,
            since=since,
            until=until,
            handler=handler,
            reason=reason,
        )
        reader, secret = reader_of(settings), read_key(settings)
        plan = make_plan(engine, chosen, reader.read, secret)
        if not as_json:
            click.echo(plan_text(plan))
        done = None
        if yes and not plan.empty:
            done = run(engine, chosen, reader.read, secret)
            _wake(settings, done.handlers)
        if as_json:
            print_json({"plan": plan.as_dict(), "done": done and done.as_dict()})
        elif done is not None:
            click.echo(result_text(done))
        elif not plan.empty:
            click.echo("Nothing is changed yet: add --yes to run this.")


def _wake(settings: Any, handlers: Any) -> None:
    from console.wake import wake
    from coursewire.hints import handler_queue

    if handlers:
        wake(settings, sorted(map(handler_queue, handlers)))
