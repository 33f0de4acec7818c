from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from console.cli import data_dir_option, process_settings
from console.options import hand_down, json_option


@click.group(invoke_without_command=True)
@click.option("--show", is_flag=True, help="Show the secrets too.")
@json_option
@data_dir_option
@click.pass_context
def command(ctx: click.Context, show: bool, as_json: bool, data_dir: Path) -> None:
    """The LMS accounts that call us, each with its URL. JSON has the whole URL."""
    hand_down(ctx, as_json=as_json, data_dir=data_dir)
    if ctx.invoked_subcommand is not None:
        return
    settings = process_settings(data_dir)
    from console.source_text import described, record, secrets_of
    from console.tables import Column
    from console.tables import show as print_rows

    sources = [settings.sources[name] for name in sorted(settings.sources)]
    if show and not as_json:
        for source in sources:
            click.echo(f"{source.name} ({source.provider})")
            for line in secrets_of(settings, source):
                click.echo(f"  {line}")
        return
    columns = [
        Column("Source", 20, lambda row: f"{row['name']}\n{row['provider']}"),
        Column("URL", None, lambda row: described(settings, settings.sources[row["name"]])),
    ]
    print_rows(
        (record(settings, source) for source in sources),
        as_json=as_json,
        shape=("name", "provider", "url"),
        columns=columns,
        nothing="No source is configured: `coursewire sources add`.",
    )


@command.command()
@click.argument("name")
@click.option("--provider", required=True, help="Which LMS product it is, e.g. digitalchalk.")
@click.option("--timezone", metavar="ZONE", help="For times that are sent without one.")
@click.option(
    "--auth",
    type=click.Choice(["path", "header", "basic"]),
    default="path",
    show_default=True,
    help="Where the LMS puts the secret.",
)
@click.option("--header", default="X-Hook-Secret", show_default=True, help="Its name, for --auth header.")
@click.option("--username", help="For --auth basic. [default: the source's name]")
@json_option
@data_dir_option
def add(
    name: str,
    provider: str,
    timezone: str | None,
    auth: str,
    header: str,
    username: str | None,
    as_json: bool,
    data_dir: Path,
) -> None:
    """Add a source with a fresh secret, and print where the LMS shall call."""
    from console.config_edit import add_source

    given: dict[str, Any] = {"provider": provider}
    if timezone is not None:
        given["timezone"] = timezone
    if auth == "header":
        given["header"] = header
    elif auth == "basic":
        given["username"] = username or name
    way = {"path": "token", "header": "secret", "basic": "password"}[auth]
    settings, path = add_source(process_settings(data_dir), name, given, way)
    _tell(settings, name, as_json, f"Added {name} to {path}. The LMS shall call:")


@command.command()
@click.argument("name")
@click.option("--finish", is_flag=True, help="Drop the old secret.")
@json_option
@data_dir_option
def rotate(name: str, finish: bool, as_json: bool, data_dir: Path) -> None:
    """Give a source a second secret; both count until `--finish` drops the old one."""
    from console.config_edit import finish_rotation, rotate_secret

    settings = process_settings(data_dir)
    if finish:
        settings, changed = finish_rotation(settings, name)
        words = "The old secret is dropped" if changed else "There is no old secret"
        _tell(settings, name, as_json, f"{words}. What counts:")
        return
    settings = rotate_secret(settings, name)
    _tell(
        settings,
        name,
        as_json,
        f"Tell the LMS the new secret; the old one counts until `coursewire sources rotate {name} --finish`.",
    )


def _tell(settings: Any, name: str, as_json: bool, words: str) -> None:
    from console.source_text import record, secrets_of
    from console.tables import print_json

    source = settings.sources[name]
    if as_json:
        print_json(record(settings, source))
        return
    click.echo(words)
    for line in secrets_of(settings, source):
        click.echo(f"  {line}")
