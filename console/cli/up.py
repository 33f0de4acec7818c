from __future__ import annotations

from pathlib import Path

import click

from console.cli import data_dir_option


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address of the receiver.")
@click.option(
    "--port",
    default=8000,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port of the receiver; 0 takes a free one.",
)
@click.option("--samples", is_flag=True, help="Post a sample of every event type, and show what comes of it.")
@click.option("--once", is_flag=True, help="Stop when it is ready, or when the samples are through.")
@click.option(
    "--metrics-port",
    default=0,
    type=click.IntRange(0, 65532),
    help="Serve metrics of workers and sweep on four ports of 127.0.0.1, from this one on. [default: off]",
)
@data_dir_option
@click.pass_context
def command(
    ctx: click.Context, host: str, port: int, samples: bool, once: bool, metrics_port: int, data_dir: Path
) -> None:
    """Start, supervise and stop the whole stack on this host."""
    from console.supervise import up

    ctx.exit(up(data_dir, host, port, samples=samples, once=once, metrics_port=metrics_port))
