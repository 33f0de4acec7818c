from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from console.cli import data_dir_option, heartbeat_option, metrics_options, process_settings


@click.command()
@click.option(
    "--queues",
    required=True,
    metavar="QUEUE,...",
    help="ingest, handler.<name>, or handlers for every configured handler.",
)
@click.option(
    "--concurrency",
    default=1,
    show_default=True,
    type=click.IntRange(1, 256),
    help="How many tasks are worked at once, each in a process of its own.",
)
@metrics_options
@data_dir_option
@heartbeat_option
def command(
    queues: str,
    concurrency: int,
    data_dir: Path,
    heartbeat_file: Path | None,
    metrics_host: str,
    metrics_port: int,
) -> None:
    """Work on queues, until SIGTERM."""
    settings = process_settings(data_dir, heartbeat_file)
    from coursewire import heartbeat
    from coursewire.exposition import serving_children

    with serving_children(metrics_host, metrics_port, settings.data_dir):
        # Not before it is settled where its children count.
        from workers.app import expand_queues, main

        named = expand_queues(settings, [name for name in map(str.strip, queues.split(",")) if name])
        if not named:
            raise click.BadParameter("names no queue", param_hint="--queues")
        main(settings, named, concurrency, on_ready=partial(heartbeat.ready, heartbeat_file))
