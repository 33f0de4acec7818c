from __future__ import annotations

from pathlib import Path
from typing import IO

import click

from console.cli import data_dir_option, process_settings
from console.options import json_option


@click.command()
@click.argument("provider")
@click.argument("file", type=click.File("rb"))
@click.option("--source", metavar="NAME", help="As if it came from this source: its name and time zone.")
@click.option("--content-type", default="application/json", show_default=True)
@click.option("--header", "headers", multiple=True, metavar="NAME: VALUE", help="A request header.")
@json_option
@data_dir_option
@click.pass_context
def command(
    ctx: click.Context,
    provider: str,
    file: IO[bytes],
    source: str | None,
    content_type: str,
    headers: tuple[str, ...],
    as_json: bool,
    data_dir: Path,
) -> None:
    """What a file would become, without sending it (`-` is standard input).

    Exit code 1 when an item would not become an event.
    """
    settings = process_settings(data_dir)
    from console.check_text import check_text
    from console.tables import print_json
    from console.trial import try_body

    given = dict(_header(each) for each in headers)
    items = try_body(settings, provider, file.read(), source, content_type, given)
    if as_json:
        print_json(items)
    else:
        click.echo(check_text(items))
    ctx.exit(0 if all(item["state"] == "event" for item in items) else 1)


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise click.BadParameter(f"{text!r} is not like `NAME: VALUE`", param_hint="--header")
    return name.strip().lower(), value.strip()
