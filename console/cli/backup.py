from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from console.cli import data_dir_option, process_settings
from console.options import json_option


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@json_option
@data_dir_option
def command(file: Path, force: bool, as_json: bool, data_dir: Path) -> None:
    """Write ledger, configuration, keys, and what was acknowledged but not yet ingested, into FILE.

    Everything may run meanwhile. FILE holds secrets and personal data; only its owner may read it.
    """
    from console.backup.take import take
    from console.backup.text import backup_text
    from console.tables import print_json

    manifest = take(process_settings(data_dir), file.absolute(), force=force)
    if as_json:
        print_json({"file": str(file.absolute()), **asdict(manifest)})
    else:
        click.echo(backup_text(file, manifest))
