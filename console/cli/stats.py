from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from console.cli import data_dir_option
from console.options import json_option, open_for_reading


@click.command()
@json_option
@data_dir_option
@click.pass_context
def command(ctx: click.Context, as_json: bool, data_dir: Path) -> None:
    """What became of every callback that was accepted. Exit code 1 when some are unexplained."""
    from console.embedded import running_redis
    from console.stats_text import SOURCE_COLUMNS, stats_text
    from console.tables import print_json, print_table
    from coursewire.inbox import Inbox
    from coursewire.ledger.stats import take_stats
    from coursewire.spool import Spool

    with open_for_reading(data_dir) as (settings, engine), running_redis(settings) as redis:
        spool = Spool(settings.spool_path, settings.spool_max_bytes)
        try:
            stats = take_stats(engine, Inbox(redis, settings.namespace), spool)
        finally:
            spool.close()
    if as_json:
        print_json(asdict(stats))
    else:
        click.echo(stats_text(stats))
        if stats.sources:
            click.echo()
            rows = [{"source": name, **counts} for name, counts in stats.sources.items()]
            print_table(rows, SOURCE_COLUMNS)
    ctx.exit(1 if stats.unexplained else 0)
