from __future__ import annotations

from pathlib import Path

import click

from console.cli import data_dir_option, heartbeat_option, process_settings


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535))
@data_dir_option
@heartbeat_option
def command(host: str, port: int, data_dir: Path, heartbeat_file: Path | None) -> None:
    """Take callbacks over HTTP, until SIGTERM. SIGHUP reads the configuration again."""
    settings = process_settings(data_dir, heartbeat_file)
    from coursewire import heartbeat
    from receiver.server import main

    heartbeat.ready(heartbeat_file)  # of this process; whether its workers answer is asked by HTTP
    main(settings, host, port)
