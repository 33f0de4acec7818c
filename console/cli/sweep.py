from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from console.cli import data_dir_option, heartbeat_option, metrics_options, process_settings


@click.command()
@metrics_options
@data_dir_option
@heartbeat_option
def command(data_dir: Path, heartbeat_file: Path | None, metrics_host: str, metrics_port: int) -> None:
    """Hint what waits, and give back what was abandoned, until SIGTERM. Two of them do no harm."""
    settings = process_settings(data_dir, heartbeat_file)
    from coursewire import heartbeat
    from workers.sweep import main

    main(
        settings,
        on_ready=partial(heartbeat.ready, heartbeat_file),
        metrics_host=metrics_host,
        metrics_port=metrics_port,
    )
