from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from console.cli import data_dir_option, process_settings
from console.options import json_option

if TYPE_CHECKING:
    from console.findings import Finding
    from coursewire.settings import Settings


@click.command()
@json_option
@data_dir_option
@click.pass_context
def command(ctx: click.Context, as_json: bool, data_dir: Path) -> None:
    """What is configured, what answers, and what is unsafe. Exit code 1 when something is bad."""
    from console.tables import Column, print_json, show

    settings = process_settings(data_dir)
    found = [asdict(finding) for finding in _findings(settings)]
    if as_json:
        print_json(found)
    else:
        show(
            found,
            as_json=False,
            shape=(),
            columns=[
                Column("About", 16, lambda row: row["about"]),
                Column("", 7, lambda row: row["verdict"]),
                Column("Found", None, lambda row: row["detail"]),
            ],
            nothing="",
        )
    ctx.exit(1 if any(finding["verdict"] == "bad" for finding in found) else 0)


def _findings(settings: Settings) -> Iterator[Finding]:
    from console.findings_ledger import look_at_ledger
    from console.findings_local import look_at_configuration, look_at_files
    from console.findings_servers import look_at_broker, look_at_inbox, look_at_receiver, look_at_spool

    yield from look_at_configuration(settings)
    yield from look_at_files(settings)
    yield from look_at_inbox(settings)
    yield look_at_spool(settings)
    yield look_at_broker(settings)
    yield from look_at_ledger(settings)
    yield look_at_receiver(settings)
