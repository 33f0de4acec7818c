from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from console.cli import data_dir_option, process_settings
from console.options import json_option


@click.command()
@click.option("--public", is_flag=True, help="Also ask each source's public URL, as its LMS would.")
@json_option
@data_dir_option
@click.pass_context
def command(ctx: click.Context, public: bool, as_json: bool, data_dir: Path) -> None:
    """What is configured, what answers, and what is unsafe.

    Exit codes as Nagios wants them: 0 good, 1 a warning, 2 something is bad. A wrong call is 2 as well.
    """
    from console.doctor.everything import look
    from console.doctor.finding import EXIT_CODES, worst
    from console.tables import Column, print_json, show

    found = list(look(process_settings(data_dir), public=public))
    status = worst(found)
    rows = [asdict(finding) for finding in found]
    if as_json:
        print_json({"status": status, "findings": rows})
    else:
        show(
            rows,
            as_json=False,
            shape=(),
            columns=[
                Column("About", 16, lambda row: row["about"]),
                Column("", 7, lambda row: row["status"]),
                Column("Found", None, lambda row: row["detail"]),
            ],
            nothing="",
        )
    ctx.exit(EXIT_CODES[status])
