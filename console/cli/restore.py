from __future__ import annotations

from pathlib import Path

import click

from console.cli import data_dir_option
from console.options import json_option


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--force",
    is_flag=True,
    help="Move aside what is in the data directory, and drop the tables that are in the ledger's database.",
)
@json_option
@data_dir_option
def command(file: Path, force: bool, as_json: bool, data_dir: Path) -> None:
    """Restore a backup into an empty data directory and an empty ledger.

    Nothing is touched before the whole file was compared with its digests. COURSEWIRE_CONFIG, where it is
    set, counts instead of the configuration in the backup.
    """
    from console.backup.restore import restore
    from console.backup.text import restored_text
    from console.tables import print_json

    restored = restore(file.absolute(), data_dir, force=force)
    if as_json:
        print_json(
            {
                "data_dir": str(restored.data_dir),
                "config_path": None if restored.config_path is None else str(restored.config_path),
                "aside": None if restored.aside is None else str(restored.aside),
                "counts": restored.manifest.counts,
            }
        )
    else:
        click.echo(restored_text(restored))
