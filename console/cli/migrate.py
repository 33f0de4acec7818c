from __future__ import annotations

from pathlib import Path

import click

from console.cli import data_dir_option, process_settings


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print each handler's kind as JSON.")
@data_dir_option
def command(as_json: bool, data_dir: Path) -> None:
    """Bring the ledger up to date, and register the configured handlers in it."""
    settings = process_settings(data_dir)
    from coursewire.handlers import configured
    from coursewire.ledger.migrate import migrate

    migrate(settings)
    kinds = {name: handler.plugin.kind for name, handler in configured(settings).items()}
    if as_json:
        import json

        click.echo(json.dumps({"handlers": kinds}))
    else:
        click.echo(f"The ledger is up to date; handlers: {', '.join(sorted(kinds)) or 'none'}.")
