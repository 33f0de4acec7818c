from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from console.cli import data_dir_option
from console.options import json_option, open_for_reading


@click.command()
@click.argument("id_", metavar="RECEIPT|EVENT")
@click.option("--body", is_flag=True, help="The body too, as it is stored: redacted.")
@json_option
@data_dir_option
def command(id_: str, body: bool, as_json: bool, data_dir: Path) -> None:
    """The whole story of a callback or an event. The first digits of an id do, where no other begins so."""
    from console.story_text import story_text
    from console.tables import print_json
    from coursewire.ledger.bodies import stored_entries
    from coursewire.ledger.engine import reading
    from coursewire.ledger.ids import find
    from coursewire.ledger.story import tell

    with open_for_reading(data_dir) as (settings, engine), reading(engine) as db:
        story = tell(db, find(db, id_))
        receipt = story["receipt"]
        entry = stored_entries(db, [receipt["id"]])[receipt["id"]]
    _add_key_parts(settings, story, entry)
    if body:
        receipt["body"] = entry.callback.body.decode("utf-8", "replace")
    if as_json:
        print_json(story)
    else:
        click.echo(story_text(story))


def _add_key_parts(settings: Any, story: Any, entry: Any) -> None:
    """What made the keys, where this configuration can still tell."""
    from console.reading import parts_of_keys, reader_of
    from coursewire.errors import CoursewireError
    from coursewire.installation import read_key

    try:
        parts = parts_of_keys(entry, story["events"], reader_of(settings), read_key(settings))
    except CoursewireError:
        parts = {}
    for event in story["events"]:
        event["key_parts"] = parts.get(event["id"])
