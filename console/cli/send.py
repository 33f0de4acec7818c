from __future__ import annotations

from pathlib import Path
from typing import IO

import click

from console.cli import data_dir_option, process_settings
from console.options import json_option


@click.command()
@click.argument("source")
@click.argument("file", type=click.File("rb"))
@click.option("--url", metavar="BASE", help="Where the receiver is. [default: public_url]")
@click.option("--method", type=click.Choice(["POST", "PUT"]), default="POST", show_default=True)
@click.option("--content-type", default="application/json", show_default=True)
@json_option
@data_dir_option
@click.pass_context
def command(
    ctx: click.Context,
    source: str,
    file: IO[bytes],
    url: str | None,
    method: str,
    content_type: str,
    as_json: bool,
    data_dir: Path,
) -> None:
    """Post a file as the LMS would (`-` is standard input). Exit code 1 when it is refused."""
    settings = process_settings(data_dir)
    from console.posting import post
    from console.tables import one_line, print_json
    from coursewire.errors import NotFound

    if source not in settings.sources:
        known = ", ".join(sorted(settings.sources)) or "none"
        raise NotFound(f"there is no source {source}; configured: {known}")
    answer = post(
        settings,
        settings.sources[source],
        file.read(),
        base_url=url,
        method=method,
        content_type=content_type,
    )
    said = answer.document
    receipt = said.get("receipt")
    taken = answer.status == 200 and receipt is not None
    if as_json:
        outcome = {"code": said.get("code"), "detail": said.get("detail")}
        print_json({"status": answer.status, "receipt": receipt, **({} if taken else outcome)})
    elif taken:
        click.echo(f"{answer.status}, receipt {one_line(receipt)}")
        click.echo(f"See `coursewire explain {one_line(receipt)}`.")
    else:
        why = ": ".join(one_line(said[name]) for name in ("code", "detail") if said.get(name))
        click.echo(f"{answer.status}, refused{f', {why}' if why else ''}")
    ctx.exit(0 if taken else 1)
